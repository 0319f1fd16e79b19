"""The loop that drives the fetching of one file: which object it is, who may give it, when it is whole."""

from __future__ import annotations

import time
from collections import Counter

from firstlight.errors import FirstlightError, NetworkFailed
from firstlight.fetching import words
from firstlight.fetching.blaming import Blame
from firstlight.fetching.crew import Crew
from firstlight.fetching.job import Job
from firstlight.fetching.lane import Lane
from firstlight.fetching.ledger import ENDLESS
from firstlight.fetching.telling import Telling

_GRACE = 0.4  # seconds, or as long as the first answer took, that other sources may take where the size is not known
_LOOK = 0.05
_MOST_CHANGES = 8
_FICKLE = 3
"""After so many changes a source's ETag says nothing any more."""


class Driver:
    """Drives one job; everything here runs in one thread."""

    def __init__(self, job: Job, crew: Crew, telling: Telling) -> None:
        self.job = job
        self.crew = crew
        self.telling = telling
        self._blame = Blame(job)
        self._whole_at = 0.0

    def settle(self) -> None:
        """Ask the sources what they have, and settle the size.

        Raises:
            NetworkFailed: no source has it, or none answers.
            FirstlightError: there is no room for it.
        """
        job, began, first = self.job, time.monotonic(), 0.0
        while True:
            self._pulse(work=False)
            known = [lane for lane in job.usable() if lane.probed]
            pending = [lane for lane in job.usable() if not lane.probed]
            now = time.monotonic()
            if known and not first:
                first = now + max(_GRACE, now - began)
            hurry = job.wanted.size is not None and any(lane.ranged for lane in known)
            hurry = hurry and (job.promised is not None or not job.resumed)
            if known and (hurry or not pending or now >= first):
                break
            self._rest()
        self._begin(known)
        self._admit()
        self._forget_unproven()

    def _begin(self, known: list[Lane]) -> None:
        """Take the size, and the room for it; a source whose file would never fit does not keep another one out.

        Raises:
            FirstlightError: there is no room for it.
        """
        job = self.job
        size = job.wanted.size if job.wanted.size is not None else _agreed(known)
        try:
            job.begin(size)
        except FirstlightError as error:
            others = [lane for lane in known if lane.length != size]
            if job.wanted.size is not None or not others:
                raise
            for lane in known:
                if lane.length == size:
                    lane.drop(f"its file has {size} bytes: {error.what}")
            self._begin(others)

    def fetch(self) -> None:
        """Have every byte fetched and read in order.

        Raises:
            NetworkFailed: every source was given up.
            FirstlightError: the disk does not take it.
        """
        job = self.job
        if job.size is None or job.size > job.policy.small:
            job.frontier.start()
        self._blame.check_earlier()
        synced = job.ledger.size <= job.policy.small
        while True:
            self._handle_changes()
            self._blame.judge()
            self._admit()
            if job.ledger.complete() and not job.changes and not job.spoilt and job.ledger.size != ENDLESS:
                if job.size is None:
                    job.size = job.ledger.size
                if job.size <= job.policy.small:
                    job.frontier.catch_up()
                if job.frontier.at >= job.size:
                    self._blame.judge()
                    if job.ledger.complete() and not self._may_be_compared():
                        return
                if not synced:
                    job.sync_aside()
                    synced = True
                job.frontier.poke()
            self._pulse(work=True)
            self._rest()

    def _may_be_compared(self) -> bool:
        """Tell whether all is there, but no hash is known, and a source may still answer that can be asked as well."""
        job, now = self.job, time.monotonic()
        givers = set(job.ledger.by_owner())
        able = [lane for lane in job.usable() if lane.admitted and lane.ranged]
        if job.promised is not None or any(givers - {lane.owner} for lane in able):
            return False
        self._whole_at = self._whole_at or now
        pending = any(not lane.probed for lane in job.usable())
        return pending and now - self._whole_at < job.policy.connect_seconds

    def _pulse(self, *, work: bool) -> None:
        job = self.job
        if job.pool.stopped:
            raise KeyboardInterrupt
        self.crew.tick(work=work)
        if work:
            job.save()
            job.sync_now_and_then()
        self.telling.tell(self.crew)
        if job.failure is not None:
            raise job.failure
        if job.frontier.failure is not None:
            raise job.frontier.failure
        if not job.usable() and not (work and job.ledger.complete()):
            raise nobody_left(job)

    def _rest(self) -> None:
        self.job.news.wait(_LOOK)
        self.job.news.clear()

    # ── which object ─────────────────────────────────────────────────────────────────────────────────────────────────

    def _admit(self) -> None:
        """Let the sources in that have answered, and turn away those that have something else."""
        job = self.job
        for lane in job.usable():
            if not lane.probed or lane.admitted:
                continue
            if job.size is not None and lane.length not in {None, job.size}:
                lane.drop(f"its file has {lane.length} bytes, not {job.size} like the others")
                job.lose(lane.owner)
                continue
            before = job.origins[lane.owner]
            with job.ledger.lock:
                lane.admitted = True
            if _differs(before.etag, before.modified, lane) and job.ledger.by_owner().get(lane.owner):
                job.step.note(f"{job.wanted.name}: {lane.name} has another object now than before")
                if job.promised is None:
                    self._start_over(job.size)
                else:
                    job.lose(lane.owner)
            job.origins[lane.owner] = lane.origin()

    def _forget_unproven(self) -> None:
        """Where no hash will judge them, keep only bytes of an earlier run whose source still has the same object."""
        job = self.job
        if job.promised is not None:
            return
        proven = {lane.owner for lane in job.usable() if lane.admitted and (lane.etag or lane.modified)}
        lost = sum(job.lose(owner) for owner in set(job.ledger.by_owner()) - proven)
        if lost:
            job.step.note(
                f"{job.wanted.name}: {words.size(lost)} of an earlier run cannot be proven to be of this file"
            )

    def _handle_changes(self) -> None:
        job = self.job
        while job.changes:
            lane, reason = job.changes.pop()
            lane.changes += 1
            judged = job.promised is not None  # the hash tells in the end whether all was of one object
            if lane.changes > (_MOST_CHANGES if judged else _FICKLE):
                lane.drop(f"it changes again and again: {reason}")
                job.lose(lane.owner)
                continue
            if judged and lane.changes > _FICKLE:
                lane.fickle = True
                continue
            job.step.warn(f"{job.wanted.name}: {lane.name} changed while it was being fetched: {reason}")
            alone = len(job.usable()) == 1
            if judged and not (alone and job.wanted.size is None):
                job.lose(lane.owner)
            elif not alone:
                lane.drop(reason)
                job.lose(lane.owner)
            else:
                self._begin_again(lane)

    def _begin_again(self, lane: Lane) -> None:
        """Fetch the new object of the only source from its first byte on."""
        self.crew.stop()
        self._start_over(None)
        lane.probed = lane.admitted = False
        self.job.origins[lane.owner] = lane.origin()
        self.settle()

    def _start_over(self, size: int | None) -> None:
        self.crew.stop()
        self.job.start_over(size)
        if size is not None:
            self.job.begin(size)


