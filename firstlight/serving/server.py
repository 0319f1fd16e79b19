"""A server of ours: started under a guard, watched while it loads, told dead at once with the cause, stopped whole."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import sys
import textwrap
import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import msgspec

from firstlight.errors import FirstlightError, VerificationFailed
from firstlight.events import Step
from firstlight.home import Home
from firstlight.process import Child, Command, stop_group
from firstlight.serving import guard
from firstlight.serving.causes import find_cause, load_causes, progress_line, read_log
from firstlight.serving.ports import port_holder, require_free_port
from firstlight.serving.records import process_start

if TYPE_CHECKING:
    from typing_extensions import Self

POLL_SECONDS = 0.2
REPORT_SECONDS = 1.0
_DETAIL = 100
"""Characters of the log that a progress line has room for."""
LINE_LENGTH = 240
"""Signs of a log line that an error quotes; its evidence holds more."""
_KILLED = 128 + 9
_WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - where to reach it, not where to bind


class ServerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A server to start: how, where it will listen, and how to know that it is ready.

    `ready_timeout` is in seconds; `engine` names the folder of causes; requests must carry `model_id`.
    """

    name: str
    command: Command
    host: str = "127.0.0.1"
    port: int
    health_path: str = "/health"
    log: Path
    ready_timeout: float = 600.0
    engine: str
    model_id: str

    @property
    def reachable_host(self) -> str:
        """The address to reach it at from this machine, also when it listens on all of them."""
        return _WILDCARDS.get(self.host, self.host)

    @property
    def base_url(self) -> str:
        """The endpoint without a path: `http://127.0.0.1:8000`."""
        host = self.reachable_host
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class Watched(Protocol):
    """A started server as the wait for its readiness sees it."""

    spec: ServerSpec

    @property
    def pid(self) -> int:
        """The leader of its process group."""

    def exit_status(self) -> int | None:
        """None while it runs; its status, or -1 where that is unknown."""

    def last_line(self) -> str:
        """The last line of its log that says something."""

    def log_text(self) -> str:
        """Its whole log, from its start."""

    def stop(self, grace: float = 15.0) -> None:
        """End it."""


def guard_words(options: list[str], command: Command) -> tuple[str, ...]:
    """Return the words that run a command under the guard.

    Raises:
        FirstlightError: the program is not there, or cannot be run.
    """
    program = command.argv[0]
    path = (command.environment.get("PATH") or os.environ.get("PATH")) if "PATH" in command.environment else None
    where = command.folder / program if command.folder and "/" in program else program
    if shutil.which(where, path=path) is None:
        raise FirstlightError(
            f"cannot start {program}", why="there is no such program that may be run", fix=f"ls -l {program}"
        )
    return (sys.executable, "-I", "-S", str(guard.__file__), *options, "--", *command.argv)


def _health(spec: ServerSpec) -> bool:
    """Ask once. http.client knows no proxies, so that none can stand between us and our own machine."""
    connection = http.client.HTTPConnection(spec.reachable_host, spec.port, timeout=2.0)
    try:
        connection.request("GET", spec.health_path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _how_it_ended(status: int) -> str:
    if status < 0:
        return "ended"
    if status > 128:
        return f"was ended by signal {status - 128}"
    return f"ended with exit status {status}"


def _failure(
    server: Watched, what: str, fix: str, kind: type[FirstlightError], *, killed: bool = False
) -> FirstlightError:
    """Return the error that tells the true cause of a server's failure; `fix` is for causes that are not known."""
    spec = server.spec
    found = find_cause(server.log_text(), load_causes(spec.engine))
    where = f"whole log: {spec.log}"
    evidence = f"{found.excerpt}\n{where} (line {found.number})" if found else where
    line = textwrap.shorten(found.line, LINE_LENGTH, placeholder=" …") if found else ""
    if found and found.cause:
        known = found.cause
        return kind(what, why=f"{known.cause} ({line})", fix=known.fix, evidence=evidence, cause=known.id)
    if killed:
        why = "nobody here killed it: the kernel does so when memory runs out"
        return kind(what, why=why, fix="look: dmesg | grep -i 'killed process'", evidence=evidence)
    last = server.last_line()
    why = line if found else f"last line of its log: {last}" if last else "its log is empty"
    return kind(what, why=why, fix=fix, evidence=evidence)


def with_cause(error: FirstlightError, text: str, spec: ServerSpec, log: Path) -> VerificationFailed:
    """Return the error of a server that runs and answers badly, with the cause where its log shows a known one."""
    found = find_cause(text, load_causes(spec.engine))
    if found is None or found.cause is None:
        return VerificationFailed(error.what, why=error.why, fix=error.fix, evidence=error.evidence)
    known, line = found.cause, textwrap.shorten(found.line, LINE_LENGTH, placeholder=" …")
    evidence = f"{found.excerpt}\nwhole log: {log} (line {found.number})"
    return VerificationFailed(
        error.what, why=f"{known.cause} ({line})", fix=known.fix, evidence=evidence, cause=known.id
    )


def _raise_dead(server: Watched, seconds: float, kind: type[FirstlightError]) -> None:
    status = server.exit_status()
    how = _how_it_ended(-1 if status is None else status)
    what = f"{server.spec.name} {how} after {seconds:.0f} s, before it was ready"
    raise _failure(server, what, f"read its log: less {server.spec.log}", kind, killed=status == _KILLED)


def _require_own_port(server: Watched) -> None:
    """Make sure that what answered is our server and not another one that got the port first."""
    holder = port_holder(server.spec.port)
    if holder is None or holder.pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(holder.pid) != server.pid and holder.pid not in guard.descendants(server.pid):
            server.stop()
            raise FirstlightError(
                f"another server answers on port {server.spec.port}",
                why=f"it is {holder.words}",
                fix="choose another --port",
            )


def wait_until_ready(server: Watched, step: Step, failure: type[FirstlightError] = FirstlightError) -> float:
    """Wait for a server's health and return the seconds that it took.

    Raises:
        FirstlightError: (of the class `failure`) it died, told at once, or it was not ready in time and was stopped;
            with the true cause from its log, the fix, and the log's path.
    """
    spec, started, reported = server.spec, time.monotonic(), 0.0
    while True:
        seconds = time.monotonic() - started
        if server.exit_status() is not None:
            _raise_dead(server, seconds, failure)
        if _health(spec):
            _require_own_port(server)
            if server.exit_status() is None:
                return time.monotonic() - started
            continue
        if seconds >= spec.ready_timeout:
            server.stop()
            raise _failure(
                server,
                f"{spec.name} did not answer at {spec.base_url}{spec.health_path} within {spec.ready_timeout:.0f} s",
                f"see what it was doing: tail -n 50 {spec.log}",
                failure,
            )
        if seconds - reported >= REPORT_SECONDS:
            reported = seconds
            step.progress(0, None, "items", server.last_line()[:_DETAIL])
        time.sleep(POLL_SECONDS)


def stop_tree(pid: int, grace: float) -> None:
    """End a process group and everything below its leader, also what moved to a session of its own."""
    below = {child: process_start(child) for child in guard.descendants(pid)}
    stop_group(pid, grace)
    for child, start in below.items():
        if start is not None and process_start(child) == start:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, 9)


