"""Which shared libraries of the system can be loaded here."""

from __future__ import annotations

import ctypes


def missing_libraries(names: list[str]) -> list[str]:
    """Return those shared libraries (`libnuma.so.1`) that the loader does not find on this machine."""
    return [name for name in names if not _loads(name)]


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True
