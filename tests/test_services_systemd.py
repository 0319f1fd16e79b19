"""Services under a real systemd: installed, killed, crashing, rebooted, updated, refused, removed without a trace."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.command import REPOSITORY, firstlight
from support.service_machine import (
    ENGINE,
    HOME,
    MODEL,
    PORT,
    ServiceMachine,
    add_generation,
    add_release,
    furnish,
    show_python,
)
from support.systemd_box import Box, base_root, lacking

from firstlight.environments.generations import Store
from firstlight.environments.spec import read_manifest
from firstlight.home import Home

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.skipif(lacking() is not None, reason=f"no box can be booted here: {lacking()}"),
]
INSTALL = ("service.install", ENGINE, "--model", MODEL, "--port", str(PORT), "--yes")
UNIT = f"/etc/systemd/system/{ENGINE}.service"


@pytest.fixture
def machine() -> Iterator[ServiceMachine]:
    """A booted box on which the engine is set up."""
    box = Box(base_root())
    try:
        made = furnish(box)
        box.boot()
        yield made
    finally:
        box.destroy()


def store_of(machine: ServiceMachine) -> Store:
    return Store(Home(machine.box.path(HOME)), ENGINE)


def current(machine: ServiceMachine) -> str:
    return (store_of(machine).folder / "current").readlink().name


def outside_the_home(machine: ServiceMachine) -> set[str]:
    """The files and folders that a service may leave: units, their links, folders of its own, users."""
    listed = machine.box.run(
        "find /etc/systemd /var/lib/systemd/linger -newer /var/lib/firstlight/firstlight-home.json ! -type d"
        " 2>/dev/null;"
        " ls -d /var/lib/firstlight-* /var/cache/firstlight-* 2>/dev/null;"
        " getent passwd firstlight; ls -A /var/lib/firstlight/services 2>/dev/null",
        check=False,
    ).stdout
    return set(listed.splitlines())


def test_a_service_is_installed_proven_enabled_and_removed_without_a_trace(machine: ServiceMachine) -> None:
    told = json.loads(machine.firstlight(*INSTALL, "--json").stdout)
    assert told["proof"]["tokens"] > 0
    assert (told["scope"], told["user"], told["hardening"]) == ("system", "firstlight", "basic")
    assert told["outside"] == [UNIT]
    assert machine.systemctl("is-enabled", ENGINE) == "enabled"
    facts = json.loads(machine.ask("/who"))
    assert facts["uid"] == int(machine.box.run("id -u firstlight").stdout)
    assert facts["argv"][2] == MODEL
    environment = f"{HOME}/environments/{ENGINE}/{current(machine)}"  # and not `current`, which an update switches
    assert facts["executable"] == f"{environment}/bin/python"
    variables = facts["environment"]
    assert variables["HOME"] == f"/var/lib/firstlight-{ENGINE}"
    assert variables["HF_HOME"].startswith(f"/var/cache/firstlight-{ENGINE}/")
    assert variables["PATH"].split(":")[0] == f"{environment}/bin"
    status = machine.status()
    assert (status["state"], status["restarts"], status["enabled"]) == ("running", 0, True)
    assert status["memory"] > 0
    assert status["uptime"] >= 0
    assert status["endpoint"] == f"http://127.0.0.1:{PORT}/v1"
    log = machine.firstlight("service.logs", ENGINE, "--lines", "50").stdout
    assert f"loading {MODEL}" in log
    machine.firstlight("service.remove", ENGINE, "--yes")
    assert outside_the_home(machine) == set()
    assert machine.systemctl("list-units", "--all", "--plain", "--no-legend", "'transformers*'") == ""


def test_a_killed_engine_comes_back_and_the_status_says_so(machine: ServiceMachine) -> None:
    machine.firstlight(*INSTALL)
    before = machine.systemctl("show", "-p", "MainPID", "--value", ENGINE)
    machine.box.run(f"kill -9 {before}")
    machine.wait_for(lambda: machine.systemctl("show", "-p", "NRestarts", "--value", ENGINE) == "1")
    machine.wait_for(lambda: "ok" in machine.ask() and machine.systemctl("is-active", ENGINE, check=False) == "active")
    status = machine.status()
    assert (status["state"], status["restarts"]) == ("running", 1)
    assert status["failure"]["cause"] == "killed"


def test_what_is_installed_again_with_the_same_words_is_left_alone(machine: ServiceMachine) -> None:
    assert json.loads(machine.firstlight(*INSTALL, "--json").stdout)["kept"] is False
    before = machine.systemctl("show", "-p", "MainPID", "--value", ENGINE)
    again = json.loads(machine.firstlight(*INSTALL, "--json").stdout)
    assert (again["kept"], again["proof"]["tokens"] > 0) == (True, True)
    assert machine.systemctl("show", "-p", "MainPID", "--value", ENGINE) == before
    unit = machine.box.path(UNIT)
    unit.write_text(unit.read_text().replace("Restart=on-failure", "Restart=no"))  # somebody's hand was on it
    assert json.loads(machine.firstlight(*INSTALL, "--json").stdout)["kept"] is False
    assert machine.systemctl("show", "-p", "Restart", "--value", ENGINE) == "on-failure"


def test_an_engine_that_always_crashes_ends_failed_with_its_true_cause(machine: ServiceMachine) -> None:
    machine.firstlight(*INSTALL)
    machine.behave("crash")
    told = machine.firstlight("service.restart", ENGINE, check=False)
    assert told.returncode == 1
    assert "the GPU's memory is full" in told.stderr
    machine.wait_for(lambda: machine.systemctl("is-failed", ENGINE, check=False) == "failed")
    status = machine.status()
    assert (status["state"], status["failure"]["what"]) == (
        "failed",
        f"{ENGINE} failed again and again, and stays down",
    )
    assert "the GPU's memory is full" in status["failure"]["why"]
    machine.behave(None)
    machine.firstlight("service.start", ENGINE)
    assert "ok" in machine.ask()


def test_a_reboot_brings_it_back(machine: ServiceMachine) -> None:
    machine.firstlight(*INSTALL)
    first = machine.box.run(
        "cat /proc/sys/kernel/random/boot_id; systemctl show -p MainPID --value transformers"
    ).stdout
    machine.box.reboot()
    machine.wait_for(lambda: machine.systemctl("is-active", ENGINE, check=False) == "active")
    assert "ok" in machine.ask()
    assert machine.status()["state"] == "running"
    again = machine.box.run(
        "cat /proc/sys/kernel/random/boot_id; systemctl show -p MainPID --value transformers"
    ).stdout
    assert again != first


def test_a_stop_is_orderly_and_is_no_failure(machine: ServiceMachine) -> None:
    machine.firstlight(*INSTALL)
    machine.firstlight("service.stop", ENGINE)
    status = machine.status()
    assert (status["state"], status["failure"], machine.ask()) == ("stopped", None, "")
    machine.firstlight("service.start", ENGINE)
    assert "ok" in machine.ask()


def test_strict_is_proven_inside_its_sandbox_and_is_strict(machine: ServiceMachine) -> None:
    told = json.loads(machine.firstlight(*INSTALL, "--hardening", "strict", "--json").stdout)
    assert told["hardening"] == "strict"
    judged = machine.box.run("systemd-analyze security --no-pager transformers | tail -n 1").stdout
    assert float(judged.partition("service: ")[2].split()[0]) <= 1.5  # old systemd knows no --threshold=
    assert "ok" in machine.ask()
    assert machine.systemctl("list-unit-files", "--no-legend", "'transformers-trial*'", check=False) == ""


def test_an_engine_that_cannot_live_in_the_strict_sandbox_gets_the_basic_one_and_it_is_said(
    machine: ServiceMachine,
) -> None:
    machine.box.path("/home/shared").mkdir()
    machine.behave("outdoors")
    ended = machine.firstlight(*INSTALL, "--hardening", "strict", "--json")
    assert json.loads(ended.stdout)["hardening"] == "basic"
    assert "the strict sandbox does not hold" in ended.stderr
    assert "ok" in machine.ask()


def test_an_update_that_does_not_come_up_goes_back_to_the_generation_before(machine: ServiceMachine) -> None:
    machine.firstlight(*INSTALL)
    store, first = store_of(machine), current(machine)
    bad = add_generation(machine.box, "second", behaviour="crash")
    for name in (bad, first):  # now `rollback` goes to the bad one
        found = read_manifest(store.folder / name, ENGINE)
        assert found is not None
        store.switch(found)
    told = machine.firstlight("setup.rollback", ENGINE, check=False)
    assert told.returncode == 5
    assert "is back on" in told.stderr
    assert "the GPU's memory is full" in told.stderr
    assert current(machine) == first
    assert "ok" in machine.ask()
    assert machine.status()["generation"] == first


def test_a_good_update_is_taken_at_the_next_restart_and_never_in_part(machine: ServiceMachine) -> None:
    machine.firstlight(*INSTALL)
    first = current(machine)
    new = add_generation(machine.box, "second", current=True)
    before = machine.systemctl("show", "-p", "MainPID", "--value", ENGINE)
    machine.box.run(f"kill -9 {before}")  # a crash just after the switch: it comes back as it was, whole
    machine.wait_for(lambda: machine.systemctl("show", "-p", "NRestarts", "--value", ENGINE) == "1")
    machine.wait_for(lambda: machine.systemctl("is-active", ENGINE, check=False) == "active")
    assert f"/{first}/bin/python" in json.loads(machine.ask("/who"))["executable"]
    machine.firstlight("service.restart", ENGINE)
    assert machine.status()["generation"] == new
    assert f"/{new}/bin/python" in json.loads(machine.ask("/who"))["executable"]
    refused = machine.firstlight("setup.remove", ENGINE, "--yes", check=False)
    assert refused.returncode == 2
    assert f"the service {ENGINE} runs from this environment" in refused.stderr


def test_an_installation_that_fails_leaves_nothing(machine: ServiceMachine) -> None:
    machine.behave("crash")
    ended = machine.firstlight(*INSTALL, check=False)
    assert ended.returncode == 1
    assert "the GPU's memory is full" in ended.stderr
    assert outside_the_home(machine) == set()


def test_a_failed_change_leaves_the_service_that_ran(machine: ServiceMachine) -> None:
    machine.firstlight(*INSTALL)
    text = machine.box.path(UNIT).read_text()
    other = machine.box.path("/srv/models/other")
    machine.box.run(f"cp -r '{MODEL}' /srv/models/other")
    (other / "behaviour").write_text("crash")
    words = [word if word != MODEL else "/srv/models/other" for word in INSTALL]
    assert machine.firstlight(*words, check=False).returncode == 1
    assert machine.box.path(UNIT).read_text() == text
    assert "ok" in machine.ask()
    assert machine.status()["model_id"] == MODEL


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("--name", "../escape"), 2, "cannot be the name"),
        (("--name", "a b"), 2, "cannot be the name"),
        (("--name", "chat.service"), 2, "cannot be the name"),
        (("--port", "80"), 2, "belong to root"),
        (("--user", "nobodyy"), 2, 'did you mean "nobody"'),
        (("--host", "0.0.0.0"), 2, "would be open to everyone"),
        (("--name", "dbus"), 1, "did not make"),
        (("--name", "mine"), 1, "did not make"),
        (("--name", "masked"), 1, "did not make"),
        (("--port", "8555"), 1, "held by process"),
    ],
)
def test_what_cannot_be_is_refused_with_nothing_written(
    shared: ServiceMachine, words: tuple[str, ...], code: int, why: str
) -> None:
    before = outside_the_home(shared)
    given = [word for word in INSTALL if word not in {"--port", str(PORT)}] if words[0] == "--port" else [*INSTALL]
    ended = shared.firstlight(*given, *words, check=False)
    assert (ended.returncode, why in ended.stderr) == (code, True), ended.stderr
    assert outside_the_home(shared) == before


@pytest.fixture(scope="module")
def shared() -> Iterator[ServiceMachine]:
    """One box for all that is refused, with a unit of somebody else's and a port that is held."""
    box = Box(base_root())
    try:
        made = furnish(box)
        box.put("/etc/systemd/system/mine.service", "[Service]\nExecStart=/bin/sleep 1000\n")
        box.path("/etc/systemd/system/masked.service").symlink_to("/dev/null")
        listen = (
            'use IO::Socket::INET; $s=IO::Socket::INET->new(Listen=>1,LocalAddr=>"127.0.0.1",LocalPort=>8555); sleep'
        )
        box.put("/listen.pl", listen)
        holder = "[Service]\nExecStart=/usr/bin/perl /listen.pl\n[Install]\nWantedBy=multi-user.target\n"
        box.put("/etc/systemd/system/holder.service", holder)
        box.boot()
        box.run("systemctl start holder; until perl -e 'use IO::Socket::INET; exit !IO::Socket::INET->new("
                'PeerAddr=>"127.0.0.1:8555")\'; do sleep 0.1; done')  # fmt: skip
        yield made
    finally:
        box.destroy()


