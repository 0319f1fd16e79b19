"""Room on the disks: is there enough for what comes, and where else would there be."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
from pathlib import Path

import msgspec

from firstlight.errors import FirstlightError
from firstlight.machine.mounts import mount_of, parse_mountinfo, real_mounts

_MEMORY_FILESYSTEMS = {"tmpfs", "ramfs", "devtmpfs"}


class Room(msgspec.Struct, frozen=True, kw_only=True):
    """One mount, and the bytes that this user can still write to it."""

    mount: str
    free: int


def gigabytes(size: int) -> str:
    """Return bytes as a person reads them, in units of 1000."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def says_full(text: str) -> bool:
    """Tell whether a program's words mean that a disk or a quota is full (errno 28, ENOSPC, and 122, EDQUOT)."""
    return any(
        sign in text for sign in ("No space left on device", "os error 28", "os error 122", "Disk quota exceeded")
    )


def is_full(error: OSError) -> bool:
    """Tell whether an error means that a disk or a quota is full."""
    return error.errno in {errno.ENOSPC, errno.EDQUOT}


def free_bytes(path: Path) -> int:
    """Return the bytes that this user can still write where `path` is or would be made."""
    volume = os.statvfs(_existing(path))
    return volume.f_bavail * volume.f_frsize


def mount_point(path: Path) -> str:
    """Return the mount that `path` is or would be made on."""
    here = _existing(path)
    with contextlib.suppress(OSError):
        found = mount_of(str(here.resolve()), parse_mountinfo(Path("/proc/self/mountinfo").read_bytes()))
        if found is not None:
            return found.point
    device = here.stat().st_dev
    while here != here.parent and here.parent.stat().st_dev == device:
        here = here.parent
    return str(here)


def roomiest(needed: int) -> Room | None:
    """Return the writable mount with most room, when `needed` bytes fit there; memory is no disk."""
    rooms: list[Room] = []
    with contextlib.suppress(OSError):
        for mount in real_mounts(parse_mountinfo(Path("/proc/self/mountinfo").read_bytes())):
            with contextlib.suppress(OSError):
                if mount.fs not in _MEMORY_FILESYSTEMS and os.access(mount.point, os.W_OK):
                    rooms.append(Room(mount=mount.point, free=free_bytes(Path(mount.point))))
    best = max(rooms, key=lambda room: room.free, default=None)
    return best if best is not None and best.free >= needed else None


def no_room(path: Path, what: str, needed: int | None) -> FirstlightError:
    """Return the error that names the full mount, how much is missing, and where there is room.

    Args:
        path: what was to be written.
        what: what does not fit, for the message.
        needed: bytes that are needed in all; None where that is unknown.
    """
    mount, free = mount_point(path), free_bytes(path)
    if needed is None or needed <= free:
        why = f"{mount} has {gigabytes(free)} free"
    else:
        why = (
            f"it needs {gigabytes(needed)}, and {mount} has {gigabytes(free)} free: {gigabytes(needed - free)} missing"
        )
    elsewhere = roomiest(needed or 0)
    fix = f"make room on {mount}"
    if elsewhere is not None and elsewhere.mount != mount and elsewhere.free > free:
        folder = shlex.quote(str(Path(elsewhere.mount) / "firstlight"))
        fix += f", or use {elsewhere.mount} ({gigabytes(elsewhere.free)} free): export FIRSTLIGHT_HOME={folder}"
    return FirstlightError(f"no room for {what} on {mount}", why=why, fix=fix)


def require_room(path: Path, what: str, needed: int) -> None:
    """Check before anything is written that `needed` bytes fit where `path` will be made.

    Raises:
        FirstlightError: they do not; the mount, what is missing, and a mount with room are named.
    """
    if free_bytes(path) < needed:
        raise no_room(path, what, needed)
