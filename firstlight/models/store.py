"""Fetched models on disk: where each one lies, the file that says it is whole, and checking the bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import msgspec

from firstlight.errors import VerificationFailed
from firstlight.files import remove_tree, write_atomic
from firstlight.home import Home
from firstlight.models.reference import ModelReference, ModelSource
from firstlight.models.selection import RemoteFile

MARKER = ".firstlight-model.json"
"""Written last into a model's folder: which files it has, and where they came from."""

SCHEMA = "firstlight.model/1"

_BLOCK = 1 << 20


class FetchedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a model: its path inside the folder, bytes, and SHA-256 (None: never hashed, a local folder's)."""

    name: str
    size: int
    sha256: str | None


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


def model_folder(reference: ModelReference, source: ModelSource, home: Home) -> Path:
    """Return where a model of `source` lies: models/<hub>/<owner>/<name>, with @revision where one was asked for."""
    suffix = f"@{reference.revision.replace('/', '--')}" if reference.revision else ""
    return home.models / source / f"{reference.id}{suffix}"


def staging_folder(target: Path) -> Path:
    """Return where the files of `target` are gathered, on the same filesystem, kept after a kill."""
    return target.with_name(f".{target.name}.partial")


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
    return FetchedModel(
        path=folder,
        layout=marker.layout,
        source=marker.source,
        origin=marker.origin,
        files=marker.files,
        bytes=sum(file.size for file in marker.files),
        reused=True,
        commit=marker.commit,
    )


def settle(staging: Path, target: Path, marker: Marker) -> FetchedModel:
    """Make the gathered files the model's folder in one rename, and return it; other leftovers are dropped."""
    wanted = {file.name for file in marker.files}
    for path in sorted(staging.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path.relative_to(staging).as_posix() not in wanted:
            path.unlink()
    make_readable(staging)
    write_atomic(staging / MARKER, msgspec.json.format(msgspec.json.encode(marker), indent=2))
    remove_tree(target)
    staging.rename(target)
    return FetchedModel(
        path=target,
        layout=marker.layout,
        source=marker.source,
        origin=marker.origin,
        files=marker.files,
        bytes=sum(file.size for file in marker.files),
        reused=False,
        commit=marker.commit,
    )


def make_readable(folder: Path) -> None:
    """Let every user read a model: the service that serves it may run as another one (libraries write mode 0600)."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def hashed(folder: Path, name: str) -> FetchedFile:
    """Return a file's size in bytes and its SHA-256."""
    size, sha256, _sha1 = _hashes(folder / name)
    return FetchedFile(name=name, size=size, sha256=sha256)


def verified(folder: Path, file: RemoteFile) -> FetchedFile:
    """Return a fetched file after holding it against the hub's hash: SHA-256, else git's SHA-1, else the size.

    Raises:
        VerificationFailed: it differs; it is removed, so that the next try fetches it anew.
        OSError: it is not there.
    """
    path = folder / file.name
    size, sha256, sha1 = _hashes(path)
    wanted: str | int
    got: str | int
    if file.sha256:
        kind, wanted, got = "SHA-256", file.sha256.lower(), sha256
    elif file.sha1:
        kind, wanted, got = "git hash", file.sha1.lower(), sha1
    else:
        kind, wanted, got = "size", file.size, size
    if wanted != got:
        path.unlink()
        raise VerificationFailed(
            f"{file.name} is damaged: {kind} {got}, expected {wanted}",
            why="the bytes changed on the way (a proxy, a broken mirror, a bad disk)",
            fix="run the command again; the damaged file was removed",
        )
    return FetchedFile(name=file.name, size=size, sha256=sha256)


def _hashes(path: Path) -> tuple[int, str, str]:
    """Return a file's size, SHA-256, and SHA-1 as git computes it: over `blob <size>`, a zero byte, and the content."""
    size = path.stat().st_size
    sha256 = hashlib.sha256()
    sha1 = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    small = size < 64 * _BLOCK  # the hub gives git's hash for small files only; large ones are not read twice
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            sha256.update(block)
            if small:
                sha1.update(block)
    return size, sha256.hexdigest(), sha1.hexdigest() if small else ""
