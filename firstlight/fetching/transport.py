"""One connection's worth of HTTP: requests sent as the environment says, redirects followed by us, cut from outside."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from firstlight.fetching.trouble import Refused
from firstlight.fetching.types import Transport

if TYPE_CHECKING:
    import requests

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 8
_AGENT = "firstlight"
_MOST_KEPT = 16


def host_of(url: str) -> str:
    """Return an address's host and port, without credentials."""
    return urlsplit(url).netloc.rpartition("@")[2].lower()


def is_loopback(url: str) -> bool:
    """Tell whether an address is on this machine: nobody's proxy reaches that."""
    name = (urlsplit(url).hostname or "").lower()
    return name == "localhost" or name.endswith(".localhost") or name.startswith("127.") or name == "::1"


def _same_place(one: str, other: str) -> bool:
    first, second = urlsplit(one), urlsplit(other)
    default = {"http": 80, "https": 443}
    return (first.scheme, first.hostname, first.port or default.get(first.scheme)) == (
        second.scheme,
        second.hostname,
        second.port or default.get(second.scheme),
    )


class Answer:
    """A server's answer whose body has not been read; `url` is where it came from in the end."""

    def __init__(self, response: requests.Response, url: str) -> None:
        self._response = response
        self.url = url
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers

    def read(self, most: int) -> bytes:
        """Return the next bytes of the body, at most `most`, as soon as there are any; empty at its end.

        Raises:
            OSError, urllib3.exceptions.HTTPError: the connection broke, or ended before the body did.
        """
        data: bytes = self._response.raw.read1(most, decode_content=False)
        return data

    def close(self) -> None:
        """Have done with it: a body that was not read whole costs the connection."""
        self._response.close()

    def drain(self, most: int) -> None:
        """Read the little that is left, so that the connection can be used again."""
        while most > 0:
            data = self.read(most)
            if not data:
                return
            most -= len(data)


class Known:
    """What clients need not find out twice: requests that lack only their range, and each host's proxy."""

    def __init__(self) -> None:
        self.requests: dict[str, requests.PreparedRequest] = {}
        self.settings: dict[str, dict[str, Any]] = {}


class Client:
    """One thread's way to the network: a session with kept-alive connections, which another thread can cut off."""

    def __init__(self, transport: Transport, known: Known | None = None) -> None:
        self._transport = transport
        self._known = known or Known()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._stopped = False
        self._sessions: dict[bool, requests.Session] = {}

    def _opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets = {one for one in self._sockets if one.fileno() >= 0}
            self._sockets.add(connection)
            if self._stopped:
                _shut(connection)

    def cut(self) -> None:
        """End whatever this client's thread waits for; called from another thread."""
        with self._lock:
            for connection in self._sockets:
                _shut(connection)

    def stop(self) -> None:
        """Cut, now and whenever it would connect again."""
        with self._lock:
            self._stopped = True
        self.cut()

    def close(self) -> None:
        """Close the connections; for the thread that uses it, or when that thread has ended."""
        for session in self._sessions.values():
            session.close()
        self._sessions.clear()

    def _session(self, *, direct: bool) -> requests.Session:
        if direct not in self._sessions:
            from firstlight.fetching.connections import new_session

            self._sessions[direct] = new_session(self._opened, direct=direct, transport=self._transport)
        return self._sessions[direct]

    def ask(
        self,
        url: str,
        headers: Mapping[str, str],
        secret: Mapping[str, str],
        timeout: tuple[float, float],
        home: str = "",
    ) -> Answer:
        """Send a GET and return the answer to it, behind all redirects.

        Args:
            url: whom to ask.
            headers: what may go to anybody.
            secret: headers for the host of `home` alone; left out wherever else it redirects to.
            timeout: seconds to connect, seconds of silence.
            home: the address that the secret headers belong to, where it is not `url`.

        Raises:
            Refused: it redirects in circles, or to nowhere.
            requests.RequestException: no answer.
        """
        at, seen = url, set[str]()
        for _ in range(_MOST_REDIRECTS + 1):
            session = self._session(direct=is_loopback(at) and not self._transport.proxy)
            own = secret if _same_place(home or url, at) else {}
            prepared = self._prepared(session, at, strange=not _same_place(url, at))
            prepared.headers.update({**headers, **own})
            response = session.send(
                prepared, stream=True, allow_redirects=False, timeout=timeout, **self._settings_for(session, at)
            )
            location = response.headers.get("Location", "")
            if response.status_code not in _REDIRECTS or not location:
                return Answer(response, at)
            response.close()
            at = _next(at, location)
            if at in seen or at == url:
                raise Refused("it redirects in circles", lasting=True)
            seen.add(at)
        raise Refused(f"it redirects more than {_MOST_REDIRECTS} times", lasting=True)

    def _prepared(self, session: requests.Session, url: str, *, strange: bool) -> requests.PreparedRequest:
        """Return a request that lacks only its own headers; made once, since making one costs as much as sending it.

        Raises:
            Refused: the address is none.
        """
        import requests

        kept = self._known.requests
        made = kept.get(url)
        if made is None:
            try:
                made = session.prepare_request(requests.Request("GET", url, headers={"User-Agent": _AGENT}))
            except (ValueError, requests.RequestException) as error:
                raise Refused("its address is none", lasting=True) from error
            if strange and "@" not in urlsplit(url).netloc:
                made.headers.pop("Authorization", None)
            if len(kept) >= _MOST_KEPT:
                kept.clear()
            kept[url] = made
        return made.copy()

    def _settings_for(self, session: requests.Session, url: str) -> dict[str, Any]:
        """Return proxies and certificates for a host; looking them up costs more than a small file."""
        parts = urlsplit(url)
        key = f"{parts.scheme}://{host_of(url)}"
        if key not in self._known.settings:
            found = dict(session.merge_environment_settings(f"{key}/", {}, True, session.verify, None))
            found.pop("stream", None)
            if host_of(url) in self._transport.trusted_hosts or parts.hostname in self._transport.trusted_hosts:
                from urllib3 import disable_warnings, exceptions

                disable_warnings(exceptions.InsecureRequestWarning)  # the user has said that this host is trusted
                found["verify"] = False
            self._known.settings[key] = found
        return self._known.settings[key]


def _next(at: str, location: str) -> str:
    target = urljoin(at, location)
    parts = urlsplit(target)
    if parts.scheme not in {"http", "https"} or not parts.netloc:
        raise Refused("it redirects to something that is no web address", lasting=True)
    if urlsplit(at).scheme == "https" and parts.scheme == "http" and not is_loopback(target):
        raise Refused(f"it redirects from https to plain http ({host_of(target)})", lasting=True)
    return target


def _shut(connection: socket.socket) -> None:
    try:
        # The plain socket below TLS: its own shutdown() would first talk to the other side.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:
        return


def certificates(transport: Transport) -> str | bool:
    """Return what certificates are checked against, for sessions that do not look at the environment themselves."""
    named = transport.cert or os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    return named if named and Path(named).exists() else True
