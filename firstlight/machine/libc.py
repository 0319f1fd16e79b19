"""Which C library the machine has, and its version, without running anything."""

from __future__ import annotations

import contextlib
import os
import re

from firstlight.machine.system import System

_GLIBC = re.compile(rb"GNU C Library [^\n]*?version (\d+\.\d+)")
_MUSL = re.compile(rb"\0(1\.\d+\.\d+)\0")
_FOLDERS = ("lib", "lib64", "usr/lib", "usr/lib64")


def read_libc(system: System) -> tuple[str | None, str | None]:
    """Return (`glibc` or `musl`, version); None for what is unknown.

    The running process asks confstr. Where there is no glibc to ask, the dynamic loader `ld-musl-<arch>.so.1` names
    musl, and its version stands in the loader itself, as a string of its own (musl, src/internal/version.c).
    """
    if system.live:
        with contextlib.suppress(ValueError, OSError):
            name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
            if name and version:
                return name, version
    glibc = _first(system, "libc.so.6")
    if glibc is not None:
        return "glibc", _search(_GLIBC, glibc)
    musl = _first(system, "ld-musl-*.so.1")
    if musl is not None:
        return "musl", _search(_MUSL, musl)
    return None, None


def _first(system: System, pattern: str) -> bytes | None:
    for folder in _FOLDERS:
        for found in sorted(system.path(folder).glob(pattern)) + sorted(
            system.path(folder).glob(f"*-linux-*/{pattern}")
        ):
            with contextlib.suppress(OSError):
                return found.read_bytes()
    return None


def _search(pattern: re.Pattern[bytes], data: bytes) -> str | None:
    match = pattern.search(data)
    return match.group(1).decode() if match else None
