"""How far it is, said a few times a second: bytes, rate, time left, and what each source gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from firstlight.fetching import words
from firstlight.fetching.ledger import ENDLESS

if TYPE_CHECKING:
    from firstlight.fetching.crew import Crew

_EVERY = 0.25


class Giving(NamedTuple):
    """What a source gives now: bytes a second, over so many connections."""

    source: str
    rate: float
    connections: int


class Far(NamedTuple):
    """How far a file is: bytes done and in all, words, and what each source gives."""

    done: int
    total: int | None
    words: str
    giving: tuple[Giving, ...]


Sink = Callable[[Far], None]


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
        with job.ledger.lock:
            flowing = [lane for lane in job.usable() if lane.flowing]
            giving = tuple(Giving(lane.name, lane.total_rate, lane.flowing) for lane in flowing)
            waiting = [lane for lane in job.usable() if lane.blocked_until > now and lane.trouble]
        parts = _speed(crew, done, total)
        if job.policy.verbose:
            parts += rates(giving)
        elif giving:
            parts.append(f"from {words.listed([one.source for one in giving])}")
        if not giving:
            parts += [
                f"{one.name}: {one.trouble}, again in {words.duration(one.blocked_until - now)}" for one in waiting
            ]
        self._sink(Far(done, total, ", ".join(parts), giving))


def rates(giving: Iterable[Giving]) -> list[str]:
    """Return what each source gives, in words; what it gives to several files is one sum."""
    sums: dict[str, Giving] = {}
    for one in giving:
        before = sums.get(one.source, Giving(one.source, 0.0, 0))
        sums[one.source] = Giving(one.source, before.rate + one.rate, before.connections + one.connections)
    return [f"{one.source} {words.rate(one.rate)} over {one.connections}" for one in sums.values()]


def _speed(crew: Crew, done: int, total: int | None) -> list[str]:
    parts = []
    if crew.rate > 0:
        parts.append(f"now {words.rate(crew.rate)}")
        if total is not None and total > done:
            parts.append(f"{words.duration((total - done) / crew.rate)} left")
    return parts
