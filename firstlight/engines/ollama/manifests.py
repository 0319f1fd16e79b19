"""Manifests of Ollama's store: what a model is made of, and in which of two folders its manifest lies.

`manifests/<host>/<namespace>/<model>/<tag>` is a file of its own. Newer releases keep a second folder beside it,
`manifests-v2`, which goes before the first: there the manifest itself is a blob, and the name a link to it (a copy
where links cannot be). It may be a list there, of one manifest for each program that can run the model.

Source: manifest/manifest.go of Ollama, read in 2026. Presumed, as no such release could be run: that it goes on reading
the first folder, into which firstlight writes, and that a list is only found in stores that Ollama itself has filled.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from firstlight.engines.ollama.blobs import Layer, blob_path
from firstlight.engines.ollama.names import DEFAULT_HOST, ModelName
from firstlight.errors import UsageError

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
LIST_TYPE = "application/vnd.ollama.manifest.list.v2+json"
FOLDER = "manifests"
NEWER = "manifests-v2"
LEVELS = 4

_NEWER_HOST = "ollama.com"
"""How manifests-v2 spells the default host."""
_RUNNERS = ("ollama", "llamacpp", "mlx")
"""In this order a Linux server chooses from a list."""
_LARGEST = 4 << 20


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The blobs that a model is made of."""

    schema_version: int = 2
    media_type: str = MANIFEST_TYPE
    config: Layer | None = None
    layers: list[Layer] = []

    @property
    def blobs(self) -> list[Layer]:
        """All of them that a server here reads, the configuration last."""
        return [*self.layers, *([self.config] if self.config else [])]

    @property
    def size(self) -> int:
        """Bytes of all of them, as `ollama list` counts."""
        return sum(layer.size for layer in self.blobs)

    @property
    def digests(self) -> list[str]:
        """What must stay among the blobs for it."""
        return [layer.digest for layer in self.blobs]


class FromList(Manifest, frozen=True, kw_only=True):
    """The manifest that a server here takes from a list; the others belong to the same model."""

    others: list[Layer] = []
    documents: list[str] = []
    """Digests of those manifests that are blobs themselves."""

    @property
    def size(self) -> int:
        """Bytes of the blobs of all, each once."""
        return sum({layer.digest: layer.size for layer in [*self.blobs, *self.others]}.values())

    @property
    def digests(self) -> list[str]:
        """What must stay among the blobs for it."""
        return [*(layer.digest for layer in [*self.blobs, *self.others]), *self.documents]


class _Child(Manifest, frozen=True, kw_only=True, rename="camel"):
    """A manifest in a list: whole, or the digest of the blob that it is."""

    runner: str = ""
    digest: str = ""


class _List(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    media_type: str = ""
    manifests: list[_Child] = []


def parse(folder: Path, data: bytes) -> Manifest:
    """Return what a manifest says; of a list, the one that a server here takes.

    Raises:
        msgspec.DecodeError: it is none, or a list whose parts are gone.
    """
    listed = msgspec.json.decode(data, type=_List)
    if listed.media_type != LIST_TYPE:
        return msgspec.json.decode(data, type=Manifest)
    children = sorted(listed.manifests, key=_preference)
    if not children:
        raise msgspec.ValidationError("it is a list of no manifests")
    chosen = _resolved(folder, children[0])
    rest = []
    for child in children[1:]:
        with contextlib.suppress(msgspec.DecodeError):  # no server here reads it
            rest.append(_resolved(folder, child))
    return FromList(
        config=chosen.config,
        layers=chosen.layers,
        others=[layer for each in rest for layer in each.blobs],
        documents=[child.digest for child in children if child.digest],
    )


def _preference(child: _Child) -> int:
    name = child.runner.lower()
    return _RUNNERS.index(name) if name in _RUNNERS else len(_RUNNERS)


def _resolved(folder: Path, child: _Child) -> Manifest:
    if not child.digest or child.blobs:
        return child
    try:
        return msgspec.json.decode(read_bytes(blob_path(folder, child.digest)), type=Manifest)
    except (OSError, UsageError) as error:
        raise msgspec.ValidationError(f"the manifest {child.digest[:19]}… of its list is gone") from error


def read_bytes(file: Path) -> bytes:
    """Return what a manifest's file holds, as far as a manifest can be long."""
    with file.open("rb") as stream:
        return stream.read(_LARGEST)


def manifest_files(folder: Path) -> Iterator[tuple[ModelName, Path]]:
    """Give every model's name with the file of its manifest; where two folders have one, the one that counts.

    A link of the newer folder that leads nowhere counts only where the other folder has none of the name.
    """
    both = [*files_under(folder / NEWER), *files_under(folder / FOLDER)]
    seen: set[str] = set()
    for name, path in sorted(both, key=lambda each: not each[1].exists()):
        if name.manifest.lower() not in seen:
            seen.add(name.manifest.lower())
            yield name, path


def files_under(root: Path) -> list[tuple[ModelName, Path]]:
    """Return the names and files of one of the two folders."""
    found = []
    for base, folders, files in os.walk(root):
        depth = len(Path(base).relative_to(root).parts)
        folders[:] = sorted(each for each in folders if not each.startswith(".")) if depth < LEVELS - 1 else []
        if depth != LEVELS - 1:
            continue
        host, namespace, model = Path(base).relative_to(root).parts
        for tag in sorted(each for each in files if not each.startswith(".")):
            plain = DEFAULT_HOST if root.name == NEWER and host == _NEWER_HOST else host
            found.append((ModelName(host=plain, namespace=namespace, model=model, tag=tag), Path(base) / tag))
    return found
