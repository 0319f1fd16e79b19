"""Where things stand in a TOML file: the line of each key, and the key that a wrong value has. Only errors need it."""

from __future__ import annotations

import bisect
import re
from collections.abc import Mapping
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

Path = tuple[str | int, ...]
"""Keys and, for arrays, indexes: `("build", 3, "sources", "libc")`."""

_SYNTAX = re.compile(r"\(at line (\d+), column \d+\)")
_AT_THE_END = "(at end of document)"

_PART = r"""(?:[A-Za-z0-9_-]+|"(?:\\.|[^"\\\n])*"|'[^'\n]*')"""
_KEY = rf"{_PART}(?:[ \t]*\.[ \t]*{_PART})*"
_HEADER = re.compile(rf"\[(\[?)[ \t]*({_KEY})[ \t]*\]\]?")
_ASSIGNMENT = re.compile(rf"({_KEY})[ \t]*=[ \t]*")
_SPACE = re.compile(r"(?:\s|#[^\n]*)*")
_SCALAR = re.compile(
    r'''"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*'|[^\s,\]}#]+''', re.DOTALL
)


def line_of_syntax(text: str, message: str) -> int | None:
    """Return the line (from 1) that the TOML parser's message names, None where it names none."""
    found = _SYNTAX.search(message)
    if found:
        return int(found[1])
    return max(1, len(text.splitlines())) if _AT_THE_END in message else None


class Lines:
    """The lines of all keys of a TOML file that parses."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._newlines = [at for at, character in enumerate(text) if character == "\n"]
        self._found: dict[Path, int] = {}
        self._counts: dict[Path, int] = {}
        self._read()

    def of(self, *path: str | int) -> int | None:
        """Return the line (from 1) of a key, else of the nearest table around it; None for the whole file."""
        for length in range(len(path), 0, -1):
            if path[:length] in self._found:
                return self._found[path[:length]]
        return None

    def has(self, *path: str | int) -> bool:
        """Tell whether the file itself has a key: an entry that is `like` another leaves most of them out."""
        return path in self._found

    def _read(self) -> None:
        table: Path = ()
        at = self._after_space(0)
        while at < len(self._text):
            header, assignment = _HEADER.match(self._text, at), _ASSIGNMENT.match(self._text, at)
            if header:
                table = self._table(_parts(header[2]), several=bool(header[1]))
                self._note(table, at)
                at = header.end()
            elif assignment:
                path = (*table, *_parts(assignment[1]))
                self._note(path, at)
                at = self._value(path, assignment.end())
            else:  # nothing that a parser accepts; the next line may be better
                at = at + len(self._text[at:].partition("\n")[0]) + 1
            at = self._after_space(at)

    def _table(self, parts: list[str], *, several: bool) -> Path:
        """Return the path of a header; `[build.sources]` belongs to the last `[[build]]` above it."""
        path: Path = ()
        for number, part in enumerate(parts):
            path = (*path, part)
            if several and number == len(parts) - 1:
                self._counts[path] = self._counts.get(path, -1) + 1
            if path in self._counts:
                path = (*path, self._counts[path])
        return path

    def _value(self, path: Path, at: int) -> int:
        """Note what stands in the value that begins at `at`, and return where it ends."""
        opening = self._text[at : at + 1]
        if opening not in {"[", "{"}:
            scalar = _SCALAR.match(self._text, at)
            return scalar.end() if scalar else at + 1
        number = 0
        at = self._after_space(at + 1)
        while at < len(self._text) and self._text[at] not in "]}":
            inner: Path = (*path, number)
            if opening == "{":
                assignment = _ASSIGNMENT.match(self._text, at)
                inner = (*path, *_parts(assignment[1])) if assignment else path
                self._note(inner, at)
                at = assignment.end() if assignment else at
            else:
                self._note(inner, at)
            at = self._after_space(self._value(inner, at))
            if self._text[at : at + 1] == ",":
                number, at = number + 1, self._after_space(at + 1)
        return at + 1

    def _after_space(self, at: int) -> int:
        found = _SPACE.match(self._text, at)
        return found.end() if found else at

    def _note(self, path: Path, at: int) -> None:
        line = bisect.bisect_left(self._newlines, at) + 1
        for length in range(1, len(path) + 1):  # `sources.libc = …` begins the table `sources` too
            self._found.setdefault(path[:length], line)


def _parts(key: str) -> list[str]:
    return [part.strip("\"'") for part in re.findall(_PART, key)]


def misfit(value: Any, kind: Any) -> tuple[Path, str]:
    """Return the path of the first value that is not what its type asks for, and what is wrong with it.

    msgspec's own messages leave the indexes of arrays out. A value that fits has the path `()` and an empty message.
    """
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        for key, inner, wanted in _inside(value, kind):
            path, message = misfit(inner, wanted) if wanted is not None else ((), f"there is no key `{key}` here")
            if message:
                return (key, *path), message
        return (), str(error).partition(" - at `$")[0]
    return (), ""


def _inside(value: Any, kind: Any) -> list[tuple[str | int, Any, Any]]:
    """Return key, value and type (None: no such key) of everything directly inside a value."""
    if get_origin(kind) in {Union, UnionType}:
        kind = next(option for option in get_args(kind) if option is not type(None))
    arguments = get_args(kind)
    if isinstance(value, Mapping) and isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        types = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        strict = kind.__struct_config__.forbid_unknown_fields
        return [(key, inner, types.get(key)) for key, inner in value.items() if strict or key in types]
    if isinstance(value, Mapping) and get_origin(kind) is dict:
        return [(key, inner, arguments[1]) for key, inner in value.items()]
    if isinstance(value, list) and get_origin(kind) is list:
        return [(number, inner, arguments[0]) for number, inner in enumerate(value)]
    return []
