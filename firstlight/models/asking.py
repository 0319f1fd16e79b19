"""Asking a model hub a question over HTTP: JSON back, or which kind of failure it was."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urljoin, urlsplit

import msgspec

from firstlight.models.hubs import network_reason
from firstlight.models.tokens import Headers

if TYPE_CHECKING:
    import requests

FailureKind = Literal["network", "missing", "revision", "gated", "damaged", "unsafe"]

PATIENCE = (10.0, 30.0)
"""Seconds to connect, and between two parts of an answer."""

_LARGEST = 64 << 20
"""Bytes of an answer; the list of a repository with ten thousand files has about three million."""

_WAITS = (0.0, 1.0, 3.0)
"""Seconds before each try."""

_REDIRECTS = 5


class HubFailure(Exception):  # noqa: N818 - it is caught inside this room, and tells which kind of failure
    """One hub could not do it; another one may."""

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.kind: FailureKind = kind
        self.reason = reason


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a hub answered: its status, headers (names in small letters), body, and the JSON in it (else None)."""

    status: int
    headers: dict[str, str]
    document: Any = None
    body: bytes = b""

    def words(self) -> str:
        """Return what the hub said itself, in one short line."""
        said = self.document if isinstance(self.document, dict) else {}
        text = self.headers.get("x-error-message") or said.get("error") or said.get("Message") or ""
        many = said.get("errors")  # as registries of containers say it
        if not text and isinstance(many, list) and many and isinstance(many[0], dict):
            text = many[0].get("message") or many[0].get("code") or ""
        return str(text).strip().splitlines()[0][:200] if str(text).strip() else ""


def ask(
    url: str,
    *,
    headers: Headers = (),
    query: Mapping[str, str] | None = None,
    method: str = "GET",
    accept: str = "application/json",
) -> Answer:
    """Return a hub's answer, whatever its status; what may pass by itself (no connection, 429, 5xx) is tried again.

    Args:
        url: what is asked for.
        headers: those with the token; they go to this host alone, not to one that it redirects to.
        query: the words behind the `?`.
        method: `HEAD` takes the first answer as it is, without following a redirect.
        accept: the kind of answer that is wanted.

    Raises:
        HubFailure: no answer came, or none that a hub would give.
    """
    plain = (("Accept", accept),)
    reason = ""
    for wait in _WAITS:
        time.sleep(wait)
        try:
            answer = _once(url, plain, headers, query, method)
        except HubFailure as failure:
            if failure.kind != "network":
                raise
            reason = failure.reason
            continue
        if answer.status != 429 and answer.status < 500:
            return answer
        reason = f"answers HTTP {answer.status}"
    raise HubFailure("network", reason)


def _once(url: str, plain: Headers, headers: Headers, query: Mapping[str, str] | None, method: str) -> Answer:
    import requests

    origin, place, words = _origin(url), url, query
    try:
        with requests.Session() as session:
            session.auth = _unchanged  # else requests would take a password from ~/.netrc in place of the token
            for _ in range(_REDIRECTS):
                own = dict(headers) if _origin(place) == origin else {}
                options: dict[str, Any] = {
                    "headers": {**dict(plain), **own},
                    "params": words,
                    "timeout": PATIENCE,
                    "stream": True,
                }
                with session.request(method, place, allow_redirects=False, **options) as answer:
                    if not answer.is_redirect or method == "HEAD":
                        return _read(answer, method)
                    place, words = urljoin(place, answer.headers["Location"]), None
    except (requests.RequestException, ValueError) as error:
        raise HubFailure("network", network_reason(error)) from None
    raise HubFailure("network", "it redirects in circles")


def _unchanged(request: Any) -> Any:
    return request


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc


def _read(answer: requests.Response, method: str) -> Answer:
    headers = {name.lower(): value for name, value in answer.headers.items()}
    if method == "HEAD":
        return Answer(status=answer.status_code, headers=headers)
    body = bytearray()
    for block in answer.iter_content(1 << 16):
        body += block
        if len(body) > _LARGEST:
            raise HubFailure("network", "its answer has no end")
    try:
        document = msgspec.json.decode(bytes(body))
    except msgspec.DecodeError:
        if answer.ok:
            raise HubFailure("network", "something else answers in its place (a login page of this network?)") from None
        document = None
    return Answer(status=answer.status_code, headers=headers, document=document, body=bytes(body))
