"""`ollama.pull`: a model from a registry into Ollama's own store, resumed across processes, without Ollama itself."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from firstlight.engines.ollama.blobs import Layer, has_blob, make_folder, models_folder, take_blob
from firstlight.engines.ollama.names import ModelName, parse_name
from firstlight.engines.ollama.registry import Published, blob_sources, published, registries
from firstlight.engines.ollama.store import StoredModel, drop_unneeded, find_model, manifest_files, write_manifest
from firstlight.errors import FirstlightError
from firstlight.events import Step
from firstlight.fetching.types import Fetched, Policy, Share, Transport, Wanted
from firstlight.home import Home
from firstlight.machine.space import gigabytes, require_room
from firstlight.models.locking import one_writer

_SPARE = 64 << 20
"""Bytes that must stay free beside the model."""

_KEEP = "OLLAMA_NOPRUNE"
"""With this variable Ollama removes no blobs by itself."""
_TRUE = {"1", "true", "yes", "on"}


class Pulled(msgspec.Struct, frozen=True, kw_only=True):
    """What a pull did, in bytes: `fetched` came over the network in this run, `resumed` was there from before."""

    schema: str = "firstlight.pull/1"
    name: str
    id: str
    """What `ollama list` shows: the first digits of the manifest's hash."""
    digest: str
    """Of the manifest: it pins what was pulled."""
    registry: str
    store: str
    size: int
    fetched: int = 0
    resumed: int = 0
    blobs: list[Layer]
    reused: list[str] = []
    """Digests of the blobs that the store had already."""
    shares: list[Share] = []
    """How many bytes each source gave."""
    up_to_date: bool = False


def pull(
    text: str,
    home: Home,
    *,
    step: Step,
    mirrors: Sequence[str] = (),
    insecure: bool = False,
    policy: Policy | None = None,
    transport: Transport | None = None,
) -> Pulled:
    """Return what was pulled: the model lies in the store as Ollama itself would have put it there.

    Partial files are kept in the home's downloads, never among the blobs: Ollama deletes unknown names there.

    Args:
        text: the name: `llama3.2`, `owner/model:tag`, `hf.co/owner/repository:Q4_K_M`, `host:port/owner/model`.
        home: where partial files are kept, and the store where OLLAMA_MODELS names no other.
        step: takes progress in bytes.
        mirrors: addresses that answer in place of the registry.
        insecure: the registry of the name is reached by plain HTTP.
        policy: how hard the download tries.
        transport: how the network is reached.

    Raises:
        UsageError: the name is none, or there is no such model.
        NetworkFailed: no source delivered it; what came is kept.
        VerificationFailed: what came does not have the registry's hashes.
        FirstlightError: it is private, or there is no room.
    """
    from firstlight.fetching.fetch import fetch_all

    model, store = parse_name(text), models_folder(home)
    places = registries(model, mirrors, insecure=insecure)
    found = published(model, places, step)
    downloads = home.downloads / "ollama"
    downloads.mkdir(parents=True, exist_ok=True)
    lock = downloads / f".{hashlib.sha256(f'{store} {model.manifest}'.encode()).hexdigest()[:16]}.lock"
    with one_writer(lock, f"model {model}", step):
        missing = [layer for layer in found.blobs if not has_blob(store, layer)]
        if not missing and _manifest_there(store, model, found.data):
            step.reused(f"{model} is up to date")
            return _pulled(model, store, found, came=[], missing=[], up_to_date=True)
        _require_room(store, downloads, model, missing)
        items = [
            (
                Wanted(
                    name=f"{model} {layer.digest[7:19]}",
                    sources=blob_sources(model, places, layer),
                    size=layer.size,
                    sha256=layer.digest[7:],
                ),
                downloads / layer.digest.replace(":", "-"),
            )
            for layer in missing
        ]
        came = fetch_all(items, step=step, policy=policy, transport=transport) if items else []
        before = sum(one.resumed for one in came)
        step.detail = f"{gigabytes(before)} of it were here already" if before else step.detail
        _store(store, model, found, came)
    return _pulled(model, store, found, came=came, missing=missing)


def _store(store: Path, model: ModelName, found: Published, came: Sequence[Fetched]) -> None:
    """Move what came among the blobs, and write the manifest as the last.

    Raises:
        FirstlightError: the store cannot be written, or a server that just started deleted what was being put there.
    """
    make_folder(store, store)
    for one in came:
        take_blob(store, one.path, f"sha256:{one.sha256}", move=True)
    before = find_model(store, model)
    write_manifest(store, model, found.data)
    if before is not None:
        _drop(store, before)
    gone = [layer.digest for layer in found.blobs if not has_blob(store, layer)]
    if gone:
        raise FirstlightError(
            f"{len(gone)} files of {model} went from {store} while they were put there",
            why="an Ollama server that starts deletes files that no model names yet",
            fix=f"firstlight ollama.pull {model}",
        )


def _drop(store: Path, before: StoredModel) -> None:
    """Remove the blobs of a model's older manifest that no model needs any more, as Ollama does after its own pull."""
    if os.environ.get(_KEEP, "").lower() not in _TRUE:
        drop_unneeded(store, before.digests)


def _manifest_there(store: Path, model: ModelName, data: bytes) -> bool:
    """Tell whether the store has this very manifest for the model."""
    for known, path in manifest_files(store):
        if known.same(model):
            try:
                return path.read_bytes() == data
            except OSError:
                return False
    return False


def _require_room(store: Path, downloads: Path, model: ModelName, missing: Sequence[Layer]) -> None:
    """Check before the first byte that everything fits where it is gathered, and in a store on another disk.

    Raises:
        FirstlightError: it does not.
    """
    needed = sum(layer.size for layer in missing)
    there = 0
    for layer in missing:
        for suffix in ("", ".partial"):
            path = downloads / f"{layer.digest.replace(':', '-')}{suffix}"
            there += path.stat().st_blocks * 512 if path.exists() else 0
    require_room(downloads, f"the model {model}", max(needed - there, 0) + _SPARE)
    nearest = next(each for each in (store, *store.parents) if each.exists())
    if nearest.stat().st_dev != downloads.stat().st_dev:
        require_room(store, f"the model {model}", needed + _SPARE)


def _pulled(
    model: ModelName,
    store: Path,
    found: Published,
    *,
    came: Sequence[Fetched],
    missing: Sequence[Layer],
    up_to_date: bool = False,
) -> Pulled:
    gave: Counter[str] = Counter()
    for one in came:
        for share in one.shares:
            gave[share.source] += share.bytes
    digest = hashlib.sha256(found.data).hexdigest()
    lacked = {layer.digest for layer in missing}
    return Pulled(
        name=str(model),
        id=digest[:12],
        digest=f"sha256:{digest}",
        registry=found.registry.name,
        store=str(store),
        size=sum(layer.size for layer in found.blobs),
        fetched=sum(one.bytes for one in came),
        resumed=sum(one.resumed for one in came),
        blobs=found.blobs,
        reused=[layer.digest for layer in found.blobs if layer.digest not in lacked],
        shares=[Share(name, count) for name, count in gave.items()],
        up_to_date=up_to_date,
    )
