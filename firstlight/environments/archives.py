"""Engines that come as release archives: versions side by side, unpacked while fetched, switched at the end."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from firstlight.catalogue.loading import find_engine, load_catalogue
from firstlight.catalogue.types import Build, EngineEntry
from firstlight.environments.archive_parts import ArchivePart, ArchiveSpec, Assembly, files_of, require_program
from firstlight.environments.generation_store import GenerationStore, now
from firstlight.environments.spec import Generation, write_manifest
from firstlight.errors import UsageError
from firstlight.events import Step
from firstlight.fetching.types import Policy, Transport
from firstlight.files import remove_tree
from firstlight.home import Home
from firstlight.machine.space import mount_point, require_room

if TYPE_CHECKING:
    from firstlight.environments.generations import Store

__all__ = ["ArchivePart", "ArchiveSpec", "ArchiveStore", "locked", "store_for", "store_named"]


class ArchiveStore(GenerationStore):
    """The unpacked releases of one engine, one folder for each."""

    noun = "version"

    def __init__(self, home: Home, engine: str, folder: Path | None = None) -> None:
        super().__init__(home, engine, folder or home.root / engine)

    def build(
        self,
        spec: ArchiveSpec,
        *,
        step: Step,
        policy: Policy | None = None,
        transport: Transport | None = None,
        keep_archives: bool = False,
        hold: int | tuple[int, ...] = (),
    ) -> Generation:
        """Fetch, verify and unpack a version beside the others and return it; nothing is switched.

        What a killed build has left is removed first; what it had downloaded is kept and used.

        Args:
            spec: what to build.
            step: takes the progress.
            policy: how hard to try to fetch.
            transport: how the network is reached.
            keep_archives: keep what was fetched in the home's downloads.
            hold: descriptors that the unpacking process keeps open, the lock among them.

        Raises:
            NetworkFailed: no source delivers; what is there is kept.
            VerificationFailed: an archive is wrong, refused, or lacks the program.
            FirstlightError: no room, or a folder that cannot be written.
        """
        self.remove_leftovers()
        self.folder.mkdir(parents=True, exist_ok=True)
        needed = spec.expected_disk + self._to_fetch(spec)
        require_room(self.folder, f"{self.engine} {spec.release}", needed)
        folder = self.new_folder(spec.release, between="-")
        generation = Generation(
            engine=self.engine,
            id=folder.name,
            build=spec.build,
            kind="archive",
            python="",
            prefix=folder,
            state="building",
            created=now(),
            key=spec.key,
            release=spec.release,
            program=spec.program,
        )
        write_manifest(folder, generation)
        site = Assembly(folder, self.downloads(spec.release), spec, step, policy, transport, hold)
        try:
            records = [site.place(number, part) for number, part in enumerate(spec.parts)]
            require_program(folder, spec)
            files = list(files_of(folder))
        except BaseException:
            remove_tree(folder)
            raise
        built = msgspec.structs.replace(generation, state="built", archives=records, files=files)
        write_manifest(folder, built)
        if not keep_archives:
            site.drop_archives()
        return built

    def repair(
        self,
        generation: Generation,
        spec: ArchiveSpec,
        *,
        step: Step,
        policy: Policy | None = None,
        transport: Transport | None = None,
        keep_archives: bool = False,
        hold: int | tuple[int, ...] = (),
    ) -> Generation:
        """Build a fresh copy of a version beside it and return it; see `build`.

        Raises:
            UsageError: it was adopted: firstlight never writes into it.
        """
        if generation.kind == "adopted":
            raise UsageError(
                f"{generation.id} was not unpacked by firstlight",
                why=f"it is the adopted copy in {generation.prefix}, which is never written into",
                fix=f"install one: firstlight setup.{self.engine}",
            )
        return self.build(spec, step=step, policy=policy, transport=transport, keep_archives=keep_archives, hold=hold)

    def _to_fetch(self, spec: ArchiveSpec) -> int:
        """Return the bytes that are still to be fetched onto the disk of the versions."""
        folder = self.downloads(spec.release)
        if mount_point(folder) != mount_point(self.folder):
            return 0
        missing = 0
        for part in spec.parts:
            there = [folder / part.wanted.name, folder / f"{part.wanted.name}.partial"]
            taken = sum(path.stat().st_blocks * 512 for path in there if path.exists())
            missing += max(0, (part.wanted.size or 0) - taken) if part.local is None else 0
        return missing

    def downloads(self, release: str) -> Path:
        """Return where the archives of a release are fetched to: their names carry no version."""
        return self.home.downloads / self.engine / release

    def spare(self) -> list[Generation]:
        """Return the versions that neither run nor are gone back to: all but current, previous and adopted ones."""
        current, previous = self.current(), self.previous()
        if current is None:
            return []
        kept = {item.id for item in (current, previous) if item is not None}
        return [
            item for item in self.list() if item.id not in kept and item.kind == "archive" and item.state != "building"
        ]

    def adopt(self, prefix: Path, program: str, release: str) -> Generation:
        """Take a copy that is already there: a manifest of ours points to it, and nothing is written into it.

        Args:
            prefix: the folder above it.
            program: its program, below the prefix.
            release: the release that the program says it is.

        Raises:
            UsageError: the program is not there, or it is one of ours.
        """
        prefix = prefix.expanduser().absolute()
        if prefix.is_relative_to(self.folder):
            raise UsageError(f"{prefix} is firstlight's own copy already", fix="firstlight setup.list")
        if not os.access(prefix / program, os.X_OK):
            raise UsageError(
                f"{prefix} holds no {program} that can be run", fix=f"look at it: ls -l {prefix / program}"
            )
        name = f"adopted-{hashlib.sha256(os.fsencode(prefix)).hexdigest()[:8]}"
        adopted = Generation(
            engine=self.engine,
            id=name,
            build=name,
            kind="adopted",
            python="",
            prefix=prefix,
            state="built",
            created=now(),
            key=f"adopted:{prefix}",
            release=release,
            program=program,
        )
        write_manifest(self.folder / name, adopted)
        return adopted


def locked(generation: Generation, build: Build) -> bool:
    """Tell whether every archive of a version has the sum that the catalogue has for it."""
    listed = {asset.name: asset.sha256 for asset in build.assets}
    return all(record.sha256 == listed.get(record.name) for record in generation.archives)


def store_for(home: Home, entry: EngineEntry) -> Store | ArchiveStore:
    """Return where an engine's generations are kept: environments, or unpacked releases."""
    from firstlight.environments.generations import Store

    return ArchiveStore(home, entry.engine) if entry.kind == "archive" else Store(home, entry.engine)


def store_named(home: Home, engine: str) -> Store | ArchiveStore:
    """Return where the generations of the engine of this name are kept.

    Raises:
        UsageError: the catalogue has no such engine.
    """
    return store_for(home, find_engine(load_catalogue(), engine))
