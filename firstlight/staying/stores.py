"""The environments of an engine, whatever kind it is of, as a service sees them."""

from __future__ import annotations

from pathlib import Path

from firstlight.environments.generation_store import GenerationStore
from firstlight.environments.generations import store_named
from firstlight.environments.spec import Generation
from firstlight.home import Home


def store_of(home: Home, engine: str) -> GenerationStore:
    """Return the store of an engine's environments or unpacked releases."""
    return store_named(home, engine)


def current_of(home: Home, engine: str) -> Generation | None:
    """Return the environment in use."""
    return store_of(home, engine).current()


def link_of(home: Home, engine: str) -> Path:
    """Return the link that services run from."""
    return store_of(home, engine).folder / "current"