def _agreed(lanes: list[Lane]) -> int | None:
    """Return the length that most sources tell; among equally many, what the more trusted one tells."""
    told = [lane.length for lane in lanes if lane.length is not None]
    return Counter(told).most_common(1)[0][0] if told else None


def _differs(etag: str, modified: str, lane: Lane) -> bool:
    if etag or lane.etag:
        return etag != lane.etag
    return modified != lane.modified


def nobody_left(job: Job) -> NetworkFailed:
    """Return the error that names every source with the reason why it was given up."""
    reasons = [f"{one.dropped.source}: {one.dropped.reason}" for one in job.lanes if one.dropped]
    there, size = job.ledger.done(), job.wanted.size
    kept = f"; {words.size(there)} are kept for the next run" if there else ""
    if len(reasons) > 1:
        what = f"{job.wanted.name} could not be fetched from any of its {len(reasons)} sources"
    else:
        what = f"{job.wanted.name} could not be fetched"
    if there:
        fix = "run the command again; it goes on where it stopped"
    elif size is not None and all(lane.length not in {None, size} for lane in job.lanes):
        fix = f"name another source, or look whether the {size} bytes that were promised are right"
    else:
        fix = "run the command again, or name another source"
    return NetworkFailed(what, why="; ".join(reasons) + kept, fix=fix)
