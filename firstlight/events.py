"""How lower rooms tell progress without printing: events, the reporter that takes them, and timed steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import msgspec


class StepStarted(msgspec.Struct, frozen=True):
    """A named piece of work began."""

    id: str
    what: str
    at: float
    """Seconds since the epoch."""


class StepProgress(msgspec.Struct, frozen=True):
    """A step moved on. `total` is None where it cannot be known."""

    id: str
    done: int
    total: int | None
    unit: Literal["bytes", "items"]
    detail: str = ""


class StepFinished(msgspec.Struct, frozen=True):
    """A named piece of work ended; `outcome` is `done`, `reused` or `failed`."""

    id: str
    what: str
    started: float
    seconds: float
    bytes: int
    outcome: Literal["done", "reused", "failed"]
    detail: str = ""


class Note(msgspec.Struct, frozen=True):
    """Something that a person should know. `warn` is said loudly."""

    text: str
    level: Literal["info", "warn"] = "info"


Event = StepStarted | StepProgress | StepFinished | Note
Reporter = Callable[[Event], None]
"""Takes events from any thread."""


def silent(_event: Event) -> None:
    """Be the reporter that says nothing."""


class Step:
    """The handle that a running step reports through."""

    def __init__(self, reporter: Reporter, step_id: str, what: str) -> None:
        self.reporter = reporter
        self.id = step_id
        self.what = what
        self.bytes = 0
        self.outcome: Literal["done", "reused", "failed"] = "done"
        self.detail = ""

    def progress(
        self, done: int, total: int | None = None, unit: Literal["bytes", "items"] = "bytes", detail: str = ""
    ) -> None:
        """Say how far the step is; bytes also count for the receipt."""
        if unit == "bytes":
            self.bytes = max(self.bytes, done)
        self.reporter(StepProgress(self.id, done, total, unit, detail))

    def reused(self, detail: str = "") -> None:
        """Say that nothing had to be done."""
        self.outcome, self.detail = "reused", detail

    def note(self, text: str) -> None:
        """Tell something worth knowing."""
        self.reporter(Note(text))

    def warn(self, text: str) -> None:
        """Tell something that must not be overlooked."""
        self.reporter(Note(text, "warn"))


@contextmanager
def step(reporter: Reporter, step_id: str, what: str) -> Iterator[Step]:
    """Time a piece of work and report its start and its end, also when it fails."""
    handle = Step(reporter, step_id, what)
    started, clock = time.time(), time.monotonic()
    reporter(StepStarted(step_id, what, started))
    try:
        yield handle
    except BaseException:
        handle.outcome = "failed"
        raise
    finally:
        seconds = time.monotonic() - clock
        reporter(StepFinished(step_id, what, started, seconds, handle.bytes, handle.outcome, handle.detail))
