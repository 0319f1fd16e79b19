"""What the kernel lets one process have: open files and locked memory; and whether InfiniBand wants memory locked."""

from __future__ import annotations

import contextlib
import re

import msgspec

from firstlight.doctor.looking import Look

_LINE = re.compile(r"^(Max open files|Max locked memory)\s+(\d+|unlimited)\s+(\d+|unlimited)\s", re.MULTILINE)


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """A soft and a hard limit; None: unlimited."""

    soft: int | None
    hard: int | None


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of this process, which its children inherit: files (a number) and memory (bytes). None: unknown."""

    open_files: Limit | None = None
    locked_memory: Limit | None = None
    infiniband: bool = False


def read(look: Look) -> Limits:
    """Return the limits by /proc/self/limits, else by the system call."""
    text = look.system.text_of("/proc/self/limits") or ""
    limits = parse(text + "\n")
    if limits.open_files is None and look.system.live:
        limits = _ask()
    return msgspec.structs.replace(limits, infiniband=bool(look.system.entries("/sys/class/infiniband")))


def parse(text: str) -> Limits:
    """Return the limits that a /proc/self/limits tells (proc_pid_limits(5))."""
    found = {name: Limit(soft=_number(soft), hard=_number(hard)) for name, soft, hard in _LINE.findall(text)}
    return Limits(open_files=found.get("Max open files"), locked_memory=found.get("Max locked memory"))


def _number(word: str) -> int | None:
    return None if word == "unlimited" else int(word)


def _ask() -> Limits:
    import resource

    def limit(number: int) -> Limit | None:
        with contextlib.suppress(OSError, ValueError):
            soft, hard = (None if value == resource.RLIM_INFINITY else value for value in resource.getrlimit(number))
            return Limit(soft=soft, hard=hard)
        return None

    return Limits(open_files=limit(resource.RLIMIT_NOFILE), locked_memory=limit(resource.RLIMIT_MEMLOCK))
