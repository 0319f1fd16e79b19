"""Where an environment would go: the home, its mount, and the room there."""

from __future__ import annotations

from functools import cache
from pathlib import PurePosixPath

from firstlight.machine.facts import Disk, Machine

COMFORT = 20_000_000_000
"""Free bytes under which a bigger writable mount is proposed: an environment, a model and their updates need more."""
_VOLATILE = frozenset({"tmpfs", "ramfs", "devtmpfs", "squashfs", "iso9660", "vfat", "efivarfs"})


def mount_of(machine: Machine, path: str) -> Disk | None:
    """Return the filesystem that a path lies on, by the longest mount point above it."""
    place = _parts(path)
    mounts = [(disk, _parts(disk.mount)) for disk in machine.disks or []]
    above = [(disk, parts) for disk, parts in mounts if parts and place[: len(parts)] == parts]
    return max(above, key=lambda each: len(each[1]))[0] if above else None


@cache
def _parts(path: str) -> tuple[str, ...]:
    return PurePosixPath(path).parts


def default_home(machine: Machine) -> str:
    """Return the home that a user of this machine has by default."""
    if machine.host.uid in {0, None}:
        return "/var/lib/firstlight"
    return f"/home/{machine.host.user or 'user'}/.local/share/firstlight"


def best_mount(machine: Machine) -> Disk | None:
    """Return the writable mount with the most free space; one known to be emptied at a restart comes last."""
    usable = [
        disk
        for disk in machine.disks or []
        if disk.writable is not False and disk.free is not None and disk.fs not in _VOLATILE
    ]
    return max(usable, key=lambda disk: (disk.persistent is not False, disk.free or 0)) if usable else None


def home_on(machine: Machine, disk: Disk) -> str:
    """Return where a home would be on a filesystem: the default, where it lies there, else a folder at its top."""
    default = default_home(machine)
    here = mount_of(machine, default)
    if here is not None and here.mount == disk.mount:
        return default
    return str(PurePosixPath(disk.mount) / "firstlight")


def propose_home(machine: Machine, needed: int, preferred: str | None = None) -> str:
    """Return where state should live: the default, unless its mount is small or read-only and a bigger one is there.

    Args:
        machine: the facts.
        needed: bytes that will be written.
        preferred: this user's default, where it is known better than from the facts.
    """
    default = preferred or default_home(machine)
    here, best = mount_of(machine, default), best_mount(machine)
    if here is None or best is None or best.mount == here.mount:
        return default
    roomy = here.writable is not False and (here.free is None or here.free >= max(COMFORT, 2 * needed))
    bigger = here.writable is False or (best.free or 0) > (here.free or 0)
    return default if roomy or not bigger else str(PurePosixPath(best.mount) / "firstlight")
