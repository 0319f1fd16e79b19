"""The values of an environment: what was wished for, what was built, and the manifest that says so."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Literal

import msgspec

from firstlight.environments.conda import CondaPackage
from firstlight.environments.distributions import InstalledPackage
from firstlight.environments.examined import Examined
from firstlight.environments.locking.conda_files import LockedConda
from firstlight.environments.wheels import WheelSet
from firstlight.files import write_atomic

MANIFEST = "firstlight-generation.json"
SCHEMA = "firstlight.generation/1"

_MOST_TOLD = 5

State = Literal["building", "built", "proven"]


def _last_part(url: str) -> str:
    return url.rstrip("/").rpartition("/")[2]


class EnvironmentSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The exact wish for an environment."""

    build: str
    kind: Literal["conda", "venv"]
    python: str
    """The minor version, such as `3.12`."""
    python_path: str | None = None
    """The interpreter that a virtual environment is made of."""
    channels: tuple[str, ...] = ()
    conda_specs: tuple[str, ...] = ()
    conda_locked: tuple[LockedConda, ...] = ()
    """The very packages, where a lock names them."""
    wheels: WheelSet
    shims: tuple[tuple[str, str], ...] = ()
    """Distributions, with their versions, that get minimal metadata."""
    expected_download: int
    expected_disk: int

    @property
    def key(self) -> str:
        """What makes two wishes the same: the SHA-256 of all that decides about the result.

        Mirrors do not: of channels and indexes only the last part of the URL counts (`conda-forge`, `simple`), in any
        order, of an owned distribution its exact version, of a wheel its file name and hash; folders of find-links,
        expected sizes and which of this machine's Pythons of that minor version a virtual environment is made of do not
        count.
        """
        wish = msgspec.to_builtins(self)
        for name in ("expected_download", "expected_disk", "python_path"):
            del wish[name]
        wish["channels"] = sorted({_last_part(channel) for channel in self.channels})
        wheels = wish["wheels"]
        del wheels["find_links"]
        for name in ("locked", "lock_file", "locked_platform", "whole", *(["constraints"] if self.wheels.lock else [])):
            del wheels[name]  # the lock's digest stands for them
        wheels["owned"] = sorted((item.name, item.version, item.asked) for item in self.wheels.owned)
        wheels["direct"] = sorted((item.file, item.sha256 or "") for item in self.wheels.direct)
        wheels["default_index"] = _last_part(self.wheels.default_index or "simple")
        return hashlib.sha256(msgspec.json.encode(wish, order="sorted")).hexdigest()


class ArchiveRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An archive that a generation was unpacked from."""

    name: str
    sha256: str
    size: int
    hash_known: bool
    """Whether the hash was known before, and held."""
    sources: list[str] = []
    """The names of the places that gave its bytes."""


class PlacedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of an unpacked release: its name below the prefix, and its bytes."""

    name: str
    size: int


class Generation(msgspec.Struct, frozen=True, kw_only=True):
    """One environment, or one unpacked release, of an engine, as its manifest tells it."""

    engine: str
    id: str
    """The name of its folder."""
    build: str
    kind: Literal["conda", "venv", "adopted", "archive"]
    python: str
    """The minor version; empty for a release that is no Python environment."""
    prefix: Path
    state: State
    created: str
    """ISO 8601, UTC."""
    key: str = ""
    spec: EnvironmentSpec | None = None
    conda: list[CondaPackage] = []
    wheels: list[InstalledPackage] = []
    problems: tuple[str, ...] = ()
    registered: Path | None = None
    """The list of conda environments that it was added to."""
    examination: Examined | None = None
    """What was seen when it was examined; None: it was not, or its build was cut off before."""
    release: str = ""
    """Of an unpacked release."""
    program: str = ""
    """Of an unpacked release: its program, below the prefix."""
    archives: list[ArchiveRecord] = []
    files: list[PlacedFile] = []
    schema: str = SCHEMA

    @property
    def program_path(self) -> Path:
        """What is run: the program of an unpacked release, or the environment's interpreter."""
        return self.prefix / self.program if self.program else self.python_path

    @property
    def python_path(self) -> Path:
        """Its interpreter. Programs of the environment are run as `python -m`: their first lines have length limits."""
        return self.prefix / "bin" / "python"

    @property
    def channel(self) -> str | None:
        """The conda channel that its Python came from."""
        python = next((package for package in self.conda if package.name == "python"), None)
        return python.channel if python is not None else None


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A generation in a list: what a person wants to know about it."""

    engine: str
    id: str
    build: str
    kind: str
    python: str
    prefix: Path
    state: str
    created: str
    current: bool
    previous: bool
    problems: tuple[str, ...]


def write_manifest(folder: Path, generation: Generation) -> None:
    """Write a generation's manifest into its folder; problems are seen anew at every reading."""
    told = msgspec.structs.replace(generation, problems=())
    text = msgspec.json.format(msgspec.json.encode(told, enc_hook=str), indent=2)
    write_atomic(folder / MANIFEST, text + b"\n")


def _to_path(kind: type, value: Any) -> Any:
    return kind(value)


def read_manifest(folder: Path, engine: str) -> Generation | None:
    """Return the generation that lies in a folder, None where there is none.

    What is wrong with it stands in `problems`; a manifest that cannot be read makes a generation that nothing chooses.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return _unreadable(folder, engine, error.strerror or str(error))
    try:
        found = msgspec.json.decode(data, type=Generation, dec_hook=_to_path)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _unreadable(folder, engine, str(error))
    if found.kind == "archive":  # nothing in it knows where it lies
        found = msgspec.structs.replace(found, prefix=folder)
    return msgspec.structs.replace(found, id=folder.name, engine=engine, problems=_problems(found, folder))


def _unreadable(folder: Path, engine: str, why: str) -> Generation:
    return Generation(
        engine=engine,
        id=folder.name,
        build="",
        kind="adopted",
        python="",
        prefix=folder,
        state="building",
        created="",
        problems=(f"its manifest {folder / MANIFEST} cannot be read: {why}",),
    )


def _problems(found: Generation, folder: Path) -> tuple[str, ...]:
    problems: list[str] = []
    if found.state == "building":
        problems.append("it was never finished; the next setup removes it")
    elif not found.program_path.exists():
        problems.append(f"{found.program_path} is gone")
    elif found.kind == "archive":
        problems += _not_whole(found.files, folder)
    elif found.kind != "adopted" and found.prefix != folder and not _same(found.prefix, folder):
        problems.append(f"it was moved from {found.prefix}: environments cannot be moved")
    return tuple(problems)


def _not_whole(files: list[PlacedFile], folder: Path) -> list[str]:
    """Return the files of an unpacked release that are gone or have another size."""
    wrong: list[str] = []
    for file in files:
        try:
            size = (folder / file.name).stat().st_size
        except OSError:
            wrong.append(f"{folder / file.name} is gone")
            continue
        if size != file.size:
            wrong.append(f"{folder / file.name} has {size} bytes instead of {file.size}")
    return wrong if len(wrong) <= _MOST_TOLD else [*wrong[:_MOST_TOLD], f"and {len(wrong) - _MOST_TOLD} more"]


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
