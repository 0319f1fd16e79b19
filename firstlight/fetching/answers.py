"""How mirrors answer: all are asked at once for a part of one file, with little patience."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from firstlight.fetching.transport import Answer, Client
from firstlight.fetching.trouble import Refused, described, refusal
from firstlight.fetching.types import Transport

PATIENCE = 8.0
"""Seconds after which a place counts as silent."""
_SAMPLE = 2 << 20
"""Bytes that are read to see how fast a place is."""
_LISTEN = 3.0
"""Seconds that they may take."""
_TELLING = 1 << 16
"""Fewer bytes say nothing about speed."""
_CHUNK = 1 << 16


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A place, why it is one, and the address that it is asked for; `headers` are never shown."""

    group: str
    """What it is a mirror of: `github`, `pypi`, an engine."""
    kind: str
    place: str
    url: str
    why: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    page: bool = False
    """Whether it is a page, which is neither long nor asked for in parts."""


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """How a place answered."""

    group: str
    kind: str
    place: str
    ok: bool
    reason: str = ""
    length: int | None = None
    """Bytes of the whole file; None: it does not say."""
    ranged: bool | None = None
    """Whether a part came when a part was asked for; None: a page, or no answer."""
    seconds: float | None = None
    """Until its first byte came."""
    rate: float | None = None
    """Bytes a second; None: too little came to tell."""


def probe_all(asks: Sequence[Ask], transport: Transport, *, patience: float = PATIENCE) -> list[Answered]:
    """Return how each place answered, in order.

    Args:
        asks: what is asked.
        transport: how the network is reached.
        patience: seconds for a place's first byte; a few more pass until its speed is known.
    """
    found: list[Answered | None] = [None] * len(asks)

    def work(number: int) -> None:
        found[number] = _probe(asks[number], transport, patience)

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(len(asks))]
    deadline = time.monotonic() + patience + _LISTEN + 1.0
    for thread in threads:  # a name server that never answers cannot be interrupted: such a thread is left behind
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [
        answer or _told(ask, reason=f"no answer within {patience:.0f} s")
        for ask, answer in zip(asks, found, strict=True)
    ]


def _told(ask: Ask, **seen: bool | float | str | None) -> Answered:
    values = {"ok": False, **seen}
    return Answered(group=ask.group, kind=ask.kind, place=ask.place, **values)  # type: ignore[arg-type]


def _probe(ask: Ask, transport: Transport, patience: float) -> Answered:
    wished = {} if ask.page else {"Range": f"bytes=0-{_SAMPLE - 1}"}
    began = time.monotonic()
    try:
        with asked(ask.url, wished, dict(ask.headers), transport, patience) as answer:
            return _heard(ask, answer, time.monotonic() - began)
    except Refused as refused:
        return _told(ask, reason=refused.reason)


@contextmanager
def asked(
    url: str, headers: dict[str, str], secret: dict[str, str], transport: Transport, patience: float
) -> Iterator[Answer]:
    """Yield what an address answers, where that is the file or a part of it.

    Raises:
        Refused: it does not give it, or the connection failed, also while its body is read.
    """
    client = Client(transport)
    try:
        answer = client.ask(url, {"Accept-Encoding": "identity", **headers}, secret, (patience, patience))
        try:
            if answer.status not in {200, 206}:
                raise refusal(answer.status, answer.headers)
            yield answer
        finally:
            answer.close()
    except Refused:
        raise
    except Exception as error:  # whatever a stranger's server makes requests and urllib3 say
        raise described(error) from error
    finally:
        client.close()


def _heard(ask: Ask, answer: Answer, first: float) -> Answered:
    began, got, head = time.monotonic(), 0, b""
    while got < _SAMPLE and time.monotonic() - began < _LISTEN:
        chunk = answer.read(_CHUNK)
        if not chunk:
            break
        head = head or chunk[:256].lstrip().lower()
        got += len(chunk)
    took = max(time.monotonic() - began, 1e-6)
    part = answer.status == 206
    if not ask.page and head.startswith((b"<!doctype html", b"<html")):
        return _told(ask, reason="a web page came in place of the file", seconds=first)
    told = answer.headers.get("Content-Length", "")
    if part:
        told = answer.headers.get("Content-Range", "").rpartition("/")[2]
    return _told(
        ask,
        ok=True,
        length=int(told) if told.isdecimal() else None,
        ranged=None if ask.page else part,
        seconds=first,
        rate=got / took if got >= _TELLING else None,
    )
