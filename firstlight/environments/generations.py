"""Generations of environments: each is built beside the others; `current` is one symlink, switched at the end."""

from __future__ import annotations

from pathlib import Path

import msgspec

from firstlight.catalogue.loading import load_catalogue
from firstlight.environments.adopting import describe_adopted
from firstlight.environments.archives import ArchiveStore, store_for, store_named
from firstlight.environments.building import assemble
from firstlight.environments.conda import register_prefix
from firstlight.environments.examined import Examined
from firstlight.environments.generation_store import GenerationStore, now
from firstlight.environments.locking.holding import hold, holding
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.spec import EnvironmentSpec, Generation, Listed, write_manifest
from firstlight.environments.uv_program import clear_cache_leftovers
from firstlight.errors import FirstlightError, UsageError
from firstlight.events import Step
from firstlight.files import remove_tree
from firstlight.home import Home
from firstlight.machine.space import require_room

__all__ = ["EnvironmentSpec", "Generation", "Listed", "Store", "all_generations", "store_for", "store_named"]

_SHARED = 10  # an environment whose wheels are all linked from the cache needs about a tenth of its size


class Store(GenerationStore):
    """The Python environments of one engine."""

    def __init__(self, home: Home, engine: str) -> None:
        super().__init__(home, engine, home.environments / engine)

    def switch(self, generation: Generation) -> None:
        """Make a generation the current one; what a pinned build came out as is held from now on."""
        super().switch(generation)
        hold(self.home, generation)

    def build(
        self, spec: EnvironmentSpec, *, step: Step, log: Path, settings: PipSettings, hold: int | tuple[int, ...] = ()
    ) -> Generation:
        """Build a new generation of `spec` beside the others and return it; nothing is switched.

        What a killed build has left is removed first; its bytes are in the caches. Where a generation of the same spec
        is there already, every file of the new one is checked: the old one is being replaced for some reason.

        Args:
            spec: what to build.
            step: takes the progress.
            log: file for what the parts say.
            settings: the user's pip configuration.
            hold: descriptors that every program keeps open, the lock among them.

        Raises:
            FirstlightError: no room, or see `assemble`; the half-built environment is removed, the caches are kept.
        """
        self.remove_leftovers()
        clear_cache_leftovers(self.home.wheel_cache)
        equal = any(item.key == spec.key for item in self.list())
        self.home.environments.mkdir(parents=True, exist_ok=True)
        needed = spec.expected_disk // _SHARED if equal else spec.expected_disk
        require_room(self.home.environments, f"the environment {spec.build}", needed)
        folder = self.new_folder(f"{spec.build}-{spec.key[:8]}")
        generation = Generation(
            engine=self.engine,
            id=folder.name,
            build=spec.build,
            kind=spec.kind,
            python=spec.python,
            prefix=folder,
            state="building",
            created=now(),
            key=spec.key,
            spec=spec,
        )
        write_manifest(folder, generation)
        descriptors = (hold,) if isinstance(hold, int) else hold
        try:
            contents = assemble(
                folder, spec, self.home, settings, step=step, log=log, hold=descriptors, suspicious=equal
            )
        except FirstlightError:
            remove_tree(folder)
            raise
        registered = register_prefix(folder) if spec.kind == "conda" else None
        built = msgspec.structs.replace(
            generation, state="built", conda=contents.conda, wheels=contents.wheels, registered=registered
        )
        write_manifest(folder, built)
        return built

    def repair(
        self, generation: Generation, *, step: Step, log: Path, settings: PipSettings, hold: int | tuple[int, ...] = ()
    ) -> Generation:
        """Build a fresh generation of the same spec beside `generation` and return it; see `build`.

        Raises:
            UsageError: it was adopted: firstlight never writes into it.
        """
        if generation.spec is None:
            raise UsageError(
                f"{generation.id} was not built by firstlight",
                why=f"it is the adopted environment {generation.prefix}, which is never written into",
                fix=f"build one: firstlight setup.{self.engine}",
            )
        spec = generation.spec
        wheels = holding(self.home, spec.wheels, spec.build, spec.python)
        spec = msgspec.structs.replace(spec, wheels=wheels)
        return self.build(spec, step=step, log=log, settings=settings, hold=hold)

    def mark_examined(self, generation: Generation, examined: Examined) -> Generation:
        """Note in the manifest what was seen when the generation was examined; returns it so."""
        noted = msgspec.structs.replace(generation, examination=examined)
        write_manifest(self.folder / generation.id, noted)
        return noted

    def adopt(self, prefix: Path) -> Generation:
        """Take an environment that is already there: a manifest of ours points to it, and nothing is written into it.

        Raises:
            UsageError: it holds no working `bin/python`, or it is one of ours.
        """
        if prefix.expanduser().absolute().is_relative_to(self.home.environments):
            raise UsageError(f"{prefix} is firstlight's own environment already", fix="firstlight setup.list")
        adopted = describe_adopted(prefix, self.engine, now())
        write_manifest(self.folder / adopted.id, adopted)
        return adopted


def all_generations(home: Home) -> list[Listed]:
    """Return the generations of every engine, for people to read."""
    try:
        engines = {entry.name for entry in home.environments.iterdir() if entry.is_dir()}
    except OSError:
        engines = set()
    stores: dict[str, GenerationStore] = {engine: Store(home, engine) for engine in engines}
    for name, entry in load_catalogue().engines.items():
        if entry.kind == "archive":
            stores[name] = ArchiveStore(home, name)
    return [item for _engine, store in sorted(stores.items()) for item in store.listed()]
