"""Compressed bytes to plain ones, pushed in as they come: gzip and zstd, with any number of members or frames.

gzip goes through isal, which is about three times as fast as zlib; zlib stands in where isal has no wheel.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, Protocol

from firstlight.fetching.tar_headers import Damaged

Compression = Literal["gzip", "zstd", "none"]

PIECE = 1 << 16
"""Bytes of plain content at most that are handed on at once: larger pieces cost fresh pages from the system each."""

_MEMBERS = (
    4096  # gzip members or zstd frames that nobody minds, and the least bytes of each further one: all that follow
)
_MEMBER = 512  # are copied at the end of each
GZIP = b"\x1f\x8b\x08"
ZSTD = b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"  # the last three bytes of a zstd frame that holds no content; the first is 0x50 to 0x5f


class _Decompressor(Protocol):
    eof: bool
    needs_input: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Zlib:
    """zlib's decompressor in the manner of the others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self.eof = False
        self.needs_input = True
        self.unused_data = b""

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        out = self._inner.decompress(self._inner.unconsumed_tail + data, max(0, max_length))
        self.eof, self.unused_data = self._inner.eof, self._inner.unused_data
        self.needs_input = not self._inner.unconsumed_tail and len(out) < max_length
        return out


def _gzip() -> tuple[Callable[[], _Decompressor], tuple[type[Exception], ...]]:
    try:
        from isal import igzip_lib
    except ImportError:
        return _Zlib, (zlib.error,)
    wrong: Any = igzip_lib.error  # its stub calls the class an exception
    return partial(igzip_lib.IgzipDecompressor, flag=igzip_lib.DECOMP_GZIP), (wrong,)


def _zstd() -> tuple[Callable[[], _Decompressor], tuple[type[Exception], ...]]:
    from backports import zstd

    return zstd.ZstdDecompressor, (zstd.ZstdError,)


class Plain:
    """What is not compressed."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the plain bytes."""
        yield data

    def close(self) -> None:
        """Take that there is no more."""


class Packed:
    """A stream of gzip members or zstd frames, one behind the other; zeros behind the last are padding.

    Raises (from `feed` and `close`):
        Damaged: the bytes are wrong, cut off, or followed by others that belong to nothing.
    """

    def __init__(self, compression: Compression) -> None:
        self._compression = compression
        self._make, self._errors = _gzip() if compression == "gzip" else _zstd()
        self._inner: _Decompressor | None = None
        self._between = b""
        self._padding = False
        self._members = 0
        self._fed = 0

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the plain bytes, in pieces."""
        self._fed += len(data)
        while data:
            if self._inner is None:
                data = self._begin(data)
                if self._inner is None:
                    return
            yield from self._pour(self._inner, data)
            if not self._inner.eof:
                return
            data, self._inner = self._inner.unused_data, None

    def _pour(self, inner: _Decompressor, data: bytes) -> Iterator[bytes]:
        while True:
            try:
                piece = inner.decompress(data, PIECE)
            except self._errors as error:
                if "too much memory" in str(error):
                    raise Damaged("it was compressed with a window that is too large to be unpacked safely") from error
                raise Damaged(f"its {self._compression} content is damaged ({error})") from error
            data = b""
            if piece:
                yield piece
            if inner.eof or inner.needs_input:
                return

    def _begin(self, data: bytes) -> bytes:
        """Begin the next member where enough of it is there to tell that it is one."""
        data, self._between = self._between + data, b""
        if self._padding or data[0] == 0:
            self._padding = True
            if data.strip(b"\0"):
                raise Damaged(f"bytes follow behind its end that are no {self._compression}")
            return b""
        if len(data) < 4:
            self._between = data
            return b""
        if not (data.startswith(GZIP) if self._compression == "gzip" else _is_frame(data)):
            raise Damaged(f"bytes follow behind its end that are no {self._compression}")
        self._members += 1
        if self._members > _MEMBERS + self._fed // _MEMBER:
            raise Damaged(f"it consists of {self._members} {self._compression} pieces, far too many for their size")
        self._inner = self._make()
        return data

    def close(self) -> None:
        """Take that there is no more."""
        if self._inner is not None:
            raise Damaged("it ends in the middle of its compressed content", truncated=True)
        if self._between:
            raise Damaged(f"bytes follow behind its end that are no {self._compression}")


def _is_frame(data: bytes) -> bool:
    return data.startswith(ZSTD) or (data[1:4] == _SKIPPABLE and data[0] >> 4 == 5)


def stream_of(compression: Compression) -> Plain | Packed:
    """Return what turns the bytes of a compression into plain ones."""
    return Plain() if compression == "none" else Packed(compression)