def test_a_read_only_etc_is_told_before_anything_is_written(machine: ServiceMachine) -> None:
    machine.box.run("mount --bind /etc /etc && mount -o remount,ro,bind /etc")
    ended = machine.firstlight(*INSTALL, check=False)
    assert (ended.returncode, "cannot be written" in ended.stderr, "--scope supervisor" in ended.stderr) == (
        1,
        True,
        True,
    )
    assert outside_the_home(machine) == set()


def test_a_unit_that_is_gone_is_told_and_put_back(machine: ServiceMachine) -> None:
    machine.firstlight(*INSTALL)
    machine.box.run(f"systemctl stop {ENGINE}; rm {UNIT}; systemctl daemon-reload")
    told = machine.firstlight("service.start", ENGINE, check=False)
    assert (told.returncode, "fix: put it back: firstlight restore" in told.stderr) == (1, True)
    machine.firstlight("restore")
    machine.wait_for(lambda: machine.status()["state"] == "running")


def test_another_user_cannot_remove_a_service_and_is_told_so(machine: ServiceMachine) -> None:
    machine.firstlight(*INSTALL)
    machine.box.run("useradd --create-home someone")
    told = machine.firstlight("service.remove", "--yes", check=False, user="someone", FIRSTLIGHT_HOME=HOME)
    assert (told.returncode, "as its owner or root: firstlight service.remove" in told.stderr) == (1, True)
    assert machine.status()["state"] == "running"


