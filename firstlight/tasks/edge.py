"""The edge between words and values: every option comes as text, is parsed here, and every ending is a clean one."""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from invoke.exceptions import Exit
from invoke.tasks import task

from firstlight.errors import FirstlightError, UsageError, did_you_mean

TERMINATED = 143
INTERRUPTED = 130


class _Terminated(BaseException):
    """SIGTERM came: unwind, so that children are stopped and locks released."""


def _terminate(_signal: int, _frame: object) -> None:
    raise _Terminated


def command(**options: Any) -> Callable[[Callable[..., int | None]], Any]:
    """Make a function an Invoke task whose errors and interruptions end with the exit codes of the contract.

    The function returns its exit code (None is 0). Its `json` argument, when it has one and it is true, turns errors
    into one JSON document on standard output.
    """

    def decorate(function: Callable[..., int | None]) -> Any:
        @functools.wraps(function)
        def body(*arguments: Any, **words: Any) -> None:
            code = guarded(lambda: function(*arguments, **words), as_document=bool(words.get("json")))
            if code:
                raise Exit(code=code)

        return task(auto_shortflags=False, **options)(body)

    return decorate


def guarded(work: Callable[[], int | None], *, as_document: bool = False) -> int:
    """Run `work` and return its exit code; errors are told, interruptions end as 130 and 143."""
    from firstlight.process import stop_children
    from firstlight.ui.failures import show_failure
    from firstlight.ui.terminal import tell

    before = signal.signal(signal.SIGTERM, _terminate)
    try:
        return work() or 0
    except FirstlightError as error:
        if debugging():
            raise
        show_failure(error, as_document=as_document)
        return error.code
    except KeyboardInterrupt:
        stop_children()
        tell("interrupted; what was fetched is kept, run the same command again to go on")
        return INTERRUPTED
    except _Terminated:
        stop_children()
        return TERMINATED
    except BrokenPipeError:
        return 0 if sys.stdout.closed else _quiet_pipe()
    except OSError as error:
        if debugging():
            raise
        show_failure(_system_error(error), as_document=as_document)
        return 1
    finally:
        signal.signal(signal.SIGTERM, before)


def _quiet_pipe() -> int:
    """End without a second error when the reader of our output went away (`| head`)."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
    """Return `cpu` or a CUDA version such as `12.1`.

    Raises:
        UsageError: it is neither.
    """
    if value is None or value == "cpu":
        return value
    parts = value.removeprefix("cu").split(".")
    if len(parts) != 2 or not all(part.isdecimal() for part in parts):
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
    path = Path(value).expanduser().absolute()
    if not path.is_dir():
        raise UsageError(f"{option}: {path} is no folder", fix=f"ls -d {path.parent}/*/")
    return path


def after_dashes() -> tuple[str, ...]:
    """Return the words after a standalone `--`, unchanged (Invoke joins them to one string)."""
    words = sys.argv
    return tuple(words[words.index("--") + 1 :]) if "--" in words else ()
