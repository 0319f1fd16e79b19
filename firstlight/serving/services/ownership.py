"""Whose a unit is: another maker's is never overwritten; the engine's own installer's may be replaced, and is kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec

from firstlight.errors import FirstlightError
from firstlight.files import write_atomic
from firstlight.serving.services.records import Replaced
from firstlight.serving.services.rendering import is_ours, unit_name
from firstlight.serving.services.spec import ServiceSpec
from firstlight.serving.services.systemctl import Systemctl

_BACKUP = "replaced.service"
_REPLACED = "replaced.json"


def require_ours(spec: ServiceSpec, path: Path, control: Systemctl) -> bool:
    """Make sure that a unit's place is free or ours; True where the engine's own installer's unit stands there.

    Raises:
        FirstlightError: a unit of that name is somebody else's.
    """
    text = _text(path)
    if text is not None and is_ours(text):
        return False
    if text is not None and spec.replaces is not None and re.search(spec.replaces, text, re.MULTILINE):
        return True
    foreign = str(path) if text is not None or path.is_symlink() else _elsewhere(spec, path, control)
    if foreign is None:
        return False
    raise FirstlightError(
        f"there is a unit {unit_name(spec.name)} that firstlight did not make",
        why=f"it stands in {foreign}, and is left as it is",
        fix=f"choose another name: --name firstlight-{spec.name}",
    )


def _elsewhere(spec: ServiceSpec, path: Path, control: Systemctl) -> str | None:
    """Return where systemd knows a unit of that name from, when it is not our place."""
    told = control.show(unit_name(spec.name), "LoadState", "FragmentPath")
    fragment = told.get("FragmentPath", "")
    if told.get("LoadState") == "masked":
        return fragment or "a mask"
    return fragment if fragment and Path(fragment) != path else None


def _text(path: Path) -> str | None:
    if path.is_symlink():
        return None
    try:
        return path.read_text(errors="replace")
    except OSError:
        return None


def put_aside(spec: ServiceSpec, path: Path, control: Systemctl) -> Replaced:
    """Stop and disable the unit that ours replaces, and keep a copy of it; returns what `give_back` needs."""
    unit = unit_name(spec.name)
    told = control.show(unit, "ActiveState", "UnitFileState")
    replaced = Replaced(
        path=path,
        backup=spec.folder / _BACKUP,
        enabled=told.get("UnitFileState") == "enabled",
        active=told.get("ActiveState") in {"active", "activating"},
    )
    write_atomic(replaced.backup, path.read_bytes())
    write_atomic(spec.folder / _REPLACED, msgspec.json.encode(replaced, enc_hook=str))
    control.run("disable", "--now", unit, what=f"{unit} cannot be stopped")
    return replaced


def replaced_by(spec: ServiceSpec) -> Replaced | None:
    """Return what was put aside for a service."""

    def to_path(kind: type, value: Any) -> Any:
        return kind(value)

    try:
        return msgspec.json.decode((spec.folder / _REPLACED).read_bytes(), type=Replaced, dec_hook=to_path)
    except (OSError, msgspec.DecodeError):
        return None


def keep_stopped(spec: ServiceSpec) -> None:
    """Let the unit that ours had replaced stay stopped when given back: the service goes on under another scope."""
    replaced = replaced_by(spec)
    if replaced is not None:
        stopped = msgspec.structs.replace(replaced, enabled=False, active=False)
        write_atomic(spec.folder / _REPLACED, msgspec.json.encode(stopped, enc_hook=str))


def give_back(spec: ServiceSpec, replaced: Replaced, control: Systemctl) -> str:
    """Put the unit that ours had replaced back, as it was; returns in words what was done."""
    unit = unit_name(spec.name)
    write_atomic(replaced.path, replaced.backup.read_bytes())
    control.run("daemon-reload", what="systemd cannot read its units again")
    if replaced.enabled:
        control.try_run("enable", unit)
    if replaced.active:
        control.try_run("start", "--no-block", unit)
    (spec.folder / _REPLACED).unlink(missing_ok=True)
    replaced.backup.unlink(missing_ok=True)
    return f"gave {replaced.path} back as it was before"
