"""The conda installation, found and told without starting conda (which takes seconds)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from firstlight.machine.facts import Conda
from firstlight.machine.system import System, exists, is_file, printable

_RECORD = re.compile(r"conda-(\d[^-]*)-[^-]+\.json")
_HOMES = ("miniconda3", "miniforge3", "mambaforge", "anaconda3", "conda")
_SYSTEM_HOMES = (
    "/opt/conda",
    "/opt/miniconda3",
    "/opt/miniforge3",
    "/opt/anaconda3",
    "/root/miniconda3",
    "/root/miniforge3",
    "/root/anaconda3",
    "/usr/local/miniconda3",
    "/mnt/workspace/miniconda3",
)


def read(system: System) -> Conda | None:
    """Return the first conda installation, None where there is none."""
    for root in known_roots(system):
        executable = next((root / name for name in ("bin/conda", "condabin/conda") if is_file(root / name)), None)
        if executable is None:
            continue
        return Conda(
            root=printable(root),
            executable=printable(executable),
            version=system.attempt("conda.version", partial(read_version, root), None),
            environments=system.attempt("conda.environments", partial(_environments, system, root), None),
        )
    return None


def known_roots(system: System) -> list[Path]:
    """Return the base prefixes that may be here: those of the variables and PATH first, then the usual homes."""
    roots: dict[Path, Path] = {}
    for candidate in _candidates(system):
        if exists(candidate / "conda-meta"):
            roots.setdefault(_real(candidate), candidate)
    return list(roots.values())


def _candidates(system: System) -> Iterator[Path]:
    variables = system.environment
    program = variables.get("CONDA_EXE")
    if program:
        yield Path(program).parent.parent
    prefix = variables.get("CONDA_PREFIX")
    if prefix:
        # Inside an activated environment the installation stands two folders up.
        yield Path(prefix).parent.parent if Path(prefix).parent.name == "envs" else Path(prefix)
    on_path = system.which("conda")
    if on_path is not None:
        yield _real(on_path).parent.parent
    if system.home is not None:
        yield from (system.home / name for name in _HOMES)
    yield from (system.path(name) for name in _SYSTEM_HOMES)


def read_version(root: Path) -> str | None:
    """Return conda's version by its own package record in conda-meta, or None."""
    for record in sorted((root / "conda-meta").glob("conda-*.json")):
        if match := _RECORD.fullmatch(record.name):
            return match.group(1)
    return None


def _environments(system: System, root: Path) -> list[str]:
    found: dict[str, None] = {}
    if (root / "envs").is_dir():
        found.update(
            {printable(path): None for path in sorted((root / "envs").iterdir()) if exists(path / "conda-meta")}
        )
    listed = system.home / ".conda" / "environments.txt" if system.home else None
    if listed is not None and is_file(listed):
        for line in listed.read_text("utf-8", "replace").splitlines():
            path = Path(line.strip())
            if line.strip() and exists(path / "conda-meta") and _real(path) != _real(root):
                found.setdefault(printable(path))
    return list(found)


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path
