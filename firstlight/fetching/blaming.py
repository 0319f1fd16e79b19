"""Pieces whose hash does not hold: thrown away, fetched again, and whoever gave the wrong bytes is banned."""

from __future__ import annotations

import hashlib
import os
from typing import NamedTuple

from firstlight.fetching.job import Job

_BLOCK = 1 << 20


class _Doubt(NamedTuple):
    """What a source gave of a wrong piece that several gave; the right piece will tell whether it was the one."""

    start: int
    end: int
    owner: int
    sha256: str


class Blame:
    """Judges the pieces of one job, in its driver's thread."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._doubts: list[_Doubt] = []

    def check_earlier(self) -> None:
        """Check the whole pieces that are there already; the disk may have lost some, so nobody is blamed for them."""
        job = self._job
        if job.pieces.given and job.size is not None:
            for start, end in job.pieces.check(job.descriptor, job.ledger, 0, job.size):
                job.ledger.drop(start, end)
                job.retake(start)

    def judge(self) -> None:
        """Throw wrong pieces away, and ban who is known to have given them."""
        job = self._job
        while job.spoilt:
            start, end = job.spoilt.pop()
            if not job.pieces.check(job.descriptor, job.ledger, start, end):
                continue  # told twice: it has been thrown away meanwhile, and others may have given of it
            runs = [run for run in job.ledger.runs() if run[0] < end and run[1] > start]
            if len({owner for _, _, owner in runs}) > 1:
                self._doubts += [self._doubt(max(first, start), min(last, end), owner) for first, last, owner in runs]
            job.ledger.drop(start, end)
            job.retake(start)
            if len({owner for _, _, owner in runs}) == 1:
                self._ban(runs[0][2])
        for one in [one for one in self._doubts if job.pieces.is_good(one.start)]:
            self._doubts.remove(one)
            if self._sum(one.start, one.end) != one.sha256:
                self._ban(one.owner)

    def _doubt(self, start: int, end: int, owner: int) -> _Doubt:
        return _Doubt(start, end, owner, self._sum(start, end))

    def _sum(self, start: int, end: int) -> str:
        found = hashlib.sha256()
        while start < end and (block := os.pread(self._job.descriptor, min(_BLOCK, end - start), start)):
            found.update(block)
            start += len(block)
        return found.hexdigest()

    def _ban(self, owner: int) -> None:
        job = self._job
        for lane in job.lanes:
            if lane.owner == owner and not (lane.dropped and lane.dropped.banned):
                lane.drop("it gave wrong bytes: the hash of a piece does not hold", banned=True)
                job.step.warn(f"{job.wanted.name}: {lane.name} gave wrong bytes and is not asked any more")
                job.lose(owner)
