"""One module per engine: what is special about it stands there or in its folder of `envs/`, and nowhere else."""

from __future__ import annotations

from importlib import import_module

from firstlight.catalogue.names import engine_names
from firstlight.engines.base import Engine, Serving, ServingRequest
from firstlight.errors import UsageError, did_you_mean

__all__ = ["Engine", "Serving", "ServingRequest", "find"]


def find(name: str) -> Engine:
    """Return the engine of that name.

    Raises:
        UsageError: there is none; near names are offered.
    """
    known = engine_names()
    if name not in known:
        raise UsageError(
            f'there is no engine "{name}"{did_you_mean(name, known)}', fix=f"choose one of: {', '.join(known)}"
        )
    engine: Engine = import_module(f"firstlight.engines.{name}").ENGINE
    return engine