def test_an_older_service_of_ours_on_the_same_port_makes_room(machine: ServiceMachine) -> None:
    machine.firstlight(*INSTALL)
    told = machine.firstlight(*INSTALL, "--name", "newer")
    assert "newer replaces it" in told.stderr
    assert machine.status("newer")["state"] == "running"
    assert not machine.box.path(UNIT).exists()
    assert "ok" in machine.ask()


def test_an_older_service_goes_on_when_the_newer_one_fails(machine: ServiceMachine) -> None:
    machine.firstlight(*INSTALL)
    machine.box.run(f"cp -r '{MODEL}' /srv/models/other && printf crash >/srv/models/other/behaviour")
    words = [word if word != MODEL else "/srv/models/other" for word in INSTALL]
    assert machine.firstlight(*words, "--name", "newer", check=False).returncode == 1
    assert "ok" in machine.ask()
    assert machine.status()["state"] == "running"
    assert machine.systemctl("is-enabled", ENGINE) == "enabled"


def test_own_settings_in_a_drop_in_are_never_touched(machine: ServiceMachine) -> None:
    drop_in = machine.box.put(f"{UNIT}.d/mine.conf", "[Service]\nEnvironment=MINE=yes\n")
    machine.firstlight(*INSTALL)
    assert json.loads(machine.ask("/who"))["environment"]["MINE"] == "yes"
    told = machine.firstlight("service.remove", ENGINE, "--yes").stdout
    assert drop_in.exists()
    assert "holds your own settings" in told


