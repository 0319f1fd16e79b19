"""Generations: each environment is built beside the others; `current` is one symlink, switched at the end."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from firstlight.environments.adopting import describe_adopted
from firstlight.environments.building import assemble
from firstlight.environments.conda import register_prefix, unregister_prefix
from firstlight.environments.examined import Examined
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.spec import EnvironmentSpec, Generation, Listed, read_manifest, write_manifest
from firstlight.environments.uv_program import clear_cache_leftovers
from firstlight.errors import FirstlightError, UsageError, did_you_mean
from firstlight.events import Step
from firstlight.files import remove_tree, switch_symlink, writer_lock
from firstlight.home import Home
from firstlight.machine.space import require_room

__all__ = ["EnvironmentSpec", "Generation", "Listed", "Store", "all_generations"]

Generations = list[Generation]
Lines = list[str]

_LOCK = ".lock"
_SHARED = 10  # an environment whose wheels are all linked from the cache needs about a tenth of its size


def _now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Store:
    """The environments of one engine. What changes them is called while `lock` is held; reading needs no lock."""

    def __init__(self, home: Home, engine: str) -> None:
        self.home = home
        self.engine = engine
        self.folder = home.environments / engine

    @contextlib.contextmanager
    def lock(self, wait: float = 0.0) -> Iterator[int]:
        """Hold the engine's lock and yield its descriptor, to be handed to `build`.

        Programs that still write after their parent was killed keep it locked.

        Args:
            wait: seconds to wait for another holder.

        Raises:
            FirstlightError: another firstlight holds it, or the folder cannot be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                held = stack.enter_context(writer_lock(self.folder / _LOCK, f"{self.engine} environments", wait=wait))
            except OSError as error:
                raise FirstlightError(
                    f"{self.folder} cannot be written",
                    why=error.strerror or str(error),
                    fix="choose a folder that you can write: export FIRSTLIGHT_HOME=/path/with/room",
                ) from error
            yield held

    def list(self) -> Generations:
        """Return the generations, oldest first; what is wrong with one stands in its `problems`."""
        try:
            folders = [entry for entry in self.folder.iterdir() if entry.is_dir() and not entry.is_symlink()]
        except OSError:
            return []
        found = (read_manifest(folder, self.engine) for folder in folders if not folder.name.startswith("."))
        return sorted((item for item in found if item is not None), key=lambda item: (item.created, item.id))

    def current(self) -> Generation | None:
        """Return the generation in use."""
        return self._linked("current")

    def previous(self) -> Generation | None:
        """Return the generation that `rollback` goes to."""
        return self._linked("previous")

    def _linked(self, name: str) -> Generation | None:
        try:
            target = (self.folder / name).readlink()
        except OSError:
            return None
        found = read_manifest(self.folder / target, self.engine)
        return None if found is None or found.state == "building" else found

    def find(self, key: str) -> Generation | None:
        """Return a whole generation of a spec's key: the current one, else the newest."""
        whole = [item for item in self.list() if item.key == key and item.state != "building" and not item.problems]
        current = self.current()
        if current is not None and any(item.id == current.id for item in whole):
            return current
        return whole[-1] if whole else None

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
        self._remove_leftovers()
        clear_cache_leftovers(self.home.wheel_cache)
        equal = any(item.key == spec.key for item in self.list())
        self.home.environments.mkdir(parents=True, exist_ok=True)
        needed = spec.expected_disk // _SHARED if equal else spec.expected_disk
        require_room(self.home.environments, f"the environment {spec.build}", needed)
        folder = self._new_folder(f"{spec.build}-{spec.key[:8]}")
        generation = Generation(
            engine=self.engine,
            id=folder.name,
            build=spec.build,
            kind=spec.kind,
            python=spec.python,
            prefix=folder,
            state="building",
            created=_now(),
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
        return self.build(generation.spec, step=step, log=log, settings=settings, hold=hold)

    def _new_folder(self, name: str) -> Path:
        for number in range(1, 1000):
            folder = self.folder / (name if number == 1 else f"{name}.{number}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            return folder
        raise FirstlightError(f"{self.folder} holds a thousand environments of {name}", fix="firstlight setup.remove")

    def _remove_leftovers(self) -> None:
        """Remove what killed builds and killed removals have left."""
        for item in self.list():
            if item.state == "building" and item.build:
                unregister_prefix(item.prefix)
                remove_tree(self.folder / item.id)
        for doomed in self.folder.glob(".removed-*"):
            shutil.rmtree(doomed, ignore_errors=True)

    def mark_examined(self, generation: Generation, examined: Examined) -> Generation:
        """Note in the manifest what was seen when the generation was examined; returns it so."""
        noted = msgspec.structs.replace(generation, examination=examined)
        write_manifest(self.folder / generation.id, noted)
        return noted

    def mark_proven(self, generation: Generation) -> Generation:
        """Note in the manifest that the generation has given a first token; returns it so."""
        proven = msgspec.structs.replace(generation, state="proven")
        write_manifest(self.folder / generation.id, proven)
        return proven

    def switch(self, generation: Generation) -> None:
        """Make a generation the current one, and the one in use until now the previous one.

        Each link is one atomic rename, `previous` first: killed in between, what was current still is.

        Raises:
            FirstlightError: it was never finished.
        """
        if read_manifest(self.folder / generation.id, self.engine) is None or generation.state == "building":
            raise FirstlightError(
                f"{generation.id} is not whole", fix=f"build it again: firstlight setup.{self.engine}"
            )
        current = self.current()
        if current is not None and current.id == generation.id:
            return
        if current is not None:
            switch_symlink(self.folder / "previous", current.id)
        switch_symlink(self.folder / "current", generation.id)

    def rollback(self) -> Generation:
        """Make the previous generation the current one again, and the other way round; returns it.

        Raises:
            FirstlightError: there is none, or it is damaged.
        """
        previous = self.previous()
        if previous is None:
            raise FirstlightError(
                f"{self.engine} has no previous environment", fix="see what there is: firstlight setup.list"
            )
        if previous.problems:
            raise FirstlightError(
                f"the previous environment {previous.id} cannot be used",
                why="; ".join(previous.problems),
                fix=f"build one: firstlight setup.{self.engine}",
            )
        self.switch(previous)
        return previous

    def remove(self, generation_id: str | None = None) -> Lines:
        """Remove one generation, or all with None; returns in words what was undone.

        Adopted environments themselves stay untouched.

        Raises:
            UsageError: there is none of that name, or it is the current one.
        """
        present = self.list()
        if generation_id is None:
            return self._remove_all(present)
        chosen = next((item for item in present if item.id == generation_id), None)
        if chosen is None:
            names = [item.id for item in present]
            raise UsageError(
                f"{self.engine} has no environment {generation_id}{did_you_mean(generation_id, names)}",
                why=f"there are: {', '.join(names) or 'none'}",
                fix="firstlight setup.list",
            )
        current = self.current()
        if current is not None and current.id == chosen.id:
            raise UsageError(
                f"{generation_id} is the current environment of {self.engine}",
                fix=f"firstlight setup.rollback {self.engine}, or remove all: firstlight setup.remove {self.engine}",
            )
        return self._remove_one(chosen)

    def _remove_one(self, item: Generation) -> Lines:
        undone: Lines = []
        link = self.folder / "previous"
        if link.is_symlink() and str(link.readlink()) == item.id:
            link.unlink()
        if item.kind != "adopted" or not item.build:
            listing = unregister_prefix(item.prefix)
            if listing is not None:
                undone.append(f"took {item.prefix} off {listing}")
        remove_tree(self.folder / item.id)
        kept = f"; {item.prefix} itself stays as it is" if item.kind == "adopted" and item.build else ""
        return [*undone, f"removed {self.folder / item.id}{kept}"]

    def _remove_all(self, present: Generations) -> Lines:
        undone: Lines = []
        for name in ("current", "previous"):
            (self.folder / name).unlink(missing_ok=True)
        for item in present:
            undone += self._remove_one(item)
        for entry in self.folder.iterdir() if self.folder.is_dir() else ():
            if entry.name != _LOCK and entry.is_file():  # records of this engine's environments
                entry.unlink()
        self._remove_leftovers()
        return undone

    def adopt(self, prefix: Path) -> Generation:
        """Take an environment that is already there: a manifest of ours points to it, and nothing is written into it.

        Raises:
            UsageError: it holds no working `bin/python`, or it is one of ours.
        """
        if prefix.expanduser().absolute().is_relative_to(self.home.environments):
            raise UsageError(f"{prefix} is firstlight's own environment already", fix="firstlight setup.list")
        adopted = describe_adopted(prefix, self.engine, _now())
        write_manifest(self.folder / adopted.id, adopted)
        return adopted


def all_generations(home: Home) -> list[Listed]:
    """Return the generations of every engine, for people to read."""
    try:
        engines = sorted(entry.name for entry in home.environments.iterdir() if entry.is_dir())
    except OSError:
        return []
    return [item for engine in engines for item in _listed(Store(home, engine))]


def _listed(store: Store) -> Iterator[Listed]:
    current, previous = store.current(), store.previous()
    for item in store.list():
        yield Listed(
            engine=item.engine,
            id=item.id,
            build=item.build,
            kind=item.kind,
            python=item.python,
            prefix=item.prefix,
            state=item.state,
            created=item.created,
            current=current is not None and current.id == item.id,
            previous=previous is not None and previous.id == item.id,
            problems=item.problems,
        )
