"""From a wish to the whole description of a service, without writing anything."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from firstlight import engines
from firstlight.catalogue.loading import find_build, find_engine, load_catalogue
from firstlight.catalogue.types import Build, EngineEntry
from firstlight.engines.base import HUB_CACHE, Serving, ServingRequest
from firstlight.environments.spec import Generation
from firstlight.errors import UsageError
from firstlight.home import Home
from firstlight.machine.facts import Machine
from firstlight.models.provide import ServedModel
from firstlight.planning.choose import choose
from firstlight.planning.failing import nothing_fits
from firstlight.planning.plan import Launch, Plan
from firstlight.planning.request import Request
from firstlight.serving.keys import knows_key, with_key
from firstlight.serving.services.records import SECRETS
from firstlight.serving.services.rendering import service_path
from firstlight.serving.services.spec import Readiness, Scope, ServiceSpec, is_loopback
from firstlight.serving.services.users import blocked
from firstlight.staying.wish import Wish

_STATE = Path("/var/lib")
_CACHE = Path("/var/cache")
_NODES = ("nvidiactl", "nvidia-uvm", "dxg")
_PYTHONS = (Path("/usr/bin/python3"), Path(sys.executable))


class Ground(msgspec.Struct, frozen=True, kw_only=True):
    """What a service stands on: plan and build, the environment (None: not set up yet), and its link."""

    request: Request
    plan: Plan
    launch: Launch
    entry: EngineEntry
    build: Build
    generation: Generation | None
    link: Path

    @property
    def prefix(self) -> Path:
        """The folder that the service runs from: the environment itself; before there is one, the `current` link.

        Not the link later on: an engine that imports as it goes would take modules of two environments in the seconds
        between a switch and its restart.
        """
        return self.link if self.generation is None else self.generation.prefix


def ground(wish: Wish, machine: Machine, home: Home, generation: Generation | None, link: Path) -> Ground:
    """Return what the service will stand on: the build of its engine's environment, or the one that would be set up.

    Raises:
        UsageError: there is no such engine.
        NothingFits: no build fits this machine.
    """
    engines.find(wish.engine)
    catalogue = load_catalogue()
    entry = find_engine(catalogue, wish.engine)
    known = [build.id for build in entry.build]
    build = generation.build if generation is not None and generation.build in known else None
    cuda = (find_build(entry, build).cuda or "cpu") if build else None
    request = Request(
        engine=wish.engine, build=build, cuda=cuda, gpus=wish.gpus, port=wish.port, home=home.root, model=wish.model
    )
    plan = choose(machine, catalogue, request)
    if plan.launch is None or plan.build is None:
        raise nothing_fits(plan)
    return Ground(
        request=request,
        plan=plan,
        launch=plan.launch,
        entry=entry,
        build=find_build(entry, plan.build.id),
        generation=generation,
        link=link,
    )


def draft(
    wish: Wish,
    under: Ground,
    model: ServedModel,
    home: Home,
    scope: Scope,
    user: str | None,
    *,
    trial: int | None = None,
) -> ServiceSpec:
    """Return the description of the service.

    Args:
        wish: what was asked for.
        under: what it stands on.
        model: what it serves.
        home: where it is kept.
        scope: who keeps it running.
        user: whom it runs as, None where the scope leaves no choice.
        trial: the port of a copy that is only tried, by itself, beside the real one.

    Raises:
        UsageError: the engine's command cannot carry what is asked for.
    """
    name = wish.service_name if trial is None else f"{wish.service_name}-trial"
    own = f"firstlight-{name}"
    cache = _CACHE / own if scope == "system" else home.root / "cache"
    state = _STATE / own if scope == "system" else None
    serving = _serving(wish, under, model, home, cache, trial)
    keyed = trial is None and not is_loopback(wish.host) and knows_key(under.entry)
    folder = home.services / wish.service_name
    words = serving.command.argv
    environment, unset = _environment(serving, under.prefix, state)
    return ServiceSpec(
        name=name,
        engine=wish.engine,
        scope=scope,
        folder=folder,
        generation=under.generation.id if under.generation else None,
        link=under.link,
        model=wish.model,
        model_path=model.path,
        model_id=serving.model_id,
        model_bytes=model.bytes,
        host=wish.host if trial is None else "127.0.0.1",
        port=trial or under.launch.port,
        argv=with_key(words, under.entry, folder / "with_key.py", fix="leave --host out") if keyed else words,
        environment=environment,
        unset=unset,
        secrets=folder / SECRETS if keyed else None,
        keyed=keyed,
        user=user,
        cache=cache,
        cache_folders=(f"{HUB_CACHE}",) if under.entry.kind == "wheels" else (),
        state=state,
        writable=serving.writable,
        devices=_devices(under.launch),
        hardening=wish.hardening,
        readiness=_readiness(serving, under, folder, user),
        gpus=wish.gpus,
        flags=wish.flags,
        build=under.build.id,
        metrics_path=under.entry.service.metrics_path,
        requests_metric=under.entry.service.requests_metric,
        replaces=under.entry.service.unit if trial is None else None,
        memory_share=_memory_share(under, wish.flags),
    )


def _serving(wish: Wish, under: Ground, model: ServedModel, home: Home, cache: Path, trial: int | None) -> Serving:
    request = ServingRequest(
        prefix=under.prefix,
        build=under.build,
        launch=under.launch,
        model=model.path,
        model_bytes=model.bytes,
        name=model.name,
        host=wish.host if trial is None else "127.0.0.1",
        port=trial or under.launch.port,
        home=home,
        flags=wish.flags,
        caches=cache,
    )
    return engines.find(wish.engine).serving(request)


def _environment(serving: Serving, prefix: Path, state: Path | None) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the variables of the service, and those that must not be handed down to it."""
    given = serving.command.environment
    found = {name: value for name, value in given.items() if value is not None}
    found["PATH"] = service_path(str(prefix / "bin"))
    found["HOME"] = str(state) if state is not None else os.environ.get("HOME") or str(Path.home())
    return found, tuple(sorted(name for name, value in given.items() if value is None))


