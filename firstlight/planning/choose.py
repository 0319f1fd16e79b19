"""The decision: the newest build whose every requirement the machine meets, and why each other one was refused."""

from __future__ import annotations

import msgspec

from firstlight.catalogue.types import Build, Catalogue, EngineEntry
from firstlight.machine.facts import Machine
from firstlight.planning.asking import entry_for
from firstlight.planning.case import Case, command, gigabytes
from firstlight.planning.contradictions import Sense, sensible
from firstlight.planning.devices import Devices, select
from firstlight.planning.gpu_rules import native_for
from firstlight.planning.nearness import Judged, best_subset, remedies, with_other_gpus
from firstlight.planning.places import propose_home
from firstlight.planning.plan import Alternative, ChosenBuild, Launch, Plan, PlanStep, Refusal, Without
from firstlight.planning.reasons import because, warnings
from firstlight.planning.request import Request
from firstlight.planning.rules import judge
from firstlight.planning.torch import Torch, torch_for
from firstlight.planning.versions import at_least, major, numbers, release_key
from firstlight.planning.widening import asked, of_any_build, without_one


def choose(machine: Machine, catalogue: Catalogue, request: Request) -> Plan:
    """Return the plan for a request; the same input gives the same plan.

    Raises:
        UsageError: the request names an engine, build or release that the catalogue does not have.
    """
    entry = entry_for(catalogue, request)
    sense = sensible(machine, catalogue)
    plan = msgspec.structs.replace(_plan(sense, catalogue, entry, request), asked=asked(request))
    if plan.build is not None:
        return plan
    others = [
        Alternative(engine=name, build=other.build.id)
        for name, page in catalogue.engines.items()
        if name != request.engine and (other := _plan(sense, catalogue, page, _bare(request, name))).build
    ]
    without = _without(sense, catalogue, entry, request)
    said = {f"leave {each.words.partition(' ')[0]} out" for each in without}
    remedies = [remedy for remedy in plan.remedies if remedy not in said]
    return msgspec.structs.replace(plan, alternatives=others, without=without, remedies=remedies)


def _without(sense: Sense, catalogue: Catalogue, entry: EngineEntry, request: Request) -> list[Without]:
    """Return what would fit without one of the request's words; without all of them where no single one is enough."""
    found: list[Without] = []
    for words, wider in without_one(request):
        if found and not asked(wider):  # one word less is enough
            break
        build = _plan(sense, catalogue, entry, wider).build
        if build is not None:
            found.append(Without(words=words, build=build.id))
    return found


def _bare(request: Request, engine: str) -> Request:
    """Return what another engine would be asked: only where things are, none of the wishes."""
    return Request(engine=engine, home=request.home, default_home=request.default_home, supply=request.supply)


def _plan(sense: Sense, catalogue: Catalogue, entry: EngineEntry, request: Request) -> Plan:
    devices = select(entry, sense.machine, request.gpus)
    judged = _judged(sense, catalogue, entry, request, devices)
    fitting = [each.case for each in judged if each.refusal is None]
    if fitting and request.gpus is None and not any(case.build.cuda for case in fitting):
        together = best_subset(judged)
        if together:  # better some of the GPUs than the CPU
            judged = _judged(sense, catalogue, entry, request, devices.only(together))
            fitting = [each.case for each in judged if each.refusal is None]
    if not fitting:
        return Plan(
            engine=entry.engine,
            build=None,
            home=None,
            gpus=[],
            environment=None,
            because=["no build of this engine fits this machine as asked", *sense.told],
            launch=None,
            needs=None,
            refused=[refusal for each in judged if (refusal := with_other_gpus(each)) is not None],
            steps=[],
            warnings=sense.told,
            remedies=remedies(judged),
        )
    best = max(fitting, key=_rank)
    fallback = _fallback(best, fitting)
    wider = of_any_build(request)
    if fallback is None and wider is not None and native_for(best) is False:
        every = _judged(sense, catalogue, entry, wider, best.devices)
        fallback = _fallback(best, [each.case for each in every if each.refusal is None])
    refused = [_refusal(each, best) for each in judged if each.case is not best]
    return _chosen(best, fallback, refused, [*sense.told, *_out_of_reach(judged, best)])


def _out_of_reach(judged: list[Judged], best: Case) -> list[str]:
    """Return what is said of better builds whose bytes cannot be had."""
    return [
        f"{each.case.build.id} would be the better build, but it cannot be had: {each.refusal.reason}"
        for each in judged
        if each.refusal is not None and each.refusal.rule == "source" and _rank(each.case) > _rank(best)
    ]


def _refusal(judged: Judged, best: Case) -> Refusal:
    """Return why a build is not the chosen one: what refused it, or what makes the chosen one better."""
    refusal = with_other_gpus(judged)
    if refusal is not None:
        return refusal
    build, chosen = judged.case.build, best.build
    if build.cuda is None and chosen.cuda is not None:
        why = f"it fits too, on the CPU; {chosen.id} uses the GPU"
    elif newest(build)[0] != newest(chosen)[0]:
        why = f"it fits too; {chosen.id} is newer"
    elif native_for(best) and not native_for(judged.case):
        why = f"it fits too; {chosen.id} was made for this driver"
    else:
        why = f"it fits too; {chosen.id} has the newer CUDA or torch"
    return Refusal(
        build=build.id,
        rule="requested",
        reason=why,
        remedy=command(judged.case.entry.engine, f"--build {build.id}"),
        fits=True,
    )


