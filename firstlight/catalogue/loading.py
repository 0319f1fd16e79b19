"""Reads the catalogue strictly: envs/<engine>/builds.toml, cuda.toml, torch.toml, platforms.toml and mirrors.toml."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import tomli

from firstlight.catalogue.completing import completed
from firstlight.catalogue.locks import locks_of
from firstlight.catalogue.types import Build, Catalogue, CudaLine, EngineEntry, Mirrors, Platforms, TorchLine
from firstlight.errors import FirstlightError, UsageError, did_you_mean
from firstlight.resources import data_folder

if TYPE_CHECKING:
    from firstlight.catalogue.locating import Lines

_T = TypeVar("_T")


class CatalogueError(FirstlightError):
    """A file of the catalogue is wrong, at the line that is named where it is known."""

    def __init__(self, file: Path, line: int | None, why: str) -> None:
        at = f"{file}, line {line}" if line else str(file)
        super().__init__(f"the catalogue file {at} is wrong", why=why, fix="correct it there, or reinstall firstlight")
        self.file = file
        self.line = line


def read_toml(path: Path, kind: type[_T]) -> _T:
    """Return the value of type `kind` that a TOML file holds.

    An entry with `like = "id"` takes what it does not say itself from the entry of that id, sources included.

    Raises:
        CatalogueError: the file is not TOML, a key is unknown or of the wrong kind, or two entries have one id.
    """
    return parse_toml(path, read_text(path), kind)


def read_text(path: Path) -> str:
    """Return what a file of the catalogue holds.

    Raises:
        CatalogueError: it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CatalogueError(path, None, str(error)) from error


def parse_toml(path: Path, text: str, kind: type[_T]) -> _T:
    """Do what `read_toml` does, with the text of the file at hand."""
    try:
        raw: Any = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        from firstlight.catalogue.locating import line_of_syntax

        raise CatalogueError(path, line_of_syntax(text, str(error)), str(error)) from error
    written = {name: value for name, value in raw.items() if isinstance(value, list)}
    for name, entries in written.items():
        _refuse_twins(path, text, name, entries)
        raw[name] = _alike(path, text, name, entries)
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError as error:
        from firstlight.catalogue.locating import misfit

        keys, message = misfit(raw, kind)
        lines = _lines(text)
        keys = _where_written(keys, written, lines)
        raise CatalogueError(path, lines.of(*keys), f"{_place(raw, keys)}{message or error}") from error


def _lines(text: str) -> Lines:
    """Return where the keys of a file stand; what finds them is loaded for errors alone."""
    from firstlight.catalogue.locating import Lines

    return Lines(text)


def _refuse_twins(path: Path, text: str, table: str, entries: list[Any]) -> None:
    """Raise where two entries of a table have one id."""
    first: dict[str, int] = {}
    for number, entry in enumerate(entries):
        name = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(name, str) and first.setdefault(name, number) != number:
            lines = _lines(text)
            above = lines.of(table, first[name], "id")
            line = lines.of(table, number, "id")
            raise CatalogueError(path, line, f"{table} {name}: this id stands on line {above} already")


def _alike(path: Path, text: str, table: str, entries: list[Any]) -> list[Any]:
    """Return the entries with `like` resolved; it may name any other entry of the table."""
    if not any(isinstance(entry, dict) and "like" in entry for entry in entries):
        return entries
    named = {str(entry.get("id")): entry for entry in entries if isinstance(entry, dict)}
    whole: dict[str, Any] = {}
    resolved = []
    for number, entry in enumerate(entries):
        try:
            resolved.append(_resolved(entry, named, whole, ()))
        except ValueError as error:
            why = f"{table} {entry.get('id')}: {error}"
            raise CatalogueError(path, _lines(text).of(table, number, "like"), why) from error
    return resolved


def _resolved(entry: Any, named: dict[str, Any], whole: dict[str, Any], behind: tuple[str, ...]) -> Any:
    """Return an entry with what it takes from others; `whole` keeps those that are done.

    Raises:
        ValueError: the other one is not there, or takes from this one.
    """
    if not isinstance(entry, dict) or "like" not in entry:
        return entry
    name, own = str(entry["like"]), {key: value for key, value in entry.items() if key != "like"}
    if name not in named:
        raise ValueError(f'there is no entry "{name}" to be like')
    if name in behind or named[name] is entry:
        raise ValueError(f'"{name}" is like this one: one of them must stand for itself')
    if name not in whole:
        whole[name] = _resolved(named[name], named, whole, (*behind, name))
    base = whole[name]
    return {**base, **own, "sources": _merged(base.get("sources"), own.get("sources", {}))}


def _where_written(keys: tuple[str | int, ...], written: dict[str, list[Any]], lines: Lines) -> tuple[str | int, ...]:
    """Return the keys of the entry that a value was written in; one that is like it only inherits it."""
    entries = written.get(str(keys[0]), []) if keys else []
    while len(keys) > 2 and not lines.has(*keys) and "like" in (entry := entries[int(keys[1])]):
        origin = next(number for number, other in enumerate(entries) if other.get("id") == entry["like"])
        keys = (keys[0], origin, *keys[2:])
    return keys


