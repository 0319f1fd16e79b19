"""The engines' names alone, cheap enough for the start of every command."""

from __future__ import annotations

from firstlight.resources import data_folder


def engine_names() -> list[str]:
    """Return the names of the engines that have a page in the catalogue, in alphabetical order."""
    return sorted(path.parent.name for path in data_folder("envs").glob("*/builds.toml"))
