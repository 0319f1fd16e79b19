"""The supervisor's process: started when the first service comes, asked over its socket, ended after the last."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from firstlight.errors import FirstlightError
from firstlight.events import Step
from firstlight.files import writer_lock
from firstlight.process import Command, run
from firstlight.serving.causes import read_log
from firstlight.serving.server import guard_words, stop_tree
from firstlight.serving.services.supervisor_home import SupervisorHome

_ASK_SECONDS = 10.0
_LOCK_SECONDS = 60.0
_END_SECONDS = 60.0
_POLL = 0.05
_TAIL = 2000

NO_NAME = 10
"""Faults of supervisor's XML-RPC interface (supervisor/xmlrpc.py of 4.3.0)."""
ALREADY_STARTED = 60
NOT_RUNNING = 70
ALREADY_ADDED = 90


class ProcessSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A service as the supervisor tells it. Times are seconds since the epoch; `pid` is 0 where none runs."""

    statename: str
    pid: int = 0
    start: float = 0.0
    now: float = 0.0
    exitstatus: int = 0
    spawnerr: str = ""
    description: str = ""


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket; `timeout` in seconds."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


class Daemon:
    """The supervisor of one home; `patience`: seconds that it may take for an answer."""

    def __init__(self, place: SupervisorHome, patience: float = _ASK_SECONDS) -> None:
        self.place = place
        self.patience = patience

    def call(self, method: str, *words: str | bool, timeout: float | None = None) -> Any:
        """Call a method of its interface and return the answer.

        Raises:
            OSError: it does not run, or does not answer in time.
            xmlrpc.client.Fault: it refuses.
        """
        path = self.place.socket()
        if path is None:
            raise FileNotFoundError(2, "the supervisor was never started")
        from xmlrpc.client import dumps, loads

        connection = _Connection(path, self.patience if timeout is None else timeout)
        try:
            connection.request("POST", "/RPC2", dumps(words, method), {"Content-Type": "text/xml"})
            answer = connection.getresponse()
            text = answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(str(error) or type(error).__name__) from error
        finally:
            connection.close()
        if answer.status != 200:
            raise ConnectionError(f"it answers {answer.status}")
        return loads(text)[0][0]

    def running(self) -> bool:
        """Tell whether it runs and answers; what a killed one or an earlier boot left behind does not count."""
        try:
            return bool(self.call("supervisor.getState")["statecode"] == 1)
        except OSError:
            return False

    def seen(self, name: str) -> ProcessSeen | None:
        """Return a service as it is; None where the supervisor does not run or does not know it.

        Raises:
            FirstlightError: the supervisor belongs to another user.
        """
        from xmlrpc.client import Fault

        try:
            told = self.call("supervisor.getProcessInfo", name)
        except PermissionError as error:
            raise FirstlightError(
                f"{name} cannot be asked for",
                why=f"the supervisor under {self.place.folder} belongs to another user",
                fix=f"as its owner or root: firstlight service.status {name}",
            ) from error
        except (OSError, Fault):
            return None
        return msgspec.convert(told, ProcessSeen, strict=False)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Let one firstlight at a time change what the supervisor runs."""
        with writer_lock(self.place.lock, "services", wait=_LOCK_SECONDS):
            yield

    def ensure(self, step: Step) -> None:
        """Start the supervisor where it does not run. The caller holds `alone`.

        Raises:
            FirstlightError: it does not come up, with what it said.
        """
        if self.running():
            return
        self._end_mute(step)
        self.place.refresh_python()
        self.place.write_configuration(self.place.choose_socket())
        begun = self.place.output.stat().st_size if self.place.output.exists() else 0
        command = Command(self.place.words(), _bare_environment(), self.place.folder)
        words = guard_words(["--detach", str(self.place.output)], command)
        ended = run(words, environment=command.environment, folder=command.folder, timeout=30.0)
        deadline = time.monotonic() + self.place.program().answers_within
        pid = int(ended.tail) if ended.tail.strip().isdigit() else None
        while pid is not None and time.monotonic() < deadline:
            if self.running():
                return
            if not _alive(pid):
                break
            time.sleep(_POLL)
        said = read_log(self.place.output, begun).strip() or ended.tail
        if pid is not None:
            stop_tree(pid, 2.0)
        raise FirstlightError(
            "the supervisor did not come up",
            why=said.splitlines()[-1][:_TAIL] if said else "it said nothing",
            fix=f"read its logs: less {self.place.log} {self.place.output}",
        )

    def _end_mute(self, step: Step) -> None:
        """End a supervisor of ours that runs and cannot be reached: its socket was cleared away."""
        try:
            pid = int((self.place.folder / "supervisord.pid").read_text())
            folder = Path(f"/proc/{pid}/cwd").readlink()
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return
        if b"supervisor.supervisord" in words and folder == self.place.folder.resolve():
            step.warn(f"the supervisor (process {pid}) ran without its socket: starting it and its services again")
            _end(pid)

    def know(self, name: str) -> None:
        """Make the supervisor read a service's file, afresh where it changed. The service must not run.

        Raises:
            FirstlightError: it refuses the configuration.
        """
        from xmlrpc.client import Fault

        self.place.write_configuration()
        try:
            self.call("supervisor.reloadConfig")
            self._drop(name)
            self.call("supervisor.addProcessGroup", name)
        except Fault as fault:
            if fault.faultCode != ALREADY_ADDED:
                raise self.refusal(name, fault.faultString) from fault

    def _drop(self, name: str) -> None:
        from xmlrpc.client import Fault

        with contextlib.suppress(Fault):
            self.call("supervisor.removeProcessGroup", name)

    def start(self, name: str) -> None:
        """Start a service without waiting for it; harmless when it runs."""
        from xmlrpc.client import Fault

        try:
            self.call("supervisor.startProcess", name, False)
        except Fault as fault:
            if fault.faultCode != ALREADY_STARTED:
                raise self.refusal(name, fault.faultString) from fault

    def stop(self, name: str, patience: float) -> bool:
        """Stop a service and wait; returns whether it ran. `patience`: seconds to its KILL."""
        from xmlrpc.client import Fault

        try:
            self.call("supervisor.stopProcess", name, True, timeout=patience + 30.0)
        except Fault as fault:
            if fault.faultCode not in {NO_NAME, NOT_RUNNING}:
                raise self.refusal(name, fault.faultString) from fault
            return False
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True

    def forget(self, name: str) -> None:
        """Let the supervisor forget a stopped service."""
        if self.running():
            self._drop(name)
            self.place.write_configuration()

    def end(self) -> None:
        """End the supervisor with all that it runs, and wait for it."""
        try:
            pid = int(self.call("supervisor.getPID"))
            self.call("supervisor.shutdown")
        except OSError:
            return
        deadline = time.monotonic() + _END_SECONDS
        while _alive(pid) and time.monotonic() < deadline:
            time.sleep(_POLL)

    def refusal(self, name: str, said: str) -> FirstlightError:
        """Return the error for what the supervisor refuses to do with a service."""
        return FirstlightError(
            f"the supervisor refuses {name}",
            why=said or "it gave no reason",
            fix=f"read its log: less {self.place.log}",
        )


def _bare_environment() -> dict[str, str | None]:
    """Return our environment emptied but for what every program needs: services must not see our caller's secrets."""
    kept = {"PATH": os.defpath, "LANG": "C.UTF-8", "HOME": "/"}
    kept |= {name: value for name, value in os.environ.items() if name in {"PATH", "LANG", "LC_ALL", "HOME", "TZ"}}
    return {**dict.fromkeys(os.environ), **kept}


def _end(pid: int) -> None:
    """End a process: TERM, then KILL after a while. Its guard clears up what it leaves."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + _END_SECONDS
        while _alive(pid) and time.monotonic() < deadline:
            time.sleep(_POLL)


def _alive(pid: int) -> bool:
    from firstlight.serving.records import process_start

    return process_start(pid) is not None
