"""Fetched models on disk: where each one lies, the file that says it is whole, and checking the bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from firstlight.errors import UsageError
from firstlight.files import remove_tree, write_atomic
from firstlight.home import Home
from firstlight.models.reference import ModelReference, ModelSource

MARKER = ".firstlight-model.json"
"""Written last into a model's folder: which files it has, and where they came from."""

SCHEMA = "firstlight.model/1"

_CHOSEN = ".firstlight-partial"
"""In a folder that a person chose: what is being gathered for it."""

_BLOCK = 1 << 20


class FetchedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a model: its path inside the folder, bytes, and SHA-256 (None: never hashed, a local folder's).

    `sources` are the names of the hubs that its bytes came from.
    """

    name: str
    size: int
    sha256: str | None
    sources: list[str] = []


class FetchedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model on this machine: `path` is its folder, `origin` where it came from, `bytes` the sum of its files."""

    path: Path
    layout: Literal["safetensors", "gguf"]
    source: ModelSource
    origin: str
    files: list[FetchedFile]
    bytes: int
    reused: bool
    commit: str | None = None
    """The hub's commit or the package's version."""


class Marker(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the marker file."""

    schema: str = SCHEMA
    id: str
    source: ModelSource
    origin: str
    layout: Literal["safetensors", "gguf"]
    files: list[FetchedFile]
    commit: str | None = None
    include: list[str] = []
    revision: str | None = None
    """The branch, tag, commit or version that was asked for."""


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model goes: `target` when it is whole; until then its files are gathered in `staging`.

    A folder of the home appears in one rename. A folder that a person chose may be a mount point, or lie where they
    may not write: its files are gathered inside of it and moved up; its marker, written last, says that it is whole.
    """

    target: Path
    staging: Path
    lock: Path
    chosen: bool = False


def home_place(reference: ModelReference, source: ModelSource, home: Home) -> Place:
    """Return where a model of `source` lies: models/<hub>/<owner>/<name>, with @revision where one was asked for."""
    suffix = f"@{reference.revision.replace('/', '--')}" if reference.revision else ""
    target = home.models / source / f"{reference.id}{suffix}"
    hidden = f".{target.name}"
    return Place(target=target, staging=target.with_name(f"{hidden}.partial"), lock=target.with_name(f"{hidden}.lock"))


def chosen_place(folder: Path) -> Place:
    """Return the place of a model in the very folder that a person chose."""
    hidden = folder / _CHOSEN
    return Place(target=folder, staging=hidden / "files", lock=hidden / "lock", chosen=True)


def require_free(place: Place, reference: ModelReference) -> None:
    """Make sure that a chosen folder is absent, empty, or holds this very model or a part of it.

    Raises:
        UsageError: it holds something else, which is never touched.
    """
    folder = place.target
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--to: {folder} is a file", fix="name a folder that is empty or not there yet")
    marker = read_marker(folder)
    if marker is not None and marker.id != reference.id:
        raise UsageError(
            f"--to: {folder} holds another model, {marker.id}", fix=f"--to {folder.with_name(_last(reference))}"
        )
    others = sorted(path.name for path in folder.iterdir() if path.name != _CHOSEN) if folder.is_dir() else []
    if marker is None and others:
        raise UsageError(
            f"--to: {folder} is not empty",
            why=f"it holds {', '.join(others[:5])}{' and more' if len(others) > 5 else ''}",
            fix=f"--to {folder / _last(reference)}",
        )


def _last(reference: ModelReference) -> str:
    return reference.id.rpartition("/")[2]


def is_ours(name: str) -> bool:
    """Tell whether a name is kept for our own files: no repository may bring them."""
    return name.startswith(".firstlight") or name.endswith((".partial", ".partial.json", ".partial.lock"))


def read_marker(folder: Path) -> Marker | None:
    """Return what the marker of a model's folder says, or None where there is none that can be read."""
    try:
        return msgspec.json.decode((folder / MARKER).read_bytes(), type=Marker)
    except (OSError, msgspec.DecodeError):
        return None


def present_model(folder: Path, include: tuple[str, ...] | None = None) -> FetchedModel | None:
    """Return the fetched model in `folder` when all its files are there in their right sizes, else None.

    Args:
        folder: a model's folder.
        include: the patterns that it must have been fetched with; None takes any.
    """
    marker = read_marker(folder)
    if marker is None or (include is not None and list(include) != marker.include):
        return None
    try:
        if any((folder / file.name).stat().st_size != file.size for file in marker.files):
            return None
    except OSError:
        return None
    return _model(folder, marker, reused=True)


def _model(folder: Path, marker: Marker, *, reused: bool) -> FetchedModel:
    return FetchedModel(
        path=folder,
        layout=marker.layout,
        source=marker.source,
        origin=marker.origin,
        files=marker.files,
        bytes=sum(file.size for file in marker.files),
        reused=reused,
        commit=marker.commit,
    )


def settle(place: Place, marker: Marker) -> FetchedModel:
    """Make the gathered files the model's folder and return it; other leftovers are dropped."""
    wanted = {file.name for file in marker.files}
    for path in sorted(place.staging.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(place.staging).as_posix() not in wanted:
            path.unlink()
    make_readable(place.staging)
    document = msgspec.json.format(msgspec.json.encode(marker), indent=2)
    if place.chosen:
        _move_up(place, wanted)
        write_atomic(place.target / MARKER, document)
        remove_tree(place.staging.parent)
    else:
        write_atomic(place.staging / MARKER, document)
        remove_tree(place.target)
        place.staging.rename(place.target)
    return _model(place.target, marker, reused=False)


def _move_up(place: Place, wanted: set[str]) -> None:
    """Move the gathered files into the chosen folder; those that an older fetch left there and nobody wants now go."""
    old = read_marker(place.target)
    (place.target / MARKER).unlink(missing_ok=True)
    for name in sorted({file.name for file in old.files} - wanted if old is not None else ()):
        if not is_ours(name) and ".." not in name.split("/") and not name.startswith("/"):
            (place.target / name).unlink(missing_ok=True)
    for name in sorted(wanted):
        path = place.target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        (place.staging / name).replace(path)
    place.target.chmod(place.target.stat().st_mode | 0o555)


def make_readable(folder: Path) -> None:
    """Let every user read a model: the service that serves it may run as another one (libraries write mode 0600)."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def hashed(folder: Path, name: str) -> FetchedFile:
    """Return a file's size in bytes and its SHA-256."""
    sha256, size = hashlib.sha256(), 0
    with (folder / name).open("rb") as stream:
        while block := stream.read(_BLOCK):
            sha256.update(block)
            size += len(block)
    return FetchedFile(name=name, size=size, sha256=sha256.hexdigest())
