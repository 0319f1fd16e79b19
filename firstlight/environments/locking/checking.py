"""Holds the locks against the catalogue: whole, of the wish that it has now, and with the pins that matter."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from packaging.requirements import InvalidRequirement, Requirement

from firstlight.catalogue.locks import lock_folder, lock_path, locked_pythons, subdir_of
from firstlight.catalogue.types import Build
from firstlight.environments.distributions import canonical
from firstlight.environments.locking.conda_files import LockedConda, read_conda_lock, require_conda_lock
from firstlight.environments.locking.conda_layer import load_records
from firstlight.environments.locking.lockfile import CONDA_LOCK, WISH, Damage, PipLock, read_lock
from firstlight.environments.locking.wish import LockWish, environment_yml, wish_of
from firstlight.process import run

_SECONDS = 120.0
_PARSING = """
import json, os, sys, warnings
warnings.simplefilter("ignore")
parser, *names = sys.argv[1:]
if parser == "rattler":
    from rattler import LockFile
    read = LockFile.from_path
else:
    from pathlib import Path
    from conda_lock.lockfile import parse_conda_lock_file
    read = lambda name: parse_conda_lock_file(Path(name))
failed = {}
for name in names:
    try:
        read(name)
    except Exception as error:
        failed[name] = " ".join(str(error).split())[:300]
print(json.dumps(failed))
sys.stdout.flush()
os._exit(0)
"""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """What is wrong with a lock: the file, and why."""

    build: str
    path: str
    why: str


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """A build's locks after a look: the Pythons that have one, how many files are held, and what is wrong."""

    build: str
    integrity: str
    pythons: list[str]
    wheels: int
    pinned: int
    conda: int
    faults: list[Fault]


def check(wanted: Sequence[tuple[str, Build]], *, envs: Path) -> Iterator[Checked]:
    """Look at the locks of builds, also with the parsers of others, and yield what was found; asks no network.

    Args:
        wanted: engines and builds.
        envs: the catalogue's folder.
    """
    known = _known_sums()
    foreign = unreadable([lock_folder(engine, build.id, envs) / CONDA_LOCK for engine, build in wanted])
    for engine, build in wanted:
        folder = lock_folder(engine, build.id, envs)
        faults: list[Fault] = []
        locks = [lock for python in locked_pythons(build) for lock in _pip(engine, build, python, folder, faults)]
        conda = _conda(engine, build, folder, known, faults)
        lock = folder / CONDA_LOCK
        faults += [Fault(build=build.id, path=str(lock), why=foreign[lock])] if lock in foreign else []
        best = locks[0] if locks else None
        yield Checked(
            build=build.id,
            integrity=best.integrity if best else "none",
            pythons=[lock.python for lock in locks],
            wheels=len(best.wheels) if best else 0,
            pinned=len(best.pinned) if best else 0,
            conda=len(conda),
            faults=faults,
        )


def _pip(engine: str, build: Build, python: str, folder: Path, faults: list[Fault]) -> Iterator[PipLock]:
    path = lock_path(folder, build, python)

    def fault(why: str, where: Path = path) -> None:
        faults.append(Fault(build=build.id, path=str(where), why=why))

    try:
        lock, wish = read_lock(folder, build, python), wish_of(engine, build, python)
    except Damage as error:
        fault(f"line {error.line}: {error.why}" if error.line else str(error.why), error.file)
        return
    if lock is None:
        fault("it is missing")
        return
    if lock.wish != wish.digest:
        fault("it was made from another wish than the catalogue's: `firstlight lock.update` makes it again")
    if lock.platform != wish.platform:
        fault(f"it is for {lock.platform}, the build is for {wish.platform}")
    if lock.open is not ("torch" in dict(wish.outside) and not wish.cuda_free):
        fault("it does not say whether CUDA libraries are still to be settled")
    for why in dict.fromkeys(_broken_pins(lock, wish)):
        fault(why)
    yield lock


