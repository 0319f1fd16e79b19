"""The life of a service in a container without systemd, by the program itself: a machine lost, its home restored."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from support.command import REPOSITORY
from support.first_boot import cloud_root
from support.systemd_box import Box, lacking
from test_services_supervisor import did, service

from firstlight.home import Home
from firstlight.serving.kept_tool import keep_tool
from firstlight.serving.services.records import Record, save
from firstlight.serving.services.supervisor import SupervisorManager

VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
pytestmark = [pytest.mark.systemd, pytest.mark.skipif(lacking() is not None, reason=lacking() or "")]

ENTER = r"""
set -e
[ "$1" = root ] || {
    useradd --create-home "$1"
    chmod 755 "$2"
    chown -R "$1:$1" "$2"
    as="setpriv --reuid $1 --regid $1 --init-groups"
}
home=$(getent passwd "$1" | cut -d: -f6)
path=$home/.local/bin:/usr/local/bin:/usr/bin:/bin
exec ${as-} env -i HOME="$home" PATH="$path" HOME_OF_IT="$2/disk one/firstlight" sh /life
"""
LIFE = r"""
set -e
export RUNPOD_POD_ID=x
out=$HOME_OF_IT/out
mkdir "$out"
state() { python3 -c 'import json, sys; s = json.load(open(sys.argv[1])); print(s["state"], s["restarts"])' "$1"; }
cat /proc/1/comm >"$out/first"
[ ! -e /run/systemd/system ]
"$HOME_OF_IT/bin/firstlight" restore >"$out/restored"
firstlight service.start chat >"$out/start"
firstlight service.status chat --json >"$out/started.json"
kill -9 "$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["pid"])' "$out/started.json")"
for _ in $(seq 300); do
    firstlight service.status chat --json >"$out/killed.json" || true
    [ "$(state "$out/killed.json")" != "running 1" ] || break
    sleep 0.1
done
firstlight service.logs chat --lines 3 >"$out/log"
firstlight service.stop chat
firstlight service.status chat >"$out/stopped" || true
firstlight restore >"$out/again"
firstlight service.start chat
firstlight service.remove chat --yes >"$out/removed"
ls "$HOME_OF_IT" "$HOME_OF_IT/services" >"$out/left"
for pid in /proc/[0-9]*; do
    tr '\0' ' ' <"$pid/cmdline" 2>/dev/null || true
    echo
done >"$out/processes"
"""


@pytest.fixture
def box():
    made = Box(cloud_root())
    yield made
    made.destroy()


@pytest.fixture
def disk(box):
    """A home with an installed service on a disk that stayed: the machine that it was made on is gone."""
    if not box.path(f"/usr/bin/python{VERSION}").exists():
        pytest.skip(f"the box has no Python {VERSION}, with which the tool runs here")
    place = Path(tempfile.mkdtemp(dir="/var/tmp"))  # a box has its own /tmp
    home = Home(place / "disk one" / "firstlight")
    program = home.root / "server.py"
    spec = service(home)
    spec = msgspec.structs.replace(spec, argv=("/usr/bin/python3", str(program), *spec.argv[2:]))
    did(SupervisorManager(home).install, spec)
    program.write_bytes((REPOSITORY / "tests" / "support" / "loading_server.py").read_bytes())
    save(Record(spec=spec, installed="2026-11-23T00:00:00Z"))
    keep_tool(home)
    inside = box.path(home.root)
    inside.parent.mkdir(parents=True)
    subprocess.run(["cp", "-a", str(home.root), str(inside)], check=True)
    shutil.rmtree(place)
    return home


@pytest.mark.parametrize("user", ["root", "someone"])
def test_a_service_lives_dies_and_comes_back_where_systemd_does_not_run(box, disk, user):
    box.put("/life", LIFE)
    box.put("/enter", ENTER)
    done = box.bare(f"exec sh /enter {user} {disk.root.parent.parent}", seconds=600)
    out = box.path(disk.root) / "out"
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert (out / "first").read_text().strip() != "systemd"
    assert (out / "restored").stat().st_uid == (0 if user == "root" else 1000)
    restored = (out / "restored").read_text()
    assert "chat: started" in restored
    assert "Nothing starts services by itself when RunPod starts again" in restored
    assert "restore" in restored.split("bash -c")[1]
    killed = json.loads((out / "killed.json").read_text())
    assert (killed["state"], killed["restarts"], killed["scope"]) == ("running", 1, "supervisor")
    assert "nothing survives a reboot by itself" in killed["survives"]
    assert "ready" in (out / "log").read_text()
    assert "chat: stopped" in (out / "stopped").read_text()
    assert "chat: started" in (out / "again").read_text()
    assert "chat" not in (out / "left").read_text().split()
    assert "supervisor" not in (out / "left").read_text().split()
    assert "supervisord" not in (out / "processes").read_text()
    assert "server.py" not in (out / "processes").read_text()
