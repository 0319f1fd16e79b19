"""What is to be reached, and the site where it is worked on: everything that is settled before anything is written."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from firstlight import engines
from firstlight.catalogue.loading import find_build, find_engine, load_catalogue
from firstlight.catalogue.types import Examination
from firstlight.engines.base import ServingRequest, Work
from firstlight.environments.deciding import decide
from firstlight.environments.examination_report import Subject
from firstlight.environments.examining import program
from firstlight.environments.generation_store import GenerationStore
from firstlight.environments.generations import Generation
from firstlight.environments.pipconfig import PipSettings, read_pip_settings, uv_arguments
from firstlight.environments.preview import PlannedFile, Preview
from firstlight.environments.spec import MANIFEST
from firstlight.environments.wheels import find_uv
from firstlight.errors import FirstlightError, UsageError
from firstlight.events import step
from firstlight.home import Home
from firstlight.machine.facts import Machine
from firstlight.machine.libraries import missing_libraries
from firstlight.models.fetch import UvTool
from firstlight.models.provide import require_model
from firstlight.planning.choose import choose
from firstlight.planning.failing import nothing_fits
from firstlight.planning.plan import Launch, Plan
from firstlight.planning.request import Request
from firstlight.proof.receipts import Recorder, timestamp
from firstlight.serving.causes import load_causes
from firstlight.serving.ports import free_port, require_free_port
from firstlight.serving.records import RECORD


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be reached.

    `model` None is the synthetic proof model, or with `talk` the default model that really answers. `after` says what
    becomes of the server once it is proven: stopped, left to the caller, or left running on its own. `current` takes
    the engine's current environment as it is; `afresh` builds a new one even where one of the same wish stands.
    """

    what: str
    request: Request
    current: bool = False
    talk: bool = False
    prove: bool = True
    adopt: Path | None = None
    afresh: bool = False
    after: Literal["stop", "keep", "detach"] = "stop"
    host: str = "127.0.0.1"
    flags: tuple[str, ...] = ()


class Site(msgspec.Struct, frozen=True, kw_only=True):
    """Where a goal is worked on: the decided plan and everything that the work needs at hand."""

    goal: Goal
    request: Request
    plan: Plan
    launch: Launch
    machine: Machine
    home: Home
    store: GenerationStore
    settings: PipSettings
    uv: UvTool
    log: Path
    hold: tuple[int, ...] = ()


def prepare(goal: Goal, machine: Machine, recorder: Recorder) -> Site:
    """Decide how to reach a goal, and refuse at once what can be known to fail; writes nothing.

    Raises:
        UsageError: the model, the port or a word of the request is wrong.
        NothingFits: no build fits.
        FirstlightError: the engine is not set up, its port is taken, or there is no such environment to adopt.
    """
    settings = read_pip_settings()
    engines.find(goal.request.engine).check_flags(goal.flags)
    require_servable(goal.request)
    goal = _kept(goal, machine)
    if goal.talk:
        port = goal.request.port or find_engine(load_catalogue(), goal.request.engine).port
        require_free_port(goal.host, port, Home(goal.request.home) if goal.request.home else None)
    if goal.adopt is not None:
        home = Home(goal.request.home or goal.request.default_home or Path())
        engines.find(goal.request.engine).describe_adopted(goal.adopt, home, timestamp(recorder.started))
    if goal.current:
        _require_current(goal.request)
    with step(recorder, "plan", "see what answers, and decide") as current:
        ask = not goal.current and goal.adopt is None
        request, plan = decide(goal.request, machine, settings, current, ask=ask)
        plan = _as_in_use(goal, plan)
        current.detail = build_id(plan)
        for reason in plan.because[1:] if ask else []:
            (current.warn if reason in plan.warnings else current.note)(reason)
    if plan.launch is None or plan.home is None:
        raise nothing_fits(plan)
    if goal.prove:
        _require_libraries(plan)
    home = Home(Path(plan.home))
    return Site(
        goal=goal,
        request=request,
        plan=plan,
        launch=plan.launch if goal.talk else msgspec.structs.replace(plan.launch, port=free_port()),
        machine=machine,
        home=home,
        store=engines.find(plan.engine).store(home),
        settings=settings,
        uv=uv_tool(settings, home),
        log=home.root / "logs" / f"{plan.engine}-{goal.what}.log",
    )


def _kept(goal: Goal, machine: Machine) -> Goal:
    """Return the goal; to talk, the release of an archive that is in use stays: newer ones are set up on purpose."""
    request, catalogue = goal.request, load_catalogue()
    narrowed = request.release or request.build or goal.current or goal.adopt is not None
    if narrowed or not goal.talk or request.home is None or find_engine(catalogue, request.engine).kind != "archive":
        return goal
    present = engines.find(request.engine).store(Home(request.home)).current()
    if present is None or present.problems:
        return goal
    kept = msgspec.structs.replace(request, release=present.release)
    try:
        fits = choose(machine, catalogue, kept).build is not None
    except UsageError:  # a release that the catalogue does not know
        return msgspec.structs.replace(goal, current=True)
    return msgspec.structs.replace(goal, request=kept) if fits else goal


def _as_in_use(goal: Goal, plan: Plan) -> Plan:
    """Return the plan; it says so where an archive is in use whose release the catalogue does not know."""
    if not goal.current or goal.request.home is None or plan.build is None:
        return plan
    present = engines.find(plan.engine).store(Home(goal.request.home)).current()
    if present is None or present.kind != "archive" or present.release in {None, "", plan.build.release}:
        return plan
    build = msgspec.structs.replace(plan.build, release=present.release, integrity="pinned")
    why = f"release {present.release} is in use, which the catalogue does not know: planned like {plan.build.id}"
    return msgspec.structs.replace(plan, build=build, because=[*plan.because, why])


