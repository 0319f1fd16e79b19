"""One writer for one model: the lock, and the word to a person that another process holds it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from firstlight.errors import FirstlightError
from firstlight.events import Step
from firstlight.files import writer_lock

_WAIT = 24 * 3600.0
"""Seconds to wait for another process that fetches the same model; it may be many gigabytes."""


@contextlib.contextmanager
def one_writer(lock: Path, what: str, step: Step) -> Iterator[int]:
    """Hold a lock and yield its descriptor; say so where another process has it, and wait for that."""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = stack.enter_context(writer_lock(lock, what))
        except FirstlightError as busy:
            step.note(f"waiting: {busy.what}")
            descriptor = stack.enter_context(writer_lock(lock, what, wait=_WAIT))
        yield descriptor
