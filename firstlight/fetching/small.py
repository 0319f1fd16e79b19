"""Small files: one request brings all of it, with no probe, no state, no threads. What goes wrong goes the long way."""

from __future__ import annotations

import os

from firstlight.fetching.exchange import check_coding, length_of, send
from firstlight.fetching.job import Job
from firstlight.fetching.lane import Lane
from firstlight.fetching.transport import Answer
from firstlight.fetching.trouble import Refused, refusal


def is_small(job: Job) -> bool:
    """Tell whether a file is small, and somebody promised what it is: only then one source's word is enough."""
    size = job.wanted.size
    return size is not None and size <= job.policy.small and job.promised is not None and not job.ledger.done()


def fetch_small(job: Job) -> bool:
    """Fetch all of it from the first source that has it right; False: none had, at the first try."""
    for lane in job.lanes:
        if not job.pool.wait_for_place(lane.host):
            return False
        client = job.pool.client()
        try:
            answer = send(client, lane, {})
            try:
                data = _body(job, answer)
            finally:
                answer.close()
        except Exception:  # noqa: BLE001, S112 - the long way, which comes next, finds out and tells
            continue
        finally:
            job.pool.give_back(client)
            job.pool.leave(lane.host)
        if _right(job, lane, data):
            return True
    return False


def _body(job: Job, answer: Answer) -> bytes:
    """Return the body.

    Raises:
        Refused: it is not the file's.
    """
    size = job.wanted.size or 0
    if answer.status != 200:
        raise refusal(answer.status, answer.headers)
    check_coding(answer)
    if length_of(answer) not in {None, size}:
        raise Refused("its file has another length", lasting=True)
    body = bytearray()
    while data := answer.read(max(1, size + 1 - len(body))):
        body += data
        job.banked += len(data)
        if len(body) > size:
            raise Refused("it sends more than the file has", lasting=True)
    if len(body) < size:
        raise Refused("the connection ended too early")
    return bytes(body)


def _right(job: Job, lane: Lane, data: bytes) -> bool:
    """Put the bytes into the partial file where their sum holds."""
    job.begin(len(data))
    sums = job.frontier.new_sums()
    sums.update(data)
    if not sums.right:
        return False
    os.pwrite(job.descriptor, data, 0)
    job.ledger.give(0, len(data), lane.owner)
    if job.pieces.given:
        job.pieces.check(job.descriptor, job.ledger, 0, len(data))
    job.frontier.catch_up()
    return job.frontier.at == len(data)
