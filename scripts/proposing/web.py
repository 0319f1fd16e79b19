"""Reads addresses, whole or in ranges, the way that pip is configured to, and counts the bytes that came."""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import tempfile
from collections.abc import Iterator
from typing import IO
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from firstlight.environments.asking import reason_of, session_for
from firstlight.environments.pipconfig import PipSettings, local_folder, redact
from firstlight.errors import FirstlightError, NetworkFailed

_CHUNK = 64 << 10
_TAIL = 64 << 10
_PATIENCE = 30.0  # seconds
_FIX = "look at the address, or try again"
_TOTAL = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Web:
    """A session that follows the user's pip configuration: certificates, proxy, trusted hosts, patience."""

    def __init__(self, settings: PipSettings) -> None:
        self.transferred = 0
        """Bytes of bodies."""
        self.requests = 0
        self._settings = settings
        self._timeout = min(settings.timeout or _PATIENCE, 2 * _PATIENCE)
        self._sessions: dict[str, requests.Session] = {}
        self._users: dict[str, tuple[str, str]] = {}

    def get(self, url: str, accept: str = "*/*") -> tuple[bytes, str, str]:
        """Return what lies at an address, the address that it came from in the end, and its content type.

        Raises:
            NetworkFailed: it cannot be had.
        """
        folder = local_folder(url)
        if folder is not None:
            path = folder / "index.html" if folder.is_dir() else folder
            with _as_failure(url):
                return path.read_bytes(), url, "text/html"
        with self._open(url, {"Accept": accept}) as answer:
            body = b"".join(self._chunks(answer))
            return body, answer.url, answer.headers.get("Content-Type", "")

    def size(self, url: str) -> int | None:
        """Return how many bytes lie at an address, None where nobody says."""
        try:
            return RemoteFile(self, url).size
        except FirstlightError:
            return None

    def ranged(self, url: str, begin: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `begin` up to but not including `end`; whoever has enough stops reading.

        Raises:
            RangesRefusedError: the server sends the whole file instead.
        """
        with self._open(url, {"Range": f"bytes={begin}-{end - 1}", "Accept-Encoding": "identity"}) as answer:
            came = _TOTAL.match(answer.headers.get("Content-Range", ""))
            if answer.status_code != 206 or came is None or int(came[1]) != begin:
                raise RangesRefusedError(redact(url))
            yield from self._chunks(answer)

    def total(self, url: str) -> int:
        """Return the size of a file, by asking for its first byte: a signed address may answer to nothing but GET."""
        with self._open(url, {"Range": "bytes=0-0", "Accept-Encoding": "identity"}) as answer:
            came = _TOTAL.match(answer.headers.get("Content-Range", ""))
            if answer.status_code != 206 or came is None:
                raise RangesRefusedError(redact(url))
            self.transferred += 1
            return int(came[3])

    def whole(self, url: str, target: IO[bytes]) -> str:
        """Write a whole file to `target` and return its SHA-256."""
        digest = hashlib.sha256()
        with self._open(url, {"Accept-Encoding": "identity"}) as answer:
            for chunk in self._chunks(answer):
                digest.update(chunk)
                target.write(chunk)
        return digest.hexdigest()

    def _session(self, url: str) -> requests.Session:
        session = session_for(url, self._settings)
        retries = Retry(total=2, connect=2, read=0, backoff_factor=0.3, status_forcelist=(429, 502, 503, 504))
        for scheme in ("https://", "http://"):
            session.mount(scheme, HTTPAdapter(max_retries=retries))
        return session

    def _chunks(self, answer: requests.Response) -> Iterator[bytes]:
        with _as_failure(answer.url):
            for chunk in answer.iter_content(_CHUNK):
                self.transferred += len(chunk)
                yield chunk

    @contextlib.contextmanager
    def _open(self, url: str, headers: dict[str, str]) -> Iterator[requests.Response]:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
        if parts.username is not None:  # the files of an index have its user, as in pip; requests forgets it elsewhere
            self._users[host] = unquote(parts.username), unquote(parts.password or "")
        session = self._sessions.get(host) or self._sessions.setdefault(host, self._session(url))
        self.requests += 1
        with _as_failure(url):
            answer = session.get(url, headers=headers, timeout=self._timeout, stream=True, auth=self._users.get(host))
        with answer:
            if answer.status_code >= 400:
                raise NetworkFailed(f"{redact(url)} cannot be read", why=f"HTTP {answer.status_code}", fix=_FIX)
            yield answer


class RangesRefusedError(FirstlightError):
    """A server does not send parts of files."""


@contextlib.contextmanager
def _as_failure(url: str) -> Iterator[None]:
    try:
        yield
    except (requests.RequestException, OSError) as error:
        why = reason_of(error) if isinstance(error, requests.RequestException) else str(error)
        raise NetworkFailed(
            f"{redact(url)} cannot be read", why=why, fix="look at the address, or try again"
        ) from error


class RemoteFile(io.RawIOBase):
    """A file at an address, of which only the parts that are asked for are fetched.

    Where the server sends whole files only, the file is fetched once, into a temporary file.
    """

    def __init__(self, web: Web, url: str) -> None:
        super().__init__()
        self._web, self._url, self._at = web, url, 0
        self._held: IO[bytes] | None = None
        self._tail = b""
        self.sha256: str | None = None
        """Known once the whole file was fetched."""
        local = local_folder(url)
        if local is not None:
            with _as_failure(url):
                self._held = local.open("rb")
                self.size = local.stat().st_size
            return
        try:
            self.size = web.total(url)
            self._tail = b"".join(web.ranged(url, max(0, self.size - _TAIL), self.size))
        except RangesRefusedError:
            self.fetch()

    def fetch(self) -> None:
        """Fetch the whole file, and so learn its hash."""
        if self._held is None:
            self._held = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as this object
            self.sha256 = self._web.whole(self._url, self._held)
            self.size = self._held.tell()
        else:
            digest = hashlib.sha256()
            for chunk in self.parts(0, self.size):
                digest.update(chunk)
            self.sha256 = digest.hexdigest()

    def parts(self, begin: int, end: int) -> Iterator[bytes]:
        """Yield the bytes from `begin` up to but not including `end`."""
        if self._held is None:
            yield from self._web.ranged(self._url, begin, end)
            return
        self._held.seek(begin)
        while begin < end:
            chunk = self._held.read(min(_CHUNK, end - begin))
            if not chunk:
                return
            begin += len(chunk)
            yield chunk

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that any place of it can be read."""
        return True

    def tell(self) -> int:
        """Return the place of the next byte."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place and return it."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        return self._at

    def read(self, count: int | None = -1) -> bytes:
        """Return the next `count` bytes, all that are left when it is negative."""
        end = self.size if count is None or count < 0 else min(self.size, self._at + count)
        begin, tail = self._at, self.size - len(self._tail)
        self._at = max(begin, end)
        if begin >= end:
            return b""
        if self._tail and begin >= tail:
            return self._tail[begin - tail : end - tail]
        return b"".join(self.parts(begin, end))
