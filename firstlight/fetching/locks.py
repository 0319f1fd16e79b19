"""One process fetches a file; another one that wants it waits, and says for whom."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from firstlight.events import Step

_LOOK = 0.1  # seconds between two tries


@contextlib.contextmanager
def alone(path: Path, name: str, step: Step, stopped: Callable[[], bool]) -> Iterator[bool]:
    """Hold the lock on a file that is fetched; yields whether somebody else was waited for.

    The lock file is removed at the end; one that was removed while we waited for it locks nothing, and is made again.
    """
    waited, descriptor = False, _taken(path)
    while descriptor is None:
        if stopped():
            raise KeyboardInterrupt
        if not waited:
            step.note(f"{name}: {_holder(path)} is fetching it; waiting for that")
            waited = True
        time.sleep(_LOOK)
        descriptor = _taken(path)
    try:
        yield waited
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)


def _taken(path: Path) -> int | None:
    """Return the descriptor of the locked file, or None where another one holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _same(descriptor, path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            return descriptor
    except BlockingIOError:
        pass
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _same(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        taker = path.read_text().strip()
        if taker.isdigit():
            return "this firstlight itself" if int(taker) == os.getpid() else f"another firstlight (process {taker})"
    return "another firstlight"
