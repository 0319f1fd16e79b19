"""Main memory, with a container's limit taken into account."""

from __future__ import annotations

import os

from firstlight.machine.cgroup import read_memory_limits
from firstlight.machine.facts import Memory
from firstlight.machine.system import System

_SHARED = "/dev/shm"  # noqa: S108 - looked at, never written


def read(system: System) -> Memory:
    """Return total and available memory and the size of /dev/shm, in bytes."""
    total, available = parse_meminfo(system.text_of("/proc/meminfo") or "")
    for limit, used in system.attempt("memory.limit", lambda: read_memory_limits(system), ()):
        total = limit if total is None else min(total, limit)
        if used is not None:
            free = max(0, limit - used)
            available = free if available is None else min(available, free)
    if total is not None and available is not None:
        available = min(available, total)
    return Memory(total=total, available=available, shm=system.attempt("memory.shm", lambda: _shm(system), None))


def parse_meminfo(text: str) -> tuple[int | None, int | None]:
    """Return (total, available) in bytes of a /proc/meminfo; kernels before 3.14 do not tell what is available."""
    sizes = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[1].isdigit():
            sizes[words[0].rstrip(":")] = int(words[1]) * 1024
    available = sizes.get("MemAvailable")
    if available is None and "MemFree" in sizes:
        available = sizes["MemFree"] + sizes.get("Buffers", 0) + sizes.get("Cached", 0)
    return sizes.get("MemTotal"), available


def _shm(system: System) -> int | None:
    if not system.exists(_SHARED):
        return None
    status = os.statvfs(system.path(_SHARED))
    return status.f_blocks * status.f_frsize
