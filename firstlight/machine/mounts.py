"""The mount table: which mounts are disks, and which are the kernel's own."""

from __future__ import annotations

import os
import re

import msgspec

_PSEUDO = frozenset(
    {
        "autofs",
        "bdev",
        "binfmt_misc",
        "bpf",
        "cgroup",
        "cgroup2",
        "cgroupfs",
        "configfs",
        "cpuset",
        "debugfs",
        "devfs",
        "devpts",
        "devtmpfs",
        "efivarfs",
        "erofs",
        "fuse.gvfsd-fuse",
        "fuse.lxcfs",
        "fuse.portal",
        "fuse.snapfuse",
        "fusectl",
        "hugetlbfs",
        "iso9660",
        "mqueue",
        "none",
        "nsfs",
        "nullfs",
        "proc",
        "pstore",
        "ramfs",
        "rootfs",
        "rpc_pipefs",
        "securityfs",
        "selinuxfs",
        "smackfs",
        "squashfs",
        "sysfs",
        "tmpfs",
        "tracefs",
    }
)
"""Filesystems of the kernel, of the desktop and of read-only images: nothing can be installed there."""
_MEMORY = frozenset({"tmpfs"})
"""Pseudo filesystems that a person may have mounted to write to, outside the folders of the system."""
_ROOTS = frozenset({"tmpfs", "ramfs", "rootfs", "squashfs", "erofs"})
"""Pseudo filesystems that count as a disk at `/`: live images and initial RAM disks run from them."""
_SYSTEM_FOLDERS = re.compile(
    r"/(?:proc|sys|dev|boot|efi|snap|usr/lib/wsl|usr/lib/modules|lib/modules|mnt/wslg?|nix/store"
    r"|var/lib/(?:docker|containers|containerd|kubelet|snapd|lxcfs)|run(?!/media/))(?:/|$)"
)
"""Mounts below these belong to the system or to other containers."""


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the mount table. `device` and `root` together say what is mounted, `point` where."""

    device: str
    root: str
    point: str
    fs: str
    read_only: bool


def parse_mountinfo(data: bytes) -> list[Mount]:
    """Return the mounts of a /proc/self/mountinfo in its order; the last one of a mount point hides those before it.

    Source: proc_pid_mountinfo(5): octal escapes, optional fields up to a single hyphen.
    """
    found: dict[str, Mount] = {}
    for line in data.splitlines():
        words = line.split(b" ")
        if b"-" not in words[6:]:
            continue
        rest = words[words.index(b"-", 6) + 1 :]
        if len(rest) < 2:
            continue
        options = set(words[5].split(b",")) | set(rest[2].split(b",") if len(rest) > 2 else [])
        mount = Mount(
            device=words[2].decode(),
            root=_decode(words[3]),
            point=_decode(words[4]),
            fs=_decode(rest[0]),
            read_only=b"ro" in options,
        )
        found.pop(mount.point, None)
        found[mount.point] = mount
    return list(found.values())


def real_mounts(mounts: list[Mount]) -> list[Mount]:
    """Return the mounts that may be disks, `/` first; what is mounted twice stands once, at its shortest path."""
    kept: dict[tuple[str, str], Mount] = {}
    for mount in sorted(mounts, key=lambda mount: (len(mount.point), mount.point)):
        if mount.point == "/":
            wanted = mount.fs not in _PSEUDO or mount.fs in _ROOTS
        else:
            kind = mount.fs not in _PSEUDO or (mount.fs in _MEMORY and not mount.point.startswith("/run/"))
            wanted = kind and not _SYSTEM_FOLDERS.match(mount.point)
        if wanted:
            kept.setdefault((mount.device, mount.root), mount)
    order = {mount.point: place for place, mount in enumerate(mounts)}
    return sorted(kept.values(), key=lambda mount: (mount.point != "/", order[mount.point]))


def mount_of(path: str, mounts: list[Mount]) -> Mount | None:
    """Return the mount that a path lies on."""
    holders = [mount for mount in mounts if path == mount.point or path.startswith(mount.point.rstrip("/") + "/")]
    return max(holders, key=lambda mount: len(mount.point), default=None)


def _decode(word: bytes) -> str:
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match.group(1), 8) & 255]), word))
