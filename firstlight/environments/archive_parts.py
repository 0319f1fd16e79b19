"""The archives of a release, put together into one folder: fetched or local, unpacked apart, laid over each other."""

from __future__ import annotations

import filecmp
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from firstlight.environments.spec import MANIFEST, ArchiveRecord, PlacedFile
from firstlight.errors import VerificationFailed
from firstlight.events import Step
from firstlight.fetching.types import Fetched, Policy, Transport, Wanted
from firstlight.fetching.unpacking import Limits, Selection, Unpacked, fetch_and_unpack, unpack
from firstlight.files import remove_tree

_PART = ".part-"
_BOUND = 4  # how many times the expected size an archive may unpack to


class ArchivePart(msgspec.Struct, frozen=True, kw_only=True):
    """One file that a version is made of; with `local` it is unpacked from where it lies, and stays there."""

    wanted: Wanted
    local: Path | None = None
    selection: Selection = Selection()


class ArchiveSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The exact wish for a version."""

    build: str
    release: str
    """The name of its folder."""
    program: str
    """What must be there in the end, below the prefix; a part that is a bare program becomes it."""
    parts: tuple[ArchivePart, ...]
    expected_disk: int
    """Bytes that it takes unpacked."""

    @property
    def key(self) -> str:
        """What makes two wishes the same: release, build, and the parts by name, hash and selection."""
        parts = [
            (part.wanted.name, part.wanted.sha256 or "", part.selection.include, part.selection.exclude)
            for part in self.parts
        ]
        wish = [self.build, self.release, self.program, parts]
        return hashlib.sha256(msgspec.json.encode(wish)).hexdigest()


class Assembly:
    """Where a version is put together, part by part."""

    def __init__(
        self,
        folder: Path,
        downloads: Path,
        spec: ArchiveSpec,
        step: Step,
        policy: Policy | None,
        transport: Transport | None,
        hold: int | tuple[int, ...],
    ) -> None:
        self._folder = folder
        self._downloads = downloads
        self._spec = spec
        self._step = step
        self._policy = policy
        self._transport = transport
        self._hold = (hold,) if isinstance(hold, int) else hold
        self._fetched: list[Path] = []

    def place(self, number: int, part: ArchivePart) -> ArchiveRecord:
        """Unpack a part and lay it into the version's folder; returns what it was."""
        apart = self._folder / f"{_PART}{number}"
        record = self._local(part, part.local, apart) if part.local is not None else self._fetch(part, apart)
        _merge(apart, self._folder, part.wanted.name)
        return record

    def _local(self, part: ArchivePart, path: Path, apart: Path) -> ArchiveRecord:
        unpacked = unpack(
            path,
            apart,
            step=self._step,
            limits=self._limits(),
            selection=part.selection,
            program=self._spec.program,
            sha256=part.wanted.sha256,
            compute_hash=True,
            hold=self._hold,
        )
        return _record(part, unpacked, None)

    def _fetch(self, part: ArchivePart, apart: Path) -> ArchiveRecord:
        archive = self._downloads / part.wanted.name
        archive.parent.mkdir(parents=True, exist_ok=True)
        fetched, unpacked = fetch_and_unpack(
            part.wanted,
            archive,
            apart,
            step=self._step,
            policy=self._policy,
            transport=self._transport,
            limits=self._limits(),
            selection=part.selection,
            program=self._spec.program,
            hold=self._hold,
        )
        self._fetched.append(archive)
        return _record(part, unpacked, fetched)

    def _limits(self) -> Limits:
        return Limits(unpacked=_BOUND * self._spec.expected_disk if self._spec.expected_disk else None)

    def drop_archives(self) -> None:
        """Remove what was fetched: it is unpacked now."""
        for archive in self._fetched:
            archive.unlink(missing_ok=True)
        for folder in (self._downloads, self._downloads.parent):
            try:
                folder.rmdir()
            except OSError:  # something else lies there
                return


def _record(part: ArchivePart, unpacked: Unpacked, fetched: Fetched | None) -> ArchiveRecord:
    if fetched is None:
        return ArchiveRecord(
            name=part.wanted.name,
            sha256=unpacked.sha256 or "",
            size=unpacked.size,
            hash_known=part.wanted.sha256 is not None,
            sources=[str(part.local)],
        )
    return ArchiveRecord(
        name=part.wanted.name,
        sha256=fetched.sha256,
        size=fetched.size,
        hash_known=fetched.hash_known,
        sources=[share.source for share in fetched.shares],
    )


def _merge(source: Path, target: Path, name: str) -> None:
    """Move what an archive held into a folder; the same file twice is taken where it is the same to the byte.

    Raises:
        VerificationFailed: two archives hold different files of one name.
    """
    for entry in list(source.iterdir()):
        there = target / entry.name
        if not there.exists() and not there.is_symlink():
            entry.rename(there)
        elif entry.is_dir() and there.is_dir() and not entry.is_symlink() and not there.is_symlink():
            _merge(entry, there, name)
        elif not _alike(entry, there):
            raise VerificationFailed(
                f"{name} holds {entry.name}, and another archive of the release holds another file of that name",
                why="one of the archives belongs to another release",
                fix="fetch both again from one release",
            )
    remove_tree(source)


def _alike(one: Path, other: Path) -> bool:
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    return one.is_file() and other.is_file() and filecmp.cmp(one, other, shallow=False)


def require_program(folder: Path, spec: ArchiveSpec) -> None:
    """Check that the program is there and can be run.

    Raises:
        VerificationFailed: it is not.
    """
    program = folder / spec.program
    if program.is_file() and os.access(program, os.X_OK):
        return
    names = ", ".join(part.wanted.name for part in spec.parts)
    raise VerificationFailed(
        f"{names} holds no program {spec.program}",
        why="it is there, but cannot be run" if program.exists() else "no member of the archive has that name",
        fix=f"see whether it is the right file: tar -tvf {names.split(', ')[0]}",
    )


def files_of(folder: Path) -> Iterator[PlacedFile]:
    """Yield the files below a folder, its manifest left out."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root) / name
            if not path.is_symlink() and path != folder / MANIFEST:
                yield PlacedFile(name=str(path.relative_to(folder)), size=path.stat().st_size)
