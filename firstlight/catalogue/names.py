"""The engines' names alone, cheap enough for the start of every command."""

from __future__ import annotations

from pathlib import Path

from firstlight.resources import data_folder

_ENGINES = Path(__file__).resolve().parent.parent / "engines"


def engine_names() -> list[str]:
    """Return the names of the engines that have a page in the catalogue, in alphabetical order."""
    return sorted(path.parent.name for path in data_folder("envs").glob("*/builds.toml"))


def installable_names() -> list[str]:
    """Return those of them that can be set up and served: a module or package knows how their server is started.

    The others can be planned for.
    """
    places = ((name, (_ENGINES / f"{name}.py", _ENGINES / name / "__init__.py")) for name in engine_names())
    return [name for name, files in places if any(file.is_file() for file in files)]


def command_for(engine: str) -> str:
    """Return the command that leads furthest with an engine: it is brought up, or planned for where that is all."""
    return f"firstlight up --engine {engine}" if engine in installable_names() else f"firstlight plan {engine}"