def test_a_wider_address_makes_a_key_that_stands_in_one_file_alone(machine: ServiceMachine) -> None:
    add_generation(machine.box, "keyed", current=True, engine="vllm", module="vllm.entrypoints.cli.main")
    words = ["service.install", "vllm", "--model", MODEL, "--host", "0.0.0.0", "--port", "8200", "--yes"]
    ended = machine.firstlight(*words, "--json")
    key = ended.stderr.partition("API key, shown this once: ")[2].split()[0]
    secrets = machine.box.path(f"{HOME}/services/vllm/environment")
    assert secrets.read_text() == f"VLLM_API_KEY={key}\n"
    assert (secrets.stat().st_mode & 0o777, secrets.stat().st_uid) == (0o600, 0)
    assert key not in ended.stdout
    shown = machine.box.run("cat /etc/systemd/system/vllm.service /proc/[0-9]*/cmdline; journalctl --no-pager").stdout
    assert key not in shown
    assert "0600" in machine.firstlight(*words, "--dry-run", "--json").stdout
    again = machine.firstlight(*words, "--json")
    assert "shown this once" not in again.stderr
    assert secrets.read_text() == f"VLLM_API_KEY={key}\n"


def test_what_is_open_to_all_is_said(machine: ServiceMachine) -> None:
    told = machine.firstlight(*INSTALL, "--host", "0.0.0.0", "--allow-open")
    assert f"its API is open to everyone who reaches 0.0.0.0:{PORT}" in told.stderr


