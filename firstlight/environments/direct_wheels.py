"""Wheels from outside the registry, fetched by firstlight's own downloads before uv runs: uv goes on from no byte."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from firstlight.environments.distributions import InstalledPackage, canonical
from firstlight.environments.owning import DirectWheel, Owned, companion_lines, with_credentials
from firstlight.environments.pipconfig import PipSettings, redact
from firstlight.environments.platforms import arch_of, libc_of
from firstlight.environments.reaching import transport_of
from firstlight.environments.wheelset import WheelSet
from firstlight.events import Step

_SUM = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_HERE = {"http", "https"}


class Direct(msgspec.Struct, frozen=True, kw_only=True):
    """A wheel set whose files from outside the registry lie on this machine, and where each of them came from."""

    wheels: WheelSet
    came: dict[str, InstalledPackage] = {}
    """By canonical name: source, hash and size as they were seen when the file was fetched."""

    def told(self, installed: list[InstalledPackage]) -> list[InstalledPackage]:
        """Return installed packages with the true sources of those that uv took from this machine."""
        return [self.came.get(canonical(package.name), package) for package in installed]


def fetch_direct(wheels: WheelSet, settings: PipSettings, folder: Path, *, python: str, step: Step) -> Direct:
    """Fetch what is taken by its address, and what an owner's index holds, from all their places at once.

    Files are kept in `folder`, so that a repair fetches nothing; those whose hash is known are held against it. What no
    listing shows is left to uv, which then tells of it.

    Args:
        wheels: the set.
        settings: the user's certificate, proxy and credentials.
        folder: where the files are kept.
        python: the minor version that they are for.
        step: takes the progress, in bytes.

    Raises:
        NetworkFailed: no place delivers; what came is kept.
        VerificationFailed: what is delivered is not what was promised.
    """
    locked = {line.partition("==")[0]: (_SUM.findall(line) or [None])[0] for line in wheels.locked}
    wanted = {item.name: item for item in wheels.direct}
    owners = {
        item.name: found
        for item in wheels.owned
        if (item.asked or item.name in locked)
        and (found := _of_owner(item, wheels, settings, python, locked.get(item.name))) is not None
    }
    came: dict[str, InstalledPackage] = {}
    there: list[DirectWheel] = []
    for name, wheel in {**wanted, **owners}.items():
        known = wheel.sha256 or locked.get(name)
        urls = tuple(url for url in wheel.urls if urlsplit(url).scheme in _HERE)
        if not urls or len(urls) < len(wheel.urls):
            there.append(wheel)  # a file of this machine: nothing is to be fetched
            continue
        path = folder / hashlib.sha256((known or urls[0]).encode()).hexdigest()[:16] / wheel.file
        package = _fetch(wheel, urls, known, path, settings, step)
        came[canonical(name)] = package
        there.append(DirectWheel(urls=(path.absolute().as_uri(),), sha256=package.sha256))
    kept = tuple(item for item in wheels.owned if item.name not in owners)
    return Direct(wheels=msgspec.structs.replace(wheels, direct=tuple(there), owned=kept), came=came)


def _of_owner(
    item: Owned, wheels: WheelSet, settings: PipSettings, python: str, known: str | None
) -> DirectWheel | None:
    """Return the wheel of an owned distribution with all addresses that hold the same file; None: no listing has it."""
    if any(urlsplit(with_credentials(place, settings).partition(":")[2]).username for place in item.places):
        return None  # uv knows how to sign in
    platform = wheels.locked_platform if wheels.locked else wheels.platform
    urls: list[str] = []
    sums = {known} if known else set()
    for place in item.places:
        alone = msgspec.structs.replace(item, places=(place,))
        line = companion_lines(
            [alone], settings, python=python, arch=arch_of(platform), libc=libc_of(platform), further=False
        )[item.name]
        url, _, fragment = line.partition(" @ ")[2].partition("#sha256=")
        if not url or (fragment and sums and fragment not in sums):
            continue
        sums |= {fragment} if fragment else set()
        if not urls or sums:  # without a sum nobody can tell whether two places hold the same file
            urls.append(url)
    return DirectWheel(urls=tuple(urls), sha256=next(iter(sums), None)) if urls else None


def _fetch(
    wheel: DirectWheel, urls: tuple[str, ...], known: str | None, path: Path, settings: PipSettings, step: Step
) -> InstalledPackage:
    from firstlight.fetching.fetch import fetch
    from firstlight.fetching.types import Source, Wanted

    sources = tuple(
        Source(url=url, name=urlsplit(redact(url)).netloc, kind="host" if at else "origin")
        for at, url in enumerate(urls)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    wanted = Wanted(name=wheel.file, sources=sources, sha256=known)
    got = fetch(wanted, path, step=step, transport=transport_of(settings))
    return InstalledPackage(
        name=wheel.name,
        version=wheel.file.split("-")[1],
        source=redact(urls[0]),
        sha256=got.sha256,
        size=got.size,
    )
