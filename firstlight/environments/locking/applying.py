"""From a plan to its lock: the wheels by their hashes, and what is still to be resolved under their versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from firstlight.catalogue.locks import lock_folder, lock_path, subdir_of
from firstlight.catalogue.types import Build
from firstlight.environments.locking.conda_files import LockedConda, require_conda_lock
from firstlight.environments.locking.holding import held_lock, under
from firstlight.environments.locking.lockfile import PipLock, read_lock
from firstlight.environments.locking.wish import wish_of
from firstlight.environments.wheelset import WheelSet
from firstlight.errors import FirstlightError, VerificationFailed
from firstlight.home import Home
from firstlight.planning.plan import Plan
from firstlight.planning.request import Request

if TYPE_CHECKING:
    from firstlight.environments.spec import EnvironmentSpec


def lock_for(plan: Plan, build: Build, request: Request) -> PipLock | None:
    """Return the lock that a plan's pip layer is installed from; None where it is resolved afresh.

    Raises:
        Damage: the lock was edited or cut off.
        VerificationFailed: it was made from another wish than the catalogue's.
    """
    python = plan.build.python if plan.build else ""
    stood_in = build.torch_local is not None and plan.torch_source == "registry"
    if request.unlocked or stood_in or python not in build.locks:
        return None
    folder = lock_folder(plan.engine, build.id)
    lock = read_lock(folder, build, python)
    if lock is not None and lock.wish != wish_of(plan.engine, build, python).digest:
        raise VerificationFailed(
            f"the lock of {build.id} is older than its wish",
            why=f"{lock_path(folder, build, python)} was made from other requirements than the catalogue has now",
            fix="reinstall firstlight, or resolve afresh: add --unlocked",
        )
    return lock


def conda_lock_for(plan: Plan, build: Build, request: Request) -> tuple[LockedConda, ...]:
    """Return the conda packages that a plan's environment is made of; none where they are solved for afresh.

    That is so with another Python than the lock's, and with a channel that was named, which has packages of its own.

    Raises:
        Damage: the lock was edited or cut off, or has nothing for the build's platform.
    """
    python = plan.build.python if plan.build else ""
    best = bool(build.pythons) and python == build.pythons[0]
    if plan.environment != "conda" or request.unlocked or request.channels or not best or python not in build.locks:
        return ()
    return require_conda_lock(lock_folder(plan.engine, build.id), subdir_of(build.arch))


def with_lock(wheels: WheelSet, catalogues: PipLock | None, build: Build, home: Home | None) -> WheelSet:
    """Return a pip layer as its lock holds it; of a pinned build, as its first install in this home came out."""
    if catalogues is None:
        return wheels
    named = msgspec.structs.replace(
        wheels,
        lock=catalogues.digest,
        lock_file=str(lock_path(Path(build.id), build, catalogues.python)),
        locked_platform=catalogues.platform,
    )
    held = None if home is None or catalogues.whole else held_lock(home, build.id, catalogues.python, named.lock or "")
    return under(named, held or catalogues)


def behind(engine: str, build: Build, spec: EnvironmentSpec) -> tuple[str, ...]:
    """Return, in words, what the catalogue's lock of a build holds today and an environment's lock did not; else none.

    None too where the environment was not made from a lock, or the catalogue's cannot be read.
    """
    if spec.wheels.lock is None or spec.python not in build.locks:
        return ()
    try:
        today = read_lock(lock_folder(engine, build.id), build, spec.python)
    except FirstlightError:
        return ()
    if today is None or today.digest == spec.wheels.lock:
        return ()
    had = dict(line.partition(" ")[0].partition("==")[::2] for line in spec.wheels.locked)
    has = {wheel.name: wheel.version for wheel in today.wheels}
    changes = [f"{name} {had[name]} → {has[name]}" for name in sorted(had.keys() & has) if had[name] != has[name]]
    return (*changes, *(f"{name} {has[name]} is new" for name in sorted(has.keys() - had))) or (f"of {today.resolved}",)
