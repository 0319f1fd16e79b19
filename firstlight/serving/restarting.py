"""Servers that run from a version which was replaced are started again, from the new one and with the same words."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from firstlight.errors import FirstlightError
from firstlight.events import Reporter, Step, step
from firstlight.home import Home
from firstlight.process import Command
from firstlight.serving.records import Detached
from firstlight.serving.running import detach, list_running, stop_running, wait_detached
from firstlight.serving.server import ServerSpec

_HEALTH = "/v1/models"


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """A version in place of another: the folders that their programs lie in, and the new one's name."""

    engine: str
    old: Path
    new: Path
    name: str


def servers_of(home: Home, engine: str) -> list[Detached]:
    """Return the detached servers of an engine that run."""
    return [record for record in list_running(home) if record.alive and record.engine == engine]


def restart_servers(home: Home, swap: Swap, reporter: Reporter) -> tuple[str, ...]:
    """Restart every detached server that was started from the old version; returns their names.

    One that does not come up from the new version is started from the old one again.

    Raises:
        FirstlightError: a server did not come up from the new version.
    """
    done: list[str] = []
    for record in servers_of(home, swap.engine):
        command = command_of(record, swap.old, swap.new)
        if command is None:
            continue
        with step(reporter, f"restart-{record.name}", f"restart {record.name} from {swap.name}") as current:
            _restart(home, record, command, swap, current)
        done.append(record.name)
    return tuple(done)


def command_of(record: Detached, old: Path, new: Path) -> Command | None:
    """Return how a detached server was started, with `new` in place of `old`; None where it did not run from `old`.

    The kernel keeps the words and variables that its guard got (proc_pid_cmdline(5), proc_pid_environ(5)).
    """
    process = Path("/proc") / str(record.pid)
    try:
        words = (process / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")[:-1]
        pairs = (process / "environ").read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        return None
    argv = words[words.index("--") + 1 :] if "--" in words else []
    if not argv or not Path(argv[0]).is_relative_to(old):
        return None

    def moved(text: str) -> str:
        return text.replace(f"{old}{os.sep}", f"{new}{os.sep}")

    variables: dict[str, str | None] = dict.fromkeys(os.environ)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if equals:
            variables[name] = moved(value)
    return Command(tuple(map(moved, argv)), variables)


def _restart(home: Home, record: Detached, command: Command, swap: Swap, current: Step) -> None:
    before = command_of(record, swap.old, swap.old)
    details = msgspec.structs.replace(record.details, environment=swap.name)
    stop_running(home, record.name)
    try:
        _start(home, record, command, current, msgspec.structs.replace(record, details=details))
    except FirstlightError as error:
        if before is not None:
            current.warn(f"{record.name} did not come up from {swap.name}; it is started from the version before again")
            _start(home, record, before, current, record)
        raise FirstlightError(
            f"{record.name} does not start from {swap.name}",
            why=error.why or error.what,
            fix=f"read its log: less {record.log}",
        ) from error


def _start(home: Home, record: Detached, command: Command, current: Step, told: Detached) -> None:
    address = urlsplit(record.endpoint)
    spec = ServerSpec(
        name=record.name,
        command=command,
        host=address.hostname or "127.0.0.1",
        port=address.port or 80,
        health_path=_HEALTH,
        log=Path(record.log),
        engine=record.engine,
        model_id=record.model,
    )
    wait_detached(spec, detach(spec, home, told.details), home, current)
