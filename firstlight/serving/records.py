"""The records of detached servers: services/<name>/running.json, and whether the recorded process is still that one."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from firstlight.errors import FirstlightError, UsageError
from firstlight.home import Home

SCHEMA = "firstlight.running/1"
RECORD = "running.json"


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """What else is worth knowing of a detached server, told by whoever started it."""

    build: str | None = None
    environment: str | None = None
    model_path: str | None = None
    device: str | None = None


class Detached(msgspec.Struct, frozen=True, kw_only=True):
    """A server that runs without us. `started` is seconds since the epoch.

    `pid_start` (clock ticks since boot) and `boot_id` tell this process from a later one with the same number.
    """

    schema: str = SCHEMA
    name: str
    pid: int
    pid_start: int
    boot_id: str
    engine: str
    model: str
    endpoint: str
    started: float
    log: str
    details: Details = Details()

    @property
    def alive(self) -> bool:
        """Whether the recorded process still runs (and is not another one that got its number)."""
        return self.boot_id == boot_id() and process_start(self.pid) == self.pid_start


def process_start(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot; None when it is gone or a zombie.

    Source: proc_pid_stat(5), field 22.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in {"Z", "X"} else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


def boot_id() -> str:
    """Return the identity of this boot, or an empty string where the kernel does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def check_name(name: str) -> None:
    """Refuse a server name that cannot be a folder's name.

    Raises:
        UsageError: it holds other signs than letters, digits, dot, dash and underscore.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(
            f'"{name}" cannot be the name of a server',
            why="a name is up to 64 letters, digits, dots, dashes and underscores, and starts with a letter or digit",
            fix="choose a name such as: chat-1",
        )


def read_record(path: Path) -> Detached | None:
    """Return the record in a file, or None when there is none.

    Raises:
        FirstlightError: the file is no such record.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Detached)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, OSError) as error:
        raise FirstlightError(
            f"{path} does not record a running server", why=str(error), fix=f"remove it: rm {path}"
        ) from error


def all_records(home: Home) -> list[Detached]:
    """Return every readable record by name, live and stale ones; a damaged file is passed over."""
    found = []
    for path in sorted(home.services.glob(f"*/{RECORD}")):
        try:
            record = read_record(path)
        except FirstlightError:
            continue
        if record is not None:
            found.append(record)
    return found
