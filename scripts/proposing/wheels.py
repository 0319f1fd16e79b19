"""A wheel at an address: its tags, its metadata and its shared libraries, of which only what is needed is fetched."""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import IO, NamedTuple, cast

from packaging.tags import Tag
from proposing.elf import Linked, linked, toolkit
from proposing.web import RemoteFile, Web

from firstlight.environments.fatbins import Code, scan
from firstlight.errors import FirstlightError

_TAGGED = re.compile(r"(?:manylinux_(\d+)_(\d+)|manylinux(1|2010|2014)|linux)_(x86_64|aarch64)")
_LEGACY = {"1": "2.5", "2010": "2.12", "2014": "2.17"}
_LIBRARY = re.compile(r"\.so(\.[\w.]+)?$")
_LOCAL_HEADER = 30
_TOOLKIT_BYTES = 8 << 20  # compressed, within which the compiler's name was found where there is one at all


class Tags(NamedTuple):
    """A wheel's tags for Linux."""

    platforms: dict[str, str | None]
    """Arch → lowest glibc that the tag asks for; None where it asks for none."""
    pythons: tuple[str, ...]
    """Minor versions that it is made for, oldest first; none: any."""
    oldest: str | None
    """With a stable ABI: the oldest minor version."""


class Library(NamedTuple):
    """One shared library of a wheel."""

    name: str
    linked: Linked
    code: Counter[Code]


def tags_of(tags: Iterable[Tag]) -> Tags:
    """Return what a wheel's tags say of Linux; a pure wheel is there for every arch."""
    platforms: dict[str, str | None] = {}
    exact, stable = set(), set()
    for tag in tags:
        found = _TAGGED.fullmatch(tag.platform)
        if found:
            floor = f"{found[1]}.{found[2]}" if found[1] else _LEGACY.get(found[3] or "")
            platforms[found[4]] = min(platforms.get(found[4], floor), floor, key=_order)
        elif tag.platform == "any":
            platforms |= {"x86_64": None, "aarch64": None}
        minor = re.fullmatch(r"cp3(\d+)", tag.interpreter)
        if minor and tag.abi == "abi3":
            stable.add(int(minor[1]))
        elif minor and tag.abi == tag.interpreter:  # not cp313t, the free-threaded build
            exact.add(int(minor[1]))
    return Tags(platforms, tuple(f"3.{n}" for n in sorted(exact)), f"3.{min(stable)}" if stable else None)


def _order(floor: str | None) -> tuple[int, ...]:
    return tuple(map(int, floor.split("."))) if floor else (0,)


class Archive:
    """A wheel at an address.

    Raises:
        FirstlightError: what lies there is no wheel.
    """

    def __init__(self, web: Web, url: str) -> None:
        self._file = RemoteFile(web, url)
        try:
            self._zip = zipfile.ZipFile(cast("IO[bytes]", self._file))
        except zipfile.BadZipFile as error:
            raise FirstlightError(f"{url} is no wheel", why=str(error), fix="look at the address") from error

    @property
    def size(self) -> int:
        """Bytes."""
        return self._file.size

    def fetch(self) -> str:
        """Fetch the whole wheel, for what needs all of it, and return its SHA-256."""
        self._file.fetch()
        return str(self._file.sha256)

    def metadata(self) -> bytes:
        """Return the METADATA member."""
        for member in self._zip.infolist():
            if re.fullmatch(r"[^/]+\.dist-info/METADATA", member.filename):
                return b"".join(self._inflated(member))
        raise FirstlightError(f"the wheel {self._zip.filename} holds no METADATA")

    def libraries(self, *, deep: bool) -> Iterator[Library]:
        """Yield the shared libraries; their GPU code is looked at only when `deep`, because all of it is read then."""
        for member in self._members():
            code = scan(self._inflated(member)) if deep else Counter[Code]()
            yield Library(member.filename, linked(self._inflated(member)), code)

    def toolkit(self, *, deep: bool) -> str | None:
        """Return the CUDA release that compiled the wheel's GPU code, from the smallest library that names it.

        Compilers before CUDA 12.4 or so leave no name that could be found.
        """
        budget = _TOOLKIT_BYTES
        for member in sorted(self._members(), key=lambda member: member.compress_size):
            found = toolkit(self._inflated(member, None if deep else budget))
            budget -= member.compress_size
            if found or (budget <= 0 and not deep):
                return found
        return None

    def _members(self) -> list[zipfile.ZipInfo]:
        return [member for member in self._zip.infolist() if _LIBRARY.search(member.filename)]

    def _inflated(self, member: zipfile.ZipInfo, limit: int | None = None) -> Iterator[bytes]:
        """Yield a member's bytes; `limit` is the most that is fetched. One request, ended when nobody reads on.

        Source: PKWARE's APPNOTE 4.3.7: 30 bytes of local header, then name and extra field, then the data.
        """
        begin = member.header_offset
        names = len(member.filename.encode()) + 256  # the local extra field may be longer than the central one
        end = min(begin + _LOCAL_HEADER + names + member.compress_size, self.size)
        parts = self._file.parts(begin, min(end, begin + limit) if limit else end)
        head = b""
        while len(head) < _LOCAL_HEADER + names and (part := next(parts, b"")):
            head += part
        name, extra = struct.unpack_from("<HH", head, 26)
        data, left = head[_LOCAL_HEADER + name + extra :], member.compress_size
        inflate = zlib.decompressobj(-zlib.MAX_WBITS)
        while data and left > 0:
            data = data[:left]
            left -= len(data)
            yield inflate.decompress(data) if member.compress_type == zipfile.ZIP_DEFLATED else data
            data = next(parts, b"")
