"""Every place that bytes may come from, per kind and with the reason why it is one: what `mirror.*` lists and asks."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from firstlight.catalogue.archives import ArchivesPage, load_archives
from firstlight.catalogue.loading import load_catalogue, load_mirrors
from firstlight.catalogue.types import Catalogue, EngineEntry
from firstlight.doctor.probes.network import targets
from firstlight.fetching.answers import Ask
from firstlight.fetching.mirrors import MirrorBook, given_source, hosted_sources, in_place, load_book, source
from firstlight.fetching.types import Source
from firstlight.models.hubs import load_hubs
from firstlight.planning.redacting import without_credentials
from firstlight.planning.versions import release_key
from firstlight.resources import data_folder

_CATALOGUE = "envs/mirrors.toml"
_HUBS = "envs/hubs.toml"
_PAGES = frozenset({"torch", "pypi", "hub"})


def places(home: Path | None, environment: Mapping[str, str] | None = None) -> list[Ask]:
    """Return every place, the canonical one of each kind first, and what each is asked for.

    Raises:
        UsageError: the user's file of mirrors is wrong.
    """
    variables = dict(os.environ if environment is None else environment)
    book, catalogue = load_book(home, variables), load_catalogue()
    found = [*_configured(book, catalogue, variables)]
    for name, entry in catalogue.engines.items():
        if entry.kind == "archive" and (data_folder("envs") / name / "archives.toml").is_file():
            found += _of_archives(entry, load_archives(name), book, variables)
    return found


def _configured(book: MirrorBook, catalogue: Catalogue, variables: dict[str, str]) -> Iterator[Ask]:
    github = book.github.canonical
    for target in targets(load_mirrors(), load_hubs(), catalogue, variables):
        kind = "origin" if target.canonical else "mirror"
        if target.kind == "github":
            if target.canonical:
                for mirror in book.own.github.mirrors:
                    at = in_place(f"{github}{target.url.removeprefix(target.place)}", github, mirror)
                    yield _ask("github", at, mirror, book.file or "")
            if book.own.github.only and book.own.github.mirrors:
                continue
            if not target.canonical:
                kind = "prefix" if target.place.count("://") > 1 else "host"
        yield Ask(
            group=target.kind,
            kind=kind,
            place=without_credentials(target.place),
            url=target.url,
            why=_HUBS if target.kind == "hub" else _CATALOGUE,
            page=target.kind in _PAGES,
        )


def _of_archives(entry: EngineEntry, page: ArchivesPage, book: MirrorBook, variables: dict[str, str]) -> Iterator[Ask]:
    """Give the places of an engine's archives, asked for the newest one of this machine's architecture."""
    here = [build for build in entry.build if build.arch == platform.machine()] or entry.build
    build = max(here, key=lambda build: release_key(build.release))
    asset = build.assets[0].name
    own, origin = book.own_bases(entry.engine), source("origin", page.url(build.release, asset))
    alone = bool(own.only and own.mirrors)
    if not alone:
        yield _ask(entry.engine, origin, origin.name, f"envs/{entry.engine}/archives.toml")
    for base in own.mirrors:
        yield _ask(entry.engine, given_source(base, page.path(build.release, asset)), base, book.file or "")
    if alone:
        return
    for hosted in hosted_sources(page, build.release, asset, variables):
        set_by = [hosting.variable for hosting in page.hosting if variables.get(hosting.variable)]
        why = f"{set_by[0]} is set" if set_by else f"envs/{entry.engine}/archives.toml"
        yield _ask(entry.engine, hosted, hosted.name, why)


def _ask(group: str, at: Source, place: str, why: str) -> Ask:
    return Ask(group=group, kind=at.kind, place=without_credentials(place), url=at.url, why=why, headers=at.headers)
