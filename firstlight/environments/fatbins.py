"""Which GPUs a library holds code for: the headers of its fatbin containers, in which nvcc packs code per architecture.

The layout is what CUDA 11.8 to 13.0 write, found in the wheels of vLLM and LMDeploy and held against `readelf` and the
architectures that their build files name (2026-11-23): a container is 16 bytes (magic, version, header size, length),
then entries of a header (kind, header size, length, at 28 the architecture, at 40 flags) and the code.
"""

from __future__ import annotations

import contextlib
import statistics
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

_MAGIC = struct.pack("<I", 0xBA55ED50)
_CONTAINER = struct.Struct("<4sHHQ")
_ENTRY = struct.Struct("<HHIQ12xI8xQ")  # kind, version, header size, length, architecture, flags
_PIECE = 1 << 20
_PTX, _MACHINE = 1, 2
_SPECIFIC, _FAMILY = 1 << 20, 1 << 21  # `sm_90a`, `sm_100f`
_STRAY = 0.1  # of what the best-served architecture has: leftovers of a compiler's defaults
_SHARE = 2 / 3  # of what most architectures have


class Code(msgspec.Struct, frozen=True, order=True):
    """Code for one architecture; `suffix` is `a` for what runs on that one alone, `f` for what runs on its family."""

    major: int
    minor: int
    suffix: str
    ptx: bool

    @property
    def capability(self) -> str:
        """As the catalogue spells it: code for a family runs on later members of it, as plain code does."""
        return f"{self.major}.{self.minor}{'a' if self.suffix == 'a' else ''}"

    def __str__(self) -> str:
        return f"{'PTX ' if self.ptx else ''}{self.major}.{self.minor}{self.suffix}"


def scan_file(file: Path) -> Counter[Code]:
    """Return what `scan` finds in a shared library; nothing in one that cannot be read."""
    with contextlib.suppress(OSError), file.open("rb") as stream:
        return scan(iter(lambda: stream.read(_PIECE), b""))
    return Counter()


def scan(chunks: Iterator[bytes]) -> Counter[Code]:
    """Return for how many pieces of a library there is code of each kind and architecture."""
    found: Counter[Code] = Counter()
    reader = _Reader(chunks)
    while reader.seek(_MAGIC):
        _magic, version, header, length = _CONTAINER.unpack(reader.peek(_CONTAINER.size).ljust(_CONTAINER.size, b"\0"))
        if version != 1 or header != _CONTAINER.size:
            reader.skip(len(_MAGIC))
            continue
        reader.skip(header)
        while length >= _ENTRY.size and len(head := reader.peek(_ENTRY.size)) == _ENTRY.size:
            kind, _version, size, payload, architecture, flags = _ENTRY.unpack(head)
            if not _ENTRY.size <= size <= length or not 20 <= architecture < 1000:
                break  # no header after all: look for the next container from here
            if kind in {_PTX, _MACHINE}:
                suffix = "a" if flags & _SPECIFIC else "f" if flags & _FAMILY else ""
                found[Code(architecture // 10, architecture % 10, suffix, kind == _PTX)] += 1
            reader.skip(size + payload)
            length -= size + payload
    return found


class _Reader:
    """Bytes that come in pieces, read from front to back."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._held = chunks, b""

    def _more(self) -> bool:
        chunk = next(self._chunks, b"")
        self._held += chunk
        return bool(chunk)

    def seek(self, mark: bytes) -> bool:
        """Go to the next `mark`; False where there is none."""
        while True:
            at = self._held.find(mark)
            if at >= 0:
                self._held = self._held[at:]
                return True
            self._held = self._held[1 - len(mark) :]
            if not self._more():
                return False

    def peek(self, count: int) -> bytes:
        """Return the next `count` bytes, fewer at the end."""
        while len(self._held) < count and self._more():
            pass
        return self._held[:count]

    def skip(self, count: int) -> None:
        """Go on by `count` bytes, at most to the end."""
        while count > len(self._held):
            count -= len(self._held)
            self._held = b""
            if not self._more():
                return
        self._held = self._held[count:]


def capabilities(found: Counter[Code]) -> tuple[list[str], str | None]:
    """Return the capabilities that a library holds machine code for, and the lowest of its PTX.

    A GPU needs all pieces of a library. So code that only some have is left out: kernels that are compiled for one
    board beside the rest, PTX of a few kernels, `sm_52` that a compiler's default left. In wheels of vLLM 0.7 to 0.33
    and LMDeploy 0.7 to 0.18 what was built for all stands in 0.74 or more of the usual number of pieces, the rest in
    0.59 or less (measured on 2026-11-23). `9.0a` beside `9.0` says nothing more.
    """
    plain: Counter[str] = Counter()
    for code, count in found.items():
        if not code.ptx:
            plain[code.capability] += count
    most = max(plain.values(), default=0)
    counts = {one: count for one, count in plain.items() if count > most * _STRAY}
    counts = {one: count for one, count in counts.items() if not (one.endswith("a") and one[:-1] in counts)}
    usual = statistics.median(counts.values() or [0])
    held = [one for one, count in counts.items() if count >= usual * _SHARE]
    ptx = [code for code, count in found.items() if code.ptx and count >= usual * _SHARE]
    return sorted(held, key=_order), min(ptx).capability if ptx else None


def _order(capability: str) -> tuple[int, int]:
    major, _, minor = capability.rstrip("af").partition(".")
    return int(major), int(minor)
