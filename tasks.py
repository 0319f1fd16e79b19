"""Hands firstlight's Invoke namespace to `invoke`; the `firstlight` program uses the same one."""

from firstlight.tasks import namespace
from firstlight.tasks.program import named_under_invoke

named_under_invoke()

__all__ = ["namespace"]
