"""Asks places on the network, all at once and with little patience, and says in a few words why one did not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import msgspec

from firstlight.environments.pipconfig import PipSettings, redact

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

PATIENCE = 4.0
"""Seconds after which a place counts as silent."""
SLOWER = "slower than the others"

_SILENCES = ("no answer", "its name is unknown", "connection refused", "the network is unreachable")
_GRACE = 1.5  # seconds, or as long as the first good answer took, that the others may still take
_SAMPLE = 1 << 20  # bytes that are read to see how fast a place is
_LISTEN = 1.0  # seconds that they may take
_TELLING = 1 << 18  # fewer bytes say nothing about speed
_ALIKE = 2.0  # places whose speeds differ by less count as equally fast
_LARGEST_PAGE = 32 << 20
_CHUNK = 1 << 16


def at_once(
    work: Sequence[Callable[[], T]],
    deadline: float,
    late: Callable[[int, str], T],
    good: Callable[[T], bool] | None = None,
) -> list[T]:
    """Run every piece of work in a daemon thread and return the results in order.

    A name server that never answers cannot be interrupted: such a thread is left behind and holds up nobody.

    Args:
        work: what is to be done; each catches its own errors.
        deadline: seconds for all of it.
        late: makes the result of a piece that did not end in time, from its number and the reason.
        good: where one result is good, the others get little more time: whoever waits wants to go on.
    """
    results: dict[int, T] = {}
    arrived = threading.Condition()

    def run(index: int) -> None:
        result = work[index]()
        with arrived:
            results[index] = result
            arrived.notify()

    for index in range(len(work)):
        threading.Thread(target=run, args=(index,), daemon=True).start()
    began = time.monotonic()
    ends, reason = began + deadline, f"no answer in {deadline:g} s"
    with arrived:
        while len(results) < len(work) and (left := ends - time.monotonic()) > 0:
            arrived.wait(left)
            if good is not None and reason != SLOWER and any(map(good, results.values())):
                now = time.monotonic()
                if now + max(_GRACE, now - began) < ends:
                    ends, reason = now + max(_GRACE, now - began), SLOWER
        return [results[index] if index in results else late(index, reason) for index in range(len(work))]


class Unreachable:
    """The hosts that could not be reached in this run, and why: nobody waits for the same silence twice."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def reason(self, url: str) -> str:
        """Return why a URL's host is not worth asking; empty: it is."""
        return self._reasons.get(urlsplit(url).netloc.rpartition("@")[2], "")

    def note(self, url: str, reason: str) -> None:
        """Take how asking a URL ended; an answer, even a refusal, is no silence."""
        host = urlsplit(url).netloc.rpartition("@")[2]
        if host and reason.startswith(_SILENCES):
            self._reasons[host] = reason


def reason_of(error: BaseException, timeout: float = PATIENCE) -> str:
    """Return why a request that had `timeout` seconds failed, in a few words and without credentials."""
    import requests

    if isinstance(error, requests.Timeout):
        return f"no answer in {timeout:g} s"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not let us through"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code}"
    text = str(error)
    for sign, words in (
        ("Name or service not known", "its name is unknown"),
        ("name resolution", "its name is unknown"),
        ("No address associated", "its name is unknown"),
        ("Connection refused", "connection refused"),
        ("Network is unreachable", "the network is unreachable"),
    ):
        if sign in text:
            return words
    return redact(text.rpartition("Caused by ")[2] or type(error).__name__)[:200]


def session_for(url: str, settings: PipSettings) -> requests.Session:
    """Return a session that trusts and goes through what the user's pip configuration says."""
    import requests

    session = requests.Session()
    host = urlsplit(url).netloc.rpartition("@")[2]
    if host in settings.trusted_hosts or host.partition(":")[0] in settings.trusted_hosts:
        from urllib3 import disable_warnings, exceptions

        disable_warnings(exceptions.InsecureRequestWarning)  # the user has said that this host is trusted
        session.verify = False
    elif settings.cert and Path(settings.cert).exists():
        session.verify = settings.cert
    if settings.proxy:
        session.trust_env = False
        session.proxies = {"http": settings.proxy, "https": settings.proxy}
    session.cert = settings.client_cert
    return session


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """The beginning of a file, as a place sent it; `rate` is in bytes a second, None where too little came to tell."""

    status: int
    kind: str
    """Its content type."""
    total: int | None
    """Bytes of the whole file."""
    begin: bytes
    rate: float | None


def read_sample(session: requests.Session, url: str, timeout: float) -> Sample:
    """Return the beginning of a file, as much as comes in a second and at most a mebibyte.

    Raises:
        requests.RequestException: it cannot be had.
    """
    headers = {"Range": f"bytes=0-{_SAMPLE - 1}", "Accept-Encoding": "identity"}
    with session.get(url, headers=headers, timeout=timeout, stream=True) as answer:
        told = answer.headers.get("Content-Range", "").rpartition("/")[2]
        length = told if answer.status_code == 206 else answer.headers.get("Content-Length", "")
        begin, read, began = b"", 0, time.monotonic()
        for chunk in answer.iter_content(_CHUNK) if answer.ok else ():
            begin, read = begin or chunk, read + len(chunk)
            if read >= _SAMPLE or time.monotonic() - began > _LISTEN:
                break
        seconds = max(time.monotonic() - began, 1e-3)
        return Sample(
            status=answer.status_code,
            kind=answer.headers.get("Content-Type", ""),
            total=int(length) if length.isdigit() else None,
            begin=begin,
            rate=read / seconds if read >= _TELLING or seconds > _LISTEN else None,
        )


def slowness(rate: float | None, rates: Sequence[float | None]) -> float:
    """Return 0 for a place about as fast as the fastest, or of unknown speed, else how many times slower it is."""
    fastest = max((known for known in rates if known), default=None)
    if not rate or fastest is None or fastest < _ALIKE * rate:
        return 0.0
    return fastest / rate


def fetch_page(url: str, settings: PipSettings, timeout: float, *, largest: int = _LARGEST_PAGE) -> tuple[str, str]:
    """Return a page's text, cut off at `largest` bytes, and the address that it came from in the end.

    Raises:
        requests.RequestException: it cannot be had.
        ValueError: its address is none.
        OSError: a certificate cannot be read.
    """
    with (
        session_for(url, settings) as session,
        session.get(url, headers={"Accept": "text/html"}, timeout=timeout, stream=True) as answer,
    ):
        answer.raise_for_status()
        body = bytearray()
        for chunk in answer.iter_content(_CHUNK):
            body += chunk
            if len(body) > largest:
                break
        return body.decode(errors="replace"), answer.url
