"""The one protocol of everything that keeps a service running, and which one a scope stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from firstlight.events import Step
from firstlight.home import Home
from firstlight.serving.services.spec import Scope, ServiceFile, ServiceSpec, Status

if TYPE_CHECKING:
    from pathlib import Path


class Manager(Protocol):
    """Keeps services of one scope running. What changes something raises FirstlightError, and undoes its own part."""

    scope: Scope
    survives: str
    """What survives a reboot, in words for a person."""

    def require(self, *, install: bool) -> None:
        """Refuse with a clear error where this manager cannot work here (no bus, no right, read-only /etc)."""

    def files(self, spec: ServiceSpec) -> list[ServiceFile]:
        """Return the files that stand for the service (unit or configuration, helpers), without its secrets file."""

    def commands(self, spec: ServiceSpec) -> list[list[str]]:
        """Return the commands that `install` and `start` run, in order, for `--dry-run`."""

    def install(self, spec: ServiceSpec, step: Step) -> list[Path]:
        """Write the files, make the manager know them and enable the service; does not start it.

        Returns the files written outside the home. A file of the same name that is not ours is never overwritten. A
        failure leaves what was there before.
        """

    def start(self, spec: ServiceSpec, step: Step) -> float:
        """Start it and wait until it answers; returns seconds. A failure tells the true cause from its log."""

    def stop(self, spec: ServiceSpec, step: Step) -> None:
        """Stop it, orderly, with its whole process group; harmless when it does not run."""

    def restart(self, spec: ServiceSpec, step: Step) -> float:
        """Stop and start it; see `start`."""

    def status(self, spec: ServiceSpec) -> Status:
        """Return how it is (fast: no waiting, no network beyond this machine)."""

    def require_log(self, spec: ServiceSpec) -> None:
        """Refuse with a clear error where this user cannot read its log, or there is none yet."""

    def log_command(self, spec: ServiceSpec, *, follow: bool, lines: int) -> list[str]:
        """Return the command that shows its log."""

    def log_text(self, spec: ServiceSpec, lines: int = 2000) -> str:
        """Return the last lines of its log, for the cause of a failure."""

    def remove(self, spec: ServiceSpec, step: Step) -> list[str]:
        """Stop, disable and remove everything outside services/<name>/; returns in words what was undone."""


def manager_for(scope: Scope, home: Home) -> Manager:
    """Return the manager of a scope."""
    if scope == "supervisor":
        from firstlight.serving.services.supervisor import SupervisorManager

        return SupervisorManager(home)
    from firstlight.serving.services.systemd import SystemdManager

    return SystemdManager(scope)


def words_of(files: Sequence[ServiceFile]) -> list[str]:
    """Return the paths of files, for a person."""
    return [str(file.path) for file in files]
