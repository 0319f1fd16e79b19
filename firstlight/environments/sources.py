"""Which sources answer: conda channels, package indexes, and the places that hold a build of torch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import msgspec

from firstlight.environments.asking import (
    PATIENCE,
    Unreachable,
    at_once,
    fetch_page,
    read_sample,
    reason_of,
    session_for,
    slowness,
)
from firstlight.environments.listings import best_wheel, page_of, pythons_of, read_listing
from firstlight.environments.pipconfig import PipSettings, absolute, as_url, local_folder, redact

_OFFICIAL = "https://conda.anaconda.org"
_REPODATA = ("repodata.json.zst", "repodata.json")
_ASKED_FOR = "packaging"  # a project that every package index has, with a short page
_A_LITTLE = 1 << 16


class ChannelProbe(msgspec.Struct, frozen=True, kw_only=True):
    """How a conda channel or a package index answered, in seconds; `reason` is why it did not."""

    url: str
    ok: bool
    seconds: float
    reason: str = ""


class TorchProbe(msgspec.Struct, frozen=True, kw_only=True):
    """What a place holds of a build of torch: the CPython minor versions, newest first, or the reason for none.

    `source` is `index:URL` or `find-links:PLACE`, without credentials.
    """

    source: str
    pythons: list[str] = []
    rate: float | None = None
    """Bytes a second; None: unknown."""
    reason: str = ""


def channel_url(channel: str) -> str:
    """Return the URL of a channel: names are those of anaconda.org, paths become `file://`."""
    if "://" in channel or channel.startswith("file:"):
        return channel.rstrip("/")
    if channel.startswith(("/", "./", "../", "~")):
        return as_url(channel)
    return f"{_OFFICIAL}/{channel}"


def probe_channels(channels: Sequence[str], *, timeout: float = PATIENCE) -> list[ChannelProbe]:
    """Return how each channel answered to a request for one byte of its noarch repodata, best first.

    Args:
        channels: URLs, `file://` URLs, folders, or names of anaconda.org.
        timeout: seconds after which a channel counts as silent.
    """
    urls = list(dict.fromkeys(channel_url(channel) for channel in channels))
    probes = at_once(
        [partial(_probe_channel, url, timeout) for url in urls],
        timeout + 0.5,
        lambda index, reason: ChannelProbe(url=urls[index], ok=False, seconds=timeout, reason=reason),
        lambda probe: probe.ok,
    )
    return sorted(probes, key=lambda probe: (not probe.ok, probe.seconds))


def _probe_channel(url: str, timeout: float) -> ChannelProbe:
    started = time.monotonic()
    folder = local_folder(url)
    if folder is not None:
        ok = any((folder / "noarch" / name).is_file() for name in _REPODATA)
        reason = "" if ok else f"{folder / 'noarch' / _REPODATA[1]} is not there"
    else:
        reason = _ask_for_repodata(url, timeout)
    return ChannelProbe(url=url, ok=not reason, seconds=time.monotonic() - started, reason=reason)


def _ask_for_repodata(url: str, timeout: float) -> str:
    """Return an empty text when the channel has repodata, else why not."""
    import requests

    reason = ""
    try:
        with requests.Session() as session:
            for name in _REPODATA:
                headers = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
                address = f"{url}/noarch/{name}"
                with session.get(address, headers=headers, timeout=timeout, stream=True) as answer:
                    if answer.status_code in {200, 206}:
                        return ""
                    reason = f"HTTP {answer.status_code} for noarch/{name}"
                if answer.status_code != 404:
                    break
    except (requests.RequestException, ValueError, OSError) as error:
        return reason_of(error, timeout)
    return reason


def probe_indexes(urls: Sequence[str], settings: PipSettings, *, timeout: float = PATIENCE) -> list[ChannelProbe]:
    """Return how each package index answered to a request for a small project's page, in the order given."""

    def ask(url: str) -> ChannelProbe:
        import requests

        began = time.monotonic()
        try:
            page, _address = fetch_page(f"{url}/{_ASKED_FOR}/", settings, timeout, largest=_A_LITTLE)
            reason = "" if f"{_ASKED_FOR}-" in page else "it does not answer as a package index"
        except (requests.RequestException, ValueError, OSError) as error:
            reason = reason_of(error, timeout)
        return ChannelProbe(url=url, ok=not reason, seconds=time.monotonic() - began, reason=reason)

    return at_once(
        [partial(ask, url) for url in urls],
        timeout + 0.5,
        lambda index, reason: ChannelProbe(url=urls[index], ok=False, seconds=timeout, reason=reason),
        lambda probe: probe.ok,
    )