def test_a_dry_run_before_the_engine_is_set_up_shows_the_whole_unit_and_writes_nothing(machine: ServiceMachine) -> None:
    machine.box.run(f"rm -r {HOME}/environments")
    shown = json.loads(machine.firstlight(*INSTALL, "--dry-run", "--json").stdout)
    assert shown["schema"] == "firstlight.dryrun/1"
    (unit,) = (file for file in shown["files"] if file["path"] == UNIT)
    assert unit["mode"] == "0644"
    assert f"ExecStart={HOME}/environments/{ENGINE}/current/bin/python" in unit["content"]
    assert ["systemctl", "enable", f"{ENGINE}.service"] in shown["commands"]
    assert shown["plan"]["engine"] == ENGINE
    assert outside_the_home(machine) == set()
    refused = machine.firstlight(*INSTALL, check=False)
    assert f"fix: firstlight setup.{ENGINE}" in refused.stderr


def test_a_users_service_lingers_over_a_reboot(machine: ServiceMachine) -> None:
    own = "/home/someone/.local/share/firstlight"
    machine.box.run("useradd --create-home someone")
    add_generation(machine.box, "own", home=own, current=True)
    machine.box.run("chown -R someone: /home/someone")
    refused = machine.firstlight(*INSTALL, check=False, user="someone")
    assert (refused.returncode, "enable-linger someone" in refused.stderr) == (1, True)
    machine.box.run("loginctl enable-linger someone")
    told = json.loads(machine.firstlight(*INSTALL, "--json", user="someone").stdout)
    assert (told["scope"], told["user"]) == ("user", None)
    machine.box.reboot()
    machine.wait_for(lambda: machine.status(user="someone")["state"] == "running")
    assert "ok" in machine.ask()
    machine.firstlight("service.remove", "--yes", user="someone")
    left = machine.box.run("find /home/someone/.config/systemd ! -type d").stdout
    assert left == ""


def test_without_systemd_the_system_scope_is_refused_and_auto_is_not(machine: ServiceMachine) -> None:
    machine.box.power_off()
    words = " ".join(f"'{word}'" for word in (machine.python, "-m", "firstlight", *INSTALL, "--scope", "system"))
    ended = machine.box.bare(f"cd / && PYTHONPATH={REPOSITORY} {words}")
    assert (ended.returncode, "systemd, which does not run here" in ended.stderr) == (1, True), ended.stderr


def test_a_journal_that_may_not_be_read_is_told(machine: ServiceMachine) -> None:
    machine.box.run("useradd --create-home someone")
    machine.firstlight(*INSTALL)
    machine.behave("crash")
    machine.firstlight("service.restart", ENGINE, check=False)
    machine.wait_for(lambda: machine.systemctl("is-failed", ENGINE, check=False) == "failed")
    status = machine.status(user="someone", FIRSTLIGHT_HOME=HOME)
    assert status["state"] == "failed"
    assert "the journal of transformers.service cannot be read" in status["failure"]["why"]
    assert "systemd-journal" in status["failure"]["fix"]
    # A user whose own journal can be read gets a hint alone from journalctl, and the exit code 0.
    machine.box.run("systemd-run --uid=someone --wait -q sh -c 'echo mine' && journalctl --rotate --quiet", check=False)
    logs = machine.firstlight("service.logs", ENGINE, check=False, user="someone", FIRSTLIGHT_HOME=HOME)
    assert (logs.returncode, logs.stdout) == (1, "")
    assert "the journal of transformers.service cannot be read" in logs.stderr
    assert "journalctl --unit=transformers.service --no-pager" in logs.stderr
    machine.box.run("usermod --append --groups systemd-journal someone")
    logs = machine.firstlight("service.logs", ENGINE, user="someone", FIRSTLIGHT_HOME=HOME)
    assert f"loading {MODEL}" in logs.stdout


TRY = """
import sys
from pathlib import Path
from support.service_specs import spec
from firstlight.errors import FirstlightError
from firstlight.events import Step, silent
from firstlight.serving.services.spec import Readiness
from firstlight.serving.services.systemd import SystemdManager
ready = Readiness(path="/", timeout=20.0, probe=("/bin/true",))
tried = spec(name="tried", argv=("/bin/sleep", "600"), user="root", secrets=None, hardening=sys.argv[1],
             devices=("/dev/nvidia0",), readiness=ready, model_path=Path("/srv/models"), folder=Path("/srv/tried"))
try:
    SystemdManager("system").try_out(tried, Step(silent, "sandbox", ""), lambda: print("inside"))
except FirstlightError as error:
    print(error.what, error.why)
"""


