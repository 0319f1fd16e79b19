"""Who gave wrong bytes: found without hashes of pieces, by holding the sources against each other and the sum.

One source after another is taken to be honest: every byte that others gave is asked of it too and compared. What
differs is kept aside. If the file with its version of the differing bytes has the promised sum, those who gave the
others lied; if not, it lied itself, since its own version of the whole file is wrong. Either way one source fewer is
left, and at most one more file's worth of bytes has come over the network.
"""

from __future__ import annotations

import os
import random
import time
from collections import deque

from firstlight.errors import VerificationFailed
from firstlight.fetching import words
from firstlight.fetching.comparing import Dispute, compare, compare_until, sidecar_of
from firstlight.fetching.job import Job
from firstlight.fetching.lane import Lane
from firstlight.fetching.ledger import Run
from firstlight.fetching.state import forget
from firstlight.fetching.sums import Sums

_BLOCK = 1 << 20
_SAMPLE = 1 << 18
_EVERY = 4 << 20
_SAMPLES = 16
"""Of a large file one sample in every so many bytes is compared, and never fewer than so many samples."""


def verified(job: Job) -> bool:
    """Tell whether the whole file is right; where it is not, bytes of liars have gone and it is to be fetched on.

    Raises:
        VerificationFailed: nobody is left who could give the right bytes; nothing is kept.
    """
    if job.promised is None:
        _compare_samples(job)
        return True
    if job.frontier.sums.right:
        return True
    try:
        _heal(job)
    finally:
        forget([sidecar_of(job)])
    job.pieces.forget_all()
    job.frontier.restart()
    return False


def said_of_unknown(job: Job) -> str:
    """Return what can be said of a file whose hash nobody knows."""
    if not job.compared:
        return "no SHA-256 is known for it, and no second source gave any of it to compare with: it may be anything"
    names, size = words.listed(job.compared), job.size or 0
    if job.compared_bytes >= size:
        return f"no SHA-256 is known for it; {names} gave the same bytes"
    part = f"{words.size(job.compared_bytes)} of {words.size(size)}, taken here and there"
    return f"no SHA-256 is known for it; {names} gave the same bytes where they were compared: {part}"


# ── the sum is known and wrong ───────────────────────────────────────────────────────────────────────────────────────


def _heal(job: Job) -> None:
    job.step.warn(f"{job.wanted.name}: the hash of what came is wrong; looking for the source that gave wrong bytes")
    if job.doubtful:
        job.doubtful = False
        job.step.note(f"{job.wanted.name}: the machine went down since the last run; all is fetched again")
        _forget_all(job)
        return
    given = job.ledger.by_owner()
    if len(given) == 1:
        _only_giver(job, next(iter(given)))
    elif not _tried_each(job, given):
        _ask_the_rest(job, given)


def _only_giver(job: Job, owner: int) -> None:
    """Deal with the one source that gave all bytes: they are wrong, so it is."""
    if job.resumed and not job.renewed and len(job.usable()) <= 1:
        # Bytes of an earlier run may have been lost by the disk: the source gets one more chance to be right.
        job.renewed = True
        _forget_all(job)
        return
    _ban(job, owner)
    _go_on(job)


def _tried_each(job: Job, given: dict[int, int]) -> bool:
    """Take one source after another to be honest; False where none could be asked for what the others gave."""
    able = [lane for lane in job.usable() if lane.admitted and lane.ranged]
    for lane in sorted(able, key=lambda one: -given.get(one.owner, 0)):
        disputes = compare(job, lane, [run for run in job.ledger.runs() if run[2] != lane.owner])
        if disputes is None:
            continue
        if _right_with(job, disputes):
            for owner in dict.fromkeys(one.owner for one in disputes):
                _ban(job, owner, drop=False)
            _apply(job, lane, disputes)
            return True
        _ban(job, lane.owner)
        _go_on(job)
        return True
    return False


def _ask_the_rest(job: Job, given: dict[int, int]) -> None:
    """Nobody can be asked for comparison: one source that is left is asked for everything that others gave."""
    if job.usable():
        for owner in given:
            if owner != job.usable()[0].owner:
                job.ledger.drop_owner(owner)
        _go_on(job)
        return
    for owner in given:
        _ban(job, owner)
    _go_on(job)


def _ban(job: Job, owner: int, *, drop: bool = True) -> None:
    name = job.origins[owner].name
    lane = next((one for one in job.lanes if one.owner == owner), None)
    job.liars.append(name)
    if lane is not None:
        lane.drop("it gave wrong bytes", banned=True)
    if drop:
        lost = job.ledger.drop_owner(owner)
        job.step.warn(f"{job.wanted.name}: {name} gave wrong bytes and is not asked any more; {words.size(lost)} go")
    else:
        job.step.warn(f"{job.wanted.name}: {name} gave wrong bytes and is not asked any more")


