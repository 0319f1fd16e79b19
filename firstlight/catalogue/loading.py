"""Reads the catalogue: envs/<engine>/builds.toml and envs/mirrors.toml, strictly."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from firstlight.catalogue.types import Build, Catalogue, EngineEntry, Mirrors
from firstlight.errors import FirstlightError, UsageError, did_you_mean
from firstlight.resources import data_folder

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_T = TypeVar("_T")


def read_toml(path: Path, kind: type[_T]) -> _T:
    """Return the value of type `kind` that a TOML file holds.

    Raises:
        FirstlightError: the file is not TOML, or a key is unknown or of the wrong kind; the place is named.
    """
    try:
        raw: Any = tomllib.loads(path.read_text(encoding="utf-8"))
        return msgspec.convert(raw, kind)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, OSError) as error:
        raise FirstlightError(
            f"the catalogue file {path} is wrong", why=str(error), fix="restore it, or reinstall firstlight"
        ) from error


def load_catalogue(folder: Path | None = None) -> Catalogue:
    """Return the catalogue under `folder` (firstlight's own `envs/` by default).

    Raises:
        FirstlightError: a file is wrong, or two builds have one id.
    """
    return _load(folder or data_folder("envs"))


@cache
def _load(folder: Path) -> Catalogue:
    pages = {path: read_toml(path, EngineEntry) for path in sorted(folder.glob("*/builds.toml"))}
    seen: set[str] = set()
    for path, page in pages.items():
        if page.engine != path.parent.name:
            raise FirstlightError(f"{path} is the page of {page.engine}", fix="folder and engine must agree")
        for build in page.build:
            if build.id in seen:
                raise FirstlightError(f"the build {build.id} stands twice in the catalogue", fix=f"look at {path}")
            seen.add(build.id)
    return Catalogue({page.engine: page for page in sorted(pages.values(), key=lambda page: page.rank)})


def load_mirrors(folder: Path | None = None) -> Mirrors:
    """Return where bytes may come from: envs/mirrors.toml."""
    return read_toml((folder or data_folder("envs")) / "mirrors.toml", Mirrors)


def find_engine(catalogue: Catalogue, name: str) -> EngineEntry:
    """Return an engine's page.

    Raises:
        UsageError: there is no such engine; near names are offered.
    """
    entry = catalogue.engines.get(name.lower())
    if entry is None:
        known = list(catalogue.engines)
        raise UsageError(
            f'there is no engine "{name}"{did_you_mean(name, known)}', fix=f"choose one of: {', '.join(known)}"
        )
    return entry


def find_build(entry: EngineEntry, build_id: str) -> Build:
    """Return a build of an engine by its id.

    Raises:
        UsageError: there is no such build; near ids are offered.
    """
    for build in entry.build:
        if build.id == build_id:
            return build
    known = [build.id for build in entry.build]
    raise UsageError(
        f'{entry.engine} has no build "{build_id}"{did_you_mean(build_id, known)}',
        fix=f"choose one of: {', '.join(known)}",
    )
