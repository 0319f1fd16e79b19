"""Streams and styles: what a terminal can show, and colours where they are wanted."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import sys
from typing import TextIO

from firstlight.errors import FirstlightError
from firstlight.planning.redacting import without_credentials

_SINGLE = "up|down|doctor|machine|plan|chat|ask|restore"
_GROUPS = "setup|serve|model|ollama|mirror|service|bootstrap"
_COMMAND = re.compile(rf"(?<![\w/.-])firstlight(?= (?:-|(?:{_SINGLE})\b|(?:{_GROUPS})\.))")
"""Our own commands inside a text."""
_NAMED = re.compile(r"\b(invoke (?:down|service\.(?:start|stop|restart|status|logs|remove))) (?=\w)")
"""Stock Invoke knows no word that may be left out."""
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


class OutputFailed(FirstlightError):  # noqa: N818 - reads as the sentence that it stands for
    """Standard output cannot be written: the result reached nobody."""


class Documents:
    """The JSON documents that this process has begun to write to standard output."""

    begun = 0


def is_terminal(stream: TextIO) -> bool:
    """Tell whether a person looks at a stream."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def styled(text: str, style: str, stream: TextIO) -> str:
    """Return `text` in a style (`bold`, `dim`, `red`, `green`, `yellow`, `cyan`) where the stream shows styles.

    NO_COLOR (no-color.org) switches styles off.
    """
    if not is_terminal(stream) or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_STYLES[style]}m{text}\x1b[0m"


def speaks_unicode(stream: TextIO) -> bool:
    """Tell whether block characters and marks can be written to a stream, and are wanted.

    The locale counts beside the stream's encoding: in Python's UTF-8 mode (PEP 540) that is UTF-8 in the C locale too.
    """
    locale = next(filter(None, (os.environ.get(name) for name in ("LC_ALL", "LC_CTYPE", "LANG"))), "")
    names = (locale, getattr(stream, "encoding", None) or "")
    return all("utf8" in name.lower().replace("-", "") for name in names)


def width(default: int = 100, most: int = 120) -> int:
    """Return the columns of the terminal, at most `most`; `default` where there is no terminal."""
    return min(most, shutil.get_terminal_size((default, 24)).columns)


def tell(text: str) -> None:
    """Write a line for the person to standard error; commands in it are spelled as this person types them."""
    write(sys.stderr, without_credentials(as_typed(text)))


def show(text: str) -> None:
    """Write a line of the result for a person to standard output; commands in it are spelled as they type them."""
    write(sys.stdout, without_credentials(as_typed(text)))


def show_document(text: str) -> None:
    """Write a JSON document to standard output, unchanged but for the credentials of addresses."""
    Documents.begun += 1
    write(sys.stdout, without_credentials(text))


def as_typed(text: str) -> str:
    """Return `text` with our commands spelled as this program was called: `scripts/firstlight up`, `invoke up`."""
    program = _program()
    if program == "firstlight":
        return text
    text = _COMMAND.sub(lambda _found: program, text)
    return _NAMED.sub(r"\1 --name ", text) if program == "invoke" else text


def _program() -> str:
    """Return how this person calls firstlight; the launcher of a checkout says it in FIRSTLIGHT_LAUNCHER."""
    launcher = os.environ.get("FIRSTLIGHT_LAUNCHER")
    if launcher:
        return shlex.quote(launcher)
    return "invoke" if os.path.basename(sys.argv[0]) in {"invoke", "inv"} else "firstlight"  # noqa: PTH119 - start-up


def write(stream: TextIO, text: str) -> None:
    """Write a line; characters that the stream's encoding lacks are replaced.

    Raises:
        OutputFailed: the line reached nobody. Standard error is no result: what it cannot take is left out.
        BrokenPipeError: the reader of standard output went away.
    """
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
        stream.flush()
    except OSError as error:
        silence(stream)
        if stream is sys.stderr:
            return
        if isinstance(error, BrokenPipeError):
            raise
        raise output_failed(error) from error


def flushed() -> OutputFailed | None:
    """Write out what standard output still holds; return the error where that fails, None also for a closed pipe."""
    try:
        sys.stdout.flush()
    except OSError as error:
        silence(sys.stdout)  # before the interpreter tries once more at its end
        return None if isinstance(error, BrokenPipeError) else output_failed(error)
    return None


def output_failed(error: OSError) -> OutputFailed:
    """Return the error for a standard output that the system refused to write."""
    return OutputFailed(
        "cannot write to standard output",
        why=error.strerror or str(error),
        fix="send standard output to a terminal, or to a file on a disk with room",
    )


def silence(stream: TextIO) -> None:
    """Let a stream that failed end in /dev/null, so that what is left in its buffer makes no error at the end."""
    with contextlib.suppress(OSError, ValueError):
        failed = stream.fileno()
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, failed)
        os.close(nowhere)


def open_missing_streams() -> None:
    """Give Python a stream for each of 0, 1 and 2 that was closed when it started.

    Otherwise a file that is opened later would become standard output. What is written to a standard output that was
    closed fails (its place is taken by /dev/null opened for reading), standard error swallows, standard input is empty.
    """
    if sys.stdin is None:
        sys.stdin = os.fdopen(_null(os.O_RDONLY), encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(_null(os.O_RDONLY), "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(_null(os.O_WRONLY), "w", encoding="utf-8", closefd=False)


def _null(mode: int) -> int:
    """Return a new descriptor of /dev/null, the lowest that is free; programs that we start get it too."""
    descriptor = os.open(os.devnull, mode)
    os.set_inheritable(descriptor, True)
    return descriptor
