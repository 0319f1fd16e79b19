"""Ollama's store of models, read and written by files alone: blobs by their hash, and manifests that name them.

Layout (Ollama 0.6 and later): manifests/<host>/<namespace>/<model>/<tag> and blobs/sha256-<64 hex>, modes 0644 and
0755; the module `manifests` tells of a second folder that newer releases keep.

At its start Ollama deletes every blob that no manifest names (`OLLAMA_NOPRUNE` stops it), so that a manifest is written
right after its blobs, and never before one of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from firstlight.engines.ollama.blobs import (
    VARIABLE,
    How,
    Layer,
    blob_path,
    has_blob,
    is_digest,
    make_folder,
    models_folder,
    own,
    put_blob,
    take_blob,
    unwritable,
)
from firstlight.engines.ollama.manifests import (
    FOLDER,
    LEVELS,
    MANIFEST_TYPE,
    NEWER,
    Manifest,
    files_under,
    manifest_files,
    parse,
    read_bytes,
)
from firstlight.engines.ollama.names import ModelName
from firstlight.errors import FirstlightError
from firstlight.files import write_atomic

__all__ = [
    "MANIFEST_TYPE",
    "VARIABLE",
    "How",
    "Layer",
    "Manifest",
    "StoredModel",
    "blob_path",
    "drop_unneeded",
    "find_model",
    "has_blob",
    "list_models",
    "make_folder",
    "manifest_files",
    "models_folder",
    "own",
    "put_blob",
    "read_manifest",
    "remove_model",
    "take_blob",
    "write_manifest",
]

CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
MODEL_TYPE = "application/vnd.ollama.image.model"
TEMPLATE_TYPE = "application/vnd.ollama.image.template"
SYSTEM_TYPE = "application/vnd.ollama.image.system"
PARAMS_TYPE = "application/vnd.ollama.image.params"


class StoredModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model in the store. `id` is what `ollama list` shows, `modified` seconds since the epoch."""

    name: ModelName
    id: str
    size: int
    modified: float
    manifest: Manifest | None
    problem: str | None = None
    """What is wrong with it, in words: a manifest that cannot be read, blobs that are gone or cut off."""
    digests: frozenset[str] = frozenset()
    """Everything that must stay among the blobs for it."""


# ── manifests ────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_manifest(folder: Path, name: ModelName, data: bytes) -> Path:
    """Write a model's manifest byte for byte, as the last of its files; returns its path.

    Raises:
        FirstlightError: the store cannot be written.
    """
    path = folder / FOLDER / _spelling(folder, name).manifest
    make_folder(path.parent, folder)
    try:
        write_atomic(path, data)
        own(path, folder)
        for newer in _newer_paths(folder, name):
            newer.unlink(missing_ok=True)  # else it would go before what was just written
    except OSError as error:
        raise unwritable(folder, error) from error
    return path


def _spelling(folder: Path, name: ModelName) -> ModelName:
    """Return the name in upper and lower case as the store has it already: to Ollama they are one model."""
    return next((known for known, _path in manifest_files(folder) if known.same(name)), name)


def _newer_paths(folder: Path, name: ModelName) -> list[Path]:
    return [path for known, path in files_under(folder / NEWER) if known.same(name)]


def read_manifest(folder: Path, name: ModelName) -> Manifest | None:
    """Return a model's manifest; None where there is none that can be read."""
    for known, path in manifest_files(folder):
        if known.same(name):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                return parse(folder, read_bytes(path))
    return None


# ── the whole ────────────────────────────────────────────────────────────────────────────────────────────────────────


def list_models(folder: Path) -> list[StoredModel]:
    """Return the models of a store, the newest first as `ollama list` shows them; no server is asked.

    Raises:
        FirstlightError: the store cannot be looked into.
    """
    try:
        os.listdir(folder)  # noqa: PTH208 - only whether we may
    except FileNotFoundError:
        return []
    except OSError as error:
        raise FirstlightError(
            f"Ollama's models in {folder} cannot be read",
            why=error.strerror or str(error),
            fix=f"see which folder stops it: namei -l {folder}",
        ) from error
    models = [_stored(folder, name, path) for name, path in manifest_files(folder)]
    return sorted(models, key=lambda model: (-model.modified, str(model.name)))


def find_model(folder: Path, name: ModelName) -> StoredModel | None:
    """Return a model of the store."""
    return next((_stored(folder, known, path) for known, path in manifest_files(folder) if known.same(name)), None)


def _stored(folder: Path, name: ModelName, path: Path) -> StoredModel:
    modified = 0.0
    try:
        modified = path.stat().st_mtime
        data = read_bytes(path)
        manifest = parse(folder, data)
    except (OSError, msgspec.DecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else str(error)
        problem = f"its manifest cannot be read: {words or type(error).__name__}"
        return StoredModel(name=name, id="", size=0, modified=modified, manifest=None, problem=problem)
    lacking = [layer for layer in manifest.blobs if not _whole(folder, layer)]
    own_digest = hashlib.sha256(data).hexdigest()
    itself = {f"sha256:{own_digest}"} if path.is_relative_to(folder / NEWER) else set[str]()
    return StoredModel(
        name=name,
        id=own_digest[:12],
        size=manifest.size,
        modified=modified,
        manifest=manifest,
        problem=_words(folder, lacking) if lacking else None,
        digests=frozenset({*(digest.replace("sha256-", "sha256:", 1) for digest in manifest.digests), *itself}),
    )


def _whole(folder: Path, layer: Layer) -> bool:
    return is_digest(layer.digest) and has_blob(folder, layer)


def _words(folder: Path, lacking: list[Layer]) -> str:
    first = lacking[0]
    more = f", and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    if not is_digest(first.digest):
        return f"its manifest names {first.digest[:20]!r}, which is no digest{more}"
    path = blob_path(folder, first.digest)
    if path.is_symlink() and not path.exists():
        return f"{path.name[:19]}… points to {path.readlink()}, which is gone{more}"
    if not path.exists():
        return f"{path.name[:19]}… is gone{more}"
    return f"{path.name[:19]}… has {path.stat().st_size:,} bytes instead of {first.size:,}{more}"


def remove_model(folder: Path, name: ModelName) -> bool:
    """Remove a model: its manifest first, then the blobs that no other model needs; tells whether there was one.

    Other hard links to its weights stay, as with `ollama rm`.
    """
    model, found = find_model(folder, name), False
    for root in (FOLDER, NEWER):
        for known, path in files_under(folder / root):
            if known.same(name):
                path.unlink(missing_ok=True)
                found = True
                for parent in list(path.parents)[: LEVELS - 1]:
                    with contextlib.suppress(OSError):
                        parent.rmdir()  # only empty ones go
    drop_unneeded(folder, model.digests if model else ())
    return found


def drop_unneeded(folder: Path, digests: Iterable[str]) -> None:
    """Remove those of the blobs that no model needs any more; other hard links to the same bytes stay."""
    others = list_models(folder)
    if any(other.manifest is None for other in others):
        return  # what an unreadable manifest needs is not known, so that nothing goes; Ollama does the same
    needed = {digest for other in others for digest in other.digests}
    for digest in digests:
        if digest not in needed and is_digest(digest):
            blob_path(folder, digest).unlink(missing_ok=True)
