"""Whom a service runs as: a system user of its own, unless what it needs lies where only root may look."""

from __future__ import annotations

from collections.abc import Callable

from firstlight.errors import FirstlightError
from firstlight.serving.services import users
from firstlight.serving.services.hardening import needed_paths
from firstlight.serving.services.spec import Scope, ServiceSpec
from firstlight.staying.wish import Wish

AS_ROOT = "it runs as root"
_HIDDEN = ("/root", "/home", "/run/user")
"""Folders that a strict sandbox lays an empty one over; what is needed in them is bound into it."""


def wished_user(spec: ServiceSpec) -> str | None:
    """Return the user that a service was asked to run as; None where that was left to firstlight."""
    chosen = spec.scope == "supervisor" or spec.user != users.SERVICE_USER
    return spec.user if chosen and spec.scope != "user" else None


def choose_user(wish: Wish, scope: Scope, drafted: Callable[[str], ServiceSpec]) -> tuple[str | None, list[str], bool]:
    """Return whom the service runs as, what must be said about it, and whether that user is made.

    Raises:
        UsageError: there is no such user.
        FirstlightError: that user cannot reach the environment or the model.
    """
    if scope != "system":
        if wish.user is not None:
            users.require_user(wish.user)
        return wish.user, [], False
    asked = wish.user or users.SERVICE_USER
    if wish.user is not None and wish.user != users.SERVICE_USER:
        users.require_user(wish.user)
    hidden = _HIDDEN if wish.hardening == "strict" else ()
    spec = drafted(asked)
    obstacle = users.blocked(asked, [path for path in needed_paths(spec) if path.exists()], hidden=hidden)
    if obstacle is None:
        return asked, [], not users.exists(asked)
    if wish.user is not None:
        raise FirstlightError(
            f"the user {asked} cannot reach what the service needs",
            why=obstacle.words,
            fix="move it where all may read (FIRSTLIGHT_HOME=/var/lib/firstlight), or --user root",
        )
    return "root", [f"{AS_ROOT}: {users.SERVICE_USER} cannot reach {obstacle.words}"], False
