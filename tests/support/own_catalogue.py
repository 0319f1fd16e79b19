"""The program with a catalogue of its own: a copy whose locks a test may edit, and run as a person would run it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
from support.command import REPOSITORY, Ended, firstlight
from support.local_channel import MINOR

from firstlight.catalogue.loading import load_catalogue
from firstlight.catalogue.locks import lock_folder, lock_path
from firstlight.catalogue.types import Build
from firstlight.environments.locking.lockfile import LockedWheel, PipLock, render
from firstlight.environments.locking.wish import wish_of

ENGINE, BUILD = "transformers", "transformers-5.23.0-cu124"
FACTS = REPOSITORY / "tests" / "machines" / "a100-driver535-ubuntu2004.json"


class OwnCatalogue:
    """A copy of the program under `root`, in which `BUILD` is for the Python that runs the tests alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("firstlight", "envs", "templates"):
            shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.page = root / "envs" / ENGINE / "builds.toml"
        self.add_to_build(f'pythons = ["{MINOR}"]')

    def add_to_build(self, line: str) -> None:
        """Write a line into the build's entry."""
        head = f'id = "{BUILD}"\n'
        self.page.write_text(self.page.read_text().replace(head, f"{head}{line}\n", 1))

    @property
    def build(self) -> Build:
        """The build as the copy has it."""
        page = load_catalogue(self.root / "envs").engines[ENGINE]
        return next(build for build in page.build if build.id == BUILD)

    @property
    def lock(self) -> Path:
        """The file of the build's lock."""
        return lock_path(lock_folder(ENGINE, BUILD, self.root / "envs"), self.build, MINOR)

    def write_lock(self, *wheels: LockedWheel) -> None:
        """Make the build's lock one of these wheels, made from the wish that it has."""
        wish = wish_of(ENGINE, self.build, MINOR)
        lock = PipLock(
            build=BUILD, python=MINOR, platform=wish.platform, wish=wish.digest, resolved="2026-01-02",
            wheels=tuple(sorted(wheels)),
        )  # fmt: skip
        self.lock.write_text(render(msgspec.structs.replace(lock, newest=wish.newest))[0])

    def run(self, *words: str, home: Path) -> Ended:
        """Run the copy's `firstlight WORDS`."""
        return firstlight(
            *words,
            home=home,
            program=[sys.executable, "-m", "firstlight"],
            folder=self.root,
            variables={"PYTHONPATH": str(self.root), "NO_PROXY": "127.0.0.1"},
        )

    def setup(self, index: str, home: Path, more: Sequence[str] = ()) -> Ended:
        """Run `setup` of the build from an index, for an A100 that is not here."""
        words = ["--build", BUILD, "--machine", str(FACTS), "--no-proof", "--environment", "venv", "--index", index]
        return self.run(f"setup.{ENGINE}", *words, "--yes", *more, home=home)
