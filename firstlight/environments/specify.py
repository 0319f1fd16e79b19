"""From a plan to the exact wish for an environment."""

from __future__ import annotations

from pathlib import Path

import msgspec

from firstlight.catalogue.loading import load_mirrors
from firstlight.catalogue.types import Build
from firstlight.environments.generations import EnvironmentSpec
from firstlight.environments.locking.applying import conda_lock_for, lock_for, with_lock
from firstlight.environments.owning import DirectWheel, Owned
from firstlight.environments.pipconfig import absolute
from firstlight.environments.platforms import python_platform
from firstlight.environments.wheel_sources import encoded, file_name, wheel_url
from firstlight.environments.wheels import WheelSet
from firstlight.errors import FirstlightError
from firstlight.home import Home
from firstlight.machine.facts import Machine
from firstlight.planning.plan import Plan
from firstlight.planning.request import Request

TORCH = load_mirrors().torch.canonical


def specification(plan: Plan, build: Build, machine: Machine, request: Request) -> EnvironmentSpec:
    """Return the wish for the environment of a plan's build.

    Raises:
        FirstlightError: the plan chose no build, or its Python is not on this machine.
    """
    if plan.build is None or plan.needs is None:
        raise FirstlightError(f"there is no build of {plan.engine} to install", fix=f"firstlight plan {plan.engine}")
    minor, conda = plan.build.python, plan.environment == "conda"
    return EnvironmentSpec(
        build=build.id,
        kind="conda" if conda else "venv",
        python=minor,
        python_path=None if conda else python_of(machine, minor),
        channels=tuple(request.supply.channels or request.channels) if conda else (),
        conda_specs=(f"python {minor}.*", "pip") if conda else (),
        conda_locked=conda_lock_for(plan, build, request),
        wheels=msgspec.structs.replace(
            with_lock(
                wheels_of(plan, build, request),
                lock_for(plan, build, request),
                build,
                Home(Path(plan.home)) if plan.home else None,
            ),
            platform=python_platform(machine.host, build.libc),
        ),
        shims=tuple((shim.name, shim.version) for shim in build.metadata_shims),
        expected_download=plan.needs.download,
        expected_disk=plan.needs.disk,
    )


def wheels_of(plan: Plan, build: Build, request: Request) -> WheelSet:
    """Return the pip layer of a plan's build for this very machine, with torch from the source that the plan names."""
    python = plan.build.python if plan.build else build.pythons[0]
    torch = _torch(plan, build, request, python)
    return WheelSet(
        requirements=(*build.requirements, *torch.requirements),
        constraints=(*build.pins, *torch.constraints),
        excludes=tuple(build.excludes),
        overrides=(*build.overrides, *torch.overrides),
        owned=torch.owned,
        direct=_wheel(build, request, python),
        default_index=request.indexes[0] if request.indexes else request.supply.index,
        find_links=tuple(map(absolute, request.find_links)),
        python_version=python,
    )


def _torch(plan: Plan, build: Build, request: Request, python: str) -> WheelSet:
    """Return how torch and its companions are asked for.

    A build with a local part (`+cu129`, `+cpu`) is owned by the places that have it. From the registry exactly the
    release without one is taken (`===`), so that no other source can slip in a build for another CUDA, and it overrides
    what an engine's metadata asks for where it stands in for the CPU's.
    """
    if build.torch is None:
        return WheelSet(requirements=())
    companions = {name: version for name, version in build.companions.items() if name not in build.excludes}
    if build.torch_local is None or plan.torch_source == "registry":
        wish = (f"torch==={build.torch}",)
        held = tuple(f"{name}==={version}" for name, version in companions.items())
        return WheelSet(requirements=wish, constraints=held, overrides=wish if build.torch_local else ())
    canonical = f"index:{TORCH}/{build.torch_local}"
    found = (request.supply.torch or {}).get(build.torch_version or "", {})
    known = [source for source, pythons in found.items() if python in pythons]
    places = tuple(dict.fromkeys([plan.torch_source or canonical, *known]))
    owned = [Owned(name="torch", version=f"{build.torch}+{build.torch_local}", places=places)]
    for name, version in companions.items():
        exact = version if "+" in version else f"{version}+{build.torch_local}"
        further = tuple(dict.fromkeys([*places, canonical]))
        owned.append(Owned(name=name, version=exact, places=further, asked=False))
    return WheelSet(requirements=(), owned=tuple(owned))


def _wheel(build: Build, request: Request, python: str) -> tuple[DirectWheel, ...]:
    if build.wheel is None:
        return ()
    canonical = wheel_url(build.wheel, python)
    urls = request.supply.wheels.get(file_name(canonical)) or [encoded(canonical)]
    return (DirectWheel(urls=tuple(urls), sha256=build.wheel.sha256),)


def python_of(machine: Machine, minor: str) -> str:
    """Return the path of this machine's Python of a minor version.

    Raises:
        FirstlightError: there is none.
    """
    for found in machine.pythons or []:
        if found.path and ".".join(found.version.split(".")[:2]) == minor:
            return found.path
    raise FirstlightError(
        f"there is no Python {minor} on this machine",
        why="a virtual environment is made of the machine's own Python",
        fix="use conda packages, which bring their own: --environment conda",
    )
