"""Services without systemd: under a supervisor of our own, with its program, configuration and socket in the home."""

from __future__ import annotations

import contextlib
import math
import os
import pwd
import time
from pathlib import Path

import msgspec

from firstlight.errors import FirstlightError, UsageError
from firstlight.events import Step
from firstlight.files import write_atomic
from firstlight.home import Home
from firstlight.serving import guard
from firstlight.serving.services import with_key
from firstlight.serving.services.failures import as_error, explain
from firstlight.serving.services.log_files import last_lines
from firstlight.serving.services.ready import answers
from firstlight.serving.services.scopes import SURVIVES
from firstlight.serving.services.spec import Failure, Scope, ServiceFile, ServiceSpec, State, Status
from firstlight.serving.services.supervisor_daemon import Daemon, ProcessSeen
from firstlight.serving.services.supervisor_home import SupervisorHome

LOG = "service.log"
_TERMINATED = 128 + 15
_DESCRIPTION = "launch.json"
_STARTS = "starts"
_STATES: dict[str, State] = {
    "BACKOFF": "restarting",
    "STOPPING": "stopped",
    "STOPPED": "stopped",
    "FATAL": "failed",
}
_POLL = 0.1
_REPORT = 1.0
_BEGINS = "firstlight: starting the service"
"""The line of the log with which a start begins; those after a crash belong to the same one."""
_DETAIL = 100
"""Signs of the log that a progress line has room for."""


