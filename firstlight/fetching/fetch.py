"""Fetch files: from many sources at once, resumed across processes, verified before they get their name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from firstlight.errors import FirstlightError, UsageError
from firstlight.events import Step
from firstlight.fetching import local, words
from firstlight.fetching.crew import Crew
from firstlight.fetching.driving import Driver
from firstlight.fetching.job import Job
from firstlight.fetching.locks import alone
from firstlight.fetching.pool import Pool
from firstlight.fetching.small import fetch_small, is_small
from firstlight.fetching.space import disk_trouble
from firstlight.fetching.state import forget, partial_of
from firstlight.fetching.telling import Sink, Telling
from firstlight.fetching.types import Consumer, Fetched, Policy, Share, Transport, Wanted


def fetch(
    wanted: Wanted,
    target: Path,
    *,
    step: Step,
    policy: Policy | None = None,
    transport: Transport | None = None,
    consumer: Consumer | None = None,
) -> Fetched:
    """Bring a file to `target` and say where its bytes came from.

    What is there of it already, also from a process that was killed, is kept. The file gets its name only when its
    size and its SHA-256 hold; until then it is `<target>.partial`, with its state beside it. Another process that
    fetches the same file is waited for.

    Args:
        wanted: the file and its sources.
        target: where it goes; the folder is made.
        step: told of the progress, and of everything that a person should know.
        policy: how hard to try.
        transport: how the network is reached.
        consumer: takes the bytes in order while they arrive.

    Raises:
        NetworkFailed: every source failed; each is named with its reason, and what came is kept.
        VerificationFailed: the bytes are not what was promised; who gave them is named, and nothing is in place.
        UsageError: there is no source, or one has an address that is none.
        FirstlightError: the disk is full or cannot be written.
    """
    pool = Pool(policy, transport)
    try:
        return _fetch_one(
            wanted, target, pool, step, consumer, lambda far: step.progress(far.done, far.total, "bytes", far.words)
        )
    finally:
        pool.stop()


def fetch_all(
    items: Sequence[tuple[Wanted, Path]],
    *,
    step: Step,
    policy: Policy | None = None,
    transport: Transport | None = None,
) -> list[Fetched]:
    """Bring several files to their places over one pool of connections; returns them in the order of `items`.

    Raises:
        NetworkFailed, VerificationFailed, UsageError, FirstlightError: as `fetch`, for the first file that fails;
            those that are in place by then stay.
    """
    from firstlight.fetching.several import fetch_several

    pool = Pool(policy, transport)
    try:
        return fetch_several(items, pool, step, _fetch_one)
    finally:
        pool.stop()


def _fetch_one(wanted: Wanted, target: Path, pool: Pool, step: Step, consumer: Consumer | None, sink: Sink) -> Fetched:
    _check(wanted)
    _, _, lock = partial_of(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with alone(lock, wanted.name, step, lambda: pool.stopped):
            return _with_lock(wanted, target, pool, step, consumer, sink)
    except OSError as error:
        raise disk_trouble(error, target) from error


def _check(wanted: Wanted) -> None:
    if not wanted.sources:
        raise UsageError(f"nobody is known to have {wanted.name}", fix="name a source")
    for source in wanted.sources:
        if source.kind != "file" and not source.url.startswith(("http://", "https://")):
            raise UsageError(f"{source.name} is no web address", why="it must begin with http:// or https://")


def _with_lock(wanted: Wanted, target: Path, pool: Pool, step: Step, consumer: Consumer | None, sink: Sink) -> Fetched:
    try:
        done = local.already_there(wanted, target, step, consumer) or local.from_files(wanted, target, step, consumer)
        if done is not None:
            forget(partial_of(target)[:2])
            return done
        return _from_network(wanted, target, pool, step, consumer, sink)
    except BaseException:
        if consumer is not None:
            consumer.abort()
        raise


def _from_network(
    wanted: Wanted, target: Path, pool: Pool, step: Step, consumer: Consumer | None, sink: Sink
) -> Fetched:
    job = Job(wanted, target, pool, step, consumer)
    crew = Crew(job)
    telling = Telling(sink)
    try:
        job.open()
        driver = Driver(job, crew, telling)
        done = is_small(job) and fetch_small(job)
        if not done:
            driver.settle()
            if job.promised is None and target.is_file() and target.stat().st_size == job.size:
                return _kept(job)
        while not done:
            driver.fetch()
            crew.stop()
            if _verified(job):
                break
        telling.tell(crew, force=True)
        return _put_in_place(job, consumer)
    finally:
        crew.stop()
        job.frontier.stop()
        _leave(job)


def _verified(job: Job) -> bool:
    if job.frontier.sums.right:
        return True
    from firstlight.fetching import liars

    return liars.verified(job)


def _leave(job: Job) -> None:
    """Save what is kept for the next run; where nothing is, leave nothing."""
    if job.descriptor < 0:
        return
    with contextlib.suppress(Exception):
        if job.ledger.done():
            job.save(force=True)
        else:
            forget([job.partial, job.state_path])
    job.close()


def _kept(job: Job) -> Fetched:
    """Return the target, which is there with the length that the sources tell; more is not known of it."""
    job.ledger.drop(0, job.ledger.size)
    sized = msgspec.structs.replace(job.wanted, size=job.size)
    kept = local.already_there(sized, job.target, job.step, job.frontier.consumer)
    if kept is None:
        raise FirstlightError(f"{job.target.name} was changed while it was looked at", fix="run the command again")
    return kept


def _put_in_place(job: Job, consumer: Consumer | None) -> Fetched:
    wanted, digest, size = job.wanted, job.frontier.sums.sha256, job.size or 0
    os.ftruncate(job.descriptor, size)
    job.sync()
    try:
        if consumer is not None:
            consumer.finish()
    finally:
        job.partial.replace(job.target)
        forget([job.state_path])
        job.close()
    if job.promised is None:
        from firstlight.fetching import liars

        job.step.warn(f"{wanted.name}: {liars.said_of_unknown(job)}")
    shares = [Share(job.origins[owner].name, count) for owner, count in sorted(job.ledger.by_owner().items())]
    dropped = tuple(lane.dropped for lane in job.lanes if lane.dropped is not None)
    for one in [one for one in dropped if not one.banned]:  # who was banned has been named loudly
        job.step.note(f"{wanted.name}: {one.source} was given up: {one.reason}")
    if len(shares) > 1:
        job.step.note(f"{wanted.name}: {words.size(size)} from {words.listed([one.source for one in shares])}")
    return Fetched(
        path=job.target,
        size=size,
        sha256=digest,
        hash_known=job.promised is not None,
        bytes=job.arrived_bytes(),
        resumed=job.resumed,
        shares=tuple(shares),
        dropped=dropped,
    )
