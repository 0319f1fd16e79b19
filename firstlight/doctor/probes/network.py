"""Every mirror and hub, asked at once: whether it answers, how soon and how fast, with Range or without, its time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit, urlunsplit

import msgspec

from firstlight.catalogue.loading import load_mirrors, load_torch
from firstlight.catalogue.types import Catalogue, Mirrors
from firstlight.doctor.looking import Look

if TYPE_CHECKING:
    import requests

    from firstlight.environments.pipconfig import PipSettings
    from firstlight.models.hubs import Hubs

Kind = Literal["conda", "torch", "pypi", "github", "hub"]

PATIENCE = 5.0
"""Seconds for the first byte, and between bytes."""
LISTEN = 2.0
"""Seconds that a place may send."""
DEADLINE = 15.0
_SAMPLE = 1 << 19
_TELLING = 1 << 16
"""Fewer bytes say nothing about speed."""
_CHUNK = 1 << 14
_PORTAL = "something else answers in its place (a login page of this network?)"


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a place."""

    kind: Kind
    place: str
    """Its own address, without the path that is asked for."""
    url: str
    canonical: bool = False
    ranged: bool = False
    """Whether it is a file that must come in parts when asked so; pages need not."""
    sign: bytes = b""
    """What stands in the right answer; without it anything but a web page is right."""


class SourceSeen(msgspec.Struct, frozen=True, kw_only=True):
    """How a place answered."""

    kind: Kind
    place: str
    canonical: bool = False
    ok: bool = False
    reason: str = ""
    """Why it is of no use, in a few words."""
    seconds: float | None = None
    """Until its first byte came."""
    rate: float | None = None
    """Bytes a second; None: too little came to tell."""
    ranged: bool | None = None
    """Whether a part came when a part was asked for; None: not asked, or no answer."""
    skew: float | None = None
    """Seconds that this machine's clock is ahead of the place's."""
    portal: bool = False
    """Whether something else answered in its place."""
    untrusted: bool = False
    """Whether its certificate was refused."""


class NetworkSeen(msgspec.Struct, frozen=True, kw_only=True):
    """How the places answered, in the order in which they are offered."""

    sources: tuple[SourceSeen, ...] = ()


def read(look: Look) -> NetworkSeen:
    """Return how every mirror and hub of envs/ answered, and the package index that the user has configured."""
    from firstlight.environments.pipconfig import read_pip_settings
    from firstlight.models.hubs import load_hubs

    environment = dict(look.system.environment)
    settings = read_pip_settings(environment)
    every = [*targets(load_mirrors(), load_hubs(), look.catalogue, environment), *_own(settings)]
    return NetworkSeen(sources=tuple(probe(every, settings, seconds=look.system.remaining(DEADLINE))))


def targets(
    mirrors: Mirrors, hubs: Hubs, catalogue: Catalogue, environment: Mapping[str, str] | None = None
) -> Iterator[Target]:
    """Give what is asked of each place: one small file or page that it must have."""
    from firstlight.models.hubs import endpoints

    for place in mirrors.conda.all:
        first = place == mirrors.conda.canonical
        yield Target(kind="conda", place=place, url=f"{place}/noarch/repodata.json.zst", canonical=first, ranged=True)
    line = next((build.local for build in load_torch() if build.local), "cpu")
    for place in mirrors.torch.all:
        page = f"{place}/{line}/" if place in mirrors.torch.flat else f"{place}/{line}/torch/"
        yield Target(kind="torch", place=place, url=page, canonical=place == mirrors.torch.canonical, sign=b"torch-")
    for place in mirrors.pypi.all:
        yield Target(
            kind="pypi", place=place, url=f"{place}/pip/", canonical=place == mirrors.pypi.canonical, sign=b"pip-"
        )
    asset = _asset(catalogue, mirrors.github.canonical)
    for place in mirrors.github.all if asset else ():
        first = place == mirrors.github.canonical
        yield Target(kind="github", place=place, url=f"{place}{asset}", canonical=first, ranged=True)
    for endpoint in endpoints(hubs, environment):
        path = next(hub.probe for hub in hubs.hub if hub.source == endpoint.source)
        yield Target(kind="hub", place=endpoint.url, url=f"{endpoint.url}{path}", canonical=endpoint.trusted, sign=b"{")


def _asset(catalogue: Catalogue, canonical: str) -> str | None:
    """Return the path on GitHub of a file that some build is made of."""
    urls = [build.wheel.url for page in catalogue.engines.values() for build in page.build if build.wheel]
    plain = [url for url in urls if url.startswith(f"{canonical}/") and "{" not in url]
    return plain[0].removeprefix(canonical) if plain else None


