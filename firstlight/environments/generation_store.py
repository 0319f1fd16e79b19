"""What every kind of generation has in common: kept side by side, listed, switched by one symlink, removed."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from firstlight.environments.conda_list import unregister_prefix
from firstlight.environments.spec import Generation, Listed, read_manifest, write_manifest
from firstlight.errors import FirstlightError, UsageError, did_you_mean
from firstlight.files import remove_tree, switch_symlink, writer_lock
from firstlight.home import Home

Generations = list[Generation]
Lines = list[str]

LOCK = ".lock"


def now() -> str:
    """Return the time as manifests have it: ISO 8601, UTC."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class GenerationStore:
    """The generations of one engine. What changes them is called while `lock` is held; reading needs no lock."""

    noun = "environment"
    """What a generation is called in messages."""

    def __init__(self, home: Home, engine: str, folder: Path) -> None:
        self.home = home
        self.engine = engine
        self.folder = folder

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
                held = stack.enter_context(writer_lock(self.folder / LOCK, f"{self.engine} {self.noun}s", wait=wait))
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

    def new_folder(self, name: str, between: str = ".") -> Path:
        """Make and return a folder for a new generation; where the name is taken a number follows it."""
        for number in range(1, 1000):
            folder = self.folder / (name if number == 1 else f"{name}{between}{number}")
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                continue
            return folder
        raise FirstlightError(f"{self.folder} holds a thousand {self.noun}s of {name}", fix="firstlight setup.remove")

    def remove_leftovers(self) -> None:
        """Remove what killed builds and killed removals have left."""
        for item in self.list():
            if item.state == "building" and item.build:
                unregister_prefix(item.prefix)
                remove_tree(self.folder / item.id)
        for doomed in self.folder.glob(".removed-*"):
            shutil.rmtree(doomed, ignore_errors=True)

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
                f"{self.engine} has no previous {self.noun}", fix="see what there is: firstlight setup.list"
            )
        if previous.problems:
            raise FirstlightError(
                f"the previous {self.noun} {previous.id} cannot be used",
                why="; ".join(previous.problems),
                fix=f"build one: firstlight setup.{self.engine}",
            )
        self.switch(previous)
        return previous

    def remove(self, generation_id: str | None = None) -> Lines:
        """Remove one generation, or all with None; returns in words what was undone.

        Adopted ones themselves stay untouched.

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
                f"{self.engine} has no {self.noun} {generation_id}{did_you_mean(generation_id, names)}",
                why=f"there are: {', '.join(names) or 'none'}",
                fix="firstlight setup.list",
            )
        current = self.current()
        if current is not None and current.id == chosen.id:
            raise UsageError(
                f"{generation_id} is the current {self.noun} of {self.engine}",
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
            if entry.name != LOCK and entry.is_file():  # records of this engine's generations
                entry.unlink()
        self.remove_leftovers()
        return undone

    def listed(self) -> Iterator[Listed]:
        """Yield the generations for people to read."""
        current, previous = self.current(), self.previous()
        for item in self.list():
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
