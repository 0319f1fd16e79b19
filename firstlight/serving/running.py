"""Detached servers: started without a terminal, recorded, listed, waited for and stopped by name."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

import msgspec

from firstlight.errors import FirstlightError, UsageError, did_you_mean
from firstlight.events import Step
from firstlight.files import write_atomic, writer_lock
from firstlight.home import Home
from firstlight.process import run
from firstlight.serving.causes import progress_line, read_log
from firstlight.serving.ports import require_free_port
from firstlight.serving.records import (
    RECORD,
    Detached,
    Details,
    all_records,
    boot_id,
    check_name,
    process_start,
    read_record,
)
from firstlight.serving.server import ServerSpec, guard_words, prepare_log, stop_tree, wait_until_ready

LOG = "server.log"
STATUS = "exit-status"
OLD_LOGS = 2
OLD_LOG_BYTES = 16 * 1024 * 1024
"""Of a bigger log of an earlier run only the end is kept."""


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """What `stop_running` did: the record, and whether the server still ran (or only its stale record went)."""

    record: Detached
    ran: bool


def rotate_log(path: Path) -> None:
    """Put the log of an earlier run aside, at most `OLD_LOGS` of them, each cut to its last `OLD_LOG_BYTES` bytes."""
    if not path.exists() or path.stat().st_size == 0:
        return
    for number in range(OLD_LOGS, 1, -1):
        older = path.with_name(f"{path.name}.{number - 1}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number}"))
    aside = path.with_name(f"{path.name}.1")
    if path.stat().st_size <= OLD_LOG_BYTES:
        path.replace(aside)
        return
    with path.open("rb") as source, aside.open("wb") as target:
        source.seek(-OLD_LOG_BYTES, 2)
        shutil.copyfileobj(source, target)
    path.unlink()


def detach(spec: ServerSpec, home: Home, details: Details | None = None, hold: tuple[int, ...] = ()) -> Detached:
    """Start a server that outlives us and return its record; its readiness is waited for by `wait_detached`.

    Its output goes to services/<name>/server.log (`spec.log` is not used).

    Raises:
        UsageError: the name cannot be a folder's name.
        FirstlightError: a server of that name runs, the port is taken, or it cannot be started.
    """
    check_name(spec.name)
    folder = home.services / spec.name
    with writer_lock(folder / ".lock", f"server {spec.name}", wait=5.0):
        known = read_record(folder / RECORD)
        if known is not None and known.alive:
            raise FirstlightError(
                f"a server named {spec.name} runs already",
                why=f"{known.model} at {known.endpoint} (process {known.pid})",
                fix=f"firstlight down {spec.name}",
            )
        require_free_port(spec.host, spec.port, home)
        log, status = folder / LOG, folder / STATUS
        rotate_log(log)
        prepare_log(log)
        status.unlink(missing_ok=True)
        pid = _start_detached(spec, log, status, hold)
        record = _new_record(spec, pid, log, details)
        try:
            write_atomic(folder / RECORD, msgspec.json.format(msgspec.json.encode(record), indent=2))
        except OSError as error:
            stop_tree(pid, 5.0)
            raise FirstlightError(
                f"the record of {spec.name} cannot be written, so it was stopped again",
                why=error.strerror or str(error),
                fix=f"ls -ld {folder}",
            ) from error
        return record


def _new_record(spec: ServerSpec, pid: int, log: Path, details: Details | None) -> Detached:
    return Detached(
        name=spec.name,
        pid=pid,
        pid_start=process_start(pid) or 0,
        boot_id=boot_id(),
        engine=spec.engine,
        model=spec.model_id,
        endpoint=spec.base_url,
        started=time.time(),
        log=str(log),
        details=details or Details(),
    )


def _start_detached(spec: ServerSpec, log: Path, status: Path, hold: tuple[int, ...]) -> int:
    options = ["--detach", str(log), "--status", str(status)]
    for descriptor in hold:
        options += ["--keep", str(descriptor)]
    words = guard_words(options, spec.command)
    ended = run(words, environment=spec.command.environment, folder=spec.command.folder, timeout=30.0, hold=hold)
    if ended.returncode != 0 or not ended.tail.strip().isdigit():
        raise FirstlightError(
            f"cannot start {spec.name} in the background", why=ended.tail or "no reason was given", fix=f"less {log}"
        )
    return int(ended.tail)


class _WatchedRecord:
    """A detached server as the wait for its readiness sees it."""

    def __init__(self, spec: ServerSpec, record: Detached) -> None:
        self.spec = msgspec.structs.replace(spec, log=Path(record.log))
        self._record = record

    @property
    def pid(self) -> int:
        return self._record.pid

    def exit_status(self) -> int | None:
        if self._record.alive:
            return None
        try:
            return int(self.spec.log.with_name(STATUS).read_text())
        except (OSError, ValueError):
            return -1

    def last_line(self) -> str:
        lines = read_log(self.spec.log, max(0, self.spec.log.stat().st_size - 16384)).split("\n")
        return next((text for text in map(progress_line, reversed(lines)) if text), "")

    def log_text(self) -> str:
        return read_log(self.spec.log)

    def stop(self, grace: float = 15.0) -> None:
        if self._record.alive:
            stop_tree(self._record.pid, grace)


def wait_detached(
    spec: ServerSpec, record: Detached, home: Home, step: Step, failure: type[FirstlightError] = FirstlightError
) -> float:
    """Wait until a detached server is ready and return the seconds that it took; a failed one leaves no record.

    Raises:
        FirstlightError: (of the class `failure`) it died, or was not ready in time and was stopped.
    """
    watched = _WatchedRecord(spec, record)
    try:
        return wait_until_ready(watched, step, failure)
    except BaseException:
        watched.stop()
        _forget(record, home)
        raise


def list_running(home: Home) -> list[Detached]:
    """Return the records of all detached servers by name; `alive` tells the running ones from stale ones."""
    return all_records(home)


def _forget(record: Detached, home: Home) -> None:
    """Remove a record, unless another start has written a new one meanwhile."""
    path = home.services / record.name / RECORD
    with contextlib.suppress(FirstlightError):
        if read_record(path) == record:
            path.unlink(missing_ok=True)


def _find(home: Home, name: str | None) -> Detached:
    records = all_records(home)
    names = [record.name for record in records]
    if not (names if name is None else name in names):
        _refuse_service(home, name)
    if name is None:
        alive = [record for record in records if record.alive] or records
        if len(alive) == 1:
            return alive[0]
        if not alive:
            raise FirstlightError(
                "no detached server runs", why=f"none is recorded under {home.services}", fix="firstlight up --detach"
            )
        raise UsageError("several servers run: name one", why=", ".join(names), fix=f"firstlight down {alive[0].name}")
    for record in records:
        if record.name == name:
            return record
    if not names:
        raise UsageError(f'there is no server "{name}"', why="no detached server runs", fix="firstlight up --detach")
    raise UsageError(
        f'there is no server "{name}"{did_you_mean(name, names)}',
        why=f"these run: {', '.join(f'{record.name} ({record.endpoint})' for record in records)}",
        fix=f"firstlight down {names[0]}",
    )


def _refuse_service(home: Home, name: str | None) -> None:
    """Say how a service is stopped, where `down` can only mean one."""
    from firstlight.serving.services.records import all_services

    services = [record.spec.name for record in all_services(home)]
    if name in services or (name is None and services):
        kind = FirstlightError if name is None else UsageError
        raise kind(
            "no detached server runs" if name is None else f"{name} is a service",
            why=f"kept running as a service: {', '.join(services)}",
            fix=f"firstlight service.stop {name or services[0]}",
        )


def stop_running(home: Home, name: str | None = None, grace: float = 15.0) -> Stopped:
    """Stop a detached server by name (without one: the only one) and remove its record.

    Its process group gets TERM, then KILL after `grace` seconds. A process that merely got the recorded number is never
    touched: then only the stale record goes.

    Raises:
        UsageError: there is no such server (those that run are listed), or several run and none was named.
        FirstlightError: none runs, or it belongs to another user.
    """
    record = _find(home, name)
    ran = record.alive
    if ran:
        stop_tree(record.pid, grace)
        deadline = time.monotonic() + 5.0
        while record.alive and time.monotonic() < deadline:
            time.sleep(0.05)
        if record.alive:
            raise FirstlightError(
                f"{record.name} (process {record.pid}) still runs",
                why="this user may not stop it",
                fix=f"as its owner or root: firstlight down {record.name}",
            )
    _forget(record, home)
    return Stopped(record=record, ran=ran)
