"""What a source says of a file before it is asked for it: length, ETag, date, type, and whether it gives parts."""

from __future__ import annotations

from firstlight.fetching.exchange import check_coding, is_page, length_of, range_of, send
from firstlight.fetching.lane import Lane
from firstlight.fetching.transport import Client
from firstlight.fetching.trouble import WEB_PAGE, Refused, refusal
from firstlight.fetching.types import Wanted


def probe(client: Client, lane: Lane, wanted: Wanted) -> None:
    """Ask a source for the first byte and keep what it says.

    Raises:
        Refused: it has not what is wanted, or does not answer.
    """
    answer = send(client, lane, {"Range": "bytes=0-0"})
    try:
        empty = answer.status == 416 and answer.headers.get("Content-Range", "").endswith("/0")
        if answer.status not in {200, 206} and not empty:
            raise refusal(answer.status, answer.headers)
        check_coding(answer)
        length: int | None = 0 if empty else length_of(answer)
        if answer.status == 206:
            given = range_of(answer)
            if given is None or given[:2] != (0, 1) or length not in {None, 1}:
                raise Refused("it answered with other bytes than it was asked for", lasting=True)
            length = given[2]
        elif length == 1 and wanted.size != 1:
            length = None  # it gave the one byte, but as if it were all: what the whole is long, it did not say
        if is_page(answer, wanted.name) and (wanted.size is None or length != wanted.size):
            raise Refused(WEB_PAGE)
        lane.length = length
        if None not in {wanted.size, length} and length != wanted.size:
            raise Refused(f"its file has {length} bytes, not {wanted.size}", lasting=True)
        lane.ranged = answer.status == 206 and (length is not None or wanted.size is not None)
        lane.etag = answer.headers.get("ETag", "")
        lane.modified = answer.headers.get("Last-Modified", "")
        lane.probed = True
        if answer.status == 206:
            answer.drain(1)
    finally:
        answer.close()
