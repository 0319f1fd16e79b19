"""Server-sent events: the data of each event, from bytes that are cut anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

_LINE_END = re.compile(rb"\r\n|\n|\r(?!\Z)")
"""A carriage return at the very end may be the first half of CRLF: it waits for the next bytes."""


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *whole, rest = _LINE_END.split(rest + piece)
        yield from whole
    if rest:
        yield rest.rstrip(b"\r")


def sse_data(pieces: Iterable[bytes]) -> Iterator[str]:
    """Yield the data of each event; comments (keep-alives), other fields and empty events are passed over.

    Lines are decoded whole, so that a character cut between two pieces stays one. An event that the end of the stream
    cuts short is yielded too: some servers leave the last empty line out.

    Source: WHATWG HTML, 9.2.6 "Interpreting an event stream".
    """
    data: list[str] = []
    first = True
    for raw in _lines(pieces):
        line = raw.removeprefix(b"\xef\xbb\xbf") if first else raw
        first = False
        if not line:
            if any(data):
                yield "\n".join(data)
            data = []
            continue
        field, _colon, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" ").decode(errors="replace"))
    if any(data):
        yield "\n".join(data)
