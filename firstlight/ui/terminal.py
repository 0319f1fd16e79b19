"""Streams and styles: what a terminal can show, and colours where they are wanted."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from typing import TextIO

_COMMAND = re.compile(r"(?<![\w/.-])firstlight(?= (?:-|(?:up|down|machine|plan|chat|ask)\b|(?:setup|serve|model)\.))")
"""Our own commands inside a text."""
_STYLES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


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
    """Tell whether block characters and marks can be written to a stream."""
    return (getattr(stream, "encoding", None) or "").lower().replace("-", "") == "utf8"


def width(default: int = 100) -> int:
    """Return the columns of the terminal, at most 120."""
    return min(120, shutil.get_terminal_size((default, 24)).columns)


def tell(text: str) -> None:
    """Write a line for the person to standard error; commands in it are spelled as this person types them."""
    write(sys.stderr, as_typed(text))


def show(text: str) -> None:
    """Write a line of the result for a person to standard output; commands in it are spelled as they type them."""
    write(sys.stdout, as_typed(text))


def show_document(text: str) -> None:
    """Write a JSON document to standard output, unchanged."""
    write(sys.stdout, text)


def as_typed(text: str) -> str:
    """Return `text` with our commands spelled as this program was called: `scripts/firstlight up`, `invoke up`."""
    program = _program()
    return text if program == "firstlight" else _COMMAND.sub(lambda _found: program, text)


def _program() -> str:
    """Return how this person calls firstlight; the launcher of a checkout says it in FIRSTLIGHT_LAUNCHER."""
    launcher = os.environ.get("FIRSTLIGHT_LAUNCHER")
    if launcher:
        return shlex.quote(launcher)
    return "invoke" if os.path.basename(sys.argv[0]) in {"invoke", "inv"} else "firstlight"  # noqa: PTH119 - start-up


def write(stream: TextIO, text: str) -> None:
    """Write a line; characters that the stream's encoding lacks are replaced, never an exception."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    stream.flush()