class SupervisorManager:
    """Keeps services running by supervisor: after crashes, not after a reboot."""

    scope: Scope = "supervisor"
    survives = SURVIVES["supervisor"]

    def __init__(self, home: Home) -> None:
        self.home = home
        self.place = SupervisorHome(home)
        self.daemon = Daemon(self.place)

    def require(self, *, install: bool) -> None:
        """Refuse where the home cannot be written."""
        if install:
            self.home.prepare()

    def files(self, spec: ServiceSpec) -> list[ServiceFile]:
        """Return the service's part of the configuration, and the description that its launcher reads."""
        from firstlight.serving.templated import render

        program = self.place.program()
        part = render(
            "supervisor-program.conf.j2",
            name=spec.name,
            startsecs=max(1, math.ceil(spec.readiness.timeout)),
            retries=max(0, spec.start_burst - 1),
            stop_seconds=max(1, math.ceil(spec.stop_timeout)),
            log_bytes=program.log_bytes,
            old_logs=program.old_logs,
        )
        description = msgspec.json.format(msgspec.json.encode(_description(spec)), indent=2).decode()
        files = [
            ServiceFile(path=self._part(spec), content=part),
            ServiceFile(path=spec.folder / _DESCRIPTION, content=f"{description}\n", mode=0o600),
        ]
        helper = spec.folder / "with_key.py"
        if str(helper) in spec.argv:
            files.append(ServiceFile(path=helper, content=Path(with_key.__file__).read_text(encoding="utf-8")))
        return files

    def commands(self, spec: ServiceSpec) -> list[list[str]]:
        """Return the command that keeps the service running, and the service's own."""
        return [list(self.place.words()), list(spec.argv)]

    def install(self, spec: ServiceSpec, step: Step) -> list[Path]:
        """Write the service's files, and install the supervisor for the first one; starts nothing.

        The tool is kept in the home beside it: what the platform's start hook runs must be there when the root disk is
        not.
        """
        _require_user(spec)
        try:
            self.place.prepare(step)
        except FirstlightError:
            if not self.place.services():
                self.place.remove()
            raise
        fresh = not self._part(spec).exists()
        with self.daemon.alone():
            for file in self.files(spec):
                write_atomic(file.path, file.content, file.mode)
            _make_folders(spec)
        if fresh:
            _tell_of_reboots(self.home, step)
        return []

    def start(self, spec: ServiceSpec, step: Step) -> float:
        """Start it and wait until it answers; one that dies or is late is stopped, and the error tells why."""
        if not self._part(spec).is_file():
            raise FirstlightError(
                f"{spec.name} is not installed under the supervisor",
                why=f"there is no {self._part(spec)}",
                fix="put it back: firstlight restore",
            )
        with self.daemon.alone():
            self.daemon.ensure(step)
            seen = self.daemon.seen(spec.name)
            if seen is None or not seen.pid:
                self._begin(spec, step)
        return self._answering(spec, step)

    def _begin(self, spec: ServiceSpec, step: Step) -> None:
        from firstlight.serving.ports import require_free_port

        require_free_port(spec.host, spec.port, self.home)
        (spec.folder / _STARTS).unlink(missing_ok=True)
        with (spec.folder / LOG).open("a") as log:
            log.write(f"{_BEGINS}\n")
        step.note(f"starting {spec.name} under the supervisor")
        self.daemon.know(spec.name)
        self.daemon.start(spec.name)

    def start_soon(self, spec: ServiceSpec, step: Step) -> bool:
        """Start it without waiting until it answers; False where it ran already."""
        with self.daemon.alone():
            self.daemon.ensure(step)
            seen = self.daemon.seen(spec.name)
            if seen is not None and seen.pid:
                return False
            self._begin(spec, step)
            return True

    def _answering(self, spec: ServiceSpec, step: Step) -> float:
        """Wait until a started service answers; one that dies meanwhile is known at once."""
        begun = told = time.monotonic()
        while not answers(spec.reachable_host, spec.port, spec.readiness.path):
            seen, now = self.daemon.seen(spec.name), time.monotonic()
            died = seen is None or seen.statename not in {"STARTING", "RUNNING"}
            if died or now - begun > spec.readiness.timeout:
                self.daemon.stop(spec.name, spec.stop_timeout)
                how = f"ended after {now - begun:.0f} s" if died else f"did not answer within {now - begun:.0f} s"
                raise as_error(self._failure(spec, f"{spec.name} {how}, before it was ready"))
            if now - told > _REPORT:
                told = now
                step.progress(0, None, "items", "".join(last_lines(spec.folder / LOG, 1))[:_DETAIL])
            time.sleep(_POLL)
        return time.monotonic() - begun

    def _failure(self, spec: ServiceSpec, what: str) -> Failure:
        """Return why it failed, by what its log tells since it was started."""
        return explain(spec, self._this_run(spec), what, fix=f"read its log: less {spec.folder / LOG}")

    def _this_run(self, spec: ServiceSpec) -> str:
        """Return what the log tells since the service was started."""
        lines = last_lines(spec.folder / LOG, 4000)
        first = next((place for place in range(len(lines) - 1, -1, -1) if lines[place] == _BEGINS), -1)
        return "\n".join(lines[first + 1 :])

    def stop(self, spec: ServiceSpec, step: Step) -> None:
        """Stop it with its whole process group."""
        with self.daemon.alone():
            if not self.daemon.stop(spec.name, spec.stop_timeout):
                step.reused("it did not run")

    def restart(self, spec: ServiceSpec, step: Step) -> float:
        """Stop and start it."""
        self.stop(spec, step)
        return self.start(spec, step)

    def status(self, spec: ServiceSpec) -> Status:
        """Return how it is, as the supervisor, /proc and one question to its endpoint tell it."""
        from firstlight.serving.services.gpu import gpu_memory_of
        from firstlight.serving.services.metrics import enriched

        seen = self.daemon.seen(spec.name)
        restarts = max(0, _count(spec.folder / _STARTS) - 1)
        told = Status(
            name=spec.name,
            engine=spec.engine,
            scope=self.scope,
            state="stopped",
            detail="the supervisor does not run (firstlight restore starts it)",
            model=spec.model,
            model_id=spec.model_id,
            endpoint=f"{spec.base_url}/v1",
            restarts=restarts,
            enabled=False,
            survives=self.survives,
            user=spec.user,
            generation=spec.generation,
        )
        if seen is not None:
            state, detail = _state(spec, seen)
            told = msgspec.structs.replace(told, state=state, detail=detail)
        if seen is not None and seen.pid:
            pids = [seen.pid, *guard.descendants(seen.pid)]
            uptime = max(0.0, seen.now - seen.start)
            told = msgspec.structs.replace(told, pid=pids[1] if pids[1:] else seen.pid, uptime=uptime)
            told = msgspec.structs.replace(told, memory=_memory(pids), gpu_memory=gpu_memory_of(pids))
        if told.state == "failed" or (restarts and told.state != "stopped"):
            given_up = f"it ended {restarts + 1} times before it was ready: the supervisor has given up"
            what = given_up if told.state == "failed" else "it ended and was started again"
            told = msgspec.structs.replace(told, failure=self._failure(spec, what))
        return told if told.state != "running" else enriched(told, spec)

    def require_log(self, spec: ServiceSpec) -> None:
        """Refuse where the log is another user's, or the service was never started."""
        log = spec.folder / LOG
        try:
            log.open("rb").close()
        except FileNotFoundError:
            raise FirstlightError(
                f"{spec.name} has no log yet",
                why="it was not started since it was installed",
                fix=f"firstlight service.start {spec.name}",
            ) from None
        except OSError as error:
            raise FirstlightError(
                f"the log of {spec.name} cannot be read", why=error.strerror, fix=f"as its owner or root: less {log}"
            ) from error

    def log_command(self, spec: ServiceSpec, *, follow: bool, lines: int) -> list[str]:
        """Return the command that shows its log; following goes on where the log is put aside."""
        return ["tail", *(["-F"] if follow else []), "-n", str(lines), str(spec.folder / LOG)]

    def log_text(self, spec: ServiceSpec, lines: int = 2000) -> str:
        """Return the last lines of its log."""
        return "\n".join(last_lines(spec.folder / LOG, lines))

    def remove(self, spec: ServiceSpec, step: Step) -> list[str]:
        """Stop it, make the supervisor forget it, and remove its files; the last one ends the supervisor."""
        undone: list[str] = []
        if not self.place.folder.is_dir():
            return undone
        with self.daemon.alone():
            if self.daemon.stop(spec.name, spec.stop_timeout):
                undone.append(f"stopped {spec.name}")
            self._part(spec).unlink(missing_ok=True)
            self.daemon.forget(spec.name)
            if not self.place.services():
                self.daemon.end()
                self.place.remove()
                undone.append("ended the supervisor: no service is left")
        step.detail = ", ".join(undone)
        return undone

    def _part(self, spec: ServiceSpec) -> Path:
        return self.place.programs / f"{spec.name}.conf"


