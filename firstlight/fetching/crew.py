"""The connections of one file: how many each source gets, who takes which bytes, and who loses them to a faster one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial

from firstlight.fetching.job import Job
from firstlight.fetching.lane import Lane
from firstlight.fetching.ledger import ENDLESS, Segment
from firstlight.fetching.probing import probe
from firstlight.fetching.transport import Client
from firstlight.fetching.trouble import Refused, described
from firstlight.fetching.worker import fetch_segment, fetch_whole

_FIRST = 8
"""Connections to a source at the start."""
_LEAST = 1 << 18
"""The least that one request asks for."""
_MOST = 16 << 20
_SPAN_SECONDS = (0.5, 4.0)
_SHORTEST = 0.1
_LATENCIES = 20
"""One request takes so many times as long as its asking, within those bounds: asking costs little, and the in-order end
of the file is not held up by one slow connection."""
_TICK = 0.1
_JUDGE = 0.15
_REST = 5.0
_WORTH = 0.2  # of the gain that more connections would bring if each brought as much as those before
_SILENT = 2.0
_FAREWELL = 3.0
"""Seconds that threads get to end; one that waits for a name server cannot be hurried, and is left behind."""


class Crew:
    """Starts, feeds and ends the threads. Its driver calls `tick` often, from one thread."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.policy = job.policy
        self._threads: set[threading.Thread] = set()
        self._clients: dict[Segment | Lane, Client] = {}
        self._probing: set[Lane] = set()
        self._streaming = False
        self._level = _FIRST
        self._best: tuple[float, int] | None = None
        self._judge_at = 0.0
        self._ticked = time.monotonic()
        self._bytes = 0
        self.rate = 0.0
        """Bytes a second, over all sources, smoothed."""

    # ── the driver's side ────────────────────────────────────────────────────────────────────────────────────────────

    def probe(self, now: float) -> None:
        """Ask every source that has not been asked, or may be asked again."""
        for lane in self.job.lanes:
            if not lane.probed and lane not in self._probing and lane.ready(now):
                self._probing.add(lane)
                self._start(partial(self._probe, lane), "probe")

    def tick(self, *, work: bool) -> None:
        """Look at how it goes and adapt. `work`: bytes may be fetched already."""
        now = time.monotonic()
        self.probe(now)
        if now - self._ticked >= _TICK:
            self._measure(now)
            self._cut_silent(now)
            self._grow(now)
        if work and not self.job.stopping:
            self._launch(now)

    def stop(self) -> None:
        """End every thread: those that wait for the network are cut."""
        self.job.stopping = True
        deadline = time.monotonic() + _FAREWELL
        threads = self._cut_all()
        for thread in threads:
            while thread.is_alive() and time.monotonic() < deadline:
                thread.join(0.05)
                self._cut_all()
        self.job.stopping = self.job.failure is not None

    def _cut_all(self) -> list[threading.Thread]:
        # Under the lock: a client that its thread has given back already may be somebody else's by now.
        with self.job.ledger.lock:
            for client in self._clients.values():
                client.cut()
            return list(self._threads)

    # ── threads ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self, work: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=self._run, args=(work,), name=name, daemon=True)
        with self.job.ledger.lock:
            self._threads.add(thread)
        thread.start()

    def _run(self, work: Callable[[], None]) -> None:
        try:
            work()
        finally:
            with self.job.ledger.lock:
                self._threads.discard(threading.current_thread())
            self.job.news.set()

    def _probe(self, lane: Lane) -> None:
        began, client = time.monotonic(), self.job.pool.client()
        with self.job.ledger.lock:
            self._clients[lane] = client
        try:
            probe(client, lane, self.job.wanted)
        except Exception as error:  # noqa: BLE001 - whatever a broken server can raise in a library means one thing
            with self.job.ledger.lock:
                if not self.job.stopping:
                    lane.failed(described(error), began)
        finally:
            with self.job.ledger.lock:
                self._clients.pop(lane, None)
                self._probing.discard(lane)
            self.job.pool.give_back(client)

    def _work(self, lane: Lane) -> None:
        client, going = self.job.pool.client(), True
        try:
            while going and not self.job.stopping:
                with self.job.ledger.lock:
                    segment = self._assign(lane)
                    if segment is None:
                        return
                    self._clients[segment] = client
                try:
                    going = fetch_segment(self.job, lane, client, segment)
                finally:
                    with self.job.ledger.lock:
                        self._clients.pop(segment, None)
        finally:
            with self.job.ledger.lock:
                lane.working -= 1
            self.job.pool.leave(lane.host)
            self.job.pool.give_back(client)

    def _whole(self, lane: Lane) -> None:
        client = self.job.pool.client()
        with self.job.ledger.lock:
            self._clients[lane] = client
        try:
            fetch_whole(self.job, lane, client)
        finally:
            with self.job.ledger.lock:
                self._clients.pop(lane, None)
                lane.working -= 1
                self._streaming = False
            self.job.pool.leave(lane.host)
            self.job.pool.give_back(client)

    def _launch(self, now: float) -> None:
        """Start connections where there is work for them."""
        job = self.job
        with job.ledger.lock:
            ranged = [lane for lane in job.usable() if lane.admitted and lane.ranged]
            alone = not any(lane.ranged or not lane.admitted for lane in job.usable())
        room = self._room()
        for _ in range(self.policy.connections):
            started = False
            for lane in ranged:
                with job.ledger.lock:
                    wanted = lane.ready(now) and lane.working < max(1, min(lane.want or self._level, room))
                    if not wanted or not self._worth(lane, now) or not job.pool.enter(lane.host):
                        continue
                    lane.want = lane.want or self._level
                    lane.working += 1
                    started = True
                self._start(partial(self._work, lane), "fetch")
            if not started:
                break
        if alone and not self._streaming and not job.ledger.complete():
            for lane in job.usable():
                if lane.ready(now) and job.pool.enter(lane.host):
                    with job.ledger.lock:
                        lane.working += 1
                        self._streaming = True
                    self._start(partial(self._whole, lane), "fetch")
                    break

    def _room(self) -> int:
        """Return how many connections the rest of the file can feed."""
        left = self.job.size - self.job.ledger.done() if self.job.size is not None else ENDLESS
        return max(1, min(left, 1 << 40) // _LEAST)

    def _worth(self, lane: Lane, now: float) -> bool:
        return bool(self.job.ledger.free_bytes()) or self._victim(lane, now) is not None

    # ── who takes what (under the ledger's lock) ─────────────────────────────────────────────────────────────────────

    def _assign(self, lane: Lane) -> Segment | None:
        """Return the next bytes for a connection to a source, or None where it is not needed any more."""
        now = time.monotonic()
        if not lane.ready(now) or not lane.ranged or not lane.admitted or lane.working > max(1, lane.want):
            return None
        ledger = self.job.ledger
        free = ledger.free_bytes()
        victim = self._victim(lane, now) if not free else self._laggard(lane, now)
        if victim is not None:
            share = self._share(victim, lane, now)
            if self.job.pieces.given:
                share = victim.left
            robbed = ledger.rob(victim, share, lane.owner, lane.rate)
            if robbed is not None:
                return robbed
        if not free:
            return None
        return ledger.take(lane.owner, self._span(lane, free), self.job.pieces.grid, lane.rate)

    def _span(self, lane: Lane, free: int) -> int:
        """Return how many bytes a connection should ask for at once."""
        span = self.policy.piece
        if lane.rate:
            seconds = max(_SPAN_SECONDS[0], min(_SPAN_SECONDS[1], _LATENCIES * lane.latency))
            span = max(_LEAST, min(_MOST, int(lane.rate * seconds)))
        crowd = sum(max(1, one.working) for one in self.job.usable())
        least = max(_LEAST, int(lane.rate * _SHORTEST))
        return max(least, min(span, -(-free // (2 * crowd))))

    def _victim(self, lane: Lane, now: float) -> Segment | None:
        """Return the segment that gains most by giving up its end, or None where none gains."""
        enough = max(0.05, 3 * lane.latency)
        best, most = None, enough
        for one in self.job.ledger.active:
            if one.left <= 0 or one.void:
                continue
            seconds = one.seconds_left() if now - one.last < _SILENT else 60.0
            young = one.pos == one.start and now - one.last < max(1.0, 4 * lane.latency)
            if seconds > most and not young:
                best, most = one, seconds
        return best

    def _laggard(self, lane: Lane, now: float) -> Segment | None:
        """Return the segment that holds up the in-order end, where this source is much faster than its own."""
        if not lane.rate:
            return None
        at = self.job.frontier.at
        for one in self.job.ledger.active:
            if one.start <= self.job.ledger.frontier(at) < one.end and one.owner != lane.owner:
                silent = now - one.last > _SILENT
                slow = one.rate < min(lane.rate / 4, max(self.policy.floor_rate, lane.rate / 10))
                if silent or (slow and one.seconds_left() > 2.0 and now - one.last < _SILENT):
                    return one
        return None

    def _share(self, victim: Segment, lane: Lane, now: float) -> int:
        if now - victim.last > _SILENT or victim.rate < self.policy.floor_rate < lane.rate:
            return victim.left
        mine, theirs = max(lane.rate, 1.0), max(victim.rate, 1.0)
        if not lane.rate:
            mine = theirs
        share = int(victim.left * mine / (mine + theirs))
        return victim.left if victim.left - share < 1 << 14 else share

    # ── how it goes ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _measure(self, now: float) -> None:
        job, seconds = self.job, now - self._ticked
        self._ticked = now
        with job.ledger.lock:
            for lane in job.lanes:
                lane.total_rate = 0.0
            rates: dict[int, list[float]] = {}
            for one in job.ledger.active:
                inst = (one.pos - one.seen) / seconds
                fresh = one.seen == one.start
                one.seen = one.pos
                one.rate = inst if fresh and inst else 0.7 * one.rate + 0.3 * inst
                rates.setdefault(one.owner, []).append(one.rate)
            for lane in job.lanes:
                mine = rates.get(lane.owner, [])
                lane.total_rate = sum(mine)
                if any(mine):
                    lane.rate = lane.total_rate / len(mine)
            came = job.arrived_bytes()
        self.rate = 0.6 * self.rate + 0.4 * (came - self._bytes) / seconds if self._bytes else (came / seconds)
        self._bytes = came

    def _cut_silent(self, now: float) -> None:
        """Cut connections that give nothing; earlier where another source gives, which then gets their bytes."""
        job = self.job
        with job.ledger.lock:
            others = {lane.owner for lane in job.usable() if lane.flowing}
            for one in list(job.ledger.active):
                patience = self.policy.stall_seconds
                if others - {one.owner}:
                    patience = min(patience, max(_SILENT, self.policy.stall_seconds / 4))
                client = self._clients.get(one)
                if now - one.last <= patience or client is None:
                    continue
                lane = next(lane for lane in job.lanes if lane.owner == one.owner)
                job.ledger.detach(one)
                lane.failed(Refused(f"silent for {patience:.0f} s"), one.last)
                client.cut()

    def _grow(self, now: float) -> None:
        """Try more connections while they make the whole faster; go back to fewer where they did not."""
        lanes = [lane for lane in self.job.usable() if lane.admitted and lane.ranged]
        with self.job.ledger.lock:
            for lane in lanes:
                if 0 < lane.want < self._level and now >= lane.held_until and lane.flowing >= lane.want:
                    limited = lane.held_until > 0
                    lane.want = lane.want + 1 if limited else min(self._level, lane.want * 2)
                    lane.held_until = now + lane.hold if limited else 0.0
        count = sum(lane.flowing for lane in lanes)
        if now < self._judge_at or not count or not self.rate or count < sum(lane.want for lane in lanes) * 0.7:
            return
        self._judge_at = now + max(_JUDGE, *(4 * lane.latency for lane in lanes))
        rate = sum(lane.total_rate for lane in lanes)
        if self._best is None or rate > self._best[0] * (1 + _WORTH * (count / self._best[1] - 1)):
            self._best = (rate, count)
            if self._level < self.policy.per_source and sum(lane.want for lane in lanes) < self.policy.connections:
                self._set_level(lanes, min(self._level * 2, self.policy.per_source))
        elif count > self._best[1]:
            self._set_level(lanes, max(1, self._best[1] // max(1, len(lanes))))
            self._best = None
            self._judge_at = now + _REST

    def _set_level(self, lanes: list[Lane], level: int) -> None:
        with self.job.ledger.lock:
            for lane in lanes:
                if lane.want == self._level or lane.want > level:
                    lane.want = level
            self._level = level
