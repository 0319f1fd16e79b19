"""How far it is, said a few times a second: bytes, rate, time left, and what each source gives."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from firstlight.fetching import words
from firstlight.fetching.ledger import ENDLESS

if TYPE_CHECKING:
    from firstlight.fetching.crew import Crew

_EVERY = 0.25

Sink = Callable[[int, "int | None", str], None]
"""Takes bytes done, bytes in all, and words."""


class Telling:
    """Tells the progress of one file."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._told = 0.0

    def tell(self, crew: Crew, *, force: bool = False) -> None:
        """Say how far it is, where it is time to."""
        now = time.monotonic()
        if not force and now - self._told < _EVERY:
            return
        self._told = now
        job = crew.job
        total = job.size if job.ledger.size != ENDLESS else None
        done = job.ledger.done()
        self._sink(done, total, _detail(crew, done, total, now))


def _detail(crew: Crew, done: int, total: int | None, now: float) -> str:
    job, parts = crew.job, []
    if crew.rate > 0:
        parts.append(f"now {words.size(crew.rate)}/s")
        if total is not None and total > done:
            parts.append(f"{words.duration((total - done) / crew.rate)} left")
    with job.ledger.lock:
        giving = [lane for lane in job.usable() if lane.flowing]
        waiting = [lane for lane in job.usable() if lane.blocked_until > now and lane.trouble]
    if job.policy.verbose:
        parts += [f"{lane.name} {words.size(lane.total_rate)}/s over {lane.flowing}" for lane in giving]
    elif giving:
        parts.append(f"from {words.listed([lane.name for lane in giving])}")
    if not giving:
        parts += [f"{one.name}: {one.trouble}, again in {words.duration(one.blocked_until - now)}" for one in waiting]
    return ", ".join(parts)
