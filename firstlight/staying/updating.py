"""After an engine's environment was switched: its services take the new one, or all goes back to the one before."""

from __future__ import annotations

from contextlib import nullcontext

import msgspec

from firstlight.errors import FirstlightError, VerificationFailed
from firstlight.events import Note, Reporter, Step, step
from firstlight.home import Home
from firstlight.machine.facts import Machine
from firstlight.models.provide import ServedModel
from firstlight.serving.services.manager import Manager, manager_for
from firstlight.serving.services.records import RECORD, Record, all_services, save
from firstlight.serving.services.spec import ServiceSpec
from firstlight.staying.drafting import Ground, draft, ground
from firstlight.staying.proving import key_of, measured
from firstlight.staying.sharing import is_up
from firstlight.staying.stores import store_of
from firstlight.staying.wish import Wish


def behind(home: Home, engine: str) -> list[Record]:
    """Return the services of an engine that were installed with another environment than the current one."""
    if next(home.services.glob(f"*/{RECORD}"), None) is None:
        return []
    current = store_of(home, engine).current()
    if current is None:
        return []
    return [each for each in all_services(home) if each.spec.engine == engine and each.spec.generation != current.id]


def follow(home: Home, engine: str, machine: Machine, reporter: Reporter, *, locked: bool = False) -> list[str]:
    """Take an engine's services to its current environment, one after the other; returns the names of those that moved.

    Args:
        home: where they are kept.
        engine: whose environment was switched.
        machine: the facts.
        reporter: takes the progress.
        locked: whether the caller holds the lock of the engine's store.

    Raises:
        VerificationFailed: one of them did not come up with it: the environment of before is the current one again, and
            the services run with that.
    """
    moved: list[Record] = []
    for record in behind(home, engine):
        try:
            _move(home, record, machine, reporter)
        except FirstlightError as error:
            _go_back(home, [*moved, record], reporter, locked=locked)
            current = store_of(home, engine).current()
            new = current.id if current is not None else "its new environment"
            raise VerificationFailed(
                f"{record.spec.name} did not come up with the new environment of {engine}; it is back on {new}",
                why=f"{error.what}{f': {error.why}' if error.why else ''}",
                fix=error.fix,
                evidence=error.evidence,
                cause=error.cause,
            ) from error
        moved.append(record)
    return [record.spec.name for record in moved]


def _move(home: Home, record: Record, machine: Machine, reporter: Reporter) -> None:
    spec = renewed(home, record.spec, machine)
    manager, running = manager_for(spec.scope, home), is_up(home, record.spec)
    with step(reporter, "service", f"{spec.name} takes {spec.generation}") as current:
        _set_up(manager, record, spec, current, running=running)
        if running:
            launch = ground_of(home, spec, machine).launch
            if spec.model:
                measured(spec, launch, speaks=False, key=key_of(spec))


def _set_up(manager: Manager, record: Record, spec: ServiceSpec, current: Step, *, running: bool) -> None:
    manager.install(spec, current)
    save(msgspec.structs.replace(record, spec=spec))
    if running:
        manager.restart(spec, current)


def _go_back(home: Home, records: list[Record], reporter: Reporter, *, locked: bool) -> None:
    """Make the environment of before the current one again, and the services what they were."""
    store = store_of(home, records[0].spec.engine)
    before = next((item for item in store.list() if item.id == records[0].spec.generation), None)
    if before is not None and not before.problems:
        with nullcontext() if locked else store.lock(wait=10.0):
            store.switch(before)
    for record in records:
        manager = manager_for(record.spec.scope, home)
        try:
            with step(reporter, "back", f"{record.spec.name} goes back to {record.spec.generation}") as current:
                _set_up(manager, record, record.spec, current, running=True)
        except FirstlightError as error:
            reporter(Note(f"{record.spec.name} does not come up with it either: {error.what}", "warn"))


def renewed(home: Home, spec: ServiceSpec, machine: Machine) -> ServiceSpec:
    """Return the description of a service as its engine's current environment makes it."""
    fresh = draft(wish_of(spec), ground_of(home, spec, machine), model_of(spec), home, spec.scope, spec.user)
    return msgspec.structs.replace(fresh, keyed=spec.keyed, secrets=spec.secrets)


def model_of(spec: ServiceSpec) -> ServedModel:
    """Return the model that a service serves; it is there already."""
    return ServedModel(
        path=spec.model_path,
        name=spec.model_id,
        source="service",
        layout="",
        bytes=spec.model_bytes,
        reused=True,
        speaks=True,
    )


def ground_of(home: Home, spec: ServiceSpec, machine: Machine) -> Ground:
    """Return what a service stands on with its engine's current environment."""
    return ground(wish_of(spec), machine, home, store_of(home, spec.engine).current(), spec.link)


def wish_of(spec: ServiceSpec) -> Wish:
    """Return what a service was asked to be."""
    return Wish(
        engine=spec.engine,
        model=spec.model,
        name=spec.name,
        hardening=spec.hardening,
        scope=spec.scope,
        host=spec.host,
        port=spec.port,
        user=spec.user,
        allow_open=True,
        flags=spec.flags,
        gpus=spec.gpus,
    )
