"""What each engine's current generation is."""

from __future__ import annotations

import msgspec

from firstlight.catalogue.types import EngineEntry
from firstlight.doctor.looking import Look
from firstlight.home import Home


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's current generation: its build, whether it was proven, and what is wrong with it."""

    engine: str
    build: str
    generation: str
    state: str
    created: str
    problems: tuple[str, ...] = ()


class InstalledSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The current generations, for the engines that have one."""

    current: tuple[Installed, ...] = ()

    def of(self, engine: str) -> Installed | None:
        """Return an engine's current generation."""
        return next((item for item in self.current if item.engine == engine), None)


def read(look: Look) -> InstalledSeen:
    """Return the current generations of all engines."""
    home = look.home()
    found = (_current(home, name, page) for name, page in look.catalogue.engines.items())
    return InstalledSeen(current=tuple(item for item in found if item is not None))


def _current(home: Home, engine: str, page: EngineEntry) -> Installed | None:
    folder = home.root if page.kind == "archive" else home.environments
    if not (folder / engine / "current").is_symlink():
        return None  # what reads manifests takes longer to import than all of this probe
    from firstlight.environments.generations import store_for

    present = store_for(home, page).current()
    if present is None:
        return _unpacked(home, engine) if page.kind == "archive" else None
    return Installed(
        engine=engine,
        build=present.build,
        generation=present.id,
        state=present.state,
        created=present.created,
        problems=present.problems,
    )


def _unpacked(home: Home, engine: str) -> Installed | None:
    """Return what `<home>/<engine>/current` leads to where no manifest of ours says what it is."""
    link = home.root / engine / "current"
    try:
        target = link.readlink()
    except OSError:
        return None
    problems = () if link.is_dir() else (f"{link} leads to {target}, which is gone",)
    return Installed(
        engine=engine, build=target.name, generation=target.name, state="built", created="", problems=problems
    )
