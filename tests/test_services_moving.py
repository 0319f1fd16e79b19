"""A service that gets another scope: the one of before keeps nothing of it, also where the move was cut short."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

import pytest
from support.command import REPOSITORY
from support.service_machine import ENGINE, HOME, MODEL, PORT, ServiceMachine, furnish, furnish_supervisor
from support.systemd_box import Box, base_root, lacking

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.skipif(lacking() is not None, reason=f"no box can be booted here: {lacking()}"),
]
INSTALL = ("service.install", ENGINE, "--model", MODEL, "--port", str(PORT), "--yes", "--json")
UNIT = f"/etc/systemd/system/{ENGINE}.service"
RECORD = f"{HOME}/services/{ENGINE}/service.json"
KILLED = """
cd /; "$@" >/dev/null 2>&1 & running=$!
for _ in $(seq 6000); do
    ! grep -q '"leaving": \\[$' RECORD || break
    kill -0 $running 2>/dev/null || break
    sleep 0.02
done
kill -KILL $running
"""


@pytest.fixture
def machine() -> Iterator[ServiceMachine]:
    """A booted box; the supervisor's program lies in its home as from an earlier service."""
    box = Box(base_root())
    try:
        made = furnish(box)
        furnish_supervisor(box)
        box.boot()
        yield made
    finally:
        box.destroy()


def test_a_service_moves_to_the_supervisor_and_its_unit_is_gone(machine: ServiceMachine) -> None:
    assert json.loads(machine.firstlight(*INSTALL).stdout)["scope"] == "system"
    moved = json.loads(machine.firstlight(*INSTALL, "--scope", "supervisor").stdout)
    assert (moved["scope"], moved["kept"]) == ("supervisor", False)
    assert not machine.box.path(UNIT).exists()
    assert machine.status()["state"] == "running"
    machine.firstlight("service.remove", ENGINE, "--yes")
    assert machine.ask() == ""


def test_a_move_that_was_killed_is_ended_by_the_next_run(machine: ServiceMachine) -> None:
    machine.firstlight(*INSTALL)
    machine.behave("silent")  # it would be waited for until it is killed
    machine.box.put("/killed", KILLED.replace("RECORD", RECORD))
    machine.box.run(f"sh /killed {machine.python} -m firstlight {shlex.join(INSTALL)} --scope supervisor",
                    check=False, seconds=300, PYTHONPATH=str(REPOSITORY), PYTHONDONTWRITEBYTECODE="1")  # fmt: skip
    record = json.loads(machine.box.path(RECORD).read_text())
    assert [each["scope"] for each in record["leaving"]] == ["system"]
    assert machine.box.path(UNIT).exists()
    machine.behave(None)
    again = json.loads(machine.firstlight(*INSTALL, "--scope", "supervisor").stdout)
    assert again["scope"] == "supervisor"
    assert not machine.box.path(UNIT).exists()
    assert json.loads(machine.box.path(RECORD).read_text())["leaving"] == []
    assert machine.status()["state"] == "running"
