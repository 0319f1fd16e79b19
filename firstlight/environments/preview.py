"""What building an environment would write and run, for `--dry-run`."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from firstlight.environments.conda_list import environments_list
from firstlight.environments.generations import Store
from firstlight.environments.spec import MANIFEST, EnvironmentSpec


class PlannedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that would be written; `content` is None where only the work itself can tell it."""

    path: str
    mode: str = "0644"
    content: str | None = None


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """The files that would be written and the programs that would be run, in order."""

    files: list[PlannedFile]
    commands: list[list[str]]


def preview(store: Store, spec: EnvironmentSpec) -> Preview:
    """Return what `Store.build` would write and run for a wish; nothing when such an environment stands already."""
    if store.find(spec.key) is not None:
        return Preview(files=[], commands=[])
    prefix = store.folder / f"{spec.build}-{spec.key[:8]}"
    files = [PlannedFile(path=str(prefix / MANIFEST)), PlannedFile(path=str(store.folder / "current"), mode="0777")]
    listing = environments_list() if spec.kind == "conda" else None
    if listing is not None:
        files.append(PlannedFile(path=str(listing), content=f"{prefix}\n"))
    return Preview(files=files, commands=[_base(prefix, spec), _wheels(prefix, spec)])


def _base(prefix: Path, spec: EnvironmentSpec) -> list[str]:
    if spec.kind == "venv":
        return ["uv", "venv", "--python", spec.python_path or spec.python, str(prefix)]
    channels = [word for channel in spec.channels for word in ("--channel", channel)]
    worker = [sys.executable, "-m", "firstlight.environments.conda_worker"]
    return [*worker, "--prefix", str(prefix), *channels, *spec.conda_specs]


def _wheels(prefix: Path, spec: EnvironmentSpec) -> list[str]:
    words = ["uv", "pip", "install", "--python", str(prefix / "bin" / "python")]
    for option, values in (
        ("--index", spec.wheels.indexes),
        ("--find-links", spec.wheels.find_links),
        ("--constraint", spec.wheels.constraints),
        ("--exclude", spec.wheels.excludes),
        ("--override", spec.wheels.overrides),
    ):
        words += [word for value in values for word in (option, value)]
    return [*words, *spec.wheels.requirements]
