"""One connection at work: takes bytes that nobody has, writes them where they belong, and says how it went."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from firstlight.errors import FirstlightError
from firstlight.fetching.exchange import check_coding, check_same, length_of, open_range, send
from firstlight.fetching.ledger import ENDLESS, Segment
from firstlight.fetching.space import disk_trouble
from firstlight.fetching.trouble import Changed, NoRanges, Refused, described, refusal

if TYPE_CHECKING:
    from firstlight.fetching.job import Job
    from firstlight.fetching.lane import Lane
    from firstlight.fetching.transport import Answer, Client

_BLOCK = 1 << 18
_DRAIN = 1 << 16  # so little left of an answer is read rather than a connection thrown away


def write_at(job: Job, data: memoryview, offset: int) -> None:
    """Write bytes to their place in the partial file.

    Raises:
        FirstlightError: the disk does not take them.
    """
    try:
        while data:
            count = os.pwrite(job.descriptor, data, offset)
            data, offset = data[count:], offset + count
    except OSError as error:
        raise disk_trouble(error, job.target) from error


def fetch_segment(job: Job, lane: Lane, client: Client, segment: Segment) -> bool:
    """Fetch a segment from a source and return whether the connection may go on with another one."""
    began, flow = time.monotonic(), _Flow(job, lane)
    try:
        answer, end = open_range(client, lane, segment.pos, segment.end, job.ledger.size)
        try:
            _stream(job, answer, segment, end, flow)
        finally:
            answer.close()
        return True
    except NoRanges:
        with job.ledger.lock:
            lane.ranged = False
        return False
    except Changed as change:
        job.changed(lane, change.reason)
        return False
    except FirstlightError as error:
        job.fail(error)
        return False
    except Exception as error:  # noqa: BLE001 - whatever a broken server can raise in a library means one thing
        return _failed(job, lane, error, began, flow, segment)
    finally:
        flow.end()
        job.ledger.finish(segment)
        job.arrived(segment)


def _failed(job: Job, lane: Lane, error: Exception, began: float, flow: _Flow, segment: Segment) -> bool:
    flow.end()
    with job.ledger.lock:
        taken_away = segment not in job.ledger.active or segment.pos >= segment.end
        if job.stopping or taken_away:
            return False
        if flow.started and not isinstance(error, Refused):
            lane.trouble = described(error).reason
            return True
        lane.failed(described(error), began)
        return False


class _Flow:
    """Whether bytes come over a connection; counted once, also when it ends twice."""

    def __init__(self, job: Job, lane: Lane) -> None:
        self._job = job
        self._lane = lane
        self.started = False
        self._on = False

    def begin(self) -> None:
        if not self.started:
            with self._job.ledger.lock:
                self.started = self._on = True
                self._lane.flowing += 1
                self._lane.alive()

    def end(self) -> None:
        if self._on:
            with self._job.ledger.lock:
                self._on = False
                self._lane.flowing -= 1


def _stream(job: Job, answer: Answer, segment: Segment, end: int, flow: _Flow) -> None:
    """Write an answer's body, [segment.pos, end), to the file; less where the segment was robbed of its end."""
    at, ledger = segment.pos, job.ledger
    while at < end:
        data = answer.read(min(_BLOCK, end - at))
        if not data:
            raise Refused("the connection ended too early")
        flow.begin()
        at += len(data)
        allowed = ledger.claim(segment, len(data))
        if allowed:
            write_at(job, memoryview(data)[:allowed], segment.pos)
            ledger.wrote(segment)
            job.save_soon()
        if allowed < len(data) or segment.pos >= segment.end:
            break
    if 0 < end - at <= _DRAIN:
        answer.drain(end - at)
    elif at == end:
        answer.drain(1)  # the end of a chunked body stands behind its last byte


def fetch_whole(job: Job, lane: Lane, client: Client) -> None:
    """Fetch a file from a source that gives no parts: all of it passes by, and what is missing is written."""
    began, gained = time.monotonic(), 0
    try:
        answer = send(client, lane, {})
        try:
            if answer.status != 200:
                raise refusal(answer.status, answer.headers)
            check_coding(answer)
            length = length_of(answer)
            check_same(answer, lane, length, job.ledger.size if job.ledger.size != ENDLESS else length or 0)
            with job.ledger.lock:
                lane.flowing += 1
            try:
                at = 0
                while lane.usable and not job.stopping and not job.ledger.complete() and (data := answer.read(_BLOCK)):
                    gained += _fill(job, lane, data, at)
                    at += len(data)
            finally:
                with job.ledger.lock:
                    lane.flowing -= 1
            _ended(job, lane, at, length)
        finally:
            answer.close()
        with job.ledger.lock:
            lane.alive()
    except Changed as change:
        job.changed(lane, change.reason)
    except FirstlightError as error:
        job.fail(error)
    except Exception as error:  # noqa: BLE001 - as above
        with job.ledger.lock:
            if gained:
                lane.failures = 0
            if not job.stopping:
                lane.failed(described(error), began)


def _fill(job: Job, lane: Lane, data: bytes, at: int) -> int:
    """Write what is missing of [at, at + len(data)) and return how many bytes that were."""
    size, view, gained = job.ledger.size, memoryview(data), 0
    if at + len(data) > size:
        raise Refused(f"it sends more than the {size} bytes of the file", lasting=True)
    with job.ledger.lock:
        job.ledger.arrived[lane.owner] = job.ledger.arrived.get(lane.owner, 0) + len(data)
    for segment in job.ledger.take_at(at, at + len(data), lane.owner):
        try:
            segment.claimed = segment.end
            write_at(job, view[segment.start - at : segment.end - at], segment.start)
            job.ledger.wrote(segment)
            gained += segment.pos - segment.start
        finally:
            job.ledger.finish(segment)
        job.arrived(segment)
    job.save_soon()
    job.frontier.poke()
    return gained


def _ended(job: Job, lane: Lane, at: int, length: int | None) -> None:
    """Judge the end of a whole body."""
    if job.stopping or job.ledger.complete() or not lane.usable:
        return
    if job.ledger.size == ENDLESS and length in {None, at}:
        job.ledger.settle_size(at)
        return
    raise Refused("the connection ended too early")
