"""The mounted filesystems: how big, how much is free for this user, and whether it can really be written."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable
from pathlib import Path

from firstlight.machine.container import read_container
from firstlight.machine.facts import Disk
from firstlight.machine.mounts import Mount, mount_of, parse_mountinfo, real_mounts
from firstlight.machine.system import Background, System, printable, reason_of

PATIENCE = 2.0
"""Seconds that one mount has to answer; a server that is gone answers never."""

Measure = Callable[[Mount, Path, Path | None], Disk | None]


def read(system: System, *, measure: Measure | None = None, patience: float | None = None) -> list[Disk] | None:
    """Return every real mount, `/` first; None without a mount table.

    All mounts are asked at the same time. One that does not answer is listed with its name alone, and the reason is
    kept.
    """
    table = system.bytes_of("/proc/self/mountinfo")
    if table is None:
        system.failed("disks", "/proc/self/mountinfo cannot be read")
        return None
    ask = measure or measure_mount
    patience = PATIENCE if patience is None else patience
    mounts = parse_mountinfo(table)
    container = read_container(system)
    home = _user_folder(system)
    home_mount = mount_of(str(home), mounts) if home else None
    running = []
    for mount in real_mounts(mounts):
        own = home if home_mount is not None and home_mount.point == mount.point else None
        running.append((mount, _start(ask, mount, system.path(mount.point), own)))
    ends = time.monotonic() + system.remaining(patience)
    disks = []
    for mount, work in running:
        layer = container and mount.point == "/" and mount.fs in {"overlay", "aufs"}
        persistent = False if layer or mount.fs in {"tmpfs", "ramfs"} else None
        unknown = Disk(mount=printable(mount.point), fs=mount.fs)
        if not work.wait(ends - time.monotonic()):
            system.failed(f"disks:{unknown.mount}", f"no answer within {patience:.1f} s ({mount.fs})")
        elif work.error is not None:
            system.failed(f"disks:{unknown.mount}", reason_of(work.error))
        disk = work.outcome(unknown)
        if disk is not None:
            disks.append(
                Disk(
                    mount=disk.mount,
                    fs=disk.fs,
                    total=disk.total,
                    free=disk.free,
                    writable=disk.writable,
                    persistent=persistent,
                )
            )
    return disks


def _start(ask: Measure, mount: Mount, path: Path, own: Path | None) -> Background[Disk | None]:
    return Background(f"disk-{mount.point}", lambda: ask(mount, path, own))


def measure_mount(mount: Mount, path: Path, own: Path | None) -> Disk | None:
    """Return one mount's facts; None for what is no disk (a bind-mounted file, a filesystem without blocks).

    Args:
        mount: the line of the mount table.
        path: where it lies.
        own: the user's home folder, when it lies on this mount.

    Raises:
        OSError: the filesystem cannot be asked (a stale handle, say).
    """
    if not path.is_dir():
        return None
    status = os.statvfs(path)
    if status.f_blocks == 0 and mount.point != "/":
        return None
    # A user who may not write at the top of `/` may well in the home folder on it, and that is the place that counts.
    writable = not mount.read_only and any(can_write(folder) for folder in (path, own) if folder is not None)
    return Disk(
        mount=printable(mount.point),
        fs=mount.fs,
        total=status.f_blocks * status.f_frsize or None,
        free=status.f_bavail * status.f_frsize,
        writable=writable,
    )


def can_write(folder: Path) -> bool:
    """Tell whether this process can write a byte to a new file of the folder; nothing is left behind."""
    try:
        # A file without a name leaves nothing behind, even when we are killed; not every filesystem has them.
        descriptor = os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOSYS}:
            return False
        return _can_write_named(folder / f".firstlight-write-test-{os.getpid()}-{os.urandom(4).hex()}")
    return _write_byte(descriptor)


def _can_write_named(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError:
        return False
    try:
        return _write_byte(descriptor)
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _write_byte(descriptor: int) -> bool:
    try:
        written = os.write(descriptor, b"\n") == 1
    except OSError:
        written = False
    with contextlib.suppress(OSError):
        os.close(descriptor)
    return written


def _user_folder(system: System) -> Path | None:
    return system.home if system.home is not None and system.home.is_absolute() else None