def newest(build: Build) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return the key that orders builds by age: release, torch, CUDA; of equal ones the first of the page leads."""
    return release_key(build.release), numbers(build.torch or ""), numbers(build.cuda or "")


def _rank(case: Case) -> tuple[object, ...]:
    """Return the key of the best build: on a GPU, the newest, and of one CUDA generation what the driver was made for.

    On a Jetson board a build for its JetPack goes before one for Arm servers of the same release.
    """
    build, (release, torch, cuda) = case.build, newest(case.build)
    generation = (major(build.cuda or ""), build.jetpack is not None, native_for(case) is True)
    return build.cuda is not None, release, torch, generation, cuda


def _judged(sense: Sense, catalogue: Catalogue, entry: EngineEntry, request: Request, devices: Devices) -> list[Judged]:
    """Return every build held against the machine, newest first."""
    kind, default = environment_kind(request), str(request.default_home) if request.default_home else None
    judged = []
    for build in sorted(entry.build, key=newest, reverse=True):
        case = Case(
            build=build,
            entry=entry,
            catalogue=catalogue,
            machine=sense.machine,
            request=request,
            devices=devices,
            environment=kind,
            home="",
            disk_needed=build.sizes.disk,
            driver_remedy=sense.driver_remedy,
            assumed=[],
        )
        needed = torch_for(case).needs.disk
        home = str(request.home) if request.home else propose_home(sense.machine, needed, default)
        case = msgspec.structs.replace(case, home=home, disk_needed=needed)
        judged.append(Judged(case, *judge(case)))
    return judged


def environment_kind(request: Request) -> str:
    """Return `conda` or `venv`: what was asked for, else conda unless it is known that no channel answers."""
    if request.environment != "auto":
        return request.environment
    return "venv" if request.supply.channels is not None and not request.supply.channels else "conda"


def _chosen(case: Case, fallback: Case | None, refused: list[Refusal], told: list[str]) -> Plan:
    build, torch = case.build, torch_for(case)
    told = [*told, *warnings(case, torch, fallback)]
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
            integrity=integrity_of(build, torch, unlocked=case.request.unlocked),
        ),
        home=case.home,
        gpus=case.devices.indexes if build.cuda else [],
        environment=case.environment if case.entry.kind == "wheels" else None,
        because=because(case, torch, told),
        warnings=told,
        launch=_launch(case),
        needs=torch.needs,
        refused=refused,
        steps=_steps(case, torch),
        assumed=sorted({*case.assumed, *_unasked(case)}),
        torch_source=torch.source,
        fallback=fallback.build.id if fallback else None,
    )


def integrity_of(build: Build, torch: Torch, *, unlocked: bool) -> str:
    """Return `locked` where every file is known by its hash, else `pinned`: exact versions at the most."""
    if build.assets:
        return "locked" if all(asset.sha256 for asset in build.assets) else "pinned"
    stood_in = build.torch_local is not None and torch.source == "registry"
    return "pinned" if stood_in or unlocked else build.locks.get(torch.python, "pinned")


def _fallback(case: Case, fitting: list[Case]) -> Case | None:
    """Return the newest fitting build that the driver was made for, where the chosen one's CUDA is newer than it."""
    if native_for(case) is not False:
        return None
    older = [other for other in fitting if other is not case and native_for(other)]
    return max(older, key=_rank) if older else None


def _unasked(case: Case) -> list[str]:
    """Return what nobody has asked the network for: `plan` touches nothing, `setup` asks before it plans."""
    lines = []
    if case.machine.gpus is None and case.build.cuda is None:
        lines.append("that there is no GPU (what GPUs there are is unknown)")
    if case.build.pythons and case.request.environment == "auto" and case.request.supply.channels is None:
        lines.append("a conda channel answers (setup asks, and takes a virtual environment where none does)")
    if case.build.torch_local == "cpu" and case.request.supply.torch is None:
        lines.append("a CPU build of torch can be fetched (setup asks where)")
    return lines


def _launch(case: Case) -> Launch:
    entry, build = case.entry, case.build
    lowest = case.devices.lowest_capability
    half = bool(build.cuda and lowest and not at_least(lowest, entry.bf16_floor))
    sliced = bool(build.cuda and case.devices.slices)
    return Launch(
        port=case.request.port or entry.port,
        device="cuda" if build.cuda else "cpu",
        dtype=(entry.dtype_half if half else entry.dtype_auto) if entry.dtype_half else None,
        backend=(entry.backend_virtual if sliced else None) or entry.backend,
        tensor_parallel_size=1 if entry.tensor_parallel else None,
        visible_devices=case.devices.visible if build.cuda else None,
    )


def _steps(case: Case, torch: Torch) -> list[PlanStep]:
    kind = "a conda environment" if case.environment == "conda" else "a virtual environment"
    needs, inside = torch.needs, f"with Python {torch.python} and {case.build.id}"
    what = f"{kind} {inside}" if case.build.pythons else case.build.id
    return [
        PlanStep(
            id="environment",
            what=f"{what} under {case.home}: {gigabytes(needs.download)} to download, {gigabytes(needs.disk)} on disk",
        ),
        PlanStep(id="model", what=f"the model {case.request.model}" if case.request.model else "a model"),
        PlanStep(id="proof", what="start the engine on a free loopback port and measure its first token"),
        PlanStep(id="switch", what="make the proven environment the current one"),
    ]
