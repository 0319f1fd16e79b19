"""Who is to keep a service running: chosen by what really runs here, with what survives a reboot said in words."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

import msgspec

from firstlight.errors import FirstlightError
from firstlight.serving.services import systemctl
from firstlight.serving.services.spec import Scope

AskedScope = Literal["auto", "system", "user", "supervisor"]
LINGER = Path("/var/lib/systemd/linger")

SURVIVES: dict[Scope, str] = {
    "system": "systemd starts it at every boot",
    "user": "systemd starts it at every boot, without a login (lingering is on)",
    "supervisor": "nothing survives a reboot by itself: the platform's start hook must start it again",
}


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The scope that was chosen, and why."""

    scope: Scope
    because: str

    @property
    def survives(self) -> str:
        """What survives a reboot, in words."""
        return SURVIVES[self.scope]


def choose(asked: AskedScope) -> Choice:
    """Return the scope for a wish; `auto` goes by what runs.

    Raises:
        FirstlightError: what was asked for cannot work here.
    """
    running, root = systemctl.runs(), os.geteuid() == 0
    if asked == "supervisor":
        return Choice(scope="supervisor", because="asked for")
    if asked in {"system", "user"} and not running:
        raise FirstlightError(
            f"--scope {asked} needs systemd, which does not run here",
            why="process 1 of this machine is something else (a container, mostly); systemctl alone can start nothing",
            fix="--scope supervisor",
        )
    if asked == "system" and not root:
        raise FirstlightError(
            "a service of the system can only be installed by root",
            why="its unit stands in /etc/systemd/system",
            fix="run it as root, or take a service of your own: --scope user",
        )
    if asked == "auto":
        if not running:
            return Choice(scope="supervisor", because="systemd does not run here")
        if root:
            return Choice(scope="system", because="systemd runs, and this is root")
        if not can_linger():
            return Choice(scope="supervisor", because="systemd runs, but gives this user no instance of its own")
        return Choice(scope="user", because="systemd runs, and this is not root")
    return Choice(scope="system" if asked == "system" else "user", because="asked for")


def lingers() -> bool:
    """Tell whether systemd runs this user's units without a login."""
    return (LINGER / systemctl.user_name()).exists()


def can_linger() -> bool:
    """Tell whether this user has an instance of systemd, or can get one."""
    return (systemctl.runtime_folder() / "systemd" / "private").exists() or shutil.which("loginctl") is not None
