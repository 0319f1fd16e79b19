"""The records of installed services: services/<name>/service.json says what was installed, how, and what to undo."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from firstlight.errors import FirstlightError, UsageError, did_you_mean
from firstlight.files import write_atomic
from firstlight.home import Home
from firstlight.serving.services.spec import ServiceSpec

SCHEMA = "firstlight.service/1"
RECORD = "service.json"
SECRETS = "environment"


class Replaced(msgspec.Struct, frozen=True, kw_only=True):
    """A unit that stood where ours stands now: its text is kept in `backup` and given back when ours is removed."""

    path: Path
    backup: Path
    enabled: bool
    active: bool


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """An installed service. `outside`: the files that it has outside the home."""

    schema: str = SCHEMA
    spec: ServiceSpec
    installed: str
    """ISO 8601, UTC."""
    outside: list[Path] = []
    made_user: str | None = None
    """The system user that was made for it."""
    replaced: Replaced | None = None
    survives: str = ""
    systemd: bool | None = None
    """Whether systemd ran where it was installed; None: an older firstlight did not note it."""
    origin: ServiceSpec | None = None
    """What it was under systemd, where `restore` had to put it under the supervisor."""
    leaving: list[ServiceSpec] = []
    """What it is under scopes that it was about to leave; empty once it has answered under its own."""
    displaced: list[str] = []
    """Services on its port that were stopped for it and not removed yet; empty once it has answered."""


def save(record: Record) -> None:
    """Write a service's record."""
    path = record.spec.folder / RECORD
    write_atomic(path, msgspec.json.format(msgspec.json.encode(record, enc_hook=str), indent=2) + b"\n")


def _to_path(kind: type, value: Any) -> Any:
    return kind(value)


def load(home: Home, name: str) -> Record | None:
    """Return the record of a service, None when there is none of that name.

    Raises:
        FirstlightError: it cannot be read.
    """
    return _read(home.services / name / RECORD)


def _read(path: Path) -> Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record, dec_hook=_to_path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FirstlightError(
            f"{path} does not record a service", why=str(error), fix=f"look at it: less {path}"
        ) from error


def all_services(home: Home) -> list[Record]:
    """Return the records of all services by name; a damaged one is passed over."""
    found = []
    for path in sorted(home.services.glob(f"*/{RECORD}")):
        try:
            record = _read(path)
        except FirstlightError:
            continue
        if record is not None:
            found.append(record)
    return found


def require(home: Home, name: str | None) -> Record:
    """Return the record of a service; without a name, of the only one.

    Raises:
        UsageError: there is none of that name (those that exist are listed), or several exist and none was named.
        FirstlightError: none is installed, and none was named.
    """
    names = sorted(path.parent.name for path in home.services.glob(f"*/{RECORD}"))
    if name is None and len(names) > 1:
        raise UsageError(
            "several services are installed: name one", why=", ".join(names), fix="firstlight service.status"
        )
    wanted = names[0] if name is None and names else name
    record = load(home, wanted) if wanted is not None and wanted in names else None
    if record is not None:
        return record
    if not names:
        refused = FirstlightError if name is None else UsageError
        raise refused(
            "no service is installed" if name is None else f'there is no service "{name}"',
            why=f"none is recorded under {home.services}",
            fix="firstlight service.install ENGINE --model MODEL",
        )
    raise UsageError(
        f'there is no service "{name}"{did_you_mean(name or "", names)}',
        why=f"installed are: {', '.join(names)}",
        fix=f"firstlight service.status {names[0]}",
    )


def require_not_service(home: Home, engine: str, generation: str | None) -> None:
    """Refuse to take away what a service runs from.

    Raises:
        UsageError: a service uses this engine's environment.
    """
    for record in all_services(home):
        if record.spec.engine == engine and generation in {None, record.spec.generation}:
            raise UsageError(
                f"the service {record.spec.name} runs from this environment",
                fix=f"firstlight service.remove {record.spec.name}",
            )
