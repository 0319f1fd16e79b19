"""Who runs this, and whether that user can become root."""

from __future__ import annotations

import os
import re

from firstlight import process
from firstlight.machine.facts import Host
from firstlight.machine.system import System, printable

SUDO_SECONDS = 2.0


def read(system: System) -> Host:
    """Return user, uid and sudo state, all else null."""
    uid = os.geteuid()
    return Host(
        user=system.attempt("host.user", lambda: _name(system, uid), None),
        uid=uid,
        sudo=system.attempt("host.sudo", lambda: read_sudo(system, uid), None),
    )


def _name(system: System, uid: int) -> str | None:
    import pwd

    try:
        return printable(pwd.getpwuid(uid).pw_name)
    except KeyError:  # a container may run under a number that no file names
        return system.environment.get("USER") or None


def read_sudo(system: System, uid: int) -> str | None:
    """Return `root`, `passwordless`, `password` or `absent` for a user, None where sudo's answer says nothing.

    Raises:
        FirstlightError: sudo does not answer.
    """
    if uid == 0:
        return "root"
    sudo = system.which("sudo")
    # Under "no new privileges" (many containers, hardened services) the set-uid bit of sudo counts for nothing.
    if sudo is None or re.search(r"^NoNewPrivs:\s*1", system.text_of("/proc/self/status") or "", re.MULTILINE):
        return "absent"
    ended = process.run(
        [str(sudo), "-n", "true"],
        environment=system.additions(LC_ALL="C"),
        timeout=max(0.1, system.remaining(SUDO_SECONDS)),
    )
    state = parse_sudo(ended.returncode, ended.tail)
    if state is None:
        system.failed("host.sudo", (ended.tail.splitlines() or [f"sudo ended with {ended.returncode}"])[-1])
    return state


def parse_sudo(returncode: int, output: str) -> str | None:
    """Return the state that the end of `sudo -n true` stands for, None when it is none that is known."""
    if returncode == 0:
        return "passwordless"
    text = output.lower()
    if re.search(
        r"not in the sudoers|may not run|not allowed to|no new privileges|must be owned by|effective uid", text
    ):
        return "absent"
    if "password" in text or "terminal" in text or "tty" in text or "askpass" in text:
        return "password"
    return None
