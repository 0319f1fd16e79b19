"""Which bytes of a file are there, from whom, which are on their way, and which nobody has asked for yet."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

Run = tuple[int, int, int]
"""Start, end and the number of the source whose bytes they are."""

ENDLESS = 1 << 62
"""The size of a file whose size nobody told."""


class Segment:
    """The bytes [start, end) that one connection fetches; [start, pos) are written, [pos, claimed) just being."""

    def __init__(self, owner: int, start: int, end: int, rate: float) -> None:
        self.owner = owner
        self.start = self.pos = self.claimed = self.seen = start
        self.end = end
        self.rate = rate
        self.last = time.monotonic()
        self.void = False

    @property
    def left(self) -> int:
        """Bytes that are still to be claimed."""
        return self.end - self.claimed

    def seconds_left(self) -> float:
        """Return how long it will take at its rate."""
        return self.left / max(self.rate, 1.0)


class Ledger:
    """The bookkeeping of one file. Every method may be called from any thread; none touches the disk."""

    def __init__(self, size: int, runs: Sequence[Run] = (), lock: AbstractContextManager[Any] | None = None) -> None:
        self.lock: AbstractContextManager[Any] = lock or threading.RLock()
        self.size = size
        self._runs: list[Run] = []
        self._free: list[tuple[int, int]] = [(0, size)] if size else []
        self.active: set[Segment] = set()
        self.arrived: dict[int, int] = {}
        """Bytes over the network in this run, by source; also those that nobody needed any more."""
        self._fresh: list[Run] | None = None
        self.unsaved = 0
        """Bytes that were written since `fresh` was asked."""
        for start, end, owner in sorted(runs):
            begin, stop = max(0, start), min(end, size)
            for free_start, free_end in self.missing(begin, stop):
                self._put(free_start, free_end, owner)

    # ── what is there ────────────────────────────────────────────────────────────────────────────────────────────────

    def runs(self) -> list[Run]:
        """Return what is there, in order; also the beginnings of what is on its way."""
        with self.lock:
            moving = [(one.start, one.pos, one.owner) for one in self.active if one.pos > one.start and not one.void]
            return sorted([*self._runs, *moving])

    def fresh(self) -> list[Run] | None:
        """Return what was written since this was asked last; None: bytes were also taken back, or all is new."""
        with self.lock:
            fresh, self._fresh, self.unsaved = self._fresh, [], 0
            return fresh

    def done(self) -> int:
        """Return how many bytes are there."""
        with self.lock:
            settled = sum(end - start for start, end, _ in self._runs)
            return settled + sum(one.pos - one.start for one in self.active if not one.void)

    def by_owner(self) -> dict[int, int]:
        """Return how many bytes are there from each source."""
        shares: dict[int, int] = {}
        for start, end, owner in self.runs():
            shares[owner] = shares.get(owner, 0) + end - start
        return shares

    def complete(self) -> bool:
        """Tell whether every byte is there."""
        with self.lock:
            return not self._free and all(one.pos >= one.end and not one.void for one in self.active)

    def frontier(self, at: int) -> int:
        """Return the end of the bytes that are there without a gap from `at` on."""
        with self.lock:
            moved = True
            while moved:
                moved = False
                index = bisect_right(self._runs, (at, ENDLESS, 0)) - 1
                if index >= 0 and self._runs[index][1] > at:
                    at, moved = self._runs[index][1], True
                    continue
                for one in self.active:
                    if one.start <= at < one.pos and not one.void:
                        at, moved = one.pos, True
            return at

    def missing(self, start: int, end: int) -> list[tuple[int, int]]:
        """Return the parts of [start, end) that nobody has and nobody fetches."""
        with self.lock:
            found = []
            index = max(0, bisect_right(self._free, (start, ENDLESS)) - 1)
            for free_start, free_end in self._free[index:]:
                if free_start >= end:
                    break
                if max(start, free_start) < min(end, free_end):
                    found.append((max(start, free_start), min(end, free_end)))
            return found

    def free_bytes(self) -> int:
        """Return how many bytes nobody has asked for."""
        with self.lock:
            return sum(end - start for start, end in self._free)

    # ── fetching ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def take(self, owner: int, length: int, grid: int, rate: float) -> Segment | None:
        """Return the first bytes that nobody fetches, at most `length`, ending on a multiple of `grid` where it is."""
        with self.lock:
            if not self._free:
                return None
            start, end = self._free[0]
            stop = min(end, start + max(length, 1))
            if grid > 1:
                stop = min(end, -(-stop // grid) * grid)
            if stop == end:
                del self._free[0]
            else:
                self._free[0] = (stop, end)
            segment = Segment(owner, start, stop, rate)
            self.active.add(segment)
            return segment

    def take_at(self, start: int, end: int, owner: int) -> list[Segment]:
        """Return the parts of [start, end) that nobody fetches, each as a segment of its own."""
        with self.lock:
            taken = []
            for first, last in self.missing(start, end):
                self._unfree(first, last)
                taken.append(Segment(owner, first, last, 0.0))
            self.active.update(taken)
            return taken

    def rob(self, victim: Segment, share: int, owner: int, rate: float) -> Segment | None:
        """Return the last `share` bytes of what another connection fetches; that one ends earlier."""
        with self.lock:
            share = min(share, victim.left)
            if victim not in self.active or share <= 0:
                return None
            segment = Segment(owner, victim.end - share, victim.end, rate)
            victim.end -= share
            self.active.add(segment)
            return segment

    def claim(self, segment: Segment, count: int) -> int:
        """Return how many of the next `count` bytes the segment may write now: fewer where it was robbed."""
        with self.lock:
            self.arrived[segment.owner] = self.arrived.get(segment.owner, 0) + count
            allowed = max(0, min(count, segment.end - segment.pos)) if segment in self.active else 0
            segment.claimed = segment.pos + allowed
            return allowed

    def wrote(self, segment: Segment) -> None:
        """Take note that the claimed bytes are in the file."""
        with self.lock:
            if not segment.void:
                self._note(segment.pos, segment.claimed, segment.owner)
            segment.pos = segment.claimed
            segment.last = time.monotonic()

    def finish(self, segment: Segment) -> None:
        """End a segment: its bytes count, what it did not get is free again."""
        with self.lock:
            if segment not in self.active:
                return
            self.active.discard(segment)
            segment.claimed = segment.pos
            if segment.void:
                self._release(segment.start, segment.end)
            else:
                self._settle(segment.start, segment.pos, segment.owner)
                self._release(segment.pos, segment.end)
            segment.end = segment.pos

    def detach(self, segment: Segment) -> None:
        """Take a segment away from its connection; bytes that are being written right now are waited for."""
        with self.lock:
            if segment.claimed == segment.pos:
                self.finish(segment)
            else:
                self._release(segment.claimed, segment.end)
                segment.end = segment.claimed

    # ── taking back ──────────────────────────────────────────────────────────────────────────────────────────────────

    def drop(self, start: int, end: int) -> None:
        """Forget the bytes of [start, end) that are there; what is on its way is not touched."""
        with self.lock:
            self._fresh = None
            kept: list[Run] = []
            for first, last, owner in self._runs:
                if last <= start or first >= end:
                    kept.append((first, last, owner))
                    continue
                if first < start:
                    kept.append((first, start, owner))
                if last > end:
                    kept.append((end, last, owner))
                self._release(max(first, start), min(last, end))
            self._runs = kept

    def drop_owner(self, owner: int) -> int:
        """Forget all bytes of a source and return how many they were."""
        with self.lock:
            self._fresh = None
            lost = 0
            for segment in [one for one in self.active if one.owner == owner]:
                segment.void = True
                lost += segment.pos - segment.start
                self.detach(segment)
                if segment in self.active:  # it writes right now; its beginning is given back when it has ended
                    segment.end = segment.claimed
            mine = [run for run in self._runs if run[2] == owner]
            self._runs = [run for run in self._runs if run[2] != owner]
            for start, end, _ in mine:
                self._release(start, end)
                lost += end - start
            return lost

    def give(self, start: int, end: int, owner: int) -> None:
        """Say that [start, end) are there now and are this source's, whoever's they were."""
        with self.lock:
            self.drop(start, end)
            for first, last in self.missing(start, end):
                self._put(first, last, owner)

    def settle_size(self, size: int) -> None:
        """Take the size of a file that had none before."""
        with self.lock:
            self._fresh = None
            self.size = size
            self._free = [(start, min(end, size)) for start, end in self._free if start < size]

    # ── inside ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def _note(self, start: int, end: int, owner: int) -> None:
        """Take note of bytes that the state on disk does not know yet."""
        self.unsaved += end - start
        if self._fresh is None or start >= end:
            return
        if self._fresh and self._fresh[-1][1:] == (start, owner):
            start = self._fresh.pop()[0]
        self._fresh.append((start, end, owner))

    def _put(self, start: int, end: int, owner: int) -> None:
        """Turn free bytes into bytes that are there."""
        self._unfree(start, end)
        self._settle(start, end, owner)

    def _unfree(self, start: int, end: int) -> None:
        index = max(0, bisect_right(self._free, (start, ENDLESS)) - 1)
        free_start, free_end = self._free[index]
        left = [(free_start, start)] if free_start < start else []
        right = [(end, free_end)] if end < free_end else []
        self._free[index : index + 1] = left + right

    def _settle(self, start: int, end: int, owner: int) -> None:
        if start >= end:
            return
        index = bisect_left(self._runs, (start, end, owner))
        if index > 0 and self._runs[index - 1][1:] == (start, owner):
            index -= 1
            start = self._runs.pop(index)[0]
        if index < len(self._runs) and self._runs[index][0] == end and self._runs[index][2] == owner:
            end = self._runs.pop(index)[1]
        self._runs.insert(index, (start, end, owner))

    def _release(self, start: int, end: int) -> None:
        if start >= end:
            return
        index = bisect_left(self._free, (start, end))
        if index > 0 and self._free[index - 1][1] == start:
            index -= 1
            start = self._free.pop(index)[0]
        if index < len(self._free) and self._free[index][0] == end:
            end = self._free.pop(index)[1]
        self._free.insert(index, (start, end))
