"""The edge between words and values: every option comes as text, is parsed here, and every ending is a clean one."""

from __future__ import annotations

import functools
import shlex
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from invoke.context import Context
from invoke.exceptions import Exit
from invoke.tasks import task

from firstlight.errors import FirstlightError, UsageError, did_you_mean

TERMINATED = 143
INTERRUPTED = 130
_AGAIN = "run the same command again to go on"


class Interrupted(FirstlightError):  # noqa: N818 - the name is part of the JSON contract
    """Ctrl-C came."""

    code = INTERRUPTED


class Terminated(FirstlightError):  # noqa: N818 - the name is part of the JSON contract
    """SIGTERM came."""

    code = TERMINATED


class _TermSignal(BaseException):
    """SIGTERM came: unwind, so that children are stopped and locks released."""


def _terminate(_signal: int, _frame: object) -> None:
    raise _TermSignal


def command(**options: Any) -> Callable[[Callable[..., int | None]], Any]:
    """Make a function an Invoke task whose errors and interruptions end with the exit codes of the contract.

    The function returns its exit code (None is 0). Its `json` argument, when it has one and it is true, turns errors
    into one JSON document on standard output.
    """

    def decorate(function: Callable[..., int | None]) -> Any:
        @functools.wraps(function)
        def body(context: Context, /, *arguments: Any, **words: Any) -> None:
            def work() -> int | None:
                _refuse_invokes_dry_run(context)
                return function(context, *arguments, **words)

            code = guarded(work, as_document=bool(words.get("json")))
            if code:
                raise Exit(code=code)

        return task(auto_shortflags=False, **options)(body)

    return decorate


def _refuse_invokes_dry_run(context: Context) -> None:
    """Refuse `invoke --dry`: it reaches `Context.run` alone, which no task here uses, so the work would be done."""
    if context.config.run.dry:
        raise UsageError("Invoke's --dry has no effect on these tasks", fix="firstlight up --dry-run")


def guarded(work: Callable[[], int | None], *, as_document: bool = False) -> int:
    """Run `work` and return its exit code; errors are told, interruptions end as 130 and 143.

    With `as_document` standard output holds one document also when the work failed, and never a second one: an error
    that comes after the result was written is told on standard error alone.
    """
    from firstlight.ui.failures import show_failure
    from firstlight.ui.terminal import Documents, OutputFailed, open_missing_streams

    open_missing_streams()
    _take_signals()
    begun = Documents.begun

    def document_wanted() -> bool:
        return as_document and Documents.begun == begun

    try:
        return work() or 0
    except OutputFailed as error:
        show_failure(error, as_document=False)
        return error.code
    except FirstlightError as error:
        _trace()
        show_failure(error, as_document=document_wanted())
        return error.code
    except KeyboardInterrupt:
        return _stopped(Interrupted("interrupted", fix=_AGAIN), as_document=document_wanted())
    except _TermSignal:
        return _stopped(Terminated("terminated", fix=_AGAIN), as_document=document_wanted())
    except BrokenPipeError:
        return _quiet_pipe()
    except OSError as error:
        _trace()
        show_failure(_system_error(error), as_document=document_wanted())
        return 1
    except Exception as error:  # noqa: BLE001 - whatever breaks: with --json there is one document all the same
        return _broke(error, as_document=document_wanted())
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _broke(error: Exception, *, as_document: bool) -> int:
    """Tell a defect of our own, with where it is, and return the exit code."""
    import traceback

    from firstlight.planning.redacting import without_credentials
    from firstlight.ui.failures import show_failure

    sys.stderr.write(without_credentials("".join(traceback.format_exception(error))))
    failed = FirstlightError(
        "firstlight itself broke, which is a defect of it",
        why=f"{type(error).__name__}: {without_credentials(str(error))}".rstrip(": "),
        fix="report it with the lines above, and what this shows: firstlight doctor --redact",
    )
    show_failure(failed, as_document=as_document)
    return failed.code


def _trace() -> None:
    """Write where the error came from to standard error, where that was asked for; it is told as ever after it."""
    if debugging():
        import traceback

        traceback.print_exc()


