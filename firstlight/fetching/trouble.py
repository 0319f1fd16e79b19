"""What goes wrong with one source, in words; and what that means for the next request to it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime


class Refused(Exception):  # noqa: N818 - reads as the sentence that it stands for
    """A source did not give what was asked.

    Args:
        reason: for people, in a few words.
        lasting: asking again is of no use.
        wait: seconds that the server asks us to stay away; None: it did not say.
        busy: it has too many requests, of us or of all.
    """

    def __init__(self, reason: str, *, lasting: bool = False, wait: float | None = None, busy: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lasting = lasting
        self.wait = wait
        self.busy = busy


WEB_PAGE = "it answered with a web page instead of the file"


class Changed(Exception):  # noqa: N818 - same
    """A source has another object at the address than the one whose bytes we have."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NoRanges(Exception):  # noqa: N818 - same
    """A source answers a request for a part with the whole file."""


_AGAIN = frozenset({408, 425, 500, 502, 504, 509, 520, 521, 522, 523, 524})
_WORDS = {
    401: "it wants a password or a token (HTTP 401)",
    403: "it does not let us have it (HTTP 403)",
    404: "it does not have it (HTTP 404)",
    407: "the proxy wants a password (HTTP 407)",
    410: "it does not have it any more (HTTP 410)",
    413: "it refuses files of this size (HTTP 413)",
    429: "too many requests (HTTP 429)",
    451: "it may not give it, by law (HTTP 451)",
    503: "it is too busy (HTTP 503)",
}


def refusal(status: int, headers: Mapping[str, str]) -> Refused:
    """Return what an HTTP status that is no answer means."""
    reason = _WORDS.get(status, f"HTTP {status}")
    wait = retry_after(headers)
    busy = status in {429, 503} or (status == 403 and wait is not None)
    return Refused(reason, lasting=not busy and status not in _AGAIN, wait=wait, busy=busy)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks us to wait; a date counts from the server's own clock.

    Source: RFC 9110, section 10.2.3.
    """
    told = headers.get("Retry-After", "").strip()
    if not told:
        return None
    if told.isdigit():
        return float(told)
    try:
        until = parsedate_to_datetime(told).timestamp()
        now = parsedate_to_datetime(headers["Date"]).timestamp() if "Date" in headers else time.time()
    except (ValueError, TypeError):
        return None
    return max(0.0, until - now)


NO_TLS = "no secure connection"
_SIGNS = (
    ("Tunnel connection failed", "the proxy does not let us through"),
    ("ProxyError", "the proxy cannot be reached"),
    ("Name or service not known", "its name is unknown"),
    ("name resolution", "its name is unknown"),
    ("No address associated", "its name is unknown"),
    ("Connection refused", "connection refused"),
    ("Network is unreachable", "the network is unreachable"),
    ("No route to host", "the network is unreachable"),
    ("Connection reset", "the connection was reset"),
    ("Broken pipe", "the connection was reset"),
    ("IncompleteRead", "the connection ended too early"),
    ("Connection broken", "the connection ended too early"),
    ("RemoteDisconnected", "it hung up without an answer"),
    ("Remote end closed", "it hung up without an answer"),
    ("CERTIFICATE_VERIFY_FAILED", "its certificate is not trusted"),
    ("SSL", NO_TLS),
    ("BadStatusLine", "its answer is no HTTP"),
    ("timed out", "no answer"),
)
_HOPELESS = ("its name is unknown", "its certificate is not trusted", "its address is none")


def described(error: BaseException) -> Refused:
    """Return what a failed request or a broken body means, without addresses or credentials."""
    if isinstance(error, Refused):
        return error
    text = f"{type(error).__name__} {error!r}"
    for sign, words in _SIGNS:
        if sign in text:
            return Refused(words, lasting=words in _HOPELESS[1:])
    return Refused(f"the connection failed ({type(error).__name__})")
