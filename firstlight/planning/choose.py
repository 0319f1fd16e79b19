"""The decision: the newest build whose every requirement the machine meets, and why each other one was refused."""

from __future__ import annotations

import msgspec

from firstlight.catalogue.types import Build, Catalogue, EngineEntry
from firstlight.errors import UsageError, did_you_mean
from firstlight.machine.facts import Machine
from firstlight.planning.devices import Devices, has_nvidia, nvidia_gpus, select
from firstlight.planning.places import propose_home
from firstlight.planning.plan import Alternative, ChosenBuild, Launch, Needs, Plan, PlanStep, Refusal
from firstlight.planning.request import Request
from firstlight.planning.rules import RULES, Case, gigabytes, usable_pythons
from firstlight.planning.versions import at_least, numbers


class Torch(msgspec.Struct, frozen=True, kw_only=True):
    """Where a CPU build gets its torch (`index:…`, `find-links:…`, `registry`) and the Python that it is for."""

    source: str | None
    python: str
    needs: Needs


def choose(machine: Machine, catalogue: Catalogue, request: Request) -> Plan:
    """Return the plan for a request; the same input gives the same plan.

    Raises:
        UsageError: the request names an engine, build or release that the catalogue does not have.
    """
    entry = _entry(catalogue, request)
    plan = _plan(machine, entry, request)
    if plan.build is not None:
        return plan
    others = [
        Alternative(engine=name, build=other.build.id)
        for name, page in catalogue.engines.items()
        if name != request.engine and (other := _plan(machine, page, _bare(request, name))).build
    ]
    return msgspec.structs.replace(plan, alternatives=others)


def _bare(request: Request, engine: str) -> Request:
    """Return what another engine would be asked: only where things are, none of the wishes."""
    return Request(engine=engine, home=request.home, default_home=request.default_home, supply=request.supply)


def _entry(catalogue: Catalogue, request: Request) -> EngineEntry:
    entry = catalogue.engines.get(request.engine)
    if entry is None:
        known = list(catalogue.engines)
        raise UsageError(
            f'there is no engine "{request.engine}"{did_you_mean(request.engine, known)}',
            fix=f"choose one of: {', '.join(known)}",
        )
    for option, value, known in (
        ("--build", request.build, [build.id for build in entry.build]),
        ("--release", request.release, sorted({build.release for build in entry.build}, key=numbers)),
    ):
        if value is not None and value not in known:
            raise UsageError(
                f'{entry.engine} has no {option[2:]} "{value}"{did_you_mean(value, known)}',
                fix=f"{option} takes one of: {', '.join(known)}",
            )
    return entry


def _plan(machine: Machine, entry: EngineEntry, request: Request) -> Plan:
    devices = select(entry, machine, request.gpus)
    kind = environment_kind(request)
    refused: list[Refusal] = []
    fitting: list[Case] = []
    for build in entry.build:
        case = _case(machine, entry, request, devices, kind, build)
        refusal = next((found for rule in RULES if (found := rule(case)) is not None), None)
        if refusal is None:
            fitting.append(case)
        else:
            refused.append(refusal)
    if not fitting:
        return Plan(
            engine=entry.engine,
            build=None,
            home=None,
            gpus=[],
            environment=None,
            because=["no build of this engine fits this machine as asked"],
            launch=None,
            needs=None,
            refused=refused,
            steps=[],
        )
    best = max(fitting, key=lambda case: _rank(case.build))
    passed_over = [
        Refusal(build=case.build.id, rule="requested", reason=f"{best.build.id} is newer or faster and fits too")
        for case in fitting
        if case is not best
    ]
    return _chosen(best, refused + passed_over)


def _rank(build: Build) -> tuple[bool, tuple[int, ...], tuple[int, ...]]:
    return build.cuda is not None, numbers(build.release), numbers(build.cuda or "")


def _case(machine: Machine, entry: EngineEntry, request: Request, devices: Devices, kind: str, build: Build) -> Case:
    case = Case(
        build=build,
        entry=entry,
        machine=machine,
        request=request,
        devices=devices,
        environment=kind,
        home="",
        disk_needed=build.sizes.disk,
        assumed=[],
    )
    needed = torch_for(case).needs.disk
    default = str(request.default_home) if request.default_home else None
    home = str(request.home) if request.home else propose_home(machine, needed, default)
    return msgspec.structs.replace(case, home=home, disk_needed=needed)


def environment_kind(request: Request) -> str:
    """Return `conda` or `venv`: what was asked for, else conda unless it is known that no channel answers."""
    if request.environment != "auto":
        return request.environment
    return "venv" if request.supply.channels is not None and not request.supply.channels else "conda"


