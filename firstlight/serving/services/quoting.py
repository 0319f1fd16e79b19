"""How values are written into unit files so that systemd reads back exactly them. Source: systemd.syntax(7)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from firstlight.errors import UsageError

_PLAIN = re.compile(r"[A-Za-z0-9_./:@=,+-]+")
_FORBIDDEN_IN_PROGRAM = frozenset("\"'\\$")
"""systemd takes no such sign in the path of a program (string_is_safe), and expands no variable there."""
ENV = "/usr/bin/env"


def refuse_unwritable(value: str, what: str) -> None:
    """Refuse a value that no line of a unit file can hold.

    Raises:
        UsageError: it holds a line break, another control character, or bytes that are no text.
    """
    bad = next((sign for sign in value if ord(sign) < 32 or ord(sign) == 127), None)
    if bad is None:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise UsageError(
                f"{what} cannot stand in a unit file", why="it is not valid UTF-8", fix="rename it, or link to it"
            ) from None
        return
    raise UsageError(
        f"{what} cannot stand in a unit file",
        why=f"it holds the control character {bad!r}",
        fix="rename it, or make a symbolic link with a plain name",
    )


def percent(value: str) -> str:
    """Return a value in which systemd finds no specifier."""
    return value.replace("%", "%%")


def word(value: str) -> str:
    """Return a value as one word of a list (paths, `Environment=`): quoted where it must be."""
    refuse_unwritable(value, f'"{value!r:.60}"')
    if _PLAIN.fullmatch(value):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{percent(escaped)}"'


def line(value: str, what: str) -> str:
    """Return a value for a setting that takes the rest of its line as it is (`EnvironmentFile=`, `Description=`).

    Raises:
        UsageError: it would be read otherwise: blanks at an end, or a backslash that joins the next line.
    """
    refuse_unwritable(value, what)
    if value != value.strip() or value.endswith("\\"):
        raise UsageError(
            f"{what} cannot stand in a unit file",
            why="it begins or ends with a blank or a backslash",
            fix="rename it, or make a symbolic link with a plain name",
        )
    return percent(value)


def text(value: str) -> str:
    """Return free text (a description) that fits a line, whatever was in it."""
    clean = "".join(sign if sign.isprintable() else " " for sign in value).strip().rstrip("\\")
    return percent(clean)


def assignment(name: str, value: str) -> str:
    """Return `NAME=value` for `Environment=`."""
    refuse_unwritable(value, f"the variable {name}")
    return word(f"{name}={value}")


def command_line(argv: Sequence[str]) -> str:
    """Return the words of a program for `ExecStart=`; a dollar stands for itself.

    A program whose path systemd would not take is started by `env`, which takes any.
    """
    words = [*argv]
    if _FORBIDDEN_IN_PROGRAM & set(words[0]):
        words.insert(0, ENV)
    return " ".join([word(words[0]), *(word(each).replace("$", "$$") for each in words[1:])])
