"""Takes from a log of any size the parts that may tell of a failure, with their line numbers and in bounded memory."""

from __future__ import annotations

import codecs
import stat
import sys
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from io import BufferedReader
from pathlib import Path
from typing import IO, Literal, cast

import msgspec

from firstlight.errors import UsageError

CHUNK = 1 << 20
_BLOCK = 1 << 16
_HEAD = 1 << 20
_FIRST = 2 << 20
_LAST = 3 << 20
_WARNINGS = 1 << 20
_TAIL = 1 << 19
_END = 8 << 20
_SAMPLE = 1 << 17
UNCOUNTED = 10**12
"""Line numbers from here on are not true ones: what stood before was not counted for want of time."""

FAILURE_WORDS = (b"rror", b"RROR", b"Traceback (most recent", b"ailed", b"panic: ")
"""One of these stands in or near every failure of a server; a block of a huge log without any is passed over.

Each word more costs half a second per gigabyte.
"""
HARM_WORDS = (b"WARN", b" library=cpu")
"""The same for what tells of less than a failure."""

_MAGIC = (
    (b"\x7fELF", "a program or library", "file {path}"),
    (b"GGUF", "a model", "ls -lL {path}"),
    (b"PK\x03\x04", "a zip archive", "unzip -l {path}"),
    (b"LPKSHHRH", "a journal of systemd", "journalctl --file {path} --no-pager > journal.txt"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "zstd -d {path}"),
)
_TEXT_CONTROLS = frozenset(b"\a\b\t\n\v\f\r\x1b")


Extent = Literal["whole", "failures", "late", "end"]
"""What was kept: every line; every part that speaks of a failure; the same until time was up, and the end; the end."""


class LogParts(msgspec.Struct, frozen=True, kw_only=True):
    """The numbered lines of a log that were kept, and how much of it there is."""

    lines: list[tuple[int, str]]
    size: int
    """Bytes of text that were gone through."""
    count: int
    """Lines of text that were gone through."""
    sample: str
    """Its beginning and its end, to know by whom it was written."""
    extent: Extent


@contextmanager
def open_log(path: Path) -> Iterator[IO[bytes]]:
    """Open a log for reading: plain, or packed with gzip, bzip2 or xz.

    Raises:
        UsageError: it is not there, may not be read, is no file, or is packed in another way.
    """
    try:
        with path.open("rb") if stat.S_ISREG(path.stat().st_mode) else _no_file(path) as stream:
            magic = stream.read(8)
            stream.seek(0)
            with _unpacked(stream, magic) as text:
                yield text
    except OSError as error:
        why = error.strerror or str(error)
        raise UsageError(f"cannot read the log {path}", why=why, fix=f"ls -l {path}") from error


def _no_file(path: Path) -> IO[bytes]:
    raise UsageError(
        f"{path} is no file", why="a log is one file", fix="name the file itself: firstlight doctor --log FILE"
    )


def _unpacked(stream: IO[bytes], magic: bytes) -> IO[bytes]:
    for sign, module in ((b"\x1f\x8b", "gzip"), (b"BZh", "bz2"), (b"\xfd7zXZ\x00", "lzma")):
        if magic.startswith(sign):
            return cast("IO[bytes]", import_module(module).open(stream, "rb"))
    return stream


def _text_chunks(stream: IO[bytes], path: Path) -> Iterator[bytes]:
    """Give the text in UTF-8, also that of a log that Windows wrote in UTF-16; holes of NUL bytes are left out.

    Raises:
        UsageError: it is no text.
    """
    first = _read(stream)
    codec = "utf-16" if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else None
    decoder = codecs.getincrementaldecoder(codec)(errors="replace") if codec else None
    chunk, told = first.removeprefix(codecs.BOM_UTF8), False
    while chunk:
        # A log that was emptied while its writer held it open begins with a hole as long as it was.
        text = decoder.decode(chunk).encode() if decoder else chunk.replace(b"\0", b"") if b"\0" in chunk else chunk
        if text and not told:
            _require_text(text, first, path)
            told = True
        yield text
        chunk = _read(stream)


def _read(stream: IO[bytes]) -> bytes:
    """Return the next bytes; a packed log that is damaged ends there, with all that could be unpacked before.

    Raises:
        EOFError: it is damaged here.
    """
    broken = getattr(sys.modules.get("lzma"), "LZMAError", EOFError)
    try:
        return cast("BufferedReader", stream).read1(CHUNK)
    except (zlib.error, broken) as error:
        raise EOFError from error


def _require_text(text: bytes, first: bytes, path: Path) -> None:
    sample = text[:_BLOCK]
    strange = sum(1 for byte in sample if byte < 32 and byte not in _TEXT_CONTROLS)
    known = next(((what, fix) for magic, what, fix in _MAGIC if first.startswith(magic)), None)
    if known is None and strange * 33 <= len(sample):
        return
    what, fix = known or ("no text", "file {path}")
    raise UsageError(f"{path} is no log: it is {what}", why="a log is text", fix=fix.format(path=path))


class _Kept:
    """The blocks that are kept: the beginning, the first and the last failures, the last warnings, and the end."""

    def __init__(self) -> None:
        self._head: list[tuple[int, bytes]] = []
        self._first: list[tuple[int, bytes]] = []
        self._last = _Window(_LAST)
        self._warnings = _Window(_WARNINGS)
        self._tail = _Window(_TAIL)
        self._sizes = [0, 0]
        self._follows = False

    def take(self, number: int, block: bytes, *, failure: bool, harm: bool) -> None:
        """Take a block that begins with line `number`, or let it pass."""
        if self._sizes[0] < _HEAD:
            self._head.append((number, block))
            self._sizes[0] += len(block)
        elif failure or self._follows:  # a traceback may go on in the next block
            if self._sizes[1] < _FIRST:
                self._first.append((number, block))
                self._sizes[1] += len(block)
            else:
                self._last.add(number, block)
        elif harm:
            self._warnings.add(number, block)
        else:
            self._tail.add(number, block)
        self._follows = failure

    def blocks(self) -> list[tuple[int, bytes]]:
        """Return what was kept, in order."""
        return sorted([*self._head, *self._first, *self._last.blocks, *self._warnings.blocks, *self._tail.blocks])


