"""A service on a machine with another init: described anew for what really runs here."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import msgspec

from firstlight.errors import FirstlightError
from firstlight.events import Step
from firstlight.home import Home
from firstlight.machine.facts import Machine
from firstlight.serving.services import users
from firstlight.serving.services.manager import manager_for
from firstlight.serving.services.records import Record, save
from firstlight.serving.services.spec import Hardening, Scope
from firstlight.staying.drafting import draft
from firstlight.staying.room import make_folders
from firstlight.staying.stores import current_of
from firstlight.staying.updating import ground_of, model_of, wish_of
from firstlight.staying.whom import choose_user, wished_user


def convert(home: Home, record: Record, scope: Scope, step: Step, *, machine: Callable[[], Machine]) -> Record:
    """Install a service under another scope with what it was asked to be, and return its new record; starts nothing.

    Going back to systemd it gets the hardening and the user that it had there. Done by `restore`: what it runs from
    and what it serves are in the home already.

    Raises:
        FirstlightError: it cannot be kept running that way here; what was recorded stays.
    """
    first = record.origin or record.spec
    hardening: Hardening = "basic" if scope == "supervisor" else first.hardening
    base = msgspec.structs.replace(record.spec, scope=scope, hardening=hardening, user=wished_user(first))
    if current_of(home, base.engine) is None:
        raise FirstlightError(
            f"{base.engine} is not set up", why="it has no current environment", fix=f"firstlight setup.{base.engine}"
        )
    wish, model, under = wish_of(base), model_of(base), ground_of(home, base, machine())
    user, notes, makes_user = choose_user(wish, scope, lambda who: draft(wish, under, model, home, scope, who))
    for text in notes:
        step.warn(f"{base.name}: {text}")
    manager = manager_for(scope, home)
    with contextlib.ExitStack() as undo:
        if makes_user:
            users.create()
            undo.callback(users.remove, users.SERVICE_USER)
        spec = draft(wish, under, model, home, scope, user)
        spec = msgspec.structs.replace(spec, keyed=record.spec.keyed, secrets=record.spec.secrets)
        make_folders(spec)
        outside = manager.install(spec, step)
        undo.pop_all()
    if record.spec.scope == "supervisor":
        with contextlib.suppress(FirstlightError):  # it may never have run on this machine
            manager_for(record.spec.scope, home).remove(record.spec, step)
    new = msgspec.structs.replace(
        record,
        spec=spec,
        outside=outside,
        survives=manager.survives,
        origin=first if scope == "supervisor" else None,
        made_user=users.SERVICE_USER if makes_user else record.made_user,
        systemd=scope != "supervisor",
    )
    save(new)
    return new
