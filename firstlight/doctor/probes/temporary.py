"""The temporary folder: where it is, on what, and how much fits."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from firstlight.doctor.looking import Look
from firstlight.machine.disks import can_write
from firstlight.machine.mounts import mount_of, parse_mountinfo
from firstlight.machine.system import printable

_DEFAULTS = ("/tmp", "/var/tmp")  # noqa: S108 - looked at; what is written there has no name and is gone at once


class Temporary(msgspec.Struct, frozen=True, kw_only=True):
    """The folder that programs of this user put temporary files in; sizes in bytes."""

    folder: str
    set_by: str | None = None
    """The variable that names it; None: the default."""
    exists: bool = True
    writable: bool = True
    fs: str | None = None
    total: int | None = None
    free: int | None = None


def read(look: Look) -> Temporary:
    """Return the temporary folder by TMPDIR, else /tmp (the order of Python's tempfile and of mktemp(1))."""
    system = look.system
    named = system.environment.get("TMPDIR")
    absolute = named or next((place for place in _DEFAULTS if system.exists(place)), _DEFAULTS[0])
    set_by = "TMPDIR" if named else None
    place = Path(named) if named else system.path(absolute)  # a variable's path is taken as it is
    if not place.is_dir():
        return Temporary(folder=printable(absolute), set_by=set_by, exists=False, writable=False)
    status = os.statvfs(place)
    mount = mount_of(os.path.realpath(absolute), parse_mountinfo(system.bytes_of("/proc/self/mountinfo") or b""))
    return Temporary(
        folder=printable(absolute),
        set_by=set_by,
        writable=can_write(place),
        fs=mount.fs if mount is not None else None,
        total=status.f_blocks * status.f_frsize,
        free=status.f_bavail * status.f_frsize,
    )
