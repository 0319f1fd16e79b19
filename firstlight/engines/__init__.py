"""One module per engine: what is special about it stands there or in its folder of `envs/`, and nowhere else."""

from __future__ import annotations

from importlib import import_module

from firstlight.catalogue.names import engine_names, installable_names
from firstlight.engines.base import Engine, Serving, ServingRequest
from firstlight.errors import UsageError, did_you_mean

__all__ = ["Engine", "Serving", "ServingRequest", "find"]


def find(name: str) -> Engine:
    """Return the engine of that name.

    Raises:
        UsageError: there is none, near names are offered; or it can only be planned for.
    """
    known, installable = engine_names(), installable_names()
    if name not in known:
        raise UsageError(
            f'there is no engine "{name}"{did_you_mean(name, known)}', fix=f"choose one of: {', '.join(installable)}"
        )
    if name not in installable:
        raise UsageError(
            f"this firstlight cannot set {name} up yet",
            why=f"its builds are in the catalogue; what starts its server is not here ({', '.join(installable)} are)",
            fix=f"firstlight plan {name}",
        )
    engine: Engine = import_module(f"firstlight.engines.{name}").ENGINE
    return engine
