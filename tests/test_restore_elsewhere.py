"""A home that comes to a machine with another init: its services run under what really runs there, and back again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator

import pytest
from support.command import REPOSITORY
from support.service_machine import ENGINE, HOME, MODEL, PORT, ServiceMachine, furnish, furnish_supervisor
from support.systemd_box import Box, base_root, lacking

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.skipif(lacking() is not None, reason=f"no box can be booted here: {lacking()}"),
]
INSTALL = ("service.install", ENGINE, "--model", MODEL, "--port", str(PORT), "--hardening", "strict", "--yes", "--json")
UNIT = f"/etc/systemd/system/{ENGINE}.service"
LIFE = r"""
set -e
cd /
[ ! -e /run/systemd/system ]
"$PYTHON" -m firstlight restore --json >/out/restored
for _ in $(seq 120); do
    ! "$PYTHON" -m firstlight service.status NAME --json >/out/status || break
    sleep 0.1
done
"$PYTHON" -m firstlight restore --json >/out/again
"""


@pytest.fixture
def machine() -> Iterator[ServiceMachine]:
    """A box that is not booted yet; the supervisor's program lies in its home as from an earlier service."""
    box = Box(base_root())
    try:
        made = furnish(box)
        furnish_supervisor(box)
        yield made
    finally:
        box.destroy()


def test_a_home_goes_to_a_machine_without_systemd_and_comes_back(machine: ServiceMachine) -> None:
    box = machine.box
    box.boot()
    told = json.loads(machine.firstlight(*INSTALL).stdout)
    assert (told["scope"], told["hardening"]) == ("system", "strict")
    box.power_off()
    # The root disk is another one: neither the unit nor what belongs to it is there.
    box.path(UNIT).unlink()
    box.path(f"/etc/systemd/system/multi-user.target.wants/{ENGINE}.service").unlink()
    for folder in (f"/var/lib/firstlight-{ENGINE}", f"/var/cache/firstlight-{ENGINE}"):
        shutil.rmtree(box.path(folder))

    box.path("/out").mkdir()
    box.put("/life", LIFE.replace("NAME", ENGINE))
    words = f"PYTHON={machine.python} PYTHONPATH={REPOSITORY} PYTHONDONTWRITEBYTECODE=1 PYTHONWARNINGS=ignore sh /life"
    done = box.bare(f"exec env {words}", seconds=600)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    documents = {name: json.loads(box.path(f"/out/{name}").read_text()) for name in ("restored", "status", "again")}
    (first,), (second,) = documents["restored"]["services"], documents["again"]["services"]
    assert (first["scope"], first["was"], first["outcome"]) == ("supervisor", "system", "started")
    assert documents["restored"]["hook"]["line"].endswith("bin/firstlight restore")
    assert (documents["status"]["state"], documents["status"]["endpoint"]) == ("running", told["endpoint"])
    assert (second["scope"], second["was"], second["outcome"]) == ("supervisor", None, "running")

    box.boot()
    restored = json.loads(machine.firstlight("restore", "--json").stdout)
    (back,) = restored["services"]
    assert (back["scope"], back["was"], back["outcome"]) == ("system", "supervisor", "started")
    assert restored["hook"] is None
    machine.wait_for(lambda: machine.systemctl("is-active", ENGINE, check=False) == "active")
    status = machine.status()
    assert (status["state"], status["hardening"], status["user"]) == ("running", "strict", "firstlight")
    assert machine.systemctl("is-enabled", ENGINE) == "enabled"
    assert not box.path(f"{HOME}/supervisor").exists()
    machine.firstlight("service.remove", ENGINE, "--yes")
    assert not box.path(UNIT).exists()
    assert box.run("getent passwd firstlight", check=False).stdout == ""
