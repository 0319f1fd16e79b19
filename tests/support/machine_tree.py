"""Machines as trees on disk: files of /proc, /sys, /etc and the rest below a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from firstlight.machine.system import System

X86_CPUINFO = (
    "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Gold 6154 CPU @ 3.00GHz\nflags\t\t: fpu sse avx2 avx512f\n\n"
    "processor\t: 1\nmodel name\t: Intel(R) Xeon(R) Gold 6154 CPU @ 3.00GHz\nflags\t\t: fpu sse avx2 avx512f\n"
)
ROOT_MOUNT = "27 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw\n"
BARE = {
    "/etc/os-release": 'ID=ubuntu\nVERSION_ID="22.04"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\nNAME="Ubuntu"\n',
    "/proc/sys/kernel/osrelease": "5.15.0-122-generic\n",
    "/proc/sys/kernel/arch": "x86_64\n",
    "/proc/sys/kernel/hostname": "node-1\n",
    "/proc/1/comm": "systemd\n",
    "/proc/1/cgroup": "0::/init.scope\n",
    "/proc/self/cgroup": "0::/user.slice/user-1000.slice/session-2.scope\n",
    "/proc/self/status": "Name:\tpython3\nNoNewPrivs:\t0\nCpus_allowed_list:\t0-31\n",
    "/proc/cpuinfo": X86_CPUINFO,
    "/proc/meminfo": "MemTotal:       263788284 kB\nMemFree: 1000 kB\nMemAvailable:   250000000 kB\n",
    "/proc/self/mountinfo": ROOT_MOUNT,
}


def plant(root: Path, files: Mapping[str, str | bytes | None]) -> Path:
    """Write the files below root (None: a folder) and return root."""
    for name, content in files.items():
        path = root / name.lstrip("/")
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return root


def system(root: Path, *, seconds: float = 120.0, **environment: str) -> System:
    """Return the tree as the probes see it, with these variables alone."""
    return System(root, {"PATH": "", **environment}, seconds)


def program(folder: Path, name: str, *lines: str) -> Path:
    """Put a shell script on disk and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)
    return path
