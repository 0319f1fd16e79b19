"""Releases that a page does not describe one by one: their builds follow from the entry that covers them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import msgspec

from firstlight.catalogue.loading import read_toml
from firstlight.catalogue.types import Asset, Build, EngineEntry
from firstlight.resources import data_folder


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A release that is known to exist, and those of its files whose hashes are known."""

    version: str
    seen: list[str]
    """Where it was seen: keys of the page's sources."""
    assets: list[Asset] = []


class ReleasesPage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """envs/<engine>/releases.toml."""

    sources: dict[str, str]
    release: list[Release] = []


def known_releases(engine: str, folder: Path | None = None) -> Mapping[str, Release]:
    """Return every release of an engine that is known by name, oldest first; none where it has no releases.toml.

    Raises:
        CatalogueError: the file is wrong.
    """
    return _load((folder or data_folder("envs")) / engine / "releases.toml")


@cache
def _load(path: Path) -> Mapping[str, Release]:
    page = read_toml(path, ReleasesPage) if path.is_file() else ReleasesPage(sources={})
    return {release.version: release for release in page.release}


def release_builds(entry: EngineEntry, release: str, folder: Path | None = None) -> list[Build]:
    """Return the builds of a release that has no entry of its own: those that cover it, under its name.

    None when the release is not known to exist, has entries of its own, or nothing covers it.
    """
    known = known_releases(entry.engine, folder).get(release)
    if known is None or any(build.release == release for build in entry.build):
        return []
    return builds_as([build for build in entry.build if covers(build, release)], release, known.assets)


def builds_as(builds: Sequence[Build], release: str, assets: Sequence[Asset] = ()) -> list[Build]:
    """Return builds under the name of another release, with the hashes of that one's assets as far as given."""
    hashes = {asset.name: asset for asset in assets}
    return [_renamed(build, release, hashes) for build in builds]


def covers(build: Build, release: str) -> bool:
    """Tell whether a build's entry stands for another release too."""
    if build.covers is None:
        return False
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(build.covers).contains(release)


def _renamed(build: Build, release: str, hashes: Mapping[str, Asset]) -> Build:
    return msgspec.structs.replace(
        build,
        id=build.id.replace(f"-{build.release}-", f"-{release}-", 1),
        release=release,
        covers=None,
        assets=[hashes.get(asset.name, Asset(name=asset.name)) for asset in build.assets],
    )


def release_of_id(entry: EngineEntry, build_id: str) -> str | None:
    """Return the known release that a build's id names (`ollama-0.6.7-cpu-x86_64`), None where it names none."""
    head, _, rest = build_id.partition("-")
    release = rest.partition("-")[0]
    return release if head == entry.engine and release in known_releases(entry.engine) else None
