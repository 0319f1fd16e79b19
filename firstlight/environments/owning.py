"""Explicit ownership: which index a distribution comes from, and from nowhere else, and wheels by their address."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import unquote, urlsplit

import msgspec

from firstlight.environments.listings import best_wheel, page_of, read_listing
from firstlight.environments.pipconfig import PipSettings, as_url, redact, without_credentials
from firstlight.environments.wheel_sources import encoded, file_name

_OWNER = "owner"
_TIMEOUT = 10.0  # seconds for a page of an owner that has just answered


class Owned(msgspec.Struct, frozen=True, kw_only=True):
    """A distribution in one exact version that its owner has: `index:URL` or `find-links:PLACE`, best first.

    Places carry no credentials (`***` stands for them); the user's configuration has them.
    """

    name: str
    version: str
    places: tuple[str, ...]
    asked: bool = True
    """False: nobody asks for it here, but where something else does it comes from its owner."""


class DirectWheel(msgspec.Struct, frozen=True, kw_only=True):
    """A wheel that is fetched by its address; the addresses, best first, are of one and the same file."""

    urls: tuple[str, ...]
    sha256: str | None = None

    @property
    def file(self) -> str:
        """Its file name."""
        return file_name(self.urls[0])

    @property
    def name(self) -> str:
        """The distribution's name."""
        return self.file.partition("-")[0].replace("_", "-")

    @property
    def requirement(self) -> str:
        """What uv is asked for."""
        fragment = f"#sha256={self.sha256}" if self.sha256 else ""
        return f"{self.name} @ {encoded(self.urls[0])}{fragment}"


def is_flat(place: str) -> bool:
    """Tell whether a place is a folder or a page that lists files, and no index."""
    return place.startswith("find-links:")


def project_file(owned: Sequence[Owned], direct: Sequence[DirectWheel], *, without_owners: bool = False) -> str:
    """Return the pyproject.toml that tells uv what is owned by whom, the only form in which it takes this.

    Source: uv's documentation, "Dependency sources" and "Package indexes" (`explicit`, `format`); uv 0.13.9 reads it
    from a project file among the requirements, and only for what the project itself depends on.

    Args:
        owned: those of them that are asked for.
        direct: wheels by their address.
        without_owners: name the versions alone; with `--no-index` uv looks into no index, explicit or not.
    """
    wishes = [f"{item.name}=={item.version}" for item in owned] + [item.requirement for item in direct]
    lines = ["[project]", 'name = "firstlight-wish"', 'version = "0"']
    lines += ["dependencies = [", *(f"    {json.dumps(wish)}," for wish in wishes), "]"]
    if owned and not without_owners:
        places = list(dict.fromkeys(item.places[0] for item in owned))
        names = {place: f"{_OWNER}{number or ''}" for number, place in enumerate(places)}
        lines += ["", "[tool.uv.sources]"]
        lines += [f'{item.name} = {{ index = "{names[item.places[0]]}" }}' for item in owned]
        for place in places:
            lines += ["", "[[tool.uv.index]]", f'name = "{names[place]}"']
            lines += [f"url = {json.dumps(address(place))}", "explicit = true"]
            lines += ['format = "flat"'] if is_flat(place) else []
    return "\n".join([*lines, ""])


def address(place: str) -> str:
    """Return the URL of a place, without credentials."""
    return without_credentials(as_url(place.partition(":")[2]))


def owner_credentials(owned: Sequence[Owned], settings: PipSettings) -> dict[str, str]:
    """Return the variables that give uv the user's credentials for owners: they stand in no file and no argument."""
    variables: dict[str, str] = {}
    places = list(dict.fromkeys(item.places[0] for item in owned))
    for number, place in enumerate(places):
        parts = urlsplit(with_credentials(place, settings).partition(":")[2])
        if parts.username is not None:
            prefix = f"UV_INDEX_{_OWNER.upper()}{number or ''}"
            variables[f"{prefix}_USERNAME"] = unquote(parts.username)
            variables[f"{prefix}_PASSWORD"] = unquote(parts.password or "")
    return variables


def with_credentials(place: str, settings: PipSettings) -> str:
    """Return a place with the credentials that the user's configuration has for it."""
    kind, _, url = place.partition(":")
    if "***@" in url:
        own = (settings.index_url, *settings.extra_index_urls, *settings.find_links)
        url = next((known for known in own if known and redact(known) == url), url)
    return f"{kind}:{url}"


def companion_lines(
    owned: Sequence[Owned], settings: PipSettings, *, python: str, arch: str, libc: str | None, further: bool
) -> dict[str, str]:
    """Return, by name, constraints that lead uv to the owner's files of what only others may ask for.

    uv obeys an index for what is asked for here and for nothing else; a constraint with an address it obeys for
    everything. What the owner's listing does not have is held to its exact version, so that no other index can slip in
    another build of it: that fails only where something asks for it.

    Args:
        owned: those that nobody asks for here.
        settings: the user's pip configuration.
        python: the minor version.
        arch: `x86_64` or `aarch64`.
        libc: the glibc of the machine that it is for.
        further: look at all places of each, not only at the best one.
    """
    from concurrent.futures import ThreadPoolExecutor

    def line(item: Owned) -> str:
        for place in item.places if further else item.places[:1]:
            listing = read_listing(page_of(with_credentials(place, settings), item.name), settings, _TIMEOUT)
            file = best_wheel(listing.files, item.name, item.version, python=python, arch=arch, libc=libc)
            if file is not None:
                fragment = f"#sha256={file.sha256}" if file.sha256 else ""
                return f"{item.name} @ {encoded(without_credentials(file.url))}{fragment}"
        return f"{item.name}=={item.version}"

    if not owned:
        return {}
    with ThreadPoolExecutor(max_workers=len(owned)) as pool:
        return dict(zip((item.name for item in owned), pool.map(line, owned), strict=True))
