"""Streams and styles: what a terminal can show, and colours where they are wanted."""

from __future__ import annotations

import os
import shutil
import sys
from typing import TextIO

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
    """Write a line for the person to standard error, whatever its encoding can carry."""
    write(sys.stderr, text)


def show(text: str) -> None:
    """Write a line of the result to standard output."""
    write(sys.stdout, text)


def write(stream: TextIO, text: str) -> None:
    """Write a line; characters that the stream's encoding lacks are replaced, never an exception."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
    stream.flush()
