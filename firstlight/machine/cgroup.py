"""The limits that control groups set, version 1 and 2, from the process's own group up to the root."""

from __future__ import annotations

import math
from collections.abc import Iterator

from firstlight.machine.system import System

_BASE = "/sys/fs/cgroup"
UNLIMITED = 1 << 62
"""Version 1 writes the largest page-aligned number for "no limit"."""


def read_cpu_quota(system: System) -> int | None:
    """Return how many cores the control groups allow, rounded up, or None without a quota."""
    quotas = [
        quota
        for folder in _folders(system, "cpu")
        for quota in (
            parse_cpu_max(system.text_of(f"{folder}/cpu.max")),
            parse_cfs(system.text_of(f"{folder}/cpu.cfs_quota_us"), system.text_of(f"{folder}/cpu.cfs_period_us")),
        )
        if quota is not None
    ]
    return max(1, math.ceil(min(quotas))) if quotas else None


def read_memory_limits(system: System) -> list[tuple[int, int | None]]:
    """Return (limit, used) in bytes of every control group above this process that sets a limit.

    Used is without the file cache that the kernel drops under pressure (as `docker stats` and kubelet count it).
    """
    limits = []
    for folder in _folders(system, "memory"):
        for limit_file, used_file, inactive in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _number(system.text_of(f"{folder}/{limit_file}"))
            if limit is None or limit >= UNLIMITED:
                continue
            used = _number(system.text_of(f"{folder}/{used_file}"))
            if used is not None:
                used -= min(used, parse_stat(system.text_of(f"{folder}/memory.stat") or "", inactive))
            limits.append((limit, used))
    return limits


def parse_cpu_max(text: str | None) -> float | None:
    """Return the cores of a version 2 `cpu.max` ("200000 100000"); None for "max"."""
    words = (text or "").split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or int(words[1]) == 0:
        return None
    return int(words[0]) / int(words[1])


def parse_cfs(quota: str | None, period: str | None) -> float | None:
    """Return the cores of a version 1 quota and period in microseconds; None for -1."""
    quota_us, period_us = _number(quota), _number(period)
    return quota_us / period_us if quota_us and period_us else None


def parse_stat(text: str, key: str) -> int:
    """Return one number of a `memory.stat`, 0 where it is missing."""
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        if name == key and value.strip().isdigit():
            return int(value)
    return 0


def parse_groups(text: str, controller: str) -> list[tuple[str, str]]:
    """Return (hierarchy folder, group path) for a controller out of /proc/self/cgroup, version 2 first."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            found[:0] = [("", path), ("/unified", path)]
        elif controller in controllers.split(","):
            found += [(f"/{controller}", path), (f"/{controllers}", path)]
    return found


def _folders(system: System, controller: str) -> Iterator[str]:
    seen = set()
    for hierarchy, path in parse_groups(system.text_of("/proc/self/cgroup") or "", controller):
        # In a container with the host's path the group itself is mounted at the top: every level up to it counts.
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            folder = "/".join([f"{_BASE}{hierarchy}", *parts[:depth]])
            if folder not in seen:
                seen.add(folder)
                yield folder


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
