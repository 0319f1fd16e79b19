"""Where the archives of an engine's releases lie: envs/<engine>/archives.toml."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Literal

import msgspec

from firstlight.catalogue.loading import read_toml
from firstlight.resources import data_folder


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value of archives.toml."""


class Origin(_Data, frozen=True, kw_only=True):
    """The project's own place: the address of an asset, the list of sums beside it, and what leads to the newest."""

    address: str
    sums: str
    newest: str
    source: str


class Below(_Data, frozen=True, kw_only=True):
    """Where an asset lies below the base of a user's own mirror."""

    asset: str
    source: str


class Hosting(_Data, frozen=True, kw_only=True):
    """Somebody else who hosts the archives; an environment variable may name another host."""

    name: str
    kind: Literal["modelscope"]
    host: str
    variable: str
    address: str
    assets: list[str]
    """Those of the archives that are hosted, by name."""
    source: str

    def url(self, release: str, asset: str, environment: Mapping[str, str] | None = None) -> str | None:
        """Return the address of an asset there, None where it is not hosted."""
        if asset not in self.assets:
            return None
        variables = os.environ if environment is None else environment
        host = variables.get(self.variable, "").strip().rstrip("/") or self.host
        return self.address.format(host=host if "://" in host else f"https://{host}", release=release, asset=asset)


class ArchivesPage(_Data, frozen=True, kw_only=True):
    """envs/<engine>/archives.toml."""

    origin: Origin
    arches: dict[str, str]
    """What an architecture is called in the names of archives."""
    below: Below
    hosting: list[Hosting] = []

    def url(self, release: str, asset: str) -> str:
        """Return the address of an asset at its origin."""
        return self.origin.address.format(release=release, asset=asset)

    def path(self, release: str, asset: str) -> str:
        """Return where an asset lies below the base of a user's mirror."""
        return self.below.asset.format(release=release, asset=asset)


def load_archives(engine: str, folder: Path | None = None) -> ArchivesPage:
    """Return where the archives of an engine's releases lie.

    Raises:
        CatalogueError: the file is missing or wrong.
    """
    return _load((folder or data_folder("envs")) / engine / "archives.toml")


@cache
def _load(path: Path) -> ArchivesPage:
    return read_toml(path, ArchivesPage)


def archive_faults(page: ArchivesPage) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Give the key of each value that cannot be, and what is wrong with it."""
    for key in ("address", "newest"):
        if not getattr(page.origin, key).startswith("https://"):
            yield ("origin", key), f"origin, {key}: an address must begin with https://"
    addresses: list[tuple[tuple[str | int, ...], str]] = [(("origin", "address"), page.origin.address)]
    addresses.append((("below", "asset"), page.below.asset))
    addresses += [(("hosting", number, "address"), each.address) for number, each in enumerate(page.hosting)]
    for keys, text in addresses:
        lacking = [word for word in ("{release}", "{asset}") if word not in text]
        if lacking:
            yield keys, f"{text} does not say where {' and '.join(lacking)} stand"
    for number, each in enumerate(page.hosting):
        if not each.host.startswith("https://"):
            yield ("hosting", number, "host"), f"{each.host}: an address must begin with https://"
        if not each.assets:
            yield ("hosting", number, "assets"), f"{each.name} hosts no archive"
