"""Where an engine's own wheel can be fetched from, when the package registry does not have it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import msgspec

from firstlight.catalogue.types import MirrorSet, Wheel
from firstlight.environments.asking import (
    PATIENCE,
    Sample,
    Unreachable,
    at_once,
    read_sample,
    reason_of,
    session_for,
    slowness,
)
from firstlight.environments.listings import page_of, read_listing
from firstlight.environments.pipconfig import PipSettings, local_folder, redact, without_credentials

if TYPE_CHECKING:
    import requests

_ZIP = b"PK\x03\x04"


class WheelProbe(msgspec.Struct, frozen=True, kw_only=True):
    """How a place answered that may have a wheel: its address there, or the reason why it is not to be had.

    `place` stands in messages. With `whole` the wheel can be had, but uv has to fetch it twice: the place refuses HEAD,
    by which uv finds out that it may read a part.
    """

    place: str
    url: str | None = None
    whole: bool = False
    rate: float | None = None
    """Bytes a second; None: unknown."""
    reason: str = ""


def wheel_url(wheel: Wheel, python: str) -> str:
    """Return the canonical address of a wheel for a Python (minor version); `{cp}` in it becomes `cp312`."""
    return wheel.url.replace("{cp}", f"cp{python.replace('.', '')}")


def file_name(url: str) -> str:
    """Return the name of the file that an address ends in."""
    return unquote(urlsplit(url).path).rpartition("/")[2]


def encoded(url: str) -> str:
    """Return an address with its path percent-encoded: a `+` means a space to some servers."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=quote(unquote(parts.path), safe="/:")))


def probe_wheel(
    wheel: Wheel,
    python: str,
    github: MirrorSet,
    find_links: Sequence[str],
    settings: PipSettings,
    *,
    unreachable: Unreachable | None = None,
    timeout: float = PATIENCE,
) -> list[WheelProbe]:
    """Return how each place answered that may have an engine's wheel, best first.

    Asked, all at once: the user's folders and pages of links, the canonical address, the project's own indexes, and the
    mirrors of GitHub, these only where the hash is known: anybody may stand behind a mirror.

    Args:
        wheel: the wheel.
        python: the minor version that it is for.
        github: GitHub and its mirrors.
        find_links: folders and pages of the request.
        settings: the user's pip configuration.
        unreachable: hosts that are not asked; those that turn out silent are added.
        timeout: seconds.
    """
    silent = unreachable or Unreachable()
    canonical = wheel_url(wheel, python)
    name = file_name(canonical)
    project = name.partition("-")[0].replace("_", "-")
    links = [f"find-links:{link}" for link in dict.fromkeys((*find_links, *settings.find_links))]
    work: list[tuple[str, Callable[[], WheelProbe]]] = [
        (_place(link), partial(_listed, link, project, name, wheel, settings, timeout)) for link in links
    ]
    if not settings.no_index:
        work.append((_parent(canonical), partial(_ask, canonical, wheel, settings, timeout)))
        work += [
            (_place(index), partial(_listed, index, project, name, wheel, settings, timeout))
            for index in (f"index:{url}" for url in wheel.indexes)
        ]
        if wheel.sha256 and canonical.startswith(f"{github.canonical}/"):
            mirrored = [canonical.replace(github.canonical, mirror, 1) for mirror in github.mirrors]
            work += [(_parent(url), partial(_ask, url, wheel, settings, timeout)) for url in mirrored]

    def ask(place: str, task: Callable[[], WheelProbe]) -> WheelProbe:
        known = silent.reason(place)
        return WheelProbe(place=place, reason=known) if known else task()

    probes = at_once(
        [partial(ask, place, task) for place, task in work],
        timeout + 0.5,
        lambda index, reason: WheelProbe(place=work[index][0], reason=reason),
        lambda probe: probe.url is not None,
    )
    for probe in probes:
        silent.note(probe.place, probe.reason)
    rates = [probe.rate for probe in probes]
    return sorted(probes, key=lambda probe: (*_rank(probe), slowness(probe.rate, rates)))


def _rank(probe: WheelProbe) -> tuple[bool, bool, bool]:
    return probe.url is None, not (probe.url or "").startswith("file:"), probe.whole


def _place(source: str) -> str:
    return redact(source.partition(":")[2])


def _parent(url: str) -> str:
    return redact(url).rpartition("/")[0]


def _listed(source: str, project: str, name: str, wheel: Wheel, settings: PipSettings, timeout: float) -> WheelProbe:
    """Look for the file in a folder, on a page, or in an index."""
    place = _place(source)
    listing = read_listing(page_of(source, project), settings, timeout)
    found = next((file for file in listing.files if unquote(file.name) == name), None)
    if found is None:
        return WheelProbe(place=place, reason=listing.reason or f"{name} is not there")
    if wheel.sha256 and found.sha256 and found.sha256 != wheel.sha256:
        return WheelProbe(place=place, reason=f"its {name} has another hash ({found.sha256})")
    local = local_folder(found.url) if found.url.startswith("file:") else None
    if local is None:
        return msgspec.structs.replace(_ask(found.url, wheel, settings, timeout), place=place)
    reason = _flaw_of_file(local, wheel)
    return WheelProbe(place=place, url=None if reason else encoded(found.url), reason=reason)


def _flaw_of_file(file: Path, wheel: Wheel) -> str:
    try:
        with file.open("rb") as stream:
            begin = stream.read(len(_ZIP))
        size = file.stat().st_size
    except OSError as error:
        return error.strerror or str(error)
    return _flaw(begin, size, wheel)


def _flaw(begin: bytes, size: int | None, wheel: Wheel) -> str:
    """Return what shows that some bytes are not the wheel."""
    if begin != _ZIP:
        return "what it sends is not a wheel"
    if wheel.size is not None and size is not None and size != wheel.size:
        return f"its file has {size} bytes, the wheel has {wheel.size}"
    return ""


def _ask(url: str, wheel: Wheel, settings: PipSettings, timeout: float) -> WheelProbe:
    """Ask for the first bytes, then as uv does, which stops at a server that fails on HEAD."""
    import requests

    address, whole, rate = encoded(url), False, None
    try:
        with session_for(address, settings) as session:
            sample = read_sample(session, address, timeout)
            reason, rate = _flaw_of_answer(sample, wheel), sample.rate
            if not reason:
                reason, whole = _head(session, address, wheel, timeout)
    except (requests.RequestException, ValueError, OSError) as error:
        reason = reason_of(error, timeout)
    found = None if reason else without_credentials(address)
    return WheelProbe(place=_parent(url), url=found, whole=whole, rate=rate, reason=reason)


def _flaw_of_answer(sample: Sample, wheel: Wheel) -> str:
    if sample.status not in {200, 206}:
        return f"HTTP {sample.status}"
    if sample.kind.startswith("text/"):
        return "it answers with a web page"
    return _flaw(sample.begin[: len(_ZIP)], sample.total, wheel)


def _head(session: requests.Session, url: str, wheel: Wheel, timeout: float) -> tuple[str, bool]:
    """Return why uv could not use the address, and whether it would have to fetch the wheel twice."""
    answer = session.head(url, headers={"Accept-Encoding": "identity"}, timeout=timeout, allow_redirects=True)
    if answer.status_code >= 500:
        return f"it fails on HEAD, which uv begins with (HTTP {answer.status_code})", False
    length = answer.headers.get("Content-Length", "")
    if answer.ok and wheel.size is not None and length.isdigit() and int(length) not in {0, wheel.size}:
        return f"its file has {length} bytes, the wheel has {wheel.size}", False
    return "", not answer.ok
