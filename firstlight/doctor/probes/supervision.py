"""What keeps servers running here: systemd's user instance, lingering, supervisord; what units see of proxies."""

from __future__ import annotations

import os
import pwd
import re
from pathlib import Path

import msgspec

from firstlight.doctor.looking import Look
from firstlight.machine.system import System, exists, printable

_PROXY = re.compile(r"\b(?:https?|all)_proxy=", re.IGNORECASE)
_MOST_UNITS = 400


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """A unit file that starts one of the engines."""

    name: str
    path: str
    engine: str
    scope: str
    """`system` or `user`."""
    proxies: bool
    """Whether the unit, its drop-ins or the environment files that it names set a proxy."""


class Supervision(msgspec.Struct, frozen=True, kw_only=True):
    """Who would keep a server running."""

    user: str | None = None
    linger: bool | None = None
    """Whether systemd runs this user's units without a login; None: it keeps no such record here."""
    user_instance: bool = False
    """Whether systemd's instance for this user answers."""
    supervisord: str | None = None
    """The program, where it is installed."""
    supervisord_runs: bool = False
    units: tuple[Unit, ...] = ()
    manager_proxies: bool = False
    """Whether systemd gives a proxy to all of its services (DefaultEnvironment)."""


def read(look: Look) -> Supervision:
    """Return the supervisors of this machine and the engines' units."""
    system = look.system
    uid = os.geteuid()
    user = _user(system, uid)
    runtime = system.environment.get("XDG_RUNTIME_DIR")
    own = Path(runtime) if runtime else system.path(f"/run/user/{uid}")
    lingering = system.path("/var/lib/systemd/linger")
    found = system.which("supervisord")
    return Supervision(
        user=user,
        linger=exists(lingering / user) if user is not None and exists(lingering.parent) else None,
        user_instance=exists(own / "systemd" / "private"),
        supervisord=printable(found) if found is not None else None,
        supervisord_runs=_runs(system, "supervisord"),
        units=tuple(_units(look)),
        manager_proxies=_manager_proxies(system),
    )


def _user(system: System, uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return system.environment.get("USER") or None


def _runs(system: System, name: str) -> bool:
    return any(
        system.text_of(f"/proc/{entry.name}/comm") == name for entry in system.entries("/proc") if entry.name.isdigit()
    )


def _units(look: Look) -> list[Unit]:
    engines = list(look.catalogue.engines)
    places = [("system", look.path("/etc/systemd/system")), ("system", look.path("/usr/lib/systemd/system"))]
    if look.system.home is not None:
        places.append(("user", look.system.home / ".config" / "systemd" / "user"))
    found: dict[tuple[str, str], Unit] = {}
    for scope, folder in places:
        for path in _service_files(folder, engines):
            text = _text(path)
            engine = engine_of(text, engines)
            if engine is not None and (scope, path.name) not in found:
                found[scope, path.name] = Unit(
                    name=path.stem,
                    path=printable(path),
                    engine=engine,
                    scope=scope,
                    proxies=bool(_PROXY.search(_whole(look, path, text))),
                )
    return list(found.values())


def _service_files(folder: Path, engines: list[str]) -> list[Path]:
    """Return the unit files to read; the distribution's own folder holds hundreds, there the name must tell."""
    try:
        files = sorted(entry for entry in folder.iterdir() if entry.name.endswith(".service"))
    except OSError:
        return []
    if folder.parent.parent.name == "lib":
        files = [file for file in files if any(name in file.name for name in engines)]
    return files[:_MOST_UNITS]


def engine_of(unit: str, engines: list[str]) -> str | None:
    """Return the engine that a unit's ExecStart runs, by a word of its command."""
    lines = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = {Path(word).name for line in lines for word in re.split(r"[\s=]+", line)}
    words |= {module.partition(".")[0] for line in lines for module in re.findall(r" -m (\S+)", line)}
    return next((name for name in engines if name in words), None)


def _whole(look: Look, path: Path, text: str) -> str:
    """Return a unit with its drop-ins and the environment files that it names."""
    drop_ins = path.with_name(f"{path.name}.d")
    try:
        parts = [_text(file) for file in sorted(drop_ins.iterdir()) if file.suffix == ".conf"]
    except OSError:
        parts = []
    whole = "\n".join([text, *parts])
    files = re.findall(r"^EnvironmentFile=-?(/\S+)", whole, re.MULTILINE)
    return "\n".join([whole, *(look.system.text_of(file) or "" for file in files)])


def _manager_proxies(system: System) -> bool:
    files = ["/etc/systemd/system.conf"]
    files += [f"/etc/systemd/system.conf.d/{entry.name}" for entry in system.entries("/etc/systemd/system.conf.d")]
    lines = "\n".join(system.text_of(file) or "" for file in files).splitlines()
    return any(line.startswith("DefaultEnvironment=") and _PROXY.search(line) for line in lines)


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