def require_servable(request: Request) -> None:
    """Refuse a model that the engine can never serve; what the engine keeps itself, it knows best.

    Raises:
        UsageError: it can be no model, or none that this engine reads.
        FirstlightError: it is damaged.
    """
    engine = engines.find(request.engine)
    home = request.home or request.default_home
    if request.model is None or (home is not None and engine.own_model(request.model, Home(home)) is not None):
        return
    if not engine.fetches(request.model):
        require_model(request.model, engine.layouts)


def _require_libraries(plan: Plan) -> None:
    """Refuse before anything is fetched when the system lacks a library that the build's wheels do not carry."""
    build = find_build(load_catalogue().engines[plan.engine], build_id(plan))
    lacking = missing_libraries([library.name for library in build.system_libraries])
    if not lacking:
        return
    packages = [library.packages for library in build.system_libraries if library.name in lacking]
    manager = next((name for name in packages[0] if shutil.which(name)), next(iter(packages[0])))
    names = " ".join(each[manager] for each in packages if manager in each)
    raise FirstlightError(
        f"{build.id} needs {', '.join(lacking)}, which this system does not have",
        why="no wheel carries it: it is a package of the distribution",
        fix=f"as root: {manager} install -y {names}",
    )


def _require_current(request: Request) -> None:
    present = engines.find(request.engine).store(Home(request.home)).current() if request.home else None
    if present is None:
        raise FirstlightError(
            f"{request.engine} is not set up",
            why=f"{request.home or request.default_home} has no current environment of it",
            fix=f"firstlight setup.{request.engine}",
        )


def foresee(site: Site) -> Preview:
    """Return what `carry_out` would write and run, for `--dry-run`; writes nothing."""
    files, commands = [], []
    if site.goal.adopt is None and not site.goal.current:
        foreseen = engines.find(site.plan.engine).foresee(work_of(site))
        files, commands = [*foreseen.files], [*foreseen.commands]
        if commands and load_catalogue().engines[site.plan.engine].examination is not None:
            python = Path(foreseen.files[0].path).parent / "bin" / "python"
            commands.append(list(program(python, writes=True)))
    elif site.goal.adopt is not None:
        engine = engines.find(site.plan.engine)
        generation = engine.describe_adopted(site.goal.adopt, site.home, timestamp(time.time()))
        files.append(PlannedFile(path=str(site.store.folder / generation.id / MANIFEST)))
    if site.goal.after == "detach":
        files.append(PlannedFile(path=str(site.home.services / site.plan.engine / RECORD)))
    files.append(PlannedFile(path=str(site.home.models)))
    files.append(PlannedFile(path=str(site.log)))
    files.append(PlannedFile(path=str(site.home.receipts / f"TIME-{site.goal.what}.json")))
    return Preview(files=files, commands=commands)


def uv_tool(settings: PipSettings, home: Home) -> UvTool:
    """Return how uv is called with the user's pip configuration."""
    words, environment = uv_arguments(settings)
    return UvTool(
        uv=find_uv(), arguments=tuple(words), environment=environment, cache=home.wheel_cache, python=sys.executable
    )


def work_of(site: Site) -> Work:
    """Return what the engine is told when its environment is to be brought about."""
    return Work(
        plan=site.plan,
        build=find_build(load_catalogue().engines[site.plan.engine], build_id(site.plan)),
        machine=site.machine,
        request=site.request,
        home=site.home,
        settings=site.settings,
        log=site.log,
        hold=site.hold,
        afresh=site.goal.afresh,
        here=site.goal.prove,
    )


def build_id(plan: Plan) -> str:
    """Return the id of the build that a plan chose."""
    if plan.build is None:
        raise nothing_fits(plan)
    return plan.build.id


def subject_of(site: Site, generation: Generation, wish: Examination) -> Subject:
    """Return what an environment of a plan must be."""
    plan, catalogue = site.plan, load_catalogue()
    on_gpu = site.launch.device != "cpu"
    return Subject(
        engine=plan.engine,
        wish=wish,
        build=find_build(catalogue.engines[plan.engine], build_id(plan)),
        generation=generation,
        machine=site.machine,
        gpus=[gpu for gpu in site.machine.gpus or [] if on_gpu and gpu.index in plan.gpus],
        tegra=catalogue.platforms.tegra,
        registry_torch=plan.torch_source == "registry",
    )


def variables_of(site: Site, generation: Generation) -> dict[str, str | None]:
    """Return the environment variables that the engine's server gets: caches in the home, nothing of the user's."""
    request = ServingRequest(
        prefix=generation.prefix,
        build=find_build(load_catalogue().engines[site.plan.engine], build_id(site.plan)),
        launch=site.launch,
        model=site.home.models,
        model_bytes=0,
        name="",
        host=site.goal.host,
        port=site.launch.port,
        home=site.home,
    )
    return engines.find(site.plan.engine).serving(request).command.environment


@contextmanager
def older_build_named(plan: Plan) -> Iterator[None]:
    """Where a proof fails for what a build of an older CUDA cures, name the one that the plan falls back to."""
    try:
        yield
    except FirstlightError as error:
        known = {cause.id: cause for cause in load_causes(plan.engine)}
        if plan.fallback is not None and error.cause in known and known[error.cause].older_build:
            error.fix = f"firstlight setup.{plan.engine} --build {plan.fallback}"
        raise
