"""Hands firstlight's Invoke namespace to `invoke`; the `firstlight` program uses the same one."""

from firstlight.tasks import namespace

__all__ = ["namespace"]
