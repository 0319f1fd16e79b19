"""What building an environment would write and run, for `--dry-run`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

from firstlight.environments.conda import attempts, worker_request
from firstlight.environments.conda_list import environments_list
from firstlight.environments.generations import Store
from firstlight.environments.locking.conda_files import specs_of
from firstlight.environments.pipconfig import PipSettings, redact
from firstlight.environments.spec import MANIFEST, EnvironmentSpec
from firstlight.environments.wheelset import (
    install_words,
    locked_file,
    locked_words,
    needs_no_index,
    source_words,
    wish_files,
)
from firstlight.home import Home


class PlannedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that would be written; `content` is None where only the work itself can tell it."""

    path: str
    mode: str = "0644"
    content: str | None = None


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """The files that would be written and the programs that would be run, in order."""

    files: list[PlannedFile]
    commands: list[list[str]]


def preview(store: Store, spec: EnvironmentSpec, settings: PipSettings | None = None) -> Preview:
    """Return what `Store.build` would write and run for a wish; nothing when such an environment stands already.

    Args:
        store: the environments of the engine.
        spec: the wish.
        settings: the user's pip configuration, whose sources the commands then name (without credentials).
    """
    if store.find(spec.key) is not None:
        return Preview(files=[], commands=[])
    prefix = store.folder / f"{spec.build}-{spec.key[:8]}"
    files = [PlannedFile(path=str(prefix / MANIFEST)), PlannedFile(path=str(store.folder / "current"), mode="0777")]
    without_index = needs_no_index(spec.wheels, settings or PipSettings())
    wishes = wish_files(spec.wheels, prefix, without_index=without_index)
    files += [PlannedFile(path=str(wish.file), content=wish.content) for wish in wishes]
    if spec.wheels.locked:
        held = "".join(f"{line}\n" for line in spec.wheels.locked)
        files.append(PlannedFile(path=str(locked_file(prefix)), content=held))
    listing = environments_list() if spec.kind == "conda" else None
    if listing is not None:
        files.append(PlannedFile(path=str(listing), content=f"{prefix}\n"))
    commands = [_base(prefix, spec, store.home), *_wheels(prefix, spec, store.home, settings or PipSettings())]
    return Preview(files=files, commands=commands)


def _base(prefix: Path, spec: EnvironmentSpec, home: Home) -> list[str]:
    if spec.kind == "venv":
        return [
            "uv",
            "venv",
            "--python",
            spec.python_path or spec.python,
            "--no-project",
            "--allow-existing",
            str(prefix),
        ]
    channels = next(iter(attempts(spec.channels)), ())
    specs = specs_of(spec.conda_locked) or spec.conda_specs
    request = worker_request(prefix, specs, [redact(channel) for channel in channels], home.conda_cache)
    return [sys.executable, "-m", "firstlight.environments.conda_worker", json.dumps(request)]


def _wheels(prefix: Path, spec: EnvironmentSpec, home: Home, settings: PipSettings) -> list[list[str]]:
    """Return the runs of uv: the lines of a lock first, then whatever it leaves to be resolved."""
    python, wheels = prefix / "bin" / "python", spec.wheels
    runs = [locked_words(python, wheels)] if wheels.locked else []
    runs += [] if wheels.whole else [install_words(python, wheels)]
    return [["uv", *words, "--cache-dir", str(home.wheel_cache), *source_words(wheels, settings)] for words in runs]
