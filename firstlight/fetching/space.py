"""Room on disk: looked at first, then taken, so that a full disk is told before the first byte and not after hours."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from firstlight.errors import FirstlightError
from firstlight.fetching import words

_WRITE = 2  # SYNC_FILE_RANGE_WRITE


def disk_trouble(error: OSError, path: Path) -> FirstlightError:
    """Return what an error of the disk means to a person; what was fetched before it is kept."""
    folder = path.parent
    if error.errno == errno.ENOSPC:
        return FirstlightError(
            f"the disk is full: {path.name} could not be written",
            why=f"{folder} has {words.size(_free(folder))} left; what came so far is kept",
            fix=f"make room and run the command again: df -h {folder}",
        )
    if error.errno == errno.EDQUOT:
        return FirstlightError(
            f"your disk quota is used up: {path.name} could not be written",
            why=f"{folder} takes no more of your bytes; what came so far is kept",
            fix="make room and run the command again: quota -s",
        )
    if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        read_only = error.errno == errno.EROFS
        return FirstlightError(
            f"{path.name} cannot be written to {folder}",
            why="its file system is read-only" if read_only else "this user may not write there",
            fix=f"look: findmnt -T {folder}" if read_only else f"look: ls -ld {folder}",
        )
    return FirstlightError(
        f"{path.name} cannot be written to {folder}",
        why=error.strerror or str(error),
        fix=f"look: ls -ld {folder}; df -h {folder}",
    )


def _free(folder: Path) -> int:
    try:
        found = os.statvfs(folder)
    except OSError:
        return 0
    return found.f_bavail * found.f_frsize


def reserve(descriptor: int, path: Path, size: int, *, spare: int, take: bool) -> bool:
    """Check that there is room for a file of `size` bytes, some of it there already, and take it; tell whether it is.

    Raises:
        FirstlightError: there is not; nothing was written.
    """
    there = os.fstat(descriptor).st_blocks * 512
    lacking = size - there
    if lacking <= 0:
        return True
    free = _free(path.parent)
    if free < lacking + min(spare, size):
        raise FirstlightError(
            f"not enough room on disk for {path.name}",
            why=f"it needs {words.size(lacking)}, and {path.parent} has {words.size(free)} free",
            fix=f"make room and run the command again: df -h {path.parent}",
        )
    return take and _take(descriptor, path, size)


def _take(descriptor: int, path: Path, size: int) -> bool:
    """Have the file system set the room aside; where it cannot, the file grows as it goes.

    The C library's posix_fallocate would write zeros over a whole file there, so the system call itself is asked.
    """
    try:
        fallocate = ctypes.CDLL(None, use_errno=True).fallocate
    except (OSError, AttributeError):
        return False
    fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
    if fallocate(descriptor, 0, 0, size) == 0:
        return True
    number = ctypes.get_errno()
    if number in {errno.ENOSPC, errno.EDQUOT}:
        raise disk_trouble(OSError(number, os.strerror(number)), path)
    return False


def begin_writing(descriptor: int) -> None:
    """Have the kernel begin to write what is in memory only, without waiting and without a commit of the journal.

    A commit would hold up whoever renames a file meanwhile, as the saving of the state does.
    Source: sync_file_range(2).
    """
    try:
        sync_file_range = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return
    sync_file_range.argtypes = [ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint]
    sync_file_range(descriptor, 0, 0, _WRITE)
