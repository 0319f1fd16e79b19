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


def _busy(path: Path, descriptor: int, what: str) -> FirstlightError:
    """Return the error that names who holds a lock: the firstlight that took it, or what it left when it was killed."""
    taker = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
    why = "one writer at a time keeps the environments whole"
    if not taker.isdigit() or _lives(int(taker)):
        return FirstlightError(
            f"another firstlight is changing the {what} (process {taker or 'unknown'})",
            why=why,
            fix=f"wait for it, or look at it: ps -fp {taker}" if taker else f"wait for it, or look: fuser -v {path}",
        )
    left = _holders(descriptor)
    named = ", ".join(f"{name}, process {pid}" for pid, name in left.items())
    return FirstlightError(
        f"a killed firstlight was changing the {what}; programs that it started still work{named and f' ({named})'}",
        why=why,
        fix=f"wait for them, or look: ps -fp {','.join(map(str, left))}" if left else f"wait, or look: fuser -v {path}",
    )


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    return True


def _holders(descriptor: int) -> dict[int, str]:
    """Return pid → name of the processes, as far as we may look, that keep the lock on a descriptor's file.

    Of those that have the file open, one that holds the lock has a line for it in its fdinfo; one that waits has none.
    Source: proc_pid_fdinfo(5), "lock".
    """
    file, found = os.fstat(descriptor), {}
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            seen = link.stat()
            if (seen.st_dev, seen.st_ino) == (file.st_dev, file.st_ino):
                process = link.parent.parent
                if "lock:" in (process / "fdinfo" / link.name).read_text():
                    found[int(process.name)] = (process / "comm").read_text().strip()
    return found


def _opened(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _is_at(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


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
        FirstlightError: another process holds it; one that lives is named.
    """
    descriptor, deadline = _opened(path), time.monotonic() + wait
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(descriptor, path):
                    break
                os.close(descriptor)  # its holder removed it at the end: that one locks nothing any more
                descriptor = _opened(path)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise _busy(path, descriptor, what) from None
                time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)