def _merged(inherited: Any, own: Any) -> Any:
    return {**inherited, **own} if isinstance(inherited, dict) and isinstance(own, dict) else own


def _place(raw: Any, keys: Sequence[Any]) -> str:
    """Return what a person calls a place: `build vllm-0.9.2, libc: `."""
    words: list[str] = []
    for key in keys:
        raw = raw[key]
        if isinstance(key, str):
            words.append(key)
        elif words:
            name = raw.get("id") or raw.get("name") if isinstance(raw, dict) else None
            words[-1] += f" {name}" if isinstance(name, str) else f" number {key + 1}"
    return f"{', '.join(words)}: " if words else ""


def load_catalogue(folder: Path | None = None) -> Catalogue:
    """Return the catalogue under `folder` (firstlight's own `envs/` by default); a page is read when it is asked for.

    Raises:
        CatalogueError: a file is wrong.
    """
    return _load(folder or data_folder("envs"))


@cache
def _load(folder: Path) -> Catalogue:
    platforms = folder / "platforms.toml"
    known = read_toml(platforms, Platforms) if platforms.is_file() else Platforms()
    return Catalogue(_Pages(folder), load_cuda(folder), known)


class _Pages(Mapping[str, EngineEntry]):
    """The engines' pages by name: one is read when it is asked for, all of them for their order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = sorted(path.parent.name for path in folder.glob("*/builds.toml"))
        self._read: dict[str, EngineEntry] = {}

    def __getitem__(self, name: str) -> EngineEntry:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._read:
            self._read[name] = _page(self._folder, self._folder / name / "builds.toml")
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names, key=lambda name: self[name].rank))

    def __len__(self) -> int:
        return len(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names


def _page(folder: Path, path: Path) -> EngineEntry:
    text = read_text(path)
    page = parse_toml(path, text, EngineEntry)
    if page.engine != path.parent.name:
        why = f"it stands in the folder of {path.parent.name} and is the page of {page.engine}"
        raise CatalogueError(path, _lines(text).of("engine"), why)
    lines, torches = load_cuda(folder), load_torch(folder)
    builds: list[Build] = []
    for number, build in enumerate(page.build):
        try:
            whole = completed(build, lines, torches)
            locks = locks_of(path.parent / build.id, whole) if page.kind == "wheels" else {}
            builds.append(msgspec.structs.replace(whole, locks=locks) if locks else whole)
        except ValueError as error:
            raise CatalogueError(path, _lines(text).of("build", number), f"build {build.id}: {error}") from error
    return msgspec.structs.replace(page, build=builds)


class CudaPage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """envs/cuda.toml."""

    line: list[CudaLine]


class TorchPage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """envs/torch.toml."""

    build: list[TorchLine]


@cache
def load_cuda(folder: Path | None = None) -> dict[str, CudaLine]:
    """Return the CUDA releases with their drivers: envs/cuda.toml."""
    page = read_toml((folder or data_folder("envs")) / "cuda.toml", CudaPage)
    return {line.version: line for line in page.line}


@cache
def load_torch(folder: Path | None = None) -> list[TorchLine]:
    """Return the builds of torch: envs/torch.toml."""
    return read_toml((folder or data_folder("envs")) / "torch.toml", TorchPage).build


def load_mirrors(folder: Path | None = None) -> Mirrors:
    """Return where bytes may come from: envs/mirrors.toml."""
    return read_toml((folder or data_folder("envs")) / "mirrors.toml", Mirrors)


def load_platforms(folder: Path | None = None) -> Platforms:
    """Return what NVIDIA's platforms ask for: envs/platforms.toml."""
    return read_toml((folder or data_folder("envs")) / "platforms.toml", Platforms)


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


def known_build(entry: EngineEntry, build_id: str) -> Build | None:
    """Return a build of an engine by its id, also one of a release that another one's entry covers; None: none."""
    found = next((build for build in entry.build if build.id == build_id), None)
    if found is not None or not any(build.covers for build in entry.build):
        return found
    from firstlight.catalogue.releases import release_builds, release_of_id

    release = release_of_id(entry, build_id)
    covered = release_builds(entry, release) if release is not None else []
    return next((build for build in covered if build.id == build_id), None)


def find_build(entry: EngineEntry, build_id: str) -> Build:
    """Return a build of an engine by its id.

    Raises:
        UsageError: there is no such build; near ids are offered.
    """
    found = known_build(entry, build_id)
    if found is not None:
        return found
    known = [build.id for build in entry.build]
    raise UsageError(
        f'{entry.engine} has no build "{build_id}"{did_you_mean(build_id, known)}',
        fix=f"choose one of: {', '.join(known)}",
    )