def torch_for(case: Case) -> Torch:
    """Return the Python and the torch of a build: for a CPU build the first source that has one for a usable Python."""
    build = case.build
    pythons = usable_pythons(case) or build.pythons
    needs = Needs(download=build.sizes.download, disk=build.sizes.disk)
    supply = case.request.supply.cpu_torch
    if build.cpu_torch is None or supply is None:
        return Torch(source=None, python=pythons[0], needs=needs)
    for source, minors in supply.items():
        for minor in pythons:
            if minor in minors:
                return Torch(source=source, python=minor, needs=needs)
    torch = build.cpu_torch
    bigger = Needs(
        download=needs.download - torch.download + torch.fallback_download, disk=needs.disk + torch.fallback_disk
    )
    return Torch(source="registry", python=pythons[0], needs=bigger)


def _chosen(case: Case, refused: list[Refusal]) -> Plan:
    build, torch = case.build, torch_for(case)
    gpus = case.devices.indexes if build.cuda else []
    return Plan(
        engine=case.entry.engine,
        build=ChosenBuild(
            id=build.id,
            release=build.release,
            cuda=build.cuda,
            torch=build.torch,
            torch_cuda=build.torch_cuda,
            python=torch.python,
            arch=build.arch,
            integrity=build.integrity,
        ),
        home=case.home,
        gpus=gpus,
        environment=case.environment,
        because=_because(case, torch),
        launch=_launch(case),
        needs=torch.needs,
        refused=refused,
        steps=_steps(case, torch),
        assumed=sorted(set(case.assumed)),
        torch_source=torch.source,
    )


def _launch(case: Case) -> Launch:
    entry, build = case.entry, case.build
    lowest = case.devices.lowest_capability
    half = bool(build.cuda and lowest and not at_least(lowest, entry.bf16_floor))
    return Launch(
        port=case.request.port or entry.port,
        device="cuda" if build.cuda else "cpu",
        dtype=(entry.dtype_half if half else entry.dtype_auto) if entry.dtype_half else None,
        tensor_parallel_size=1 if entry.tensor_parallel else None,
        visible_devices=case.devices.visible if build.cuda else None,
    )


def _because(case: Case, torch: Torch) -> list[str]:
    build, machine = case.build, case.machine
    lines = ["the newest build whose every requirement this machine meets"]
    if build.cuda is None:
        lines.append(_why_cpu(case))
    elif machine.nvidia is not None and machine.nvidia.driver:
        have = machine.nvidia.driver
        lines.append(f"driver {have} runs CUDA {numbers(build.cuda)[0]}.x")
        if build.native_driver and not at_least(have, build.native_driver):
            lines.append(
                f"it relies on CUDA's minor-version compatibility (made for driver {build.native_driver}): "
                "should the proof meet the PTX message, take an older build with --release"
            )
    lines += [
        f"GPU {gpu.index} ({gpu.name}, {gpu.compute_capability}) lies below the engine's floor and is left out"
        for gpu in (case.devices.left_out if build.cuda else [])
    ]
    if torch.source == "registry":
        lines.append(
            "no CPU build of torch was found: the registry's CUDA build is taken instead, "
            f"{gigabytes(torch.needs.download)} to download and {gigabytes(torch.needs.disk)} on disk"
        )
    elif torch.source:
        lines.append(f"torch for the CPU comes from {torch.source.partition(':')[2]}")
    if case.environment == "venv":
        lines.append(
            "a virtual environment on this machine's Python: "
            + ("asked for" if case.request.environment == "venv" else "no conda channel answers")
        )
    return lines


def _why_cpu(case: Case) -> str:
    if case.request.cuda == "cpu":
        return "on the CPU: asked for with --cuda cpu"
    if has_nvidia(case.machine):
        names = ", ".join(sorted({gpu.name or "NVIDIA GPU" for gpu in nvidia_gpus(case.machine)})) or "the NVIDIA GPU"
        return f"on the CPU, because {names} cannot be used by any build (see the refusals)"
    others = sorted({gpu.vendor for gpu in case.machine.gpus or []})
    if others:
        return f"on the CPU: there is no NVIDIA GPU (seen and not used: {', '.join(others)})"
    return "on the CPU: there is no GPU"


def _steps(case: Case, torch: Torch) -> list[PlanStep]:
    kind = "a conda environment" if case.environment == "conda" else "a virtual environment"
    needs = torch.needs
    return [
        PlanStep(
            id="environment",
            what=f"{kind} with Python {torch.python} and {case.build.id} under {case.home}: "
            f"{gigabytes(needs.download)} to download, {gigabytes(needs.disk)} on disk",
        ),
        PlanStep(id="model", what=f"the model {case.request.model}" if case.request.model else "a model"),
        PlanStep(id="proof", what="start the engine on a free loopback port and measure its first token"),
        PlanStep(id="switch", what="make the proven environment the current one"),
    ]
