"""Makes a home on a persistent disk usable again after the machine around it was lost: in seconds, without network."""

from __future__ import annotations

import os
import pwd
import shlex
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from firstlight.environments.conda_list import environments_list, register_prefix
from firstlight.environments.generations import all_generations
from firstlight.errors import FirstlightError
from firstlight.events import Step
from firstlight.home import MARKER, Home
from firstlight.serving.kept_tool import keep_tool
from firstlight.serving.services import users
from firstlight.serving.services.hooks import Hook, launcher, start_hook
from firstlight.serving.services.manager import manager_for
from firstlight.serving.services.records import Record, all_services
from firstlight.serving.services.rendering import unit_name
from firstlight.serving.services.scopes import choose
from firstlight.serving.services.spec import Scope, ServiceSpec
from firstlight.serving.services.supervisor import SupervisorManager
from firstlight.serving.services.systemctl import Systemctl, runs

_LINK_OF_ROOT = Path("/usr/local/bin/firstlight")


class RestoredService(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a service. `why` and `fix` for one that could not be restored."""

    name: str
    scope: str
    outcome: Literal["running", "started", "registered", "failed"]
    endpoint: str
    why: str | None = None
    fix: str | None = None
    was: str | None = None
    """The scope that kept it running on the machine of before, where another one does here."""


class Restored(msgspec.Struct, frozen=True, kw_only=True):
    """What was done to make the home usable again."""

    schema: str = "firstlight.restored/1"
    home: Path
    tool: Path
    link: Path | None
    """The command in PATH; None: something else stands there."""
    registered: list[Path]
    """Conda environments that were put back on conda's list."""
    users: list[str]
    """Service users that were made again."""
    services: list[RestoredService]
    problems: list[str]
    """What needs a person, with what to do."""
    hook: Hook | None
    """What starts the services at the next start; None where systemd does."""
    seconds: float


Convert = Callable[[Record, Scope, Step], Record]
"""Installs a service under another scope and returns its new record; raises FirstlightError."""


def restore(home: Home, step: Step, *, start: bool = True, convert: Convert | None = None) -> Restored:
    """Put back what stood outside a home: the command, conda's list, users, units; and start its services.

    Done twice it changes nothing more. Engines are started, not waited for.

    Args:
        home: the folder on the disk that stayed.
        step: takes the progress.
        start: whether services are started.
        convert: describes a service anew for what runs here; None: such a service is only told.

    Raises:
        FirstlightError: the folder is no home of firstlight, or belongs to another user.
    """
    begun = time.monotonic()
    _require_home(home)
    problems: list[str] = []
    tool = _tool(home, problems)
    link = _link(home, problems)
    registered = _environments(home, problems)
    records = all_services(home)
    made = _users(records, problems)
    services = _services(home, records, step, problems, start=start, convert=convert)
    return Restored(
        home=home.root,
        tool=tool,
        link=link,
        registered=registered,
        users=made,
        services=services,
        problems=problems,
        hook=None if runs() and all(each.scope != "supervisor" for each in services) else start_hook(home),
        seconds=round(time.monotonic() - begun, 3),
    )


def _require_home(home: Home) -> None:
    if not (home.root / MARKER).is_file():
        raise FirstlightError(
            f"{home.root} is no home of firstlight",
            why=f"it has no {MARKER}",
            fix="name the folder on the disk that stayed: firstlight restore --home /path/to/firstlight",
        )
    home.prepare()


def _tool(home: Home, problems: list[str]) -> Path:
    """Keep the tool in the home; a failure is no reason to leave the services down."""
    try:
        return keep_tool(home).launcher
    except FirstlightError as error:
        problems.append(f"{error.what}: {error.why}; {error.fix}")
        return launcher(home)


def command_place() -> Path:
    """Return where the command stands for everyone (root) or for this user."""
    return _LINK_OF_ROOT if os.geteuid() == 0 else Path("~/.local/bin/firstlight").expanduser()


def _link(home: Home, problems: list[str]) -> Path | None:
    """Make the command in PATH; what is there and is no link to a launcher of ours stays."""
    place, target = command_place(), launcher(home)
    if not target.is_file():
        return None
    try:
        if place.is_symlink() and str(place.readlink()) == str(target):
            return place
        dangling = place.is_symlink() and not place.exists()
        if (place.exists() or place.is_symlink()) and not dangling:
            problems.append(f"{place} is there already and stays; the tool of this home: {target}")
            return None
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(target)
    except OSError as error:
        problems.append(f"{place} cannot be written ({error.strerror or error}); the tool of this home: {target}")
        return None
    return place


def _environments(home: Home, problems: list[str]) -> list[Path]:
    """Put the conda environments back on conda's list; tell those that cannot run any more."""
    put_back = []
    for each in all_generations(home):
        prefix = each.prefix
        if each.kind != "adopted" and not prefix.is_relative_to(home.root):
            problems.append(
                f"{each.engine} {each.id} was built for {prefix} and cannot be moved: mount the disk where it was, "
                f"or: firstlight setup.repair {each.engine}"
            )
        elif not (prefix / "bin" / "python").exists():
            problems.append(
                f"the Python of {each.engine} {each.id} is gone ({os.path.realpath(prefix / 'bin' / 'python')}): "
                f"firstlight setup.repair {each.engine}"
            )
        elif each.kind == "conda" and environments_list() is not None and register_prefix(prefix) is not None:
            put_back.append(prefix)
    return put_back


def _users(records: list[Record], problems: list[str]) -> list[str]:
    """Make the service users again that firstlight had made; they went with the root disk."""
    made: list[str] = []
    for record in records:
        name = record.made_user
        if name is None or name in made or users.exists(name):
            continue
        if name != users.SERVICE_USER or os.geteuid() != 0:
            problems.append(f"the user {name} of {record.spec.name} is gone: useradd --system {name}")
            continue
        users.create()
        made.append(name)
    return made


def _services(
    home: Home, records: list[Record], step: Step, problems: list[str], *, start: bool, convert: Convert | None
) -> list[RestoredService]:
    restored: list[RestoredService] = []
    here: list[Record] = []
    was: dict[str, str] = {}
    for record in records:
        scope, spec = _other_scope(record), record.spec
        if scope is None or convert is None:
            here.append(record)
            continue
        try:
            here.append(convert(record, scope, step))
            was[spec.name] = spec.scope
        except FirstlightError as error:
            words = f"{spec.name} cannot be kept running by the scope {scope} here: {error.what}"
            if spec.scope == "supervisor":  # it can go on as it was, and only a reboot ends it
                problems.append(f"{words}; {error.fix}" if error.fix else words)
                here.append(record)
            else:
                restored.append(_told(record, "failed", FirstlightError(words, why=error.why, fix=error.fix)))
    supervised = [record for record in here if record.spec.scope == "supervisor"]
    restored += [_unit(home, record, step, start=start) for record in here if record.spec.scope != "supervisor"]
    if supervised:
        restored += _supervised(home, supervised, step, start=start)
    told = [msgspec.structs.replace(each, was=was.get(each.name)) for each in restored]
    return sorted(told, key=lambda each: each.name)


def _other_scope(record: Record) -> Scope | None:
    """Return what must keep a service running here, where that is not what kept it on the machine of before.

    Who chose the supervisor though systemd ran gets it again; so does a service of which nobody noted what ran.
    """
    if record.spec.scope != "supervisor":
        return None if runs() else "supervisor"
    if record.systemd is not False or not runs():
        return None
    scope = choose("auto").scope
    return scope if scope != "supervisor" else None


def _again(spec: ServiceSpec, scope: Scope) -> str:
    """Return the whole command that installs a service under another scope."""
    words = ["firstlight", "service.install", spec.engine, "--name", spec.name, "--port", str(spec.port)]
    words += ["--model", spec.model] if spec.model else []
    if not spec.loopback:
        words += ["--host", spec.host, *([] if spec.keyed else ["--allow-open"])]
    words += ["--gpus", ",".join(map(str, spec.gpus))] if spec.gpus is not None else []
    words += ["--scope", scope, *(["--", *spec.flags] if spec.flags else [])]
    return shlex.join(words)


def _unit(home: Home, record: Record, step: Step, *, start: bool) -> RestoredService:
    """Register a unit again and let systemd start it."""
    spec = record.spec
    if not runs():
        error = FirstlightError(
            "systemd does not run here",
            why="it was installed for systemd, which does not run on this machine",
            fix=_again(spec, "supervisor"),
        )
        return _told(record, "failed", error)
    try:
        _require_own(spec)
        manager = manager_for(spec.scope, home)
        before = manager.status(spec)
        if before.state in {"running", "starting"} and before.enabled:
            return _told(record, "running")
        manager.install(spec, step)
        if start:
            unit = unit_name(spec.name)
            Systemctl(spec.scope).run("start", "--no-block", unit, what=f"{unit} cannot be started")
        return _told(record, "started" if start else "registered")
    except FirstlightError as error:
        return _told(record, "failed", error)


def _require_own(spec: ServiceSpec) -> None:
    """Refuse to make a user's own service another user's, root's say."""
    owner = spec.folder.stat().st_uid
    if spec.scope == "user" and owner != os.geteuid():
        raise FirstlightError(
            f"{spec.name} is another user's service",
            why=f"its folder belongs to the user {_name(owner)}, under whose systemd it ran",
            fix=f"as {_name(owner)}: firstlight restore",
        )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _supervised(home: Home, records: list[Record], step: Step, *, start: bool) -> list[RestoredService]:
    manager = SupervisorManager(home)
    restored = []
    for record in records:
        try:
            manager.install(record.spec, step)
            begun = start and manager.start_soon(record.spec, step)
            running = not begun and manager.status(record.spec).pid is not None
            restored.append(_told(record, "started" if begun else "running" if running else "registered"))
        except FirstlightError as error:
            restored.append(_told(record, "failed", error))
    return restored


def _told(
    record: Record,
    outcome: Literal["running", "started", "registered", "failed"],
    error: FirstlightError | None = None,
) -> RestoredService:
    spec = record.spec
    return RestoredService(
        name=spec.name,
        scope=spec.scope,
        outcome=outcome,
        endpoint=f"{spec.base_url}/v1",
        why=(error.why or error.what) if error else None,
        fix=error.fix if error else None,
    )
