"""One file that is being fetched: what is known of it, its bytes on disk, its sources, and what went wrong."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from firstlight.errors import FirstlightError
from firstlight.events import Step
from firstlight.fetching.frontier import Frontier
from firstlight.fetching.lane import Lane
from firstlight.fetching.ledger import ENDLESS, Ledger, Segment
from firstlight.fetching.pieces import Pieces
from firstlight.fetching.pool import Pool
from firstlight.fetching.space import begin_writing, disk_trouble, reserve
from firstlight.fetching.state import Origin, Saved, add, boot_id, forget, load, now_saved, partial_of, save
from firstlight.fetching.sums import Sums, promised
from firstlight.fetching.types import Consumer, Policy, Source, Wanted

_SYNC_EVERY = 64 << 20
_BEHIND = 1 << 19
"""Bytes after which the state on disk is brought up to date, however little time has passed."""
_ADDED = 1 << 18
"""Bytes of additions after which the state is written anew."""


class Job:
    """The state that the driver and its connections share. `ledger.lock` guards ledger and lanes."""

    def __init__(self, wanted: Wanted, target: Path, pool: Pool, step: Step, consumer: Consumer | None) -> None:
        self.wanted = wanted
        self.promised = promised(wanted)
        self.target = target
        self.partial, self.state_path, self.lock_path = partial_of(target)
        self.pool = pool
        self.policy: Policy = pool.policy
        self.step = step
        self.news = threading.Event()
        """Set whenever the driver should look."""
        self.stopping = False
        self.failure: FirstlightError | None = None
        self.origins: list[Origin] = []
        self.ledger = Ledger(0)
        self.descriptor = -1
        self.resumed = 0
        self.banked = 0
        """Bytes over the network that an earlier ledger counted."""
        self.size: int | None = wanted.size
        self.lanes: list[Lane] = []
        self.changes: list[tuple[Lane, str]] = []
        self.spoilt: list[tuple[int, int]] = []
        self.frontier = Frontier(self.partial, self._reach, consumer, lambda: Sums(self.wanted, self.size))
        self.pieces = Pieces(wanted.pieces)
        self.liars: list[str] = []
        self.compared: list[str] = []
        """Sources that were held against each other where no hash is known."""
        self.compared_bytes = 0
        self.doubtful = False
        """The machine went down since: bytes that the state speaks of may never have reached the disk."""
        self.renewed = False
        """All was fetched once more because bytes of an earlier run may have been lost."""
        self.reserved = False
        self._syncing: threading.Thread | None = None
        self._synced = 0
        self._saved_at = 0.0
        self._state = -1
        self._head: tuple[int | None, list[Origin]] | None = None
        """What the first line of the state says besides bytes; None: the next saving writes all."""
        self._added = 0
        self._save_lock = threading.Lock()

    # ── on disk ──────────────────────────────────────────────────────────────────────────────────────────────────────

    def open(self) -> None:
        """Open the partial file, and take up what an earlier run left.

        Raises:
            FirstlightError: the disk does not let us.
        """
        saved = load(self.state_path)
        if saved is not None and not self._ours(saved):
            saved = None
        try:
            if saved is None:
                forget([self.partial, self.state_path])
            self.descriptor = os.open(self.partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise disk_trouble(error, self.target) from error
        if saved is not None:
            self.origins = saved.origins
            self.size = saved.size
            there = os.fstat(self.descriptor).st_size
            runs = [(start, min(end, there), owner) for start, end, owner in saved.runs if start < there]
            self.ledger = Ledger(ENDLESS if saved.size is None else saved.size, runs, self.ledger.lock)
            self.resumed = self.ledger.done()
            self.doubtful = self.resumed > 0 and saved.boot != boot_id()
        unlike = {source.url: source for source in reversed(self.wanted.sources) if source.kind != "file"}
        self.lanes = [self._lane(source) for source in self.wanted.sources if unlike.get(source.url) is source]

    def _ours(self, saved: Saved) -> bool:
        """Tell whether a state is of the file that is wanted now."""
        same_sum = saved.promised == self.promised
        return same_sum and (self.wanted.size is None or saved.size == self.wanted.size)

    def _lane(self, source: Source) -> Lane:
        lane = Lane(source, -1, self.policy)
        keys = [origin.key for origin in self.origins]
        if lane.key in keys:
            lane.owner = keys.index(lane.key)
        else:
            lane.owner = len(self.origins)
            self.origins.append(lane.origin())
        return lane

    def begin(self, size: int | None) -> None:
        """Take the size of the file, which the sources or the wish told; whatever is there of another size goes.

        Raises:
            FirstlightError: there is no room for it.
        """
        if self.ledger.size != (ENDLESS if size is None else size) or not self.ledger.size:
            self.start_over(size)
        if self.size != size:
            self.size = size
            self.frontier.restart()
        if size is not None:
            spare, take = self.policy.spare, self.policy.reserve
            self.reserved = reserve(self.descriptor, self.target, size, spare=spare, take=take)

    def start_over(self, size: int | None) -> None:
        """Throw away all bytes; nobody may be writing.

        Never under the ledger's lock: whoever reads in order takes that one while he holds his own.
        """
        with self.ledger.lock:
            self.banked += sum(self.ledger.arrived.values())
            self.ledger = Ledger(ENDLESS if size is None else size, (), self.ledger.lock)
            self.size = size
        self.resumed = 0
        self.pieces.forget_all()
        self.frontier.restart()
        os.ftruncate(self.descriptor, 0)
        self.save(force=True)

    def save(self, *, force: bool = False) -> None:
        """Bring the state on disk up to date where that is due; `force` writes all of it.

        Raises:
            FirstlightError: the disk does not take it.
        """
        now = time.monotonic()
        due = self.ledger.unsaved >= _BEHIND or now - self._saved_at >= self.policy.save_seconds
        if not force and not due:
            return
        with self._save_lock:
            if self.descriptor < 0:
                return  # a thread that outlived the job: its file has its name by now
            self._saved_at = now
            try:
                self._save(force=force)
            except OSError as error:
                self._let_go()
                # Where the room for the bytes is ours already, they are worth more than their bookkeeping.
                if not self.reserved or error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                    raise disk_trouble(error, self.target) from error

    def save_soon(self) -> None:
        """Bring the state up to date where too many bytes came since; for whoever wrote them.

        Raises:
            FirstlightError: the disk does not take it.
        """
        if self.ledger.unsaved >= _BEHIND and not self.stopping:
            self.save()

    def _save(self, *, force: bool) -> None:
        """Add what has come since to the state; write all of it where more than that has changed."""
        with self.ledger.lock:
            for lane in self.lanes:
                if lane.admitted:
                    self.origins[lane.owner] = lane.origin()
            head, fresh = (self.size, list(self.origins)), self.ledger.fresh()
            enough = not force and fresh is not None and head == self._head and self._added < _ADDED
            whole = None if enough else now_saved(self.size, self.promised, head[1], self.ledger.runs())
        if whole is not None:
            self._let_go()
            self._state, self._head = save(self.state_path, whole), head
        elif fresh:
            self._added += add(self._state, fresh)

    def _let_go(self) -> None:
        """Close the state."""
        if self._state >= 0:
            os.close(self._state)
        self._state, self._head, self._added = -1, None, 0

    def sync_now_and_then(self) -> None:
        """Bring the bytes to the disk while others arrive, so that little is left to be brought in the end."""
        if (done := self.ledger.done()) - self._synced >= _SYNC_EVERY:
            self._synced = done
            self._aside(begin_writing)

    def sync_aside(self) -> None:
        """Begin to bring the bytes to the disk, in a thread."""
        self._aside(os.fsync)

    def _aside(self, work: Callable[[int], None]) -> None:
        if self._syncing is None or not self._syncing.is_alive():
            self._syncing = threading.Thread(target=self._sync, args=(work,), daemon=True)
            self._syncing.start()

    def sync(self) -> None:
        """Bring the bytes to the disk.

        Raises:
            OSError: it does not take them.
        """
        if self._syncing is not None:
            self._syncing.join()
        os.fsync(self.descriptor)

    def _sync(self, work: Callable[[int], None]) -> None:
        with contextlib.suppress(OSError):  # told by sync(), which asks again
            work(self.descriptor)

    def close(self) -> None:
        """Close the file; nobody writes any more."""
        if self._syncing is not None:
            self._syncing.join()
            self._syncing = None
        with self._save_lock:
            self._let_go()
            if self.descriptor >= 0:
                os.close(self.descriptor)
                self.descriptor = -1

    # ── told by the connections ──────────────────────────────────────────────────────────────────────────────────────

    def arrived(self, segment: Segment) -> None:
        """Take note that a connection has ended a segment."""
        if self.pieces.given and segment.pos > segment.start:
            for start, end in self.pieces.check(self.descriptor, self.ledger, segment.start, segment.pos):
                self.spoilt.append((start, end))
        if segment.start <= self.frontier.reached or self.ledger.complete():
            self.frontier.poke()
        if self.spoilt or self.ledger.complete():
            self.news.set()

    def changed(self, lane: Lane, reason: str) -> None:
        """Take note that a source has another object; the driver decides."""
        with self.ledger.lock:
            if lane.admitted:
                lane.probed = lane.admitted = False
                self.changes.append((lane, reason))
        self.news.set()

    def fail(self, error: FirstlightError) -> None:
        """End it all."""
        self.failure = self.failure or error
        self.stopping = True
        self.news.set()

    # ── asked by the driver ──────────────────────────────────────────────────────────────────────────────────────────

    def usable(self) -> list[Lane]:
        """Return the sources that were not given up."""
        return [lane for lane in self.lanes if lane.usable]

    def arrived_bytes(self) -> int:
        """Return the bytes that came over the network in this run."""
        return self.banked + sum(self.ledger.arrived.values())

    def retake(self, lowest: int | None) -> None:
        """After bytes from `lowest` on were taken back: what was read of them is read again."""
        if lowest is not None:
            self.resumed = max(0, min(self.resumed, self.ledger.done()))
            if lowest < self.frontier.reached:
                self.frontier.restart()

    def lose(self, owner: int) -> int:
        """Throw away what a source gave and return how many bytes that were."""
        with self.ledger.lock:
            mine = [(start, end) for start, end, whose in self.ledger.runs() if whose == owner]
            lost = self.ledger.drop_owner(owner)
        for start, end in mine:
            self.pieces.forget(start, end)
        self.retake(mine[0][0] if mine else None)
        return lost

    def _reach(self, at: int) -> int:
        reach = self.ledger.frontier(at)
        return self.pieces.verified(at, reach, self.ledger.size)
