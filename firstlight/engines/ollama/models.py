"""Which models Ollama serves: those of its own store by their names, and GGUF files, which it takes in by a link."""

from __future__ import annotations

import contextlib

import msgspec

from firstlight.engines.ollama.blobs import models_folder, own_folder
from firstlight.engines.ollama.importing import import_gguf, require_whole_model
from firstlight.engines.ollama.names import ModelName, parse_name, usable
from firstlight.engines.ollama.store import StoredModel, find_model
from firstlight.errors import FirstlightError, UsageError
from firstlight.events import Step
from firstlight.home import Home
from firstlight.models.provide import ServedModel
from firstlight.models.reference import parse_reference

LAYOUT = "ollama"
"""The layout of a model that lies in the store."""


def stored(text: str, home: Home) -> ServedModel | None:
    """Return the model of the store that `text` names; None: the store has none of that name.

    Raises:
        FirstlightError: it has one, of which files are gone.
    """
    with contextlib.suppress(UsageError):
        folder = models_folder(home)
        found = find_model(folder, parse_name(text))
        if found is not None:
            _require_whole(found)
            return _served(found, home)
    return None


def from_registry(text: str) -> ModelName | None:
    """Return the name that only a registry of Ollama can know: words that name no folder, hub or package."""
    with contextlib.suppress(UsageError):
        parse_reference(text)
        return None
    with contextlib.suppress(UsageError):
        return parse_name(text)
    return None


def pulled(text: str, home: Home, step: Step) -> ServedModel:
    """Fetch a model from its registry into the store, and return it."""
    from firstlight.engines.ollama.pulling import pull

    pull(text, home, step=step)
    found = stored(text, home)
    if found is None:
        raise FirstlightError(f"{text} was pulled, and is not in the store", fix=f"firstlight ollama.pull {text}")
    return found


def _require_whole(found: StoredModel) -> None:
    if found.problem is not None:
        raise FirstlightError(
            f"{found.name} in Ollama's store is damaged", why=found.problem, fix=f"firstlight ollama.pull {found.name}"
        )


def _served(found: StoredModel, home: Home) -> ServedModel:
    return ServedModel(
        path=models_folder(home),
        name=str(found.name),
        source="Ollama's store",
        layout=LAYOUT,
        bytes=found.size,
        reused=True,
        speaks=True,
    )


def taken_in(model: ServedModel, home: Home, step: Step) -> ServedModel:
    """Return a GGUF model as one of the store, linked and not copied.

    Its tag is its quantisation. Where other weights have that name already, they keep it.
    """
    names = sorted(file.name for file in model.files if file.name.endswith(".gguf"))
    if len(names) != 1:
        raise UsageError(
            f"{model.path} holds {len(names)} GGUF files",
            why="Ollama takes a model as one file",
            fix=f"name one: --model {model.path / names[0] if names else 'FILE.gguf'}",
        )
    file = model.path / names[0]
    folder = models_folder(home) if model.speaks else own_folder(home)  # a proof leaves nothing in the user's store
    known = next((each.sha256 for each in model.files if each.name == names[0]), None)
    header = require_whole_model(file)
    tag = "latest" if header.quantization == "unknown" else header.quantization.lower()
    name = parse_name(f"{usable(model.name)}:{tag}")
    try:
        done = import_gguf(file, name, folder, step=step, sha256=known)
    except FirstlightError:
        if find_model(folder, name) is None:
            raise
        other = msgspec.structs.replace(name, tag=f"{tag}-{known[:8] if known else header.size}")
        done = import_gguf(file, other, folder, step=step, sha256=known)
    step.detail = step.detail or done.name
    return msgspec.structs.replace(model, path=folder, name=done.name, layout=LAYOUT, bytes=done.size)