def _description(spec: ServiceSpec) -> dict[str, object]:
    """Return what launch.py reads. No secret: those stand in a file of their own, whose path is told."""
    return {
        "argv": spec.argv,
        "environment": spec.environment,
        "secrets": str(spec.secrets) if spec.secrets else None,
        "user": spec.user,
        "open_files": spec.limits.open_files,
        "locked": spec.limits.locked_memory is not None,
        "burst": spec.start_burst,
        "interval": spec.start_interval,
        "most": spec.restart_most,
    }


def _tell_of_reboots(home: Home, step: Step) -> None:
    """Keep the tool in the home, and tell what must be pasted where so that services come back."""
    from firstlight.serving.kept_tool import keep_tool
    from firstlight.serving.services.hooks import told

    try:
        keep_tool(home)
    except FirstlightError as error:
        step.warn(f"{error.what}: {error.why}. No start hook can bring services back by itself")
        return
    for line in told(home):
        step.note(line)


def _require_user(spec: ServiceSpec) -> None:
    if spec.user is None:
        return
    try:
        entry = pwd.getpwnam(spec.user)
    except KeyError:
        raise UsageError(
            f"there is no user {spec.user}", why=f"{spec.name} is to run as that user", fix=f"useradd -r {spec.user}"
        ) from None
    if os.geteuid() not in {0, entry.pw_uid}:
        raise UsageError(
            f"{spec.name} cannot run as {spec.user}",
            why="only root can start programs as another user",
            fix=f"run the same command as {spec.user} or as root",
        )


def _make_folders(spec: ServiceSpec) -> None:
    """Make the folders that the engine writes into, its own user's."""
    folders = [folder for folder in (spec.state, spec.cache) if folder is not None]
    folders += [spec.cache / name for name in spec.cache_folders] if spec.cache is not None else []
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if spec.user is not None and os.geteuid() == 0:
            entry = pwd.getpwnam(spec.user)
            os.chown(folder, entry.pw_uid, entry.pw_gid)


def _state(spec: ServiceSpec, seen: ProcessSeen) -> tuple[State, str]:
    """Return the state and the supervisor's word; it cannot tell a service that loads from one that answers."""
    if seen.statename == "EXITED":
        return "stopped" if seen.exitstatus in {0, _TERMINATED} else "restarting", seen.statename
    if seen.statename not in {"STARTING", "RUNNING"}:
        return _STATES.get(seen.statename, "unknown"), seen.statename
    if answers(spec.reachable_host, spec.port, spec.readiness.path):
        return "running", ""
    late = seen.now - seen.start > spec.readiness.timeout
    return ("running", "does not answer") if late else ("starting", "does not answer yet")


def _count(file: Path) -> int:
    try:
        return len(file.read_text().split())
    except OSError:
        return 0


def _memory(pids: list[int]) -> int | None:
    """Return the memory of processes in bytes; what they share is counted once (proc_pid_smaps(5))."""
    total = 0
    for process in pids:
        with contextlib.suppress(OSError, ValueError, StopIteration):
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            total += 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    return total or None
