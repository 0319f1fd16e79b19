"""Many files over one pool of connections: a few large ones at a time, many small ones beside them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from firstlight.events import Step
from firstlight.fetching import words
from firstlight.fetching.pool import Pool
from firstlight.fetching.telling import Far, Giving, Sink, rates
from firstlight.fetching.types import Consumer, Fetched, Wanted

_LARGE_AT_ONCE = 2
_SMALL_AT_ONCE = 8
_EVERY = 0.25

One = Callable[[Wanted, Path, Pool, Step, "Consumer | None", Sink], Fetched]


def fetch_several(items: Sequence[tuple[Wanted, Path]], pool: Pool, step: Step, one: One) -> list[Fetched]:
    """Fetch each item with `one` and return the results in order; the first failure ends all."""
    return _Several(items, pool, step, one).run()


class _Several:
    def __init__(self, items: Sequence[tuple[Wanted, Path]], pool: Pool, step: Step, one: One) -> None:
        self._items = items
        self._pool = pool
        self._step = step
        self._one = one
        self._lock = threading.Condition()
        self._results: dict[int, Fetched] = {}
        self._failure: BaseException | None = None
        self._done: dict[int, int] = {}
        self._totals: dict[int, int | None] = {number: wanted.size for number, (wanted, _) in enumerate(items)}
        self._giving: dict[int, tuple[Giving, ...]] = {}
        self._told = (0.0, 0)
        self._rate = 0.0

    def run(self) -> list[Fetched]:
        small = [number for number, (wanted, _) in enumerate(self._items) if self._is_small(wanted)]
        large = [number for number in range(len(self._items)) if number not in set(small)]
        threads = [*self._threads(deque(large), _LARGE_AT_ONCE), *self._threads(deque(small), _SMALL_AT_ONCE)]
        try:
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads) and self._failure is None:
                with self._lock:
                    self._lock.wait(_EVERY)
                self._tell()
            if self._failure is not None:
                raise self._failure
        finally:
            if len(self._results) < len(self._items):
                self._pool.stop()
            for thread in threads:
                thread.join(10.0)
        self._tell()
        return [self._results[number] for number in range(len(self._items))]

    def _is_small(self, wanted: Wanted) -> bool:
        return wanted.size is not None and wanted.size <= self._pool.policy.small

    def _threads(self, numbers: deque[int], most: int) -> list[threading.Thread]:
        count = min(most, len(numbers))
        return [threading.Thread(target=self._work, args=(numbers,), daemon=True) for _ in range(count)]

    def _work(self, numbers: deque[int]) -> None:
        while self._failure is None:
            try:
                number = numbers.popleft()
            except IndexError:
                return
            wanted, target = self._items[number]
            try:
                result = self._one(wanted, target, self._pool, self._step, None, self._sink(number))
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits for us
                with self._lock:
                    if self._failure is None and not isinstance(error, KeyboardInterrupt):
                        self._failure = error
                    self._lock.notify()
                return
            with self._lock:
                self._results[number] = result
                self._done[number] = self._totals[number] = result.size
                self._giving.pop(number, None)
                self._lock.notify()

    def _sink(self, number: int) -> Sink:
        def take(far: Far) -> None:
            with self._lock:
                self._done[number] = far.done
                self._totals[number] = far.total if far.total is not None else self._totals[number]
                self._giving[number] = far.giving

        return take

    def _tell(self) -> None:
        with self._lock:
            done = sum(self._done.values())
            sizes = list(self._totals.values())
            total = None if None in sizes else sum(size or 0 for size in sizes)
            now, (then, before) = time.monotonic(), self._told
            if then and now > then:
                came = (done - before) / (now - then)
                self._rate = 0.7 * self._rate + 0.3 * came if self._rate else came
            self._told = (now, done)
            parts = [f"file {min(len(self._results) + 1, len(self._items))} of {len(self._items)}"]
            if self._rate > 0:
                parts.append(f"now {words.rate(self._rate)}")
                if total is not None and total > done:
                    parts.append(f"{words.duration((total - done) / self._rate)} left")
            if self._pool.policy.verbose:
                parts += rates(one for giving in self._giving.values() for one in giving)
        self._step.progress(done, total, "bytes", ", ".join(parts))
