"""What a pinned build's first install came to, kept in the home: later installs take the very same files."""

from __future__ import annotations

import contextlib
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from firstlight.environments.distributions import canonical
from firstlight.environments.locking.lockfile import Damage, LockedWheel, PipLock, read_text_lock, render
from firstlight.environments.spec import Generation
from firstlight.environments.wheelset import WheelSet
from firstlight.files import write_atomic
from firstlight.home import Home


def held_path(home: Home, build: str, python: str, lock: str) -> Path:
    """Return where a home keeps what a build's first install came to, under the lock of the catalogue with a digest."""
    return home.root / "locks" / f"{build}-python{python}-{lock[:8]}.lock"


def hold(home: Home, generation: Generation) -> Path | None:
    """Write down what a pinned build was installed as, once; returns the file, None where there is nothing to hold.

    Wheels whose hash nobody told are held by their version.
    """
    spec = generation.spec
    if spec is None or spec.wheels.whole or spec.wheels.lock is None or not generation.wheels:
        return None
    path = held_path(home, spec.build, spec.python, spec.wheels.lock)
    if held_lock(home, spec.build, spec.python, spec.wheels.lock) is not None:
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
    path.with_suffix(".pins").unlink(missing_ok=True)
    if pins:
        write_atomic(path.with_suffix(".pins"), pins)
    write_atomic(path, hashed)
    return path


def held_lock(home: Home, build: str, python: str, lock: str) -> PipLock | None:
    """Return what a home holds of a build, None where it holds nothing, or what cannot be read any more.

    Args:
        home: whose.
        build: the build.
        python: the minor version.
        lock: the digest of the catalogue's lock, which the one that is held must name.
    """
    path = held_path(home, build, python, lock)
    with contextlib.suppress(Damage):
        found = read_text_lock(path, path.with_suffix(".pins"), build, python)
        if found is not None and found.wish == lock:
            return found
    return None


def holding(home: Home, wheels: WheelSet, build: str, python: str) -> WheelSet:
    """Return a pip layer with what this home holds of its build in place of the catalogue's lock that it grew from."""
    found = held_lock(home, build, python, wheels.lock) if wheels.lock and not wheels.whole else None
    return wheels if found is None else under(wheels, found)


def under(wheels: WheelSet, lock: PipLock) -> WheelSet:
    """Return a pip layer under a lock: what it holds is installed, and constrains what is still to be resolved."""
    held = [f"{wheel.name}=={wheel.version}" for wheel in (*lock.wheels, *lock.pinned)]
    own = {*(item.name for item in wheels.owned), *(item.name for item in wheels.direct)}
    constraints = [line for line in held if line.partition("==")[0] not in own and line not in wheels.constraints]
    return msgspec.structs.replace(
        wheels,
        locked=tuple(wheel.line for wheel in lock.wheels),
        whole=lock.whole,
        constraints=wheels.constraints if lock.whole else (*wheels.constraints, *constraints),
    )
