"""The folder of firstlight's home: can it be written, and may programs run from it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec

from firstlight.doctor.looking import Look
from firstlight.machine.disks import can_write
from firstlight.machine.mounts import mount_of, parse_mountinfo
from firstlight.machine.system import printable


class HomeFolder(msgspec.Struct, frozen=True, kw_only=True):
    """The home in use, else where it would be by default; what is not there yet is judged by the folder above it."""

    path: str
    above: str
    """The nearest folder that is there: itself, or the one that it would be made in."""
    writable: bool
    mount: str | None = None
    no_exec: bool = False
    """Whether its mount lets no program run (mount option noexec)."""


def read(look: Look) -> HomeFolder:
    """Return the home's folder as this user finds it."""
    home = look.home().root
    above = home
    while not above.is_dir() and above != above.parent:
        above = above.parent
    table = look.system.bytes_of("/proc/self/mountinfo") or b""
    mount = mount_of(os.path.realpath(above), parse_mountinfo(table))
    return HomeFolder(
        path=printable(home),
        above=printable(above),
        writable=can_write(above) if not _occupied(home) else False,
        mount=mount.point if mount is not None else None,
        no_exec=mount is not None and forbids_programs(table, mount.point),
    )


def _occupied(home: Path) -> bool:
    """Tell whether a file stands where the home should be."""
    return home.exists() and not home.is_dir()


def forbids_programs(table: bytes, point: str) -> bool:
    """Tell whether the last mount at a point has the option noexec (proc_pid_mountinfo(5), field 6)."""
    options = b""
    for line in table.splitlines():
        words = line.split(b" ")
        if (
            len(words) > 6
            and re.sub(rb"\\([0-7]{3})", lambda m: bytes([int(m[1], 8) & 255]), words[4]) == point.encode()
        ):
            options = words[5]
    return b"noexec" in options.split(b",")
