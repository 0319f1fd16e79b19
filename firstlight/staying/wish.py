"""What a service is asked to be, and what of it can be refused at once."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from firstlight.catalogue.types import EngineEntry
from firstlight.errors import FirstlightError, UsageError
from firstlight.serving.keys import knows_key
from firstlight.serving.records import check_name
from firstlight.serving.services.scopes import AskedScope
from firstlight.serving.services.spec import Hardening, Scope, is_loopback

_UNPRIVILEGED = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """A service that is asked for. `user` None: a system user of its own; `flags`: words that go to the engine."""

    engine: str
    model: str = ""
    """May be left out for an engine that loads the models of its own store on demand."""
    name: str | None = None
    hardening: Hardening = "basic"
    scope: AskedScope = "auto"
    host: str = "127.0.0.1"
    port: int | None = None
    user: str | None = None
    allow_open: bool = False
    flags: tuple[str, ...] = ()
    gpus: tuple[int, ...] | None = None

    @property
    def service_name(self) -> str:
        """The name of the service: the engine's by default."""
        return self.name or self.engine


def check_wish(wish: Wish, entry: EngineEntry) -> None:
    """Refuse a wish that cannot be fulfilled anywhere.

    Raises:
        UsageError: the name cannot be a unit's, or the host is no address.
        FirstlightError: the API would be open to all, and that was not allowed.
    """
    check_name(wish.service_name)
    if not wish.model and not entry.service.on_demand:
        raise UsageError("no model was named", fix=f"firstlight service.install {wish.engine} --model MODEL")
    if wish.service_name.endswith((".service", ".d")):
        raise UsageError(
            f'"{wish.service_name}" cannot be the name of a service',
            why="the ending is added by systemd",
            fix=f"--name {wish.service_name.rpartition('.')[0]}",
        )
    if any(sign.isspace() for sign in wish.host) or not wish.host:
        raise UsageError(f'"{wish.host}" is no address', fix="--host 127.0.0.1")
    if is_loopback(wish.host) or wish.allow_open or knows_key(entry):
        return
    raise UsageError(
        f"{wish.engine} would be open to everyone who reaches {wish.host}",
        why="its API knows no key: whoever reaches the port can use, load and delete its models",
        fix="leave --host out and reach it by an SSH tunnel, or say that you mean it: --allow-open",
    )


def require_port_right(port: int, scope: Scope, user: str | None) -> None:
    """Refuse a port that the service's user may not open.

    Raises:
        UsageError: it is one of root's.
    """
    try:
        first = int(_UNPRIVILEGED.read_text())
    except (OSError, ValueError):
        first = 1024
    root = user == "root" if scope == "system" else os.geteuid() == 0 and user in {None, "root"}
    if port < first and not root:
        raise UsageError(
            f"port {port} cannot be opened by the service's user ({user or 'this one'})",
            why=f"ports below {first} belong to root",
            fix=f"--port {port + 8000}   (with a reverse proxy before it, if it must be {port}), or --user root",
        )


def require_supported(scope: Scope, wish: Wish) -> None:
    """Refuse what a scope cannot do.

    Raises:
        UsageError: another user, or a strict sandbox, outside systemd's own scope.
    """
    if scope == "user" and wish.user is not None:
        raise UsageError("--user belongs to a service of the system", fix="leave it out, or --scope system")
    if scope == "supervisor" and wish.hardening == "strict":
        raise FirstlightError(
            "--hardening strict needs systemd", why="supervisor cannot shut a program in", fix="--hardening basic"
        )
