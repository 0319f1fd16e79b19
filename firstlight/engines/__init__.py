"""One module per engine: what is special about it stands there or in its folder of `envs/`, and nowhere else."""

from __future__ import annotations

from importlib import import_module

from firstlight.engines.base import Engine, Serving, ServingRequest
from firstlight.errors import UsageError, did_you_mean

__all__ = ["KNOWN", "Engine", "Serving", "ServingRequest", "find"]

KNOWN = ("vllm", "transformers")


def find(name: str) -> Engine:
    """Return the engine of that name.

    Raises:
        UsageError: there is none; near names are offered.
    """
    if name not in KNOWN:
        raise UsageError(
            f'there is no engine "{name}"{did_you_mean(name, list(KNOWN))}', fix=f"choose one of: {', '.join(KNOWN)}"
        )
    engine: Engine = import_module(f"firstlight.engines.{name}").ENGINE
    return engine
