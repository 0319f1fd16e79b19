"""Tar headers, read from bytes alone: ustar, GNU long names and base-256 numbers, pax. Nothing is written here.

Sources: POSIX.1-2024 pax, "pax Interchange Format" and "ustar Interchange Format"; GNU tar manual 1.35, "Basic Tar
Format". What two readers could understand differently is refused instead of being guessed.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Kind = Literal["file", "folder", "symlink", "hardlink"]

BLOCK = 512
END = bytes(BLOCK)
_LONGEST_NAME = 1 << 16  # bytes of a GNU long name
_LONGEST_RECORDS = 1 << 20  # bytes of pax records for one member
_FILES = b"0\x007"
_KINDS: dict[bytes, Kind] = {b"1": "hardlink", b"2": "symlink", b"5": "folder"}
_REFUSED = {
    b"3": "is a character device",
    b"4": "is a block device",
    b"6": "is a named pipe",
    b"S": "is a sparse file, which is not read here",
    b"M": "is the rest of a file from another volume",
    b"D": "is a dump folder",
}


class Refused(Exception):  # noqa: N818 - reads as the sentence that it stands for
    """A member, or the whole archive, that is not taken."""

    def __init__(self, member: str, why: str) -> None:
        super().__init__(member, why)
        self.member = member
        self.why = why


class Damaged(Exception):  # noqa: N818 - same
    """Bytes that are no archive, or no longer one."""

    def __init__(self, why: str, *, truncated: bool = False) -> None:
        super().__init__(why)
        self.why = why
        self.truncated = truncated


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """One member: its name and the target of a link as they stand in the archive, bytes of content, permission bits."""

    name: str
    kind: Kind
    size: int
    mode: int
    target: str = ""


def looks_like_tar(block: bytes) -> bool:
    """Tell whether a block is a tar header: its checksum holds."""
    return len(block) >= BLOCK and any(block[:BLOCK]) and _checksum_holds(block[:BLOCK])


def _checksum_holds(block: bytes) -> bool:
    try:
        stated = _octal(block[148:156])
    except ValueError:
        return False
    rest = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(rest)
    # Old writers summed signed characters.
    return stated in {unsigned, unsigned - 256 * sum(1 for byte in rest if byte > 127)}


def _octal(field: bytes) -> int:
    text = field.partition(b"\0")[0].strip()
    if text and not all(48 <= byte <= 55 for byte in text):
        raise ValueError(text)
    return int(text or b"0", 8)


def _number(field: bytes, name: str, what: str) -> int:
    """Return a number: octal digits, or base 256 where the first bit is set (GNU)."""
    if field[0] & 0x80:
        if field[0] & 0x40:
            raise Refused(name, f"has a negative {what}")
        return int.from_bytes(bytes([field[0] & 0x3F]) + field[1:], "big")
    try:
        return _octal(field)
    except ValueError:
        raise Refused(name, f"has a {what} that is no number") from None


def _text(data: bytes, where: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        shown = data[:60].decode(errors="backslashreplace")
        raise Refused(shown, f"has a {where} that is not UTF-8") from None


class Headers:
    """Puts a member's header together from its blocks; one that is only about the next member yields None."""

    def __init__(self) -> None:
        self._name: str | None = None
        self._target: str | None = None
        self._pax: dict[str, str] = {}
        self._extension = b""

    @property
    def pending(self) -> bool:
        """Whether something was said about a member that has not come yet."""
        return bool(self._pax) or self._name is not None or self._target is not None

    def read(self, block: bytes) -> tuple[Header | None, int]:
        """Return the member, or None and the bytes of an extension that belongs to `extend`.

        Raises:
            Damaged: it is no header.
            Refused: it is one that is not taken.
        """
        if not _checksum_holds(block):
            raise Damaged("what should be the header of a member is none (its checksum is wrong)")
        flag, name = block[156:157], _stated_name(block)
        size = _number(block[124:136], name, "size")
        if flag in {b"L", b"K", b"x", b"g"}:
            if size > (_LONGEST_NAME if flag in {b"L", b"K"} else _LONGEST_RECORDS):
                raise Refused(name[:100], f"has {size} bytes of names and notes")
            self._extension = flag
            return None, size
        if flag in _REFUSED or flag not in _FILES + b"125":
            raise Refused(
                self._pax.get("path", self._name or name), _REFUSED.get(flag, f"is of the unknown type {flag!r}")
            )
        return self._member(block, name, flag, size), 0

    def extend(self, data: bytes) -> None:
        """Take the content of an extension: a long name, a long target, or pax records."""
        flag, self._extension = self._extension, b""
        if flag in {b"L", b"K"}:
            text = _text(data.partition(b"\0")[0], "name")
            if flag == b"L":
                self._name = text
            else:
                self._target = text
            return
        records = _pax_records(data)
        sparse = next((key for key in records if key.startswith("GNU.sparse")), None)
        if sparse is not None:
            raise Refused(records.get("GNU.sparse.name", "a member"), _REFUSED[b"S"])
        if flag == b"x":
            self._pax.update(records)
        elif {"path", "linkpath", "size"} & records.keys():
            raise Refused("the whole archive", "gives every member the same name, target or size")

    def _member(self, block: bytes, stated: str, flag: bytes, size: int) -> Header:
        name = self._pax.get("path", self._name if self._name is not None else stated)
        target = self._pax.get(
            "linkpath",
            self._target if self._target is not None else _text(block[157:257].partition(b"\0")[0], "target"),
        )
        if "size" in self._pax:
            if not self._pax["size"].isdecimal():
                raise Refused(name, "has a size that is no number")
            size = int(self._pax["size"])
        self._name = self._target = None
        self._pax = {}
        mode = _number(block[100:108], name, "mode")
        kind: Kind = _KINDS.get(flag, "file")
        if kind == "file" and name.endswith("/"):  # before POSIX a folder was told by its last letter
            kind = "folder"
        if kind != "file" and size:
            raise Refused(name, f"has {size} bytes of content, though it is no file")
        return Header(name=name, kind=kind, size=size, mode=mode, target=target if "link" in kind else "")


def _stated_name(block: bytes) -> str:
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0":  # GNU's own magic has a blank there, and no prefix
        prefix = block[345:500].partition(b"\0")[0]
        name = prefix + b"/" + name if prefix else name
    return _text(name, "name")


def _pax_records(data: bytes) -> dict[str, str]:
    """Return those records (`LENGTH KEY=VALUE`) of a pax header that say something about the member itself."""
    found: dict[str, str] = {}
    at = 0
    while at < len(data) and data[at]:
        digits, blank, _rest = data[at : at + 20].partition(b" ")
        length = int(digits) if blank and digits.isdigit() else 0
        record = data[at : at + length]
        key, equals, value = record[len(digits) + 1 : -1].partition(b"=")
        if length <= len(digits) + 1 or len(record) != length or record[-1:] != b"\n" or not equals:
            raise Damaged("the pax records of a member are damaged")
        name = key.decode(errors="replace")
        if name in {"path", "linkpath", "size"}:
            found[name] = _text(value, "name")
        elif name.startswith("GNU.sparse"):
            found[name] = value.decode(errors="replace")
        at += length
    return found
