"""What another source has in place of bytes that are there: asked for again and held against the file."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from pathlib import Path
from typing import NamedTuple

from firstlight.fetching.exchange import open_range
from firstlight.fetching.job import Job
from firstlight.fetching.lane import Lane
from firstlight.fetching.ledger import Run
from firstlight.fetching.transport import Client
from firstlight.fetching.trouble import Changed, NoRanges, Refused, described

_BLOCK = 1 << 16
_SPAN = 4 << 20
_CONNECTIONS = 4
_TRIES = 4
_FAREWELL = 2.0


class Dispute(NamedTuple):
    """Bytes [start, end), given by a source, of which another one has other ones."""

    start: int
    end: int
    owner: int


class Compared(NamedTuple):
    """Where bytes differ, and what could not be held against the other source's."""

    disputes: list[Dispute]
    left: list[Run]


def sidecar_of(job: Job) -> Path:
    """Return the file that holds other versions of bytes, each at its place."""
    return job.partial.with_name(f"{job.partial.name}.other")


def compare(job: Job, lane: Lane, runs: list[Run]) -> list[Dispute] | None:
    """Ask a source for bytes that others gave and return where its own differ; None where it does not give them.

    Its own version of them lies in the sidecar file.
    """
    done = _Comparison(job, lane, runs).run()
    return None if done.left else done.disputes


def compare_until(job: Job, lane: Lane, runs: list[Run], end: float) -> Compared:
    """Compare as many of the bytes as a source gives until `end` (of the monotonic clock), in no order to foresee."""
    return _Comparison(job, lane, runs, end).run()


class _Comparison:
    def __init__(self, job: Job, lane: Lane, runs: list[Run], end: float | None = None) -> None:
        self._job = job
        self._lane = lane
        self._end = end
        spans = [(at, min(end, at + _SPAN), owner) for start, end, owner in runs for at in range(start, end, _SPAN)]
        if end is not None:
            random.SystemRandom().shuffle(spans)
        self._spans = deque(spans)
        self._reached = {span: span[0] for span in spans}
        self._lock = threading.Lock()
        self._found: list[Dispute] = []
        self._failed = False
        self._clients: list[Client] = []

    def run(self) -> Compared:
        sidecar = os.open(sidecar_of(self._job), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        count = max(1, min(_CONNECTIONS, len(self._spans), self._lane.want or 1))
        threads = [threading.Thread(target=self._work, args=(sidecar,), daemon=True) for _ in range(count)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive() and not self._over():
                    thread.join(0.2)
        finally:
            self._stop(threads)
            os.close(sidecar)
        left = [(at, span[1], span[2]) for span, at in self._reached.items() if at < span[1]]
        return Compared(_merged(self._found), left)

    def _over(self) -> bool:
        return self._end is not None and time.monotonic() >= self._end

    def _stop(self, threads: list[threading.Thread]) -> None:
        """End the threads; one that hangs all the same touches no file any more."""
        with self._lock:
            self._failed = True
        until = time.monotonic() + _FAREWELL
        for thread in threads:
            while thread.is_alive() and time.monotonic() < until:
                for client in list(self._clients):
                    client.cut()
                thread.join(0.05)

    def _work(self, sidecar: int) -> None:
        client = self._job.pool.client()
        with self._lock:
            self._clients.append(client)
        try:
            while not self._failed:
                try:
                    span = self._spans.popleft()
                except IndexError:
                    return
                if not self._span(client, sidecar, span):
                    self._failed = True
        finally:
            with self._lock:
                self._clients.remove(client)  # it may be somebody else's in a moment
            self._job.pool.give_back(client)

    def _span(self, client: Client, sidecar: int, span: Run) -> bool:
        """Compare one span; where the connection breaks, it goes on from there."""
        at, end, _ = span
        tries = 0
        while at < end and not self._failed:
            before = at
            try:
                answer, until = open_range(client, self._lane, at, end, self._job.ledger.size)
                try:
                    while at < until and not self._failed:
                        data = answer.read(min(_BLOCK, until - at))
                        if not data:
                            break
                        self._hold(data, at, span, sidecar)
                        at += len(data)
                finally:
                    answer.close()
            except (Changed, NoRanges):
                return False
            except Exception as error:  # noqa: BLE001 - whatever a broken server can raise in a library means one thing
                if described(error).lasting:
                    return False
                self._pause(error, tries)
            tries = 0 if at > before else tries + 1
            if tries > _TRIES:
                return False
        return True

    def _pause(self, error: Exception, tries: int) -> None:
        wait = error.wait if isinstance(error, Refused) and error.wait is not None else None
        policy = self._job.policy
        threading.Event().wait(min(wait or policy.retry_wait * 2**tries, policy.retry_wait_max))

    def _hold(self, data: bytes, at: int, span: Run, sidecar: int) -> None:
        with self._lock:  # the file is closed only when `_failed` is set
            if self._failed:
                return
            self._job.banked += len(data)
            if os.pread(self._job.descriptor, len(data), at) != data:
                os.pwrite(sidecar, data, at)
                self._found.append(Dispute(at, at + len(data), span[2]))
            self._reached[span] = at + len(data)


def _merged(found: list[Dispute]) -> list[Dispute]:
    merged: list[Dispute] = []
    for one in sorted(found):
        if merged and merged[-1].end == one.start and merged[-1].owner == one.owner:
            merged[-1] = Dispute(merged[-1].start, one.end, one.owner)
        else:
            merged.append(one)
    return merged
