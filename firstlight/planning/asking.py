"""The words of a request held against the catalogue: engine, build and release must exist, near names are offered."""

from __future__ import annotations

import re

import msgspec

from firstlight.catalogue.types import Catalogue, EngineEntry
from firstlight.errors import UsageError, did_you_mean
from firstlight.planning.request import Request
from firstlight.planning.versions import release_key

_MANY = 12
"""Names beyond which a message lists the first ones, and those near to what was asked for."""
_NEAR = 5
_NEWEST = "latest"
_RELEASE = re.compile(rf"{_NEWEST}|v?\d+\.\d+\.\d+(?:-?rc-?\d+)?")


def entry_for(catalogue: Catalogue, request: Request) -> EngineEntry:
    """Return the page of the engine that was asked for; a release that another one's entry covers is added to it.

    Raises:
        UsageError: the request names an engine, build or release that the catalogue does not have.
    """
    entry = catalogue.engines.get(request.engine)
    if entry is None:
        known = list(catalogue.engines)
        raise UsageError(
            f'there is no engine "{request.engine}"{did_you_mean(request.engine, known)}',
            fix=f"choose one of: {', '.join(known)}",
        )
    entry = _with_release(entry, request)
    builds = [build.id for build in entry.build]
    releases = sorted({build.release for build in entry.build}, key=release_key, reverse=True)
    _must_be_known(entry, "--build", request.build, builds)
    _must_be_known(entry, "--release", request.release, releases)
    return entry


def _with_release(entry: EngineEntry, request: Request) -> EngineEntry:
    """Return the page with the builds of a release that is not curated but covered, where one is asked for."""
    curated = {build.release for build in entry.build}
    if not any(build.covers for build in entry.build) or (request.release is None and request.build is None):
        return entry
    from firstlight.catalogue.releases import release_builds, release_of_id

    release = request.release or release_of_id(entry, request.build or "")
    if release is None or release in curated:
        return entry
    return msgspec.structs.replace(entry, build=[*entry.build, *release_builds(entry, release)])


def _must_be_known(entry: EngineEntry, option: str, value: str | None, known: list[str]) -> None:
    if value is None or value in known:
        return
    from difflib import get_close_matches

    every = [*known, *(_covered(entry) if option == "--release" else [])]
    if option == "--release":
        every.sort(key=release_key, reverse=True)
    near = get_close_matches(value, every, n=_NEAR, cutoff=0.5)
    raise UsageError(
        f'{entry.engine} has no {option[2:]} "{value}"{did_you_mean(value, every)}',
        why=f"those with names like it are {', '.join(near)}" if len(near) > 1 and len(every) > _MANY else None,
        fix=f"{option} takes one of: {', '.join(every[:_MANY])}"
        + (f", … ({len(every)} in all)" if len(every) > _MANY else "")
        + (_unpacked_all_the_same(entry, value, every) if option == "--release" else ""),
    )


def _unpacked_all_the_same(entry: EngineEntry, value: str, known: list[str]) -> str:
    """Return, as a line more, the command that takes a release though the catalogue does not know it."""
    from firstlight.catalogue.releases import covers

    if entry.kind != "archive" or not known or not _RELEASE.fullmatch(value):
        return ""
    plain = value.removeprefix("v")
    newer = value == _NEWEST or release_key(plain) > release_key(known[0])
    if plain in known or not (newer or any(covers(build, plain) for build in entry.build)):
        return ""
    install = f"firstlight {entry.engine}.install --release {value}"
    return f"\none that the catalogue does not know: {install}   (then: firstlight setup.prove {entry.engine})"


def _covered(entry: EngineEntry) -> list[str]:
    """Return the releases that can be asked for though the page does not describe them one by one."""
    from firstlight.catalogue.releases import covers, known_releases

    covering = [build for build in entry.build if build.covers]
    return [name for name in known_releases(entry.engine) if any(covers(build, name) for build in covering)]