def _take_signals() -> None:
    """Let Ctrl-C and SIGTERM unwind the work; one that was ignored from the start (`nohup`) stays ignored."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, _terminate)):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _stopped(error: FirstlightError, *, as_document: bool) -> int:
    """Tell an interruption in one line, end what we started, and return the exit code."""
    from firstlight.process import stop_children
    from firstlight.ui.failures import show_error_document
    from firstlight.ui.terminal import is_terminal, tell

    try:
        # On a terminal a question or "^C" may stand on this line.
        tell(f"{chr(10) if is_terminal(sys.stderr) else ''}{error.what}; nothing is lost: {error.fix}")
        if as_document:
            show_error_document(error)
    finally:
        stop_children()
    return error.code


def finished(work: Callable[[], None]) -> int:
    """Run a whole program that ends by SystemExit and return its exit code, once its output is out."""
    from firstlight.ui.failures import show_failure
    from firstlight.ui.terminal import flushed, output_failed

    code = 0
    failed: FirstlightError | None = None
    try:
        work()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BrokenPipeError:
        return _quiet_pipe()
    except OSError as error:
        _trace()
        failed = _system_error(error) if error.filename else output_failed(error)  # Invoke printed a list or a help
    failed = failed or flushed()
    if failed is not None:
        show_failure(failed, as_document=False)
    return code or (0 if failed is None else failed.code)


def _quiet_pipe() -> int:
    """End without a second error when the reader of our output went away (`| head`)."""
    from firstlight.ui.terminal import silence

    silence(sys.stdout)
    return 0


def _system_error(error: OSError) -> FirstlightError:
    import errno

    place = f" at {error.filename}" if error.filename else ""
    fixes = {
        errno.ENOSPC: "free some space, or export FIRSTLIGHT_HOME=/path/on/a/bigger/disk",
        errno.EROFS: "export FIRSTLIGHT_HOME=/path/that/you/can/write",
        errno.EACCES: "export FIRSTLIGHT_HOME=/path/that/you/can/write",
    }
    return FirstlightError(
        f"the system refused{place}",
        why=error.strerror or str(error),
        fix=fixes.get(error.errno or 0, "run again with FIRSTLIGHT_DEBUG=1 to see where"),
    )


def debugging() -> bool:
    """Tell whether FIRSTLIGHT_DEBUG asks for tracebacks."""
    import os

    return os.environ.get("FIRSTLIGHT_DEBUG", "") not in {"", "0"}


def one_of(option: str, value: str | None, known: Iterable[str], default: str) -> str:
    """Return the value of an option that takes one of a few words.

    Raises:
        UsageError: it is none of them; near words are offered.
    """
    if value is None:
        return default
    words = list(known)
    if value not in words:
        raise UsageError(
            f'{option} does not take "{value}"{did_you_mean(value, words)}', fix=f"{option} takes: {', '.join(words)}"
        )
    return value


def port_number(value: str | None) -> int | None:
    """Return a TCP port.

    Raises:
        UsageError: it is no number from 1 to 65535.
    """
    if value is None:
        return None
    if not value.isdecimal() or not 0 < int(value) < 65536:
        raise UsageError(f'--port does not take "{value}"', fix="--port takes a number from 1 to 65535")
    return int(value)


def gpu_indexes(value: str | None) -> tuple[int, ...] | None:
    """Return GPU indexes from `0,1`.

    Raises:
        UsageError: it is no list of numbers.
    """
    if value is None:
        return None
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f'--gpus does not take "{value}"', fix="--gpus takes indexes with commas: --gpus 0,1")
    return tuple(int(part) for part in parts)


def cuda_version(value: str | None) -> str | None:
    """Return `cpu`, a CUDA version such as `12.1` (also written `cu121`), or a major one alone: `12`.

    Raises:
        UsageError: it is none of these.
    """
    if value is None or value == "cpu":
        return value
    short = value.removeprefix("cu")
    if short != value and len(short) > 2 and short.isdecimal():
        return f"{short[:-1]}.{short[-1]}"
    parts = short.split(".")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise UsageError(f'--cuda does not take "{value}"', fix="--cuda takes cpu or a version: --cuda 12.1")
    return ".".join(parts)


def python_minor(value: str | None) -> str | None:
    """Return a Python minor version such as `3.12`.

    Raises:
        UsageError: it is none.
    """
    if value is None:
        return None
    parts = value.split(".")
    if len(parts) < 2 or parts[0] != "3" or not all(part.isdecimal() for part in parts):
        raise UsageError(f'--python does not take "{value}"', fix="--python takes a minor version: --python 3.12")
    return ".".join(parts[:2])


def folder(option: str, value: str | None) -> Path | None:
    """Return an absolute path.

    Raises:
        UsageError: there is no such folder.
    """
    if value is None:
        return None
    try:
        path = Path(value).expanduser().absolute()
    except RuntimeError as error:  # ~ of a user that does not exist
        raise UsageError(f"{option}: {value} is no folder", why=str(error), fix="ls /") from error
    if not path.is_dir():
        near = path.parent
        fix = f"ls -d {shlex.quote(str(near))}/*/" if near.is_dir() and near != near.parent else "ls /"
        raise UsageError(f"{option}: {path} is no folder", fix=fix)
    return path


def chosen_folder(option: str, value: str | None) -> Path | None:
    """Return an absolute path of a folder that need not be there yet.

    Raises:
        UsageError: it cannot be one.
    """
    if value is None:
        return None
    try:
        path = Path(value).expanduser().absolute()
    except RuntimeError as error:  # ~ of a user that does not exist
        raise UsageError(f"{option}: {value} is no folder", why=str(error), fix="ls /") from error
    if not value.strip() or path.parent == path:
        raise UsageError(f'{option} does not take "{value}"', fix=f"{option} takes a folder: {option} ./model")
    return path


def after_dashes() -> tuple[str, ...]:
    """Return the words after a standalone `--`, unchanged (Invoke joins them to one string)."""
    words = sys.argv
    return tuple(words[words.index("--") + 1 :]) if "--" in words else ()
