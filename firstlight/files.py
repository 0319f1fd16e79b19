"""Files that are whole or absent: atomic writes, atomic symlinks, and one lock for writers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from firstlight.errors import FirstlightError


def write_atomic(path: Path, data: str | bytes, mode: int = 0o644) -> None:
    """Write `data` to `path` as temporary + fsync + rename, so that a reader sees the old or the new content.

    Raises:
        OSError: the folder cannot be written or the disk is full; the old file is untouched.
    """
    payload = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(payload)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def switch_symlink(link: Path, target: Path | str) -> None:
    """Point `link` at `target` in one atomic rename."""
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)


def remove_tree(path: Path) -> None:
    """Remove a directory tree so that an interrupted removal never looks like a whole tree.

    It is renamed first: whatever is left of a killed removal stands under a name that nobody reads.
    """
    if not path.exists() and not path.is_symlink():
        return
    doomed = path.with_name(f".removed-{path.name}-{os.getpid()}-{time.monotonic_ns()}")
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


@contextlib.contextmanager
def writer_lock(path: Path, what: str, *, wait: float = 0.0) -> Iterator[int]:
    """Hold the exclusive lock on `path` and yield its descriptor.

    The descriptor may be handed to children (`process.run(hold=...)`), so that the lock outlives a killed parent for as
    long as one of its children still writes. Readers never lock.

    Args:
        path: the lock file; made when missing.
        what: what is locked, for the message ("vllm environments").
        wait: seconds to wait for another holder.

    Raises:
        FirstlightError: another process holds it; its process id is named.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                    raise FirstlightError(
                        f"another firstlight is changing the {what} (process {holder})",
                        why="one writer at a time keeps the environments whole",
                        fix=f"wait for it, or look at it: ps -fp {holder}",
                    ) from None
                time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)
