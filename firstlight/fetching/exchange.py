"""One request for a part of a file: what is sent, and what an answer must look like to be believed."""

from __future__ import annotations

import re
import time

from firstlight.fetching.lane import Lane
from firstlight.fetching.transport import Answer, Client
from firstlight.fetching.trouble import Changed, NoRanges, Refused, described, refusal

_RANGE = re.compile(r"^\s*bytes\s+(\d+)-(\d+)/(\d+|\*)\s*$", re.IGNORECASE)
_STALE = frozenset({400, 401, 403, 404, 410})
"""What an address that a source redirected to says when its time is over."""
COMPRESSED = "it compresses what it sends"


def length_of(answer: Answer) -> int | None:
    """Return the Content-Length."""
    told = answer.headers.get("Content-Length", "")
    return int(told) if told.isdigit() else None


def range_of(answer: Answer) -> tuple[int, int, int | None] | None:
    """Return first byte, end (exclusive) and total of the Content-Range, or None where it is missing or senseless."""
    found = _RANGE.match(answer.headers.get("Content-Range", ""))
    if not found:
        return None
    first, last, total = int(found[1]), int(found[2]), found[3]
    if last < first or (total != "*" and last >= int(total)):
        return None
    return first, last + 1, None if total == "*" else int(total)


def is_page(answer: Answer, name: str) -> bool:
    """Tell whether it is a web page where a file was asked for."""
    kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return kind in {"text/html", "application/xhtml+xml"} and not name.lower().endswith((".html", ".htm", ".xhtml"))


def check_coding(answer: Answer) -> None:
    """Refuse a body that is not the file's own bytes."""
    coding = answer.headers.get("Content-Encoding", "").strip().lower()
    if coding not in {"", "identity"}:
        raise Refused(f"{COMPRESSED} ({coding})", lasting=True)
    if answer.headers.get("Content-Type", "").lower().startswith("multipart/byteranges"):
        raise Refused("it answers in several parts, which nobody asked for", lasting=True)


def send(client: Client, lane: Lane, headers: dict[str, str]) -> Answer:
    """Send a request to a source and return the answer; follows, remembers and forgets where it redirects to.

    Raises:
        Refused: there is no answer.
    """
    policy, began, asked = lane.policy, time.monotonic(), lane.url
    secret = dict(lane.source.headers)
    words = {"Accept-Encoding": "identity", **headers}
    try:
        answer = client.ask(asked, words, secret, (policy.connect_seconds, policy.stall_seconds), lane.source.url)
    except Refused:
        raise
    except Exception as error:
        lane.url = lane.source.url  # where it redirected to may be gone, and it may know another place
        raise described(error) from error
    lane.latency = 0.8 * lane.latency + 0.2 * min(1.0, time.monotonic() - began)
    if asked != lane.source.url and answer.status in _STALE:
        answer.close()
        lane.url = lane.source.url
        return send(client, lane, headers)
    if answer.status < 300:
        lane.url = answer.url
    return answer


def open_range(client: Client, lane: Lane, start: int, end: int, size: int) -> tuple[Answer, int]:
    """Ask for the bytes [start, end) and return the answer with the end that it really has (never more).

    Raises:
        Refused: it does not give them.
        Changed: it has another object now.
        NoRanges: it would send the whole file.
    """
    validator = "" if lane.plain else lane.validator
    headers = {"Range": f"bytes={start}-{end - 1}", **({"If-Range": validator} if validator else {})}
    answer = send(client, lane, headers)
    try:
        return answer, _checked(answer, lane, start, end, size)
    except NoRanges:
        answer.close()
        if not validator:
            raise
        lane.plain = True  # the same object, all of it: it does not understand the condition; we look ourselves
        return open_range(client, lane, start, end, size)
    except BaseException:
        answer.close()
        raise


def _checked(answer: Answer, lane: Lane, start: int, end: int, size: int) -> int:
    if answer.status == 200:
        check_same(answer, lane, length_of(answer), size)
        raise NoRanges
    if answer.status == 416:
        found = answer.headers.get("Content-Range", "").rpartition("/")[2]
        raise Changed(f"it has only {found} bytes now" if found.isdigit() else "its file is shorter now")
    if answer.status != 206:
        raise refusal(answer.status, answer.headers)
    check_coding(answer)
    given = range_of(answer)
    if given is None or given[0] != start or given[1] > end:
        raise Refused("it answered with other bytes than it was asked for", lasting=True)
    length = length_of(answer)
    if length is not None and length != given[1] - start:
        raise Refused("it says one length and means another", lasting=True)
    check_same(answer, lane, given[2], size)
    return given[1]


def check_same(answer: Answer, lane: Lane, total: int | None, size: int) -> None:
    """Raise Changed where an answer is of another object than the one that the source had."""
    if total is not None and total != size:
        raise Changed(f"its file has {total} bytes now, not {size}")
    etag, modified = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
    if lane.fickle:
        return
    if lane.etag and etag and etag != lane.etag:
        raise Changed("its file has another ETag now")
    if not lane.etag and lane.modified and modified and modified != lane.modified:
        raise Changed("its file has another date now")