def torch_places(
    local: str, parents: Sequence[str], flat: Sequence[str], find_links: Sequence[str], settings: PipSettings
) -> list[str]:
    """Return where a build of torch may lie: the user's folders and indexes, then those of its line.

    Args:
        local: the local version, which names the line (`cu129`).
        parents: parents of the lines' indexes, the canonical one first.
        flat: those of them that list all files of a line on one page.
        find_links: folders and pages of the request.
        settings: the user's pip configuration; with `no-index` nothing but folders and pages counts.
    """
    places = [f"find-links:{absolute(link)}" for link in (*find_links, *settings.find_links)]
    if not settings.no_index:
        # pypi.org takes no local versions.
        own = [url for url in (settings.index_url, *settings.extra_index_urls) if url and "pypi.org" not in url]
        places += [f"index:{url}" for url in own]
        places += [
            f"find-links:{parent}/{local}/" if parent in flat else f"index:{parent}/{local}" for parent in parents
        ]
    return list(dict.fromkeys(places))


def probe_torch(
    version: str,
    places: Sequence[str],
    *,
    arch: str,
    settings: PipSettings,
    unreachable: Unreachable | None = None,
    timeout: float = PATIENCE,
) -> list[TorchProbe]:
    """Return what each place holds of an exact version of torch, best first.

    Best are local folders, then the order given, but what sends the wheel at less than half the speed of the fastest
    comes last: these are the largest files, and mirrors differ by factors. A place that lists the wheel and does not
    deliver its beginning does not have it.

    Args:
        version: the release with its local part, such as `2.13.0+cu129`.
        places: `index:URL` and `find-links:PLACE`, see `torch_places`.
        arch: `x86_64` or `aarch64`.
        settings: the user's pip configuration (certificates, proxy, trusted hosts).
        unreachable: hosts that are not asked; those that turn out silent are added.
        timeout: seconds.
    """
    silent = unreachable or Unreachable()

    def look(place: str) -> TorchProbe:
        page = page_of(place, "torch")
        if silent.reason(page):
            return TorchProbe(source=redact(place), reason=silent.reason(page))
        listing = read_listing(page, settings, timeout)
        pythons = pythons_of(listing.files, "torch", version, arch)
        reason = listing.reason or ("" if pythons else f"no torch {version} for {arch} there")
        if not pythons:
            return TorchProbe(source=redact(place), reason=reason)
        file = best_wheel(listing.files, "torch", version, python=pythons[0], arch=arch, libc=None)
        rate, reason = _begin(file.url, settings, timeout) if file else (None, "")
        return TorchProbe(source=redact(place), pythons=[] if reason else pythons, rate=rate, reason=reason)

    probes = at_once(
        [partial(look, place) for place in places],
        timeout + 0.5,
        lambda index, reason: TorchProbe(source=redact(places[index]), reason=reason),
        lambda probe: bool(probe.pythons),
    )
    for place, probe in zip(places, probes, strict=True):
        silent.note(page_of(place, "torch"), probe.reason)
    rates = [probe.rate for probe in probes]
    return sorted(probes, key=lambda probe: (not probe.pythons, _distant(probe), slowness(probe.rate, rates)))


def _begin(url: str, settings: PipSettings, timeout: float) -> tuple[float | None, str]:
    """Return the speed at which the beginning of a wheel comes, and why it does not."""
    import requests

    if url.startswith("file:"):
        return None, ""
    try:
        with session_for(url, settings) as session:
            sample = read_sample(session, url, timeout)
    except (requests.RequestException, ValueError, OSError) as error:
        return None, f"it lists the wheel and does not deliver it: {reason_of(error, timeout)}"
    if sample.status not in {200, 206}:
        return None, f"it lists the wheel and does not deliver it: HTTP {sample.status}"
    return sample.rate, ""


def _distant(probe: TorchProbe) -> bool:
    return local_folder(probe.source.partition(":")[2]) is None