class _Window:
    """The last blocks up to a number of bytes."""

    def __init__(self, limit: int) -> None:
        self.blocks: deque[tuple[int, bytes]] = deque()
        self._limit = limit
        self._size = 0

    def add(self, number: int, block: bytes) -> None:
        self.blocks.append((number, block))
        self._size += len(block)
        while self._size > self._limit:
            self._size -= len(self.blocks.popleft()[1])


def read_end(path: Path, *, seconds: float = 5.0) -> LogParts | None:
    """Return the last 8 MiB of a big plain log; None for one that is small, packed or not UTF-8.

    Args:
        path: the log.
        seconds: for counting the lines before; without the time for it they are numbered from `UNCOUNTED`.

    Raises:
        UsageError: it cannot be read, or is no text.
    """
    ends = time.monotonic() + seconds
    with open_log(path) as stream:
        if not _plain(stream) or stream.seek(0, 2) < 2 * _END:
            return None
        size = stream.tell()
        stream.seek(0)
        first = stream.read(CHUNK)
        if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return None
        if text := first.replace(b"\0", b""):
            _require_text(text, first, path)
        number, position = 1 + first.count(b"\n"), len(first)
        while position < size - _END and number < UNCOUNTED:
            chunk = stream.read(min(CHUNK, size - _END - position))
            number, position = number + chunk.count(b"\n"), position + len(chunk)
            if not chunk or time.monotonic() > ends:
                number, position = UNCOUNTED, stream.seek(size - _END)
        end = stream.read(2 * _END)  # more may have been written meanwhile
    lines = list(_numbered(number, end))[1:]  # the first one was cut
    counted = number + end.count(b"\n") - 1 if number < UNCOUNTED else 0
    return LogParts(lines=lines, size=size, count=counted, sample=_sample([first, end]), extent="end")


def _plain(stream: IO[bytes]) -> bool:
    return type(stream).__module__ in {"_io", "io"}


def _sample(blocks: list[bytes]) -> str:
    """Return the text of the first and the last block, cut at the outer ends."""
    ends = [blocks[0][:_SAMPLE], *([blocks[-1][-_SAMPLE:]] if len(blocks) > 1 else [])] if blocks else []
    return b"\n".join(ends).decode(errors="replace")


def read_parts(path: Path, *, seconds: float = 30.0) -> LogParts:
    """Return the parts of a log that may tell of a failure; about 8 MB at most are held.

    Args:
        path: the log; it may be packed.
        seconds: after this long the rest is passed over, but for the end of a log that is not packed.

    Raises:
        UsageError: it cannot be read, or is no text.
    """
    ends = time.monotonic() + seconds
    kept, number, size, carry, looked = _Kept(), 1, 0, b"", True
    with open_log(path) as stream:
        try:
            for chunk in _text_chunks(stream, path):
                size += len(chunk)
                text = carry + chunk
                cut = text.rfind(b"\n") + 1
                # A line without an end is held up to the size of a chunk: nothing is read from its rest.
                carry = text[cut : cut + CHUNK]
                number = _take(kept, number, text[:cut])
                if time.monotonic() > ends:
                    looked = False
                    break
        except EOFError:
            looked = False  # a packed log that was cut short: what could be unpacked is read
        number = _take(kept, number, carry + b"\n" if carry.strip() else b"")
        if not looked:
            size += _keep_end(stream, kept)
    blocks = kept.blocks()
    lines = [line for first, block in blocks for line in _numbered(first, block)]
    texts = [block for _first, block in blocks]
    whole = sum(map(len, texts)) >= size
    extent: Extent = "late" if not looked else "whole" if whole else "failures"
    sample = _sample([b"".join(texts[:4]), b"".join(texts[4:][-4:])])
    return LogParts(lines=lines, size=size, count=number - 1, sample=sample, extent=extent)


def _keep_end(stream: IO[bytes], kept: _Kept) -> int:
    """Keep the end of a log that there was no time for; returns its bytes."""
    try:
        if not _plain(stream):  # packed: its end is reached through all of it only
            return 0
        here, end = stream.tell(), stream.seek(0, 2)
        stream.seek(max(here, end - 2 * CHUNK))
        text = stream.read(2 * CHUNK)
    except OSError:
        return 0
    _take(kept, UNCOUNTED, text)
    return len(text)


def _take(kept: _Kept, number: int, text: bytes) -> int:
    """Offer whole lines to what is kept; returns the number of the next line."""
    interesting = _has(text, FAILURE_WORDS) or _has(text, HARM_WORDS)
    start = 0
    while start < len(text):
        end = text.find(b"\n", min(start + _BLOCK, len(text)) - 1) + 1 or len(text)
        block = text[start:end]
        failure = interesting and _has(block, FAILURE_WORDS)
        kept.take(number, block, failure=failure, harm=interesting and not failure and _has(block, HARM_WORDS))
        number += block.count(b"\n")
        start = end
    return number


def _has(text: bytes, words: tuple[bytes, ...]) -> bool:
    return any(word in text for word in words)


def _numbered(first: int, block: bytes) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(block.split(b"\n"), first):
        if line:
            yield number, line.decode(errors="replace")