def _broken_pins(lock: PipLock, wish: LockWish) -> Iterator[str]:
    """Yield what the wish asks for and the lock does not hold."""
    held = {wheel.name: wheel.version for wheel in (*lock.wheels, *lock.pinned)}
    for name, version in wish.outside:
        if name in held and held[name] != version:
            yield f"{name} is {held[name]}, and must be {version}"
    for name in map(canonical, wish.excludes):
        if name in held:
            yield f"{name} must stay out"
    overridden = {_name(line) for line in wish.overrides}
    for line in (*wish.requirements, *wish.constraints, *wish.overrides):
        try:
            asked = Requirement(line)
        except InvalidRequirement:
            yield f"{line}: no requirement"
            continue
        name = canonical(asked.name)
        if name in dict(wish.outside) or (name in overridden and line not in wish.overrides):
            continue
        if line in wish.requirements and name not in held:
            yield f"{name} is missing"
        elif name in held and not asked.specifier.contains(held[name], prereleases=True):
            yield f"{name} is {held[name]}, and must be {asked.specifier}"


def _known_sums() -> dict[str, str]:
    """Return the SHA-256 of each conda package, by its path under the channel, that the records tell."""
    subdirs = load_records().packages
    return {
        f"{subdir}/{file}": str(record["sha256"])
        for subdir, files in subdirs.items()
        for file, record in files.items()
        if record.get("sha256")
    }


def _name(line: str) -> str:
    try:
        return canonical(Requirement(line).name)
    except InvalidRequirement:
        return ""


def _conda(
    engine: str, build: Build, folder: Path, known: Mapping[str, str], faults: list[Fault]
) -> tuple[LockedConda, ...]:
    path, python = folder / CONDA_LOCK, build.pythons[0]

    def fault(where: Path, why: str) -> None:
        faults.append(Fault(build=build.id, path=str(where), why=why))

    try:
        packages = require_conda_lock(folder, subdir_of(build.arch))
        subdirs = [subdir for subdir in ("linux-64", "linux-aarch64") if read_conda_lock(folder, subdir)]
    except Damage as error:
        fault(path, str(error.why))
        return ()
    versions = {package.parts[0]: package.parts[1] for package in packages}
    if not versions.get("python", "").startswith(f"{python}."):
        fault(path, f"its Python is {versions.get('python', 'missing')}, the build's is {python}")
    for why in _loose(packages, known):
        fault(path, why)
    wish, wanted = folder / WISH, environment_yml(build, wish_of(engine, build, python), tuple(subdirs))
    if not wish.is_file() or wish.read_bytes() != wanted.encode():
        fault(wish, "it is not what the catalogue wishes for: `firstlight lock.update` writes it again")
    return packages


def _loose(packages: Sequence[LockedConda], known: Mapping[str, str]) -> Iterator[str]:
    """Yield what was taken out of a conda layer, and whose hash is not the one that the records of conda-forge have."""
    there = {package.parts[0] for package in packages}
    for package in packages:
        lacking = {spec.partition(" ")[0] for spec in package.depends} - there
        for name in sorted(name for name in lacking if not name.startswith("__")):
            yield f"{name} is missing, which {package.parts[0]} needs"
        if known.get(package.path, package.sha256) != package.sha256:
            yield f"{package.parts[0]}: its sha256 is not that of {package.file} on conda-forge"


def unreadable(paths: Sequence[Path]) -> dict[Path, str]:
    """Return which conda-lock files the parsers of others cannot read, and why: rattler, and conda-lock where it is.

    Both run in a process of their own: rattler may crash when the interpreter ends, conda-lock takes seconds to import.
    """
    distinct: dict[str, list[Path]] = {}
    for path in paths:
        if path.is_file():
            distinct.setdefault(path.read_text(encoding="utf-8", errors="replace"), []).append(path)
    names = [str(same[0]) for same in distinct.values()]
    whys: dict[str, str] = {}
    for parser in foreign_parsers():
        for name, why in _read_all(parser, names).items():
            whys[name] = "; ".join(filter(None, (whys.get(name), f"{parser} cannot read it: {why}")))
    return {path: whys[str(same[0])] for same in distinct.values() for path in same if str(same[0]) in whys}


def foreign_parsers() -> list[str]:
    """Return the parsers of others that are installed here."""
    return ["rattler", *(["conda_lock"] if importlib.util.find_spec("conda_lock") is not None else [])]


def _read_all(parser: str, names: Sequence[str]) -> dict[str, str]:
    if not names:
        return {}
    ended = run((sys.executable, "-c", _PARSING, parser, *names), timeout=_SECONDS)
    for line in reversed(ended.tail.splitlines()):
        if line.startswith("{"):
            return msgspec.json.decode(line, type=dict[str, str])
    return dict.fromkeys(names, ended.tail[-300:] or "it crashed")