def _devices(launch: Launch) -> tuple[str, ...]:
    """Return the GPU's device nodes that are there."""
    if launch.device == "cpu":
        return ()
    chosen = launch.visible_devices
    indexes = chosen.split(",") if chosen else [str(number) for number in range(64)]
    names = [*_NODES, *(f"nvidia{index}" for index in indexes)]
    return tuple(f"/dev/{name}" for name in names if Path("/dev", name).exists())


def _readiness(serving: Serving, under: Ground, folder: Path, user: str | None) -> Readiness:
    waiting = folder / "ready.py"
    interpreter: Path | None = under.prefix / "bin" / "python"
    if under.entry.kind != "wheels":
        ours = (path for path in _PYTHONS if path.is_file() and blocked(user or "root", [path]) is None)
        interpreter = next(ours, None)
    probe = (serving.command.argv[0], *under.entry.service.probe) if interpreter is None else ()
    return Readiness(
        path=serving.health_path,
        timeout=serving.ready_timeout,
        interpreter=interpreter,
        waiting=waiting if interpreter is not None else None,
        probe=probe,
    )


def _memory_share(under: Ground, flags: tuple[str, ...]) -> float | None:
    """Return the part of a GPU's memory that the server takes, by the user's flags or by itself."""
    known = under.entry.service
    if under.launch.device == "cpu" or not known.memory_flags:
        return None
    words = [*under.build.flags, *flags]
    for place, word in enumerate(words):
        name, sign, value = word.partition("=")
        if name in known.memory_flags:
            text = value if sign else words[place + 1] if place + 1 < len(words) else ""
            try:
                return float(text)
            except ValueError:
                raise UsageError(f'{name} does not take "{text}"', fix=f"{name} takes a part of 1: 0.45") from None
    return known.memory_share
