"""The first boot of a real machine: cloud-init reads our user-data, and a service is there, on later boots too."""

from __future__ import annotations

import time

import pytest
from support.first_boot import cloud_root, seed
from support.systemd_box import Box, lacking
from test_bootstrap import CALLS, archive_of, wish

from firstlight.serving.first_boot import Places, user_data

pytestmark = [pytest.mark.systemd, pytest.mark.skipif(lacking() is not None, reason=lacking() or "")]


@pytest.fixture
def box():
    made = Box(cloud_root())
    yield made
    made.destroy()


def ended(box: Box, seconds: float = 600.0) -> dict[str, str]:
    """Wait for the marker and return what it says."""
    marker, deadline = box.path(Places().marker), time.monotonic() + seconds
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert marker.exists(), box.run("tail -n 50 /var/log/cloud-init-output.log", check=False).stdout
    return dict(line.split("=", 1) for line in marker.read_text().splitlines())


def test_a_first_boot_ends_with_a_service_that_every_later_boot_starts_again(box):
    seed(box, user_data(wish(token="hf_x"), archive_of()))
    box.boot(600.0)  # systemd says "running" once the first boot's work is done
    assert ended(box)["status"] == "0"
    assert box.path("/var/lib/firstlight/calls").read_text().splitlines() == CALLS
    assert "the service answers" in box.path(Places().log).read_text()
    assert box.path(Places().token).stat().st_mode & 0o777 == 0o600
    assert box.path(Places().token).read_text() == "hf_x\n"
    assert box.run("systemctl is-enabled chat.service").stdout.strip() == "enabled"

    box.reboot()
    assert box.run("systemctl is-active chat.service").stdout.strip() == "active"
    assert box.path("/var/lib/firstlight/calls").read_text().splitlines() == CALLS  # done is done
    assert box.run(f"{Places().script} && systemctl is-failed {Places().unit_name}", check=False).returncode == 1


def test_a_first_boot_that_was_cut_off_goes_on_at_the_next_one(box):
    tool = archive_of()
    seed(box, user_data(wish(source="/srv/firstlight.tar.xz", sha256=tool.sha256), None))
    # The tool's place is not there yet: the script waits for it, as for a network that does not deliver.
    with pytest.raises(RuntimeError):
        box.boot(1.0)  # systemd does not say "running" before the first boot's work is done
    deadline = time.monotonic() + 300.0
    log = box.path(Places().log)
    while time.monotonic() < deadline and (not log.exists() or "again in" not in log.read_text()):
        time.sleep(0.2)
    assert "the network did not deliver" in log.read_text()
    assert not box.path(Places().marker).exists()
    box.power_off()
    box.path("/srv").mkdir(exist_ok=True)
    box.path("/srv/firstlight.tar.xz").write_bytes(tool.data)
    box.boot(600.0)  # systemd says "running" once the first boot's work is done
    assert ended(box)["status"] == "0"
    assert box.run("systemctl is-enabled chat.service").stdout.strip() == "enabled"
