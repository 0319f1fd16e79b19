"""A service taken away whole: unit, folders, key, and the user that was made for it once nothing else uses it."""

from __future__ import annotations

import os

from firstlight.errors import FirstlightError
from firstlight.events import Reporter, step
from firstlight.files import remove_tree, writer_lock
from firstlight.home import Home
from firstlight.serving.records import RECORD as DETACHED
from firstlight.serving.services import users
from firstlight.serving.services.manager import manager_for
from firstlight.serving.services.records import RECORD, SECRETS, Record, all_services, save


def remove_service(home: Home, record: Record, reporter: Reporter) -> list[str]:
    """Remove a service and return in words what was undone.

    Raises:
        FirstlightError: it cannot be stopped, or its files cannot be removed.
    """
    spec = record.spec
    if not os.access(spec.folder, os.W_OK):
        raise FirstlightError(
            f"{spec.name} cannot be removed",
            why=f"{spec.folder} belongs to another user, or lies on a read-only file system",
            fix=f"as its owner or root: firstlight service.remove {spec.name}",
        )
    with writer_lock(spec.folder / ".lock", f"service {spec.name}", wait=5.0):
        with step(reporter, "remove", f"remove {spec.name}") as current:
            undone = manager_for(spec.scope, home).remove(spec, current)
            for left in record.leaving:
                undone += manager_for(left.scope, home).remove(left, current)
        (spec.folder / RECORD).unlink(missing_ok=True)
        if (spec.folder / SECRETS).exists():
            (spec.folder / SECRETS).unlink()
            undone.append("removed its API key")
        undone += _without_user(home, record)
    if not (spec.folder / DETACHED).exists():
        remove_tree(spec.folder)
        undone.append(f"removed {spec.folder}")
    return undone


def _without_user(home: Home, record: Record) -> list[str]:
    """Remove the user that was made for services, with the last of them; hand the duty on where others remain."""
    made = record.made_user
    if made is None:
        return []
    left = [other for other in all_services(home) if other.spec.user == made]
    if left:
        import msgspec

        save(msgspec.structs.replace(left[0], made_user=made))
        return []
    try:
        users.remove(made)
    except FirstlightError as error:
        return [f"the user {made} stays: {error.why}"]
    return [f"removed the user {made}"]
