"""What supervises services on this machine."""

from __future__ import annotations

from firstlight import process
from firstlight.machine.facts import Init
from firstlight.machine.system import System

SYSTEMCTL_SECONDS = 2.0
STATES = ("initializing", "starting", "running", "degraded", "maintenance", "stopping", "offline", "unknown")


def read(system: System) -> Init:
    """Return systemd with its state where it really runs, else the name of process 1, else `none`.

    `/run/systemd/system` is the test (sd_booted(3)): `systemctl` alone is also there where systemd does not run.
    """
    first = system.text_of("/proc/1/comm") or None
    if not system.exists("/run/systemd/system"):
        return Init(system=first or "none")
    state = system.attempt("init.state", lambda: _state(system), None)
    if state == "offline" and first not in {None, "systemd", "init"}:
        # The host's /run seen from a container: systemd is there, but not for us.
        return Init(system=first)
    return Init(system="systemd", state=state)


def _state(system: System) -> str | None:
    program = system.which("systemctl")
    if program is None:
        return None
    ended = process.run(
        [str(program), "is-system-running"],
        environment=system.additions(LC_ALL="C"),
        timeout=max(0.1, system.remaining(SYSTEMCTL_SECONDS)),
    )
    return parse_state(ended.tail)


def parse_state(output: str) -> str | None:
    """Return the state that `systemctl is-system-running` printed; its exit status is not 0 for most of them."""
    for line in output.splitlines():
        if line.strip() in STATES:
            return line.strip()
    return None
