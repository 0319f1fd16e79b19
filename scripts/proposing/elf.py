"""What a shared library asks for: the libraries it is linked with, the glibc it needs, the CUDA that compiled it.

Read from as little of the file as possible: the names stand in its dynamic string table, in the first loaded segment.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator

import msgspec

_LIBRARY = re.compile(rb"\0((?:lib|ld-)[\w.+-]*\.so(?:\.\w+)*)(?=\0)")
_GLIBC = re.compile(rb"\0GLIBC_(\d+(?:\.\d+)+)(?=\0)")
_RELATIVE_RELOCATIONS = b"\0GLIBC_ABI_DT_RELR\0"  # glibc 2.36 and newer define this version name
_TOOLS = re.compile(rb"Cuda compilation tools, release (\d+\.\d+)")
_LOAD = 1
_OVERLAP = 512
_ENOUGH = 8 << 20


class Linked(msgspec.Struct, frozen=True, kw_only=True):
    """What a shared library asks for."""

    libraries: tuple[str, ...] = ()
    glibc: str | None = None
    """The newest version of glibc's symbols that it uses."""

    def cuda_major(self) -> str | None:
        """Return the major version of the CUDA runtime that it is linked with."""
        return next((name[13:] for name in self.libraries if name.startswith("libcudart.so.")), None)


def linked(chunks: Iterator[bytes]) -> Linked:
    """Return what a library asks for, from its first bytes; reads on where they do not hold the names.

    A library that a tool has rewritten keeps its names at its end: then all of it is read.
    """
    libraries: dict[bytes, None] = {}
    versions: set[tuple[int, ...]] = set()
    kept, seen, enough = b"", 0, 0
    for chunk in chunks:
        window = kept + chunk
        if not enough:
            if len(window) < 4096 and window[:4] == b"\x7fELF":
                kept, seen = window, len(window)
                continue
            enough = min(_first_segment(window), _ENOUGH)
        seen += len(chunk)
        _names(window, libraries, versions)
        kept = window[-_OVERLAP:]
        if seen >= enough and b"libc.so.6" in libraries:
            break
    else:
        _names(kept, libraries, versions)
    newest = max(versions, default=None)
    return Linked(
        libraries=tuple(name.decode() for name in libraries),
        glibc=".".join(map(str, newest)) if newest else None,
    )


def _names(window: bytes, libraries: dict[bytes, None], versions: set[tuple[int, ...]]) -> None:
    libraries.update(dict.fromkeys(_LIBRARY.findall(window)))
    versions.update(tuple(map(int, version.split(b"."))) for version in _GLIBC.findall(window))
    if _RELATIVE_RELOCATIONS in window:
        versions.add((2, 36))


def _first_segment(head: bytes) -> int:
    """Return where the first loaded segment of a 64-bit little-endian ELF file ends; 0 for anything else.

    Source: the ELF-64 object file format, file header and program headers.
    """
    if head[:6] != b"\x7fELF\x02\x01":
        return 0
    offset, size, count = struct.unpack_from("<Q", head, 32)[0], *struct.unpack_from("<HH", head, 54)
    for number in range(count):
        at = offset + number * size
        if at + 40 > len(head):
            break
        kind, _flags, begin, _address, _physical, length = struct.unpack_from("<IIQQQQ", head, at)
        if kind == _LOAD:
            return int(begin + length)
    return 0


def toolkit(chunks: Iterator[bytes]) -> str | None:
    """Return the release of the CUDA compiler whose name stands in a library's GPU code; None where it tells none."""
    kept = b""
    for chunk in chunks:
        found = _TOOLS.search(kept + chunk)
        if found:
            return found[1].decode()
        kept = chunk[-_OVERLAP:]
    return None
