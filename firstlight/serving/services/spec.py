"""What a service is: one value that every manager (systemd of the system or of a user, supervisor) can render."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Literal

import msgspec

Scope = Literal["system", "user", "supervisor"]
Hardening = Literal["basic", "strict"]
State = Literal["running", "starting", "restarting", "stopped", "failed", "unknown"]

_WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to reach it, not where to bind


def is_loopback(host: str) -> bool:
    """Tell whether an address is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Readiness(msgspec.Struct, frozen=True, kw_only=True):
    """How the service is known to answer: GET `path` gives 200 within `timeout` seconds of the start.

    `interpreter` runs our small waiting program (`waiting`); where no Python can be reached, `probe` is a command that
    ends with 0 once the server answers, tried again and again by a POSIX shell.
    """

    path: str
    timeout: float
    interpreter: Path | None = None
    waiting: Path | None = None
    probe: tuple[str, ...] = ()


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the whole service; None leaves the manager's own."""

    memory_max: int | None = None
    """Bytes."""
    open_files: int | None = 1_048_576
    locked_memory: Literal["infinity"] | None = "infinity"
    """NCCL and pinned buffers lock memory; systemd's own limit is 8 MiB."""


class ServiceSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A service: what runs, from where, as whom, how it is shut in, and how it is known to answer.

    It holds no secret: the key stands in the file `secrets` (mode 0600) and nowhere else.
    """

    name: str
    engine: str
    scope: Scope
    folder: Path
    """services/<name>/ of the home: record, secrets, helpers, logs where no journal exists."""
    generation: str | None
    """The environment that it runs from, by its own folder; what was switched since reaches it with `follow`."""
    link: Path
    """The engine's `current` link."""
    model: str
    """As it was asked for."""
    model_path: Path
    model_id: str
    """The model name that requests must carry."""
    model_bytes: int = 0
    host: str = "127.0.0.1"
    port: int
    argv: tuple[str, ...]
    environment: dict[str, str] = {}
    """The whole environment of the engine but for secrets; HOME and PATH are set, nothing of the installing shell's."""
    unset: tuple[str, ...] = ()
    """Variables that the manager's own environment must not hand down."""
    secrets: Path | None = None
    """Environment file (NAME=value lines, mode 0600) with the API key."""
    keyed: bool = False
    """Whether requests must carry a key."""
    user: str | None = None
    """Whom it runs as; None: whoever the manager runs as."""
    cache: Path | None = None
    """Its own cache folder; made and owned by the manager where systemd keeps it (/var/cache/…)."""
    cache_folders: tuple[str, ...] = ()
    """Folders in `cache` that must be there before the engine starts."""
    state: Path | None = None
    """Its own HOME (system scope: /var/lib/firstlight-NAME)."""
    writable: tuple[Path, ...] = ()
    """Other folders that it writes into (a model store)."""
    devices: tuple[str, ...] = ()
    """GPU device nodes that it must be able to open (`/dev/nvidia0`); none: it runs on the CPU."""
    hardening: Hardening = "basic"
    limits: Limits = Limits()
    readiness: Readiness
    restart_delay: float = 1.0
    """Seconds before the first restart; later ones wait longer where the manager knows how."""
    restart_most: float = 60.0
    start_burst: int = 5
    """Failed starts, within the time that so many starts may take, after which it stays down."""
    stop_timeout: float = 30.0
    gpus: tuple[int, ...] | None = None
    """The GPUs that were asked for, by index."""
    flags: tuple[str, ...] = ()
    """The user's own words, part of `argv` already; kept so that an update can make the command anew."""
    build: str | None = None
    metrics_path: str | None = None
    requests_metric: str | None = None
    replaces: str | None = None
    """Pattern of the unit that the engine's own installer writes: that one may be replaced, and is given back."""
    memory_share: float | None = None
    """Part of a GPU's memory that the engine takes; None: it is not known, or there is no GPU."""

    @property
    def loopback(self) -> bool:
        """Whether it is reached from this machine alone."""
        return is_loopback(self.host)

    @property
    def reachable_host(self) -> str:
        """The address to reach it at from this machine."""
        return _WILDCARDS.get(self.host, self.host)

    @property
    def base_url(self) -> str:
        """The endpoint without a path: `http://127.0.0.1:8000`."""
        host = self.reachable_host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def start_interval(self) -> float:
        """Seconds in which `start_burst` failed starts are counted: as long as they can take, and some more."""
        return max(300.0, 1.2 * self.start_burst * (self.readiness.timeout + self.restart_delay))


class ServiceFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a service: where, what, its mode. A secret one's content is never shown."""

    path: Path
    content: str
    mode: int = 0o644
    secret: bool = False


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a service last failed: in words, the line of its log that tells, what to do, and the known cause's id."""

    what: str
    why: str | None = None
    line: str | None = None
    fix: str | None = None
    cause: str | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """How a service is. `uptime` in seconds, memory in bytes; what cannot be known is None."""

    schema: str = "firstlight.service-status/1"
    name: str
    engine: str
    scope: Scope
    state: State
    detail: str = ""
    """The manager's own words: `failed (exit-code)`, `FATAL`."""
    model: str
    model_id: str
    endpoint: str
    pid: int | None = None
    uptime: float | None = None
    restarts: int | None = None
    memory: int | None = None
    gpu_memory: int | None = None
    requests: int | None = None
    """Answered since the start."""
    requests_per_second: float | None = None
    """On average since the start."""
    enabled: bool | None = None
    """Whether it comes back after a reboot by itself."""
    survives: str = ""
    """What survives a reboot, in words."""
    hardening: Hardening | None = None
    user: str | None = None
    generation: str | None = None
    failure: Failure | None = None
    """Of the last failure, where it is down or was restarted."""
