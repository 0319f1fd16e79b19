"""What Ollama's store holds, and what its running server has in memory."""

from __future__ import annotations

import contextlib
import time

import msgspec

from firstlight.engines.ollama.api import Api, Loaded, address, answering
from firstlight.engines.ollama.blobs import models_folder
from firstlight.engines.ollama.store import list_models
from firstlight.errors import FirstlightError
from firstlight.home import Home
from firstlight.serving.running import list_running

ENGINE = "ollama"


class ListedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model of the store as a person reads it; `modified` is ISO 8601, UTC; `size` in bytes."""

    name: str
    id: str
    size: int
    modified: str
    whole: bool
    problem: str | None = None
    processor: str | None = None
    """Where a running server has it in memory: `100% GPU`; None: it is in nobody's memory."""
    vram: int | None = None


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """A server that answers, and whether it shows what this store holds."""

    address: str
    version: str
    same_store: bool


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """A store, its models, and the server that answers here."""

    schema: str = "firstlight.ollama-models/1"
    store: str
    models: list[ListedModel]
    server: Server | None = None
    elsewhere: list[str] = []
    """Models that the server lists and this store does not have."""


def servers(home: Home) -> list[Api]:
    """Return the servers that answer: those that were left running from here, and the one at OLLAMA_HOST's address."""
    places = [record.endpoint for record in list_running(home) if record.engine == ENGINE and record.alive]
    found = [answering(place) for place in dict.fromkeys([*places, address()])]
    return [api for api in found if api is not None]


def listing(home: Home) -> Listing:
    """Return what the store holds, read from its files; a server that answers tells what is in memory.

    Raises:
        FirstlightError: the store cannot be read.
    """
    folder = models_folder(home)
    stored = list_models(folder)
    names = {str(model.name).lower() for model in stored}
    server, memory, elsewhere = None, dict[str, Loaded](), list[str]()
    for api in servers(home):
        with contextlib.suppress(FirstlightError):  # it went away while it was asked
            told = api.tags()
            same = bool(names) and names <= {name.lower() for name in told}
            server = Server(address=api.base_url, version=api.version(), same_store=same)
            memory = {each.name.lower(): each for each in api.loaded()}
            elsewhere = [name for name in told if name.lower() not in names]
            break
    models = [
        ListedModel(
            name=str(model.name),
            id=model.id,
            size=model.size,
            modified=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(model.modified)),
            whole=model.problem is None,
            problem=model.problem,
            processor=held.processor if held is not None else None,
            vram=held.size_vram if held is not None else None,
        )
        for model, held in ((model, memory.get(str(model.name).lower())) for model in stored)
    ]
    return Listing(store=str(folder), models=models, server=server, elsewhere=elsewhere)
