"""Makes locks again, and tells what changed in them."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from firstlight.catalogue.locks import lock_folder, lock_path, locked_pythons
from firstlight.catalogue.types import Build, Catalogue
from firstlight.environments.locking.conda_layer import CANONICAL, conda_lock, load_records, write_channel
from firstlight.environments.locking.lockfile import CONDA_LOCK, WISH, PipLock, read_lock, render
from firstlight.environments.locking.resolving import resolve
from firstlight.environments.locking.wish import environment_yml, wish_of
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.sources import probe_channels
from firstlight.errors import FirstlightError
from firstlight.files import write_atomic
from firstlight.resources import data_folder

_CONDA_PACKAGE = re.compile(r"(?m)^- name: (\S+)\n  version: '?([^'\n]+)'?\n  manager: conda\n  platform: (\S+)$")


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A version that differs from the lock before: of a wheel, or of a conda package on a platform."""

    name: str
    before: str | None
    after: str | None


class Updated(msgspec.Struct, frozen=True, kw_only=True):
    """A build whose lock was made again; `problem` says why it was not."""

    build: str
    python: str
    integrity: str | None = None
    wheels: int = 0
    changes: list[Change] = []
    problem: str | None = None


class _Sum(msgspec.Struct, frozen=True):
    sha256: str
    sources: list[str]
    size: int | None = None


class _Sums(msgspec.Struct, frozen=True):
    what: str
    wheels: dict[str, _Sum]


def known_sums(envs: Path | None = None) -> dict[str, str]:
    """Return the sums of wheels that are not on the registry, by file name (envs/wheel-hashes.json)."""
    data = ((envs or data_folder("envs")) / "wheel-hashes.json").read_bytes()
    return {name: known.sha256 for name, known in msgspec.json.decode(data, type=_Sums).wheels.items()}


def lockable(catalogue: Catalogue, engines: Sequence[str] = (), builds: Sequence[str] = ()) -> list[tuple[str, Build]]:
    """Return the builds that have locks, with their engines: all that are installed as wheels."""
    return [
        (name, build)
        for name, entry in catalogue.engines.items()
        if entry.kind == "wheels" and (not engines or name in engines)
        for build in entry.build
        if not builds or build.id in builds
    ]


def update(
    wanted: Sequence[tuple[str, Build]],
    settings: PipSettings,
    *,
    envs: Path,
    index: str | None = None,
    channel: str | None = None,
    write: bool = True,
    say: Callable[[str], None],
) -> Iterator[Updated]:
    """Make the locks of builds again, one after the other, and yield what changed in each.

    Args:
        wanted: engines and builds.
        settings: the user's pip configuration.
        envs: the catalogue's folder, which is written.
        index: replaces the user's package index.
        channel: the conda channel to read; without it conda-forge where it answers, else the records that travel with
            firstlight.
        write: False only tells.
        say: takes what a person should know.

    Raises:
        FirstlightError: the conda layer cannot be made.
    """
    today = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    known, layers = known_sums(envs), {}
    with tempfile.TemporaryDirectory(prefix="firstlight-channel-") as name:
        read = channel or _channel(Path(name), envs, say)
        for engine, build, python in _each(wanted):
            folder = lock_folder(engine, build.id, envs)
            try:
                wish = wish_of(engine, build, python)
                lock = resolve(wish, settings, known, today=today, index=index)
                if python not in layers:
                    layers[python] = _conda(python, read, envs)
            except FirstlightError as error:
                yield Updated(build=build.id, python=python, problem=f"{error.what}: {error.why}")
                continue
            changes = _wheel_changes(_before(folder, build, python), lock)
            hashed, pins = render(lock)
            texts = {lock_path(folder, build, python): hashed}
            texts |= {lock_path(folder, build, python, "pins"): pins} if pins else {}
            if python == build.pythons[0]:
                conda, subdirs = layers[python]
                changes += _conda_changes(folder / CONDA_LOCK, conda)
                texts |= {folder / WISH: environment_yml(build, wish, subdirs), folder / CONDA_LOCK: conda}
            if write:
                for path, text in texts.items():
                    write_atomic(path, text)
                if lock.whole:
                    lock_path(folder, build, python, "pins").unlink(missing_ok=True)
            yield Updated(
                build=build.id, python=python, integrity=lock.integrity, wheels=len(lock.wheels), changes=changes
            )


def _each(wanted: Sequence[tuple[str, Build]]) -> Iterator[tuple[str, Build, str]]:
    for engine, build in wanted:
        for python in locked_pythons(build):
            yield engine, build, python


def _channel(folder: Path, envs: Path, say: Callable[[str], None]) -> str:
    if probe_channels([CANONICAL])[0].ok:
        return CANONICAL
    say(f"{CANONICAL} does not answer: the conda layer is solved over the records that travel with firstlight")
    write_channel(folder, load_records(envs))
    return folder.as_uri()


def _conda(python: str, read: str, envs: Path) -> tuple[str, tuple[str, ...]]:
    """Return the conda layer of a Python, for each platform that has this Python."""
    records = load_records(envs)
    there = [
        subdir
        for subdir in ("linux-64", "linux-aarch64")
        if any(
            record["name"] == "python" and record["version"].startswith(f"{python}.")
            for record in records.packages.get(subdir, {}).values()
        )
    ]
    return conda_lock(python, there, read), tuple(there)


def _before(folder: Path, build: Build, python: str) -> PipLock | None:
    try:
        return read_lock(folder, build, python)
    except FirstlightError:
        return None


def _wheel_changes(before: PipLock | None, after: PipLock) -> list[Change]:
    old = {wheel.name: wheel.version for wheel in (*before.wheels, *before.pinned)} if before else {}
    new = {wheel.name: wheel.version for wheel in (*after.wheels, *after.pinned)}
    return _differences(old, new)


def _conda_changes(path: Path, after: str) -> list[Change]:
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    return _differences(_conda_versions(old), _conda_versions(after))


def _conda_versions(text: str) -> dict[str, str]:
    return {f"{name} ({subdir})": version for name, version, subdir in _CONDA_PACKAGE.findall(text)}


def _differences(old: dict[str, str], new: dict[str, str]) -> list[Change]:
    return [
        Change(name=name, before=old.get(name), after=new.get(name))
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
