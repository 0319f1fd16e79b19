"""Ollama: its releases and where their archives lie, its store of models, its registries, its server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from firstlight.engines.base import Engine

    ENGINE: Engine


def __getattr__(name: str) -> Any:
    """Return ENGINE, made when it is asked for: the parts of this package are used without it too."""
    if name != "ENGINE":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from firstlight.engines.ollama.engine import Ollama

    return Ollama()
