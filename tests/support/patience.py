"""Claims about what hangs, on machines of any speed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def with_patience(limits: Sequence[float], claim: Callable[[float], T]) -> T:
    """Return what `claim` returns for the first limit (seconds) with which it holds.

    What hangs uses a limit up, whatever its length; what does not hang must be through by then, and how soon it is
    through depends on the machine. So a claim that fails is tried again with the next, longer limit.
    """
    for limit in limits[:-1]:
        with contextlib.suppress(Exception):
            return claim(limit)
    return claim(limits[-1])
