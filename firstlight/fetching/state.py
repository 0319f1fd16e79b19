"""The state of a partial file on disk: whose object it is, and which bytes came from whom.

Its first line is all of it; each later one adds bytes that have come since. A line that was torn adds nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from firstlight.fetching.ledger import Run

_VERSION = 1


class Origin(msgspec.Struct):
    """A source that gave bytes, and which object it had then. `key` stands for its address, which may hold secrets."""

    key: str
    name: str
    etag: str = ""
    modified: str = ""


class Saved(msgspec.Struct):
    """The first line of `<file>.partial.json`. `size` is None where nobody has told it yet."""

    version: int
    size: int | None
    promised: str | None
    boot: str
    origins: list[Origin]
    runs: list[Run]


def key_of(url: str) -> str:
    """Return what stands for an address on disk."""
    return hashlib.sha256(url.encode()).hexdigest()[:20]


def boot_id() -> str:
    """Return what names this run of the machine: bytes of an earlier one may never have reached the disk."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def save(path: Path, saved: Saved) -> int:
    """Write all of the state by rename and return the descriptor of its file, to which `add` adds.

    The kernel keeps the order between the bytes and the state, so no fsync is due for a kill -9.

    Raises:
        OSError: the disk does not take it; an earlier state is still there.
    """
    temporary = path.with_name(f"{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        _write(descriptor, msgspec.json.encode(saved))
        temporary.replace(path)
    except BaseException:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
        raise
    return descriptor


def add(descriptor: int, runs: list[Run]) -> int:
    """Add bytes that have come to the state and return how much longer its file is now.

    The new line begins with the line end, so that one before it that was torn spoils nothing but itself.

    Raises:
        OSError: the disk does not take it.
    """
    return _write(descriptor, b"\n" + msgspec.json.encode(runs))


def _write(descriptor: int, data: bytes) -> int:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
    return len(data)


def load(path: Path) -> Saved | None:
    """Return the state, or None where there is none that can be read."""
    try:
        first, *later = path.read_bytes().split(b"\n")
        saved = msgspec.json.decode(first, type=Saved)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None
    for line in later:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):
            saved.runs += msgspec.json.decode(line, type=list[Run])
    known = range(len(saved.origins))
    whole = all(0 <= start < end and owner in known for start, end, owner in saved.runs)
    return saved if saved.version == _VERSION and whole else None


def forget(paths: Iterable[Path]) -> None:
    """Remove a partial file and what belongs to it."""
    for path in paths:
        for one in (path, path.with_name(f"{path.name}.new")):  # a state that was being written when it was killed
            with contextlib.suppress(FileNotFoundError):
                one.unlink()


def now_saved(size: int | None, promised: str | None, origins: list[Origin], runs: list[Run]) -> Saved:
    """Return the state to be saved now."""
    return Saved(_VERSION, size, promised, boot_id(), origins, runs)


def partial_of(target: Path) -> tuple[Path, Path, Path]:
    """Return the partial file of a target, its state and its lock."""
    partial = target.with_name(f"{target.name}.partial")
    return partial, Path(f"{partial}.json"), Path(f"{partial}.lock")