def _go_on(job: Job) -> None:
    """Let the rest be fetched again, where somebody is left for it.

    Raises:
        VerificationFailed: nobody is.
    """
    if job.usable():
        job.resumed = min(job.resumed, job.ledger.done())
        return
    if _take_another_length(job):
        return
    digest = job.frontier.sums.sha256
    _forget_all(job)
    others = [
        f"{one.dropped.source}: {one.dropped.reason}" for one in job.lanes if one.dropped and not one.dropped.banned
    ]
    tail = f" ({'; '.join(others)})" if others else ""
    raise VerificationFailed(
        f"{job.wanted.name} is not what was promised: wrong bytes came from {words.listed(job.liars)}",
        why=f"its SHA-256 is {digest}, promised was {job.promised}; nothing was put in place or kept{tail}",
        fix="run the command again with another source, or look whether the promised hash is right",
    )


def _take_another_length(job: Job) -> bool:
    """Turn to the sources that were given up because their file has another length: theirs may be the right one."""
    others = [one for one in job.lanes if one.dropped and not one.dropped.banned and one.length not in {None, job.size}]
    if job.wanted.size is not None or not others:
        return False
    job.begin(others[0].length)
    for lane in others:
        if lane.length == job.size:
            lane.dropped = None
    return True


def _forget_all(job: Job) -> None:
    job.start_over(job.size)


def _right_with(job: Job, disputes: list[Dispute]) -> bool:
    """Tell whether the sum holds for the file with the other version of what differs."""
    found, at = Sums(job.wanted, job.size), 0
    with sidecar_of(job).open("rb") as other:
        for one in [*sorted(disputes), Dispute(job.size or 0, job.size or 0, -1)]:
            while at < one.start:
                block = os.pread(job.descriptor, min(_BLOCK, one.start - at), at)
                found.update(block)
                at += len(block)
            found.update(os.pread(other.fileno(), one.end - one.start, one.start))
            at = one.end
    return found.right


def _apply(job: Job, lane: Lane, disputes: list[Dispute]) -> None:
    """Put the right version of what differed into the file."""
    with sidecar_of(job).open("rb") as other:
        for one in disputes:
            os.pwrite(job.descriptor, os.pread(other.fileno(), one.end - one.start, one.start), one.start)
            job.ledger.give(one.start, one.end, lane.owner)
    changed = sum(one.end - one.start for one in disputes)
    job.step.note(f"{job.wanted.name}: {words.size(changed)} were put right with what {lane.name} gave")


# ── the sum is not known ─────────────────────────────────────────────────────────────────────────────────────────────


def _compare_samples(job: Job) -> None:
    """Ask sources for what others gave and hold it against that: all of a small file, samples of a large one.

    What one source does not give, or not in time, the next one is asked for.

    Raises:
        VerificationFailed: two sources differ, and nobody can say who is right.
    """
    left, until = job.ledger.runs(), time.monotonic() + job.policy.compare_seconds
    if (job.size or 0) > job.policy.compare:
        left = _samples(left)
    able = [lane for lane in job.usable() if lane.admitted and lane.ranged]
    for lane in sorted(able, key=lambda one: -job.ledger.arrived.get(one.owner, 0)):
        asked = [run for run in left if run[2] != lane.owner]
        if not asked or time.monotonic() >= until:
            continue
        try:
            done = compare_until(job, lane, asked, until)
        finally:
            forget([sidecar_of(job)])
        if done.disputes:
            names = words.listed([lane.name, *(job.origins[one.owner].name for one in done.disputes)])
            _forget_all(job)
            raise VerificationFailed(
                f"{job.wanted.name}: {names} have different bytes",
                why="no SHA-256 is known for it, so nobody can say who is right; nothing was put in place or kept",
                fix="give its SHA-256, or the one source that you trust",
            )
        if same := _bytes(asked) - _bytes(done.left):
            job.compared += [lane.name, *(job.origins[owner].name for _, _, owner in asked)]
            job.compared_bytes += same
        left = [*(run for run in left if run[2] == lane.owner), *done.left]


def _bytes(runs: list[Run]) -> int:
    return sum(end - start for start, end, _ in runs)


def _samples(runs: list[Run]) -> list[Run]:
    """Return a piece of every stretch of the runs, at a place that nobody can foresee, and their very ends."""
    chance, total = random.SystemRandom(), _bytes(runs)
    step = max(_SAMPLE, min(_EVERY, total // _SAMPLES))
    between = [at + chance.randrange(step - _SAMPLE + 1) for at in range(step, total, step)]
    places, picked, before = deque(sorted({0, *between, max(0, total - _SAMPLE)})), [], 0
    for start, end, owner in runs:
        while places and places[0] < before + end - start:
            at = start + places.popleft() - before
            picked.append((at, min(end, at + _SAMPLE), owner))
        before += end - start
    return picked