def _own(settings: PipSettings) -> Iterator[Target]:
    for index in (settings.index_url, *settings.extra_index_urls):
        if index and index.startswith("http"):
            yield Target(kind="pypi", place=index, url=f"{index.rstrip('/')}/pip/")


def probe(every: Sequence[Target], settings: PipSettings, *, seconds: float = DEADLINE) -> list[SourceSeen]:
    """Return how each place answered, in order.

    Args:
        every: what to ask.
        settings: the user's pip configuration: proxy and certificates.
        seconds: for all of them together.
    """
    from firstlight.environments.asking import at_once

    def late(index: int, reason: str) -> SourceSeen:
        return _told(every[index], reason=reason)

    return at_once([partial(_ask, target, settings) for target in every], seconds, late)


def _told(target: Target, **seen: bool | float | str | None) -> SourceSeen:
    from firstlight.environments.pipconfig import without_credentials

    place = without_credentials(target.place)
    return SourceSeen(kind=target.kind, place=place, canonical=target.canonical, **seen)  # type: ignore[arg-type]


def _ask(target: Target, settings: PipSettings) -> SourceSeen:
    import requests

    from firstlight.environments.asking import reason_of, session_for

    try:
        with session_for(target.url, settings) as session:
            return _listen(session, target)
    except requests.exceptions.SSLError as error:
        skew = _skew_without_tls(target, settings)
        return _told(target, reason=reason_of(error, PATIENCE), untrusted=True, skew=skew)
    except (requests.RequestException, OSError, ValueError) as error:
        return _told(target, reason=reason_of(error, PATIENCE))


def _listen(session: requests.Session, target: Target) -> SourceSeen:
    # From the second byte on: a place that ignores the wish sends the first one, which cannot be mistaken.
    headers = {"Range": f"bytes=1-{_SAMPLE}"} if target.ranged else {}
    headers |= {"Accept-Encoding": "identity", "Accept": "application/json" if target.kind == "hub" else "*/*"}
    began = time.monotonic()
    with session.get(target.url, headers=headers, timeout=PATIENCE, stream=True) as answer:
        first = time.monotonic() - began
        skew = _skew(answer.headers.get("Date"))
        if not answer.ok:
            return _told(target, reason=f"HTTP {answer.status_code}", seconds=first, skew=skew)
        body, seconds = _read(answer, lambda got: bool(target.sign) and target.sign in got)
        kind = answer.headers.get("Content-Type", "")
        portal = not _is_right(target, body, kind)
        part = answer.status_code == 206 and answer.headers.get("Content-Range", "").startswith("bytes 1-")
    return _told(
        target,
        ok=not portal,
        reason=_PORTAL if portal else "",
        seconds=first,
        rate=len(body) / seconds if len(body) >= _TELLING else None,
        ranged=part if target.ranged and not portal else None,
        skew=skew,
        portal=portal,
    )


def _is_right(target: Target, body: bytes, kind: str) -> bool:
    if target.kind == "hub":
        return body.lstrip().startswith((b"{", b"["))
    return target.sign in body if target.sign else not ("html" in kind and body.lstrip().startswith(b"<"))


def _read(answer: requests.Response, enough: Callable[[bytes], bool]) -> tuple[bytes, float]:
    """Return the first bytes of an answer and the seconds that they took."""
    body, began = bytearray(), time.monotonic()
    for chunk in answer.iter_content(_CHUNK):
        body += chunk
        if len(body) >= _SAMPLE or time.monotonic() - began > LISTEN or (len(body) >= _TELLING and enough(bytes(body))):
            break
    return bytes(body), max(time.monotonic() - began, 1e-3)


def _skew(date: str | None) -> float | None:
    """Return how many seconds this machine's clock is ahead of an answer's Date (RFC 9110, 6.6.1; whole seconds)."""
    if not date:
        return None
    from email.utils import parsedate_to_datetime

    try:
        return time.time() - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _skew_without_tls(target: Target, settings: PipSettings) -> float | None:
    """Ask the time without encryption: a clock that is far off makes every certificate look wrong."""
    import requests

    from firstlight.environments.asking import session_for

    parts = urlsplit(target.url)
    plain = urlunsplit(("http", parts.hostname or "", "/", "", ""))
    try:
        with (
            session_for(plain, settings) as session,
            session.get(plain, timeout=PATIENCE / 2, stream=True, allow_redirects=False) as answer,
        ):
            return _skew(answer.headers.get("Date"))
    except (requests.RequestException, OSError, ValueError):
        return None