def test_a_gpu_that_cannot_be_opened_inside_the_sandbox_is_seen_before_anything_is_switched() -> None:
    box = Box(base_root(), devices=True)
    try:
        machine = furnish(box)
        box.put("/try.py", TRY)
        box.boot()
        # A device of a class that the sandbox does not let in: this kernel's fuse.
        made = box.run("mknod -m 666 /dev/nvidia0 c 10 229 && cat /dev/null <>/dev/nvidia0", check=False)
        if made.returncode:
            pytest.skip(f"no device node can be made in a box here: {made.stderr}")
        more = {"PYTHONPATH": f"{REPOSITORY}:{REPOSITORY}/tests", "PYTHONDONTWRITEBYTECODE": "1"}
        told = {how: box.run(f"{machine.python} /try.py {how}", **more).stdout for how in ("basic", "strict")}
        assert told["basic"] == "inside\n"
        assert "tried failed" in told["strict"]
        assert "lets it open no GPU" in told["strict"]
        assert machine.systemctl("list-units", "--all", "--plain", "--no-legend", "'tried*'") == ""
    finally:
        box.destroy()


OFFICIAL = """[Unit]
Description=Ollama Service
[Service]
ExecStart=/usr/local/bin/ollama serve
Restart=always
[Install]
WantedBy=default.target
"""


def test_ollama_is_a_service_that_replaces_the_unit_of_its_installer_and_gives_it_back(
    machine: ServiceMachine,
) -> None:
    add_release(machine.box)
    machine.box.put("/usr/local/bin/ollama", "#!/bin/sh\nexec sleep 1000\n", 0o755)
    unit = machine.box.put("/etc/systemd/system/ollama.service", OFFICIAL)
    machine.box.run("systemctl daemon-reload && systemctl enable --now ollama")
    ended = machine.firstlight("service.install", "ollama", "--yes", "--json", "--hardening", "strict")
    told = json.loads(ended.stdout)
    assert (told["hardening"], told["proof"]) == ("strict", None)
    assert "made by the installer of ollama, is replaced" in ended.stderr
    assert "version" in machine.ask("/api/version", 11434)
    assert machine.status("ollama")["state"] == "running"
    store = machine.box.path(f"{HOME}/models/ollama")
    assert store.stat().st_uid == int(machine.box.run("id -u firstlight").stdout)
    told_back = machine.firstlight("service.remove", "ollama", "--yes").stdout
    assert "gave /etc/systemd/system/ollama.service back" in told_back
    assert unit.read_text() == OFFICIAL
    assert machine.systemctl("is-enabled", "ollama") == "enabled"
    machine.wait_for(lambda: machine.systemctl("is-active", "ollama", check=False) == "active")


@pytest.mark.engine
@pytest.mark.timeout(2400)
def test_a_real_engine_answers_a_chat_through_its_strict_unit(tmp_path_factory: pytest.TempPathFactory) -> None:
    home = tmp_path_factory.mktemp("real") / "home"
    words = ("up", "--engine", "transformers", "--environment", "venv", "--once", "--json")
    receipt = firstlight(*words, home=home, timeout=1800).document
    box = Box(base_root())
    try:
        show_python(box, home / "environments" / ENGINE / "current" / "bin" / "python")
        box.path("/root").chmod(0o711)
        for name in ("environments", "models"):
            box.bind(home / name)
        box.put(home / "firstlight-home.json", '{"schema": "firstlight.home/1"}\n')
        machine = ServiceMachine(box)
        box.boot()
        variables = {"FIRSTLIGHT_HOME": str(home)}
        model = receipt["model"]["path"]
        install = ["service.install", ENGINE, "--model", model, "--port", str(PORT), "--hardening", "strict", "--json"]
        told = json.loads(machine.firstlight(*install, **variables).stdout)
        assert told["hardening"] == "strict"
        assert "Paris" in told["proof"]["text"]
        before = machine.systemctl("show", "-p", "MainPID", "--value", ENGINE)
        box.run(f"kill -9 {before}")
        machine.wait_for(lambda: machine.systemctl("show", "-p", "NRestarts", "--value", ENGINE) == "1")
        machine.wait_for(lambda: machine.systemctl("is-active", ENGINE, check=False) == "active", seconds=300)
        assert "Paris" in machine.firstlight("ask", "What is the capital of France?", **variables).stdout
    finally:
        box.destroy()
