"""Environments that are already there: looked at, never written into."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from firstlight.environments.conda_packages import packages_of
from firstlight.environments.distributions import freeze
from firstlight.environments.spec import Generation
from firstlight.errors import FirstlightError, UsageError
from firstlight.process import run


def describe_adopted(prefix: Path, engine: str, now: str) -> Generation:
    """Return the generation that stands for an environment that is already there; nothing is written.

    Raises:
        UsageError: it holds no working `bin/python`.
    """
    prefix = prefix.expanduser().absolute()
    minor = _ask_version(prefix)
    name = f"adopted-{hashlib.sha256(os.fsencode(prefix)).hexdigest()[:8]}"
    try:
        wheels = freeze(prefix / "bin" / "python")
    except FirstlightError:  # a distribution's own prefix keeps its packages elsewhere
        wheels = []
    return Generation(
        engine=engine,
        id=name,
        build=name,
        kind="adopted",
        python=minor,
        prefix=prefix,
        state="built",
        created=now,
        key=f"adopted:{prefix}",
        conda=packages_of(prefix),
        wheels=wheels,
    )


def _ask_version(prefix: Path) -> str:
    """Return the minor version that `prefix/bin/python` says itself; it leaves no bytecode behind."""
    python = prefix / "bin" / "python"
    fix = "name a folder that holds bin/python, as conda and venv make them: --adopt PREFIX"
    if not python.exists():
        raise UsageError(f"{prefix} is no environment", why=f"{python} is not there", fix=fix)
    try:
        program = "import sys; print('%d.%d' % sys.version_info[:2])"
        told = run([str(python), "-I", "-B", "-c", program], timeout=30)
    except FirstlightError as error:
        raise UsageError(f"{python} does not run", why=error.why or error.what, fix=fix) from error
    if told.returncode != 0:
        raise UsageError(f"{python} does not run", why=told.tail.strip()[-300:] or f"status {told.returncode}", fix=fix)
    return told.tail.strip().splitlines()[-1]
