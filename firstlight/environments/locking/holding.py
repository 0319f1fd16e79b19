"""What a pinned build's first install came to, kept in the home: later installs take the very same files."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone
from pathlib import Path

from firstlight.catalogue.types import Build
from firstlight.environments.distributions import canonical
from firstlight.environments.locking.lockfile import Damage, LockedWheel, PipLock, read_text_lock, render
from firstlight.environments.spec import Generation
from firstlight.files import write_atomic
from firstlight.home import Home


def held_path(home: Home, build: str, python: str) -> Path:
    """Return where a home keeps what a build's first install came to."""
    return home.root / "locks" / f"{build}-python{python}.lock"


def hold(home: Home, generation: Generation) -> Path | None:
    """Write down what a pinned build was installed as, once; returns the file, None where there is nothing to hold.

    Wheels whose hash nobody told are held by their version.
    """
    spec = generation.spec
    if spec is None or spec.wheels.whole or spec.wheels.lock is None or not generation.wheels:
        return None
    path = held_path(home, spec.build, spec.python)
    if path.exists():
        return path
    wheels = [
        LockedWheel(name=canonical(one.name), version=one.version, sha256=(one.sha256.lower(),) if one.sha256 else ())
        for one in generation.wheels
    ]
    lock = PipLock(
        build=spec.build,
        python=spec.python,
        platform=spec.wheels.locked_platform or "",
        wish=spec.wheels.lock,
        resolved=datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        wheels=tuple(sorted(wheel for wheel in wheels if wheel.sha256)),
        pinned=tuple(sorted(wheel for wheel in wheels if not wheel.sha256)),
    )
    hashed, pins = render(lock)
    write_atomic(path, hashed)
    if pins:
        write_atomic(path.with_suffix(".pins"), pins)
    return path


def held_lock(home: Home, build: Build, python: str, lock: PipLock) -> PipLock | None:
    """Return what a home holds of a build, None where it holds nothing, or that of an older lock.

    Args:
        home: whose.
        build: the build.
        python: the minor version.
        lock: the catalogue's lock, whose digest the one that is held must name.
    """
    path = held_path(home, build.id, python)
    with contextlib.suppress(Damage):
        found = read_text_lock(path, path.with_suffix(".pins"), build.id, python)
        if found is not None and found.wish == lock.digest:
            return found
    return None
