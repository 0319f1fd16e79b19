"""From a plan to the exact wish for an environment."""

from __future__ import annotations

from firstlight.catalogue.types import Build
from firstlight.environments.generations import EnvironmentSpec
from firstlight.environments.wheels import WheelSet
from firstlight.errors import FirstlightError
from firstlight.machine.facts import Machine
from firstlight.planning.plan import Plan
from firstlight.planning.request import Request


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
        wheels=wheels_of(plan, build, request),
        shims=tuple((shim.name, shim.version) for shim in build.metadata_shims),
        expected_download=plan.needs.download,
        expected_disk=plan.needs.disk,
    )


def wheels_of(plan: Plan, build: Build, request: Request) -> WheelSet:
    """Return the pip layer of a plan's build, with torch from the source that the plan names.

    `+cpu` is asked for by name where a CPU wheel is known to be, so that no index can slip in a CUDA build. From the
    registry the release without a local part is taken, and overrides what an engine's metadata asks for.
    """
    requirements, overrides = list(build.requirements), list(build.overrides)
    indexes = [build.index] if build.index else []
    torch = build.cpu_torch
    if torch is not None:
        kind, _, place = (plan.torch_source or f"index:{torch.index}").partition(":")
        if kind == "registry":
            requirements.append(f"torch=={torch.version}")
            overrides.append(f"torch=={torch.version}")
        else:
            requirements.append(f"torch=={torch.version}+cpu")
        if kind == "index":
            indexes.append(place)
    return WheelSet(
        requirements=tuple(requirements),
        constraints=tuple(build.pins),
        excludes=tuple(build.excludes),
        overrides=tuple(overrides),
        indexes=tuple(indexes),
        default_index=request.indexes[0] if request.indexes else None,
        find_links=request.find_links,
        python_version=plan.build.python if plan.build else build.pythons[0],
    )


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
