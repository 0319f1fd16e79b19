"""Services under systemd: of the system, or of a user whose instance lingers."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from firstlight import process
from firstlight.errors import FirstlightError
from firstlight.events import Step
from firstlight.files import write_atomic
from firstlight.serving.causes import progress_line
from firstlight.serving.services import ready, scopes, with_key
from firstlight.serving.services.failures import as_error, explain
from firstlight.serving.services.hardening import GPU_GROUPS
from firstlight.serving.services.ownership import give_back, put_aside, replaced_by, require_ours
from firstlight.serving.services.rendering import is_ours, render_unit, unit_name
from firstlight.serving.services.seen import PROPERTIES, parse_status, state_of
from firstlight.serving.services.spec import Failure, Scope, ServiceFile, ServiceSpec, Status
from firstlight.serving.services.systemctl import (
    Systemctl,
    journal_closed,
    runs,
    runtime_folder,
    user_name,
    wait_for_bus,
)
from firstlight.serving.services.users import groups_here

POLL_SECONDS = 0.2
REPORT_SECONDS = 2.0
_START_GRACE = 30.0
_JOURNAL_LINES = 2000
_STOPPED = frozenset({"inactive", "failed"})


class SystemdManager:
    """The manager of both scopes of systemd."""

    def __init__(self, scope: Literal["system", "user"]) -> None:
        self.scope: Scope = scope
        self.survives = scopes.SURVIVES[scope]
        self.control = Systemctl(scope)

    @property
    def folder(self) -> Path:
        """Where units of this scope stand."""
        if self.scope == "system":
            return Path("/etc/systemd/system")
        configuration = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        return Path(configuration) / "systemd" / "user"

    def unit_path(self, spec: ServiceSpec) -> Path:
        """Return where a service's unit stands."""
        return self.folder / unit_name(spec.name)

    def require(self, *, install: bool) -> None:
        """Refuse where systemd's instance does not answer, or its folder cannot be written; see the protocol."""
        if self.scope == "user":
            self._require_bus(install=install)
        if install:
            self._require_writable()

    def check(self, spec: ServiceSpec) -> None:
        """Refuse what can be known to fail before anything is written.

        Raises:
            FirstlightError: a unit of that name is somebody else's, or the folder of units cannot be written.
        """
        self._require_writable()
        require_ours(spec, self.unit_path(spec), self.control)

    def _require_writable(self) -> None:
        near = self.folder
        while not near.exists():
            near = near.parent
        if not os.access(near, os.W_OK):
            raise FirstlightError(
                f"{self.folder} cannot be written",
                why="it lies on a read-only file system, or belongs to another user",
                fix="--scope supervisor keeps everything in firstlight's own folder",
            )

    def _require_bus(self, *, install: bool) -> None:
        if install and not scopes.lingers():
            words = ["loginctl", "enable-linger", user_name()]
            ended = process.run(words, environment=self.control.environment, timeout=20.0)
            if ended.returncode:
                raise FirstlightError(
                    "this user's services would end with the login: lingering cannot be switched on",
                    why=ended.tail or f"loginctl ended with {ended.returncode}",
                    fix=f"as root: {' '.join(words)}   (or --scope supervisor)",
                )
        if not wait_for_bus(10.0 if install else 0.0):
            raise FirstlightError(
                "systemd's instance for this user does not answer",
                why=f"nothing listens under {runtime_folder()} (XDG_RUNTIME_DIR)",
                fix=f"as root: loginctl enable-linger {user_name()}   (or --scope supervisor)",
            )

    def files(self, spec: ServiceSpec) -> list[ServiceFile]:
        """Return the unit and the helpers."""
        files = [ServiceFile(path=self.unit_path(spec), content=self._render(spec))]
        if spec.readiness.waiting is not None:
            files.append(ServiceFile(path=spec.readiness.waiting, content=source_of(ready)))
        helper = spec.folder / "with_key.py"
        if str(helper) in spec.argv:
            files.append(ServiceFile(path=helper, content=source_of(with_key)))
        return files

    def _render(self, spec: ServiceSpec, *, trial: bool = False) -> str:
        groups = groups_here(GPU_GROUPS) if spec.devices else ()
        modprobe = shutil.which("nvidia-modprobe") if spec.devices else None
        return render_unit(spec, version=self.control.version(), groups=groups, trial=trial, modprobe=modprobe)

    def commands(self, spec: ServiceSpec) -> list[list[str]]:
        """Return what `install` and `start` run."""
        unit = unit_name(spec.name)
        linger = [["loginctl", "enable-linger", user_name()]] if self.scope == "user" else []
        words = self.control.words
        return [*linger, [*words, "daemon-reload"], [*words, "enable", unit], [*words, "start", unit]]

    def install(self, spec: ServiceSpec, step: Step) -> list[Path]:
        """Write the unit and enable it; see the protocol."""
        self.require(install=True)
        path = self.unit_path(spec)
        with contextlib.ExitStack() as undo:
            if require_ours(spec, path, self.control):
                step.warn(f"{path}, made by the installer of {spec.engine}, is replaced; a copy is kept and given back")
                replaced = put_aside(spec, path, self.control)
                undo.callback(give_back, spec, replaced, self.control)
            for file in self.files(spec):
                self._write(file, undo)
            self.control.run("daemon-reload", what="systemd cannot read its units again")
            undo.callback(self.control.try_run, "daemon-reload")
            unit = unit_name(spec.name)
            enabled = self.control.show(unit, "UnitFileState").get("UnitFileState") == "enabled"
            self.control.run("enable", unit, what=f"{unit} cannot be enabled")
            if not enabled:
                undo.callback(self.control.try_run, "disable", unit)
            told = self.control.show(unit, "LoadState", "LoadError")
            if told.get("LoadState") != "loaded":
                raise FirstlightError(
                    f"systemd does not take {path}",
                    why=told.get("LoadError") or told.get("LoadState") or "it does not say why",
                    fix=f"systemd-analyze verify {path}",
                )
            undo.pop_all()
        return [path]

    def _write(self, file: ServiceFile, undo: contextlib.ExitStack) -> None:
        try:
            before = file.path.read_bytes() if file.path.exists() else None
            write_atomic(file.path, file.content, file.mode)
        except OSError as error:
            raise FirstlightError(
                f"{file.path} cannot be written",
                why=error.strerror or str(error),
                fix="--scope supervisor keeps everything in firstlight's own folder",
            ) from error
        if before is None:
            undo.callback(file.path.unlink, missing_ok=True)
        elif before != file.content.encode():
            undo.callback(write_atomic, file.path, before, file.mode)

    def start(self, spec: ServiceSpec, step: Step) -> float:
        """Start it and wait until it answers; see the protocol."""
        self._require_unit(spec)
        return self._begin(spec, step, "start")

    def restart(self, spec: ServiceSpec, step: Step) -> float:
        """Stop and start it; see `start`."""
        self._require_unit(spec)
        return self._begin(spec, step, "restart")

    def _require_unit(self, spec: ServiceSpec) -> None:
        if not self.unit_path(spec).exists():
            raise FirstlightError(
                f"{spec.name} cannot be started",
                why=f"its unit is gone: {self.unit_path(spec)}",
                fix="put it back: firstlight restore",
            )

    def _begin(self, spec: ServiceSpec, step: Step, verb: str) -> float:
        self.require(install=False)
        unit, begun, clock = unit_name(spec.name), time.time(), time.monotonic()
        self.control.try_run("reset-failed", unit)
        stop = spec.stop_timeout + _START_GRACE if verb == "restart" else 0.0
        self.control.run(verb, "--no-block", unit, what=f"{unit} cannot be started")
        self._wait(spec, step, begun, clock + spec.readiness.timeout + _START_GRACE + stop)
        return time.monotonic() - clock

    def _wait(self, spec: ServiceSpec, step: Step, begun: float, deadline: float) -> None:
        """Wait until a unit runs; a first failed attempt is told at once, whatever systemd goes on to try."""
        unit, reported = unit_name(spec.name), time.monotonic()
        began = False
        while True:
            told = self.control.show(unit, *PROPERTIES)
            state = state_of(told)
            began = began or state in {"starting", "running"}
            if state == "running" and told.get("Job", "0") in {"", "0"}:
                return
            if state in {"failed", "restarting"} or (state == "stopped" and began):
                raise as_error(self._failed(spec, told, begun))
            if time.monotonic() >= deadline:
                raise as_error(self._failed(spec, told, begun, "was not ready in time"))
            if time.monotonic() - reported >= REPORT_SECONDS:
                reported = time.monotonic()
                step.progress(0, None, "items", self._last_words(unit, begun))
            time.sleep(POLL_SECONDS)

    def _last_words(self, unit: str, begun: float) -> str:
        with contextlib.suppress(FirstlightError):
            lines = self.control.journal(unit, lines=20, since=begun).splitlines()
            return next((text for text in map(progress_line, reversed(lines)) if text), "")[:100]
        return ""

    def _failed(self, spec: ServiceSpec, told: dict[str, str], begun: float, how: str = "") -> Failure:
        result, status = told.get("Result", ""), told.get("ExecMainStatus", "")
        words = how or ("was not ready in time" if result == "timeout" else f"failed ({result or 'stopped'}, {status})")
        try:
            log = self.control.journal(unit_name(spec.name), lines=_JOURNAL_LINES, since=begun)
        except FirstlightError as unreadable:
            return explain(spec, "", f"{spec.name} {words}; {unreadable.what}", fix=unreadable.fix or "")
        fix = f"read its log: firstlight service.logs {spec.name}"
        return explain(spec, log, f"{spec.name} {words}", fix=fix)

    def stop(self, spec: ServiceSpec, step: Step) -> None:
        """Stop it; see the protocol."""
        self.require(install=False)
        unit = unit_name(spec.name)
        step.note(f"stopping {unit}")
        self.control.run("stop", unit, what=f"{unit} cannot be stopped", seconds=spec.stop_timeout + 60.0)
        self.control.try_run("reset-failed", unit)

    def status(self, spec: ServiceSpec) -> Status:
        """Return how it is."""
        told = self.control.show(unit_name(spec.name), *PROPERTIES)
        return parse_status(spec, told, self.survives, lambda: self.log_text(spec))

    def log_command(self, spec: ServiceSpec, *, follow: bool, lines: int) -> list[str]:
        """Return the journalctl command that shows its log."""
        options = [f"--lines={lines}", "--output=short-iso", *(["--follow"] if follow else [])]
        return self.control.journal_words(unit_name(spec.name), *options)

    def require_log(self, spec: ServiceSpec) -> None:
        """Refuse where the journal is shut to this user; journalctl would only give a hint, and end with 0."""
        who = user_name()
        if journal_closed(self.scope) and spec.user != who:  # what a user's own programs say, that user may read
            why = f"it is open to root and to the groups adm and systemd-journal, not to {who}"
            raise self.control.unreadable(unit_name(spec.name), why)

    def log_text(self, spec: ServiceSpec, lines: int = _JOURNAL_LINES) -> str:
        """Return the last lines of its journal."""
        self.require_log(spec)
        return self.control.journal(unit_name(spec.name), lines=lines)

    def remove(self, spec: ServiceSpec, step: Step) -> list[str]:
        """Stop, disable and remove the unit and its folders; see the protocol."""
        if not runs():
            return self._remove_dead(spec)
        self.require(install=False)
        path, unit = self.unit_path(spec), unit_name(spec.name)
        undone: list[str] = []
        if path.is_file() and not path.is_symlink() and is_ours(path.read_text(errors="replace")):
            self.control.run("disable", "--now", unit, what=f"{unit} cannot be stopped", seconds=spec.stop_timeout + 60)
            if self.scope == "system":
                self.control.try_run("clean", "--what=state", "--what=cache", unit)
            path.unlink()
            undone.append(f"removed {path}")
        elif path.exists():
            step.warn(f"{path} is not firstlight's any more: it stays as it is")
        undone += self._without_drop_ins(path)
        self.control.run("daemon-reload", what="systemd cannot read its units again")
        self.control.try_run("reset-failed", unit)
        for folder in (spec.state, spec.cache) if self.scope == "system" else ():
            if folder is not None and folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
                undone.append(f"removed {folder}")
        replaced = replaced_by(spec)
        if replaced is not None:
            undone.append(give_back(spec, replaced, self.control))
        return undone

    def _remove_dead(self, spec: ServiceSpec) -> list[str]:
        """Remove the unit and its folders where systemd does not run (any more): there is nobody to be told."""
        path, unit = self.unit_path(spec), unit_name(spec.name)
        undone: list[str] = []
        if path.is_file() and not path.is_symlink() and is_ours(path.read_text(errors="replace")):
            for link in path.parent.glob(f"*.wants/{unit}"):
                link.unlink()
            path.unlink()
            undone.append(f"removed {path}")
        undone += self._without_drop_ins(path)
        for folder in (spec.state, spec.cache) if self.scope == "system" else ():
            if folder is not None and folder.is_dir():
                shutil.rmtree(folder, ignore_errors=True)
                undone.append(f"removed {folder}")
        return undone

    def _without_drop_ins(self, path: Path) -> list[str]:
        folder = path.with_name(f"{path.name}.d")
        if not folder.is_dir():
            return []
        try:
            folder.rmdir()
        except OSError:
            return [f"{folder} holds your own settings, and stays"]
        return [f"removed {folder}"]

    def try_out(self, spec: ServiceSpec, step: Step, work: Callable[[], object]) -> None:
        """Start a service once in its own sandbox, do `work` while it runs, and leave nothing of it.

        Raises:
            FirstlightError: it does not start there, cannot open the GPU, or `work` failed.
        """
        self.require(install=False)
        runtime = Path("/run/systemd/system") if self.scope == "system" else runtime_folder() / "systemd" / "user"
        path, unit = runtime / unit_name(spec.name), unit_name(spec.name)
        for file in self.files(spec)[1:]:
            write_atomic(file.path, file.content, file.mode)
        try:
            write_atomic(path, self._render(spec, trial=True))
            self.control.run("daemon-reload", what="systemd cannot read its units again")
            self._begin(spec, step, "start")
            work()
        finally:
            self.control.try_run("stop", unit, seconds=spec.stop_timeout + 60.0)
            if self.scope == "system":
                self.control.try_run("clean", "--what=state", "--what=cache", unit)
            path.unlink(missing_ok=True)
            self.control.try_run("daemon-reload")
            self.control.try_run("reset-failed", unit)


def source_of(module: object) -> str:
    """Return the source text of one of our helper programs."""
    return Path(str(getattr(module, "__file__", ""))).read_text(encoding="utf-8")
