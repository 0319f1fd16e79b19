"""Services that make room for another: stopped first, started again when that one fails, gone once it answers."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence

import msgspec

from firstlight.errors import FirstlightError
from firstlight.events import Note, Reporter, Step, step
from firstlight.home import Home
from firstlight.serving.services.manager import Manager, manager_for
from firstlight.serving.services.ownership import keep_stopped
from firstlight.serving.services.records import RECORD, Record, load, save
from firstlight.serving.services.spec import Scope, ServiceSpec
from firstlight.staying.removing import remove_service


def make_room(rivals: Sequence[Record], home: Home, reporter: Reporter, undo: contextlib.ExitStack) -> None:
    """Stop our older services on the same port; they are started again when the new one fails."""
    for record in rivals:
        other = manager_for(record.spec.scope, home)
        with step(reporter, "make room", f"stop {record.spec.name}, which is on port {record.spec.port}") as current:
            other.stop(record.spec, current)
            undo.callback(start_again, other, record.spec, current)


def start_again(manager: Manager, spec: ServiceSpec, current: Step) -> None:
    """Start a service that was only to make room; one that does not come up is its own log's matter."""
    with contextlib.suppress(FirstlightError):
        manager.start(spec, current)


def left_by(before: Record | None, scope: Scope) -> list[ServiceSpec]:
    """Return what a service is under other scopes than the one it gets: that of now, and that of a run cut short."""
    return [each for each in (before.spec, *before.leaving) if each.scope != scope] if before is not None else []


def leave_scope(spec: ServiceSpec, home: Home, reporter: Reporter, undo: contextlib.ExitStack) -> None:
    """Stop a service under the manager that it had: it gets another one, which wants the same port."""
    manager = manager_for(spec.scope, home)
    if manager.status(spec).state in {"stopped", "unknown"}:
        return
    with step(reporter, "make room", f"stop {spec.name}, which the scope {spec.scope} kept running") as current:
        manager.stop(spec, current)
        undo.callback(start_again, manager, spec, current)


def forget_scope(spec: ServiceSpec, home: Home, reporter: Reporter) -> None:
    """Take away what the manager of before has of a service that another one keeps running now."""
    try:
        with step(reporter, "remove", f"remove {spec.name} from the scope {spec.scope}") as current:
            keep_stopped(spec)
            manager_for(spec.scope, home).remove(spec, current)
    except FirstlightError as error:
        reporter(Note(f"what the scope {spec.scope} had of {spec.name} stays: {error.what}", "warn"))


def settle(record: Record, making_room: Sequence[Record], home: Home, reporter: Reporter) -> None:
    """Take away what a service that answers now was before, and what made room for it; note that this is done."""
    for left in record.leaving:
        forget_scope(left, home, reporter)
    for other in making_room:
        remove_service(home, load(home, other.spec.name) or other, reporter)
    if record.leaving or making_room:
        known = load(home, record.spec.name) or record  # it may have taken over a user that firstlight made
        save(msgspec.structs.replace(known, leaving=[], displaced=[]))


def take_back(manager: Manager, spec: ServiceSpec, before: Record | None, current: Step) -> None:
    """Undo an installation that failed: the service of before runs again, or nothing of it is left."""
    with contextlib.suppress(FirstlightError):
        if before is None:
            manager.remove(spec, current)
            return
        manager.install(before.spec, current)
        manager.restart(before.spec, current)


def restore_record(spec: ServiceSpec, before: Record | None) -> None:
    """Write the record of before again, or leave none."""
    if before is not None:
        save(before)
        return
    (spec.folder / RECORD).unlink(missing_ok=True)


def make_folders(spec: ServiceSpec) -> None:
    """Make the folders that the service writes into, where its manager does not, and hand them to its user."""
    if spec.cache is not None and spec.scope != "system":
        for name in spec.cache_folders:
            (spec.cache / name).mkdir(parents=True, exist_ok=True)
    for folder in spec.writable:
        folder.mkdir(parents=True, exist_ok=True)
    if spec.scope != "system" or spec.user in {None, "root"}:
        return
    for folder in spec.writable:
        for path in (folder, *folder.rglob("*")):
            with contextlib.suppress(OSError):
                shutil.chown(path, spec.user, spec.user) if not path.is_symlink() else None
