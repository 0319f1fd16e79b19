"""The decision: the newest build whose every requirement the machine meets, and why each other one was refused."""

from __future__ import annotations

import msgspec

from firstlight.catalogue.types import Build, Catalogue, EngineEntry
from firstlight.errors import UsageError, did_you_mean
from firstlight.machine.facts import Machine
from firstlight.planning.devices import Devices, select
from firstlight.planning.places import propose_home
from firstlight.planning.plan import Alternative, ChosenBuild, Launch, Plan, PlanStep, Refusal
from firstlight.planning.reasons import because, warnings
from firstlight.planning.request import Request
from firstlight.planning.rules import RULES, Case, gigabytes
from firstlight.planning.torch import Torch, torch_for
from firstlight.planning.versions import at_least, numbers


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
        because=because(case, torch),
        warnings=warnings(case, torch),
        launch=_launch(case),
        needs=torch.needs,
        refused=refused,
        steps=_steps(case, torch),
        assumed=sorted({*case.assumed, *_unasked(case)}),
        torch_source=torch.source,
    )


def _unasked(case: Case) -> list[str]:
    """Return what nobody has asked the network for: `plan` touches nothing, `setup` asks before it plans."""
    lines = []
    if case.machine.gpus is None and case.build.cuda is None:
        lines.append("that there is no GPU (what GPUs there are is unknown)")
    if case.request.environment == "auto" and case.request.supply.channels is None:
        lines.append("a conda channel answers (setup asks, and takes a virtual environment where none does)")
    if case.build.cpu_torch is not None and case.request.supply.cpu_torch is None:
        lines.append("a CPU build of torch can be fetched (setup asks where)")
    return lines


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