def prepare_log(path: Path) -> int:
    """Make a log's folder and file; return its size, where the new run's text will start.

    Raises:
        FirstlightError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as stream:
            return stream.tell()
    except OSError as error:
        raise FirstlightError(
            f"the log {path} cannot be written", why=error.strerror or str(error), fix=f"ls -ld {path.parent}"
        ) from error


class RunningServer:
    """A server that lives as long as we do: its guard ends it when this process goes, however it goes."""

    def __init__(self, spec: ServerSpec, child: Child, owner_pipe: int, offset: int, lines: deque[str]) -> None:
        self.spec = spec
        self.start_seconds = 0.0
        """Seconds from the start to readiness, once `wait_ready` came back."""
        self._child = child
        self._owner_pipe: int | None = owner_pipe
        self._offset = offset
        self._lines = lines

    @classmethod
    def start(cls, spec: ServerSpec, hold: tuple[int, ...] = (), home: Home | None = None) -> RunningServer:
        """Start the server; its port must be free. `hold`: descriptors that it keeps open (a lock, say).

        Raises:
            FirstlightError: the port is taken (by whom), the program is missing, or the log cannot be written.
        """
        require_free_port(spec.host, spec.port, home)
        offset = prepare_log(spec.log)
        lines: deque[str] = deque(maxlen=1)

        def keep(line: str) -> None:
            text = progress_line(line)
            if text:
                lines.append(text)

        ours, theirs = os.pipe()[::-1]
        try:
            options = ["--owner-pipe", str(theirs)]
            for descriptor in hold:
                options += ["--keep", str(descriptor)]
            command = Command(guard_words(options, spec.command), spec.command.environment, spec.command.folder)
            child = Child(command, log=spec.log, on_line=keep, hold=(theirs, *hold))
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        return cls(spec, child, ours, offset, lines)

    @property
    def pid(self) -> int:
        """The leader of its process group."""
        return self._child.pid

    def exit_status(self) -> int | None:
        """Return None while it runs, else its exit status (128 + signal where one ended it)."""
        status = self._child.poll()
        if status is not None:
            self._child.wait(1.0)  # lets the last lines reach the log
        return status if status is None or status >= 0 else 128 - status

    def last_line(self) -> str:
        """Return the last line of its output that says something."""
        return self._lines[-1] if self._lines else ""

    def log_text(self) -> str:
        """Return its whole output, or the tail kept in memory where the disk took none."""
        return read_log(self.spec.log, self._offset) or self._child.output

    def wait_ready(self, step: Step, failure: type[FirstlightError] = FirstlightError) -> None:
        """Wait until it answers its health path; see `wait_until_ready`."""
        self.start_seconds = wait_until_ready(self, step, failure)

    def wait(self) -> int:
        """Wait for its end and return its exit status; Ctrl-C reaches the caller."""
        while (status := self.exit_status()) is None:
            time.sleep(POLL_SECONDS)
        return status

    def stop(self, grace: float = 15.0) -> None:
        """End it and everything that it started: TERM, then KILL after `grace` seconds. Harmless when it has ended."""
        status = self._child.poll()
        if status is None or status < 0:  # a guard that was killed itself could not clear up
            stop_tree(self._child.pid, grace)
        self._child.wait(5.0)
        if self._owner_pipe is not None:
            os.close(self._owner_pipe)
            self._owner_pipe = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.stop()
