"""Archives made on the spot: Ollama's layout in any size, and tarballs whose headers are written byte by byte.

Run it to write a big one for a benchmark: python tests/support/archives.py --layout OUT.tgz --bytes 2200000000
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

SHARES = {
    "bin/ollama": 0.02,
    "lib/ollama/libggml-base.so": 0.01,
    "lib/ollama/libggml-cpu-haswell.so": 0.01,
    "lib/ollama/cuda_v12/libcublasLt.so.12.8.4.1": 0.30,
    "lib/ollama/cuda_v12/libcublas.so.12.8.4.1": 0.06,
    "lib/ollama/cuda_v12/libggml-cuda.so": 0.20,
    "lib/ollama/cuda_v13/libcublasLt.so.13.1.0.3": 0.25,
    "lib/ollama/cuda_v13/libcublas.so.13.1.0.3": 0.04,
    "lib/ollama/cuda_v13/libggml-cuda.so": 0.11,
}
LINKS = {
    "lib/ollama/cuda_v12/libcublasLt.so.12": "libcublasLt.so.12.8.4.1",
    "lib/ollama/cuda_v12/libcublas.so.12": "libcublas.so.12.8.4.1",
    "lib/ollama/cuda_v13/libcublasLt.so.13": "libcublasLt.so.13.1.0.3",
    "lib/ollama/mlx_cuda_v13/libcublas.so.13": "../cuda_v13/libcublas.so.13.1.0.3",
}
_BLOCK = 1 << 16


class Filler(io.RawIOBase):
    """Bytes that compress like a GPU library: half code that repeats, half noise, the same every time."""

    def __init__(self, size: int, seed: int) -> None:
        random_ = random.Random(seed)
        noise = random_.randbytes(64 * _BLOCK)
        code = b"".join(
            random_.choice(words) for words in [[b"\x48\x8b\x05", b"\x0f\x1f\x44\x00", b"\xe8\x00\x00\x00\x00"]] * 9000
        )
        self._noise, self._code = noise, (code * 4)[: 35 * _BLOCK // 64]
        self._left = size
        self._random = random_

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        at = self._random.randrange(len(self._noise) - _BLOCK)
        data = (self._code + self._noise[at : at + _BLOCK])[: min(_BLOCK, len(buffer), self._left)]
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


@contextlib.contextmanager
def packed(path: Path, level: int | None = None) -> Iterator[IO[bytes]]:
    """Yield a stream that is compressed as the file's name says."""
    if path.name.endswith(".zst"):
        from backports import zstd

        with zstd.open(path, "wb", level=3 if level is None else level) as stream:
            yield stream
    elif path.name.endswith((".tgz", ".gz")):
        try:
            from isal import igzip
        except ImportError:
            with gzip.open(path, "wb", 6) as stream:
                yield stream
            return
        with igzip.open(path, "wb", compresslevel=2 if level is None else level) as stream:
            yield stream
    else:
        with path.open("wb") as stream:
            yield stream


def write_layout(path: Path, size: int) -> Path:
    """Write an archive of Ollama's layout with about `size` bytes unpacked; the name says how it is compressed."""
    with packed(path) as stream, tarfile.open(fileobj=stream, mode="w|", bufsize=1 << 20) as archive:
        for number, (name, share) in enumerate(SHARES.items()):
            member = tarfile.TarInfo(name)
            member.size, member.mode = int(size * share), 0o755
            archive.addfile(member, io.BufferedReader(Filler(member.size, number), 1 << 20))
        for name, target in LINKS.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return path


def block(
    name, size=0, mode=0o644, flag=b"0", target=b"", magic=b"ustar\x0000", prefix=b"", stated=None, checksum=None
):
    """Return one header, written byte by byte; `stated` replaces the field of the size."""
    name = name if isinstance(name, bytes) else name.encode()
    target = target if isinstance(target, bytes) else target.encode()
    fields = b"".join([
        name.ljust(100, b"\0"), b"%07o\0" % mode, b"0000000\0", b"0000000\0",
        stated if stated is not None else b"%011o\0" % size, b"00000000000\0", b" " * 8, flag,
        target.ljust(100, b"\0"), magic, bytes(32 + 32 + 8 + 8), prefix.ljust(155, b"\0"),
    ]).ljust(512, b"\0")  # fmt: skip
    total = sum(fields) if checksum is None else checksum
    return fields[:148] + b"%06o\0 " % total + fields[156:]


def entry(name, content=b"", **header) -> bytes:
    """Return a header with its content."""
    return block(name, len(content), **header) + content + bytes(-len(content) % 512)


def records(**said) -> bytes:
    """Return pax records for the member that follows."""
    lines = b""
    for key, value in said.items():
        rest = b" %s=%s\n" % (key.replace("__", ".").encode(), value if isinstance(value, bytes) else value.encode())
        length = len(rest)
        while len(rest) + len(str(length)) != length:
            length = len(rest) + len(str(length))
        lines += b"%d" % length + rest
    return entry("PaxHeaders/next", lines, flag=b"x")


def tar_of(*entries: bytes, end: bytes = bytes(1024)) -> bytes:
    """Return a tar archive of entries."""
    return b"".join(entries) + end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layout", type=Path, required=True)
    parser.add_argument("--bytes", type=int, default=2_200_000_000)
    words = parser.parse_args()
    print(write_layout(words.layout, words.bytes), words.layout.stat().st_size)


if __name__ == "__main__":
    main()
