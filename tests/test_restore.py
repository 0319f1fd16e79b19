"""A home on a disk that stayed: usable again after the machine around it was lost, without network, in any order."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from test_services_supervisor import answering, did, service, supervisors, until

from firstlight.environments.generations import Store
from firstlight.environments.spec import Generation, write_manifest
from firstlight.errors import FirstlightError
from firstlight.events import silent, step
from firstlight.home import Home
from firstlight.serving import restoring
from firstlight.serving.kept_tool import keep_tool
from firstlight.serving.restoring import Restored, restore
from firstlight.serving.services.hooks import find_host, start_hook, told
from firstlight.serving.services.records import Record, save
from firstlight.serving.services.supervisor import SupervisorManager

ALONE = ["unshare", "--net"] if os.geteuid() == 0 else []


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A home, and the parts of a machine outside it, in a folder of the test's own."""
    user = tmp_path / "user home"
    user.mkdir()
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.setattr(restoring, "_LINK_OF_ROOT", user / "bin" / "firstlight")
    monkeypatch.setattr(
        "firstlight.environments.conda_list.environments_list", lambda: user / ".conda/environments.txt"
    )
    monkeypatch.setattr(restoring, "environments_list", lambda: user / ".conda/environments.txt")
    home = Home(tmp_path / "the disk" / "firstlight")
    home.prepare()
    yield home
    manager = SupervisorManager(home)
    for name in manager.place.services():
        did(manager.remove, service(home, name=name))
    assert until(lambda: not supervisors(home))


def restored(home: Home, **words) -> Restored:
    with step(silent, "restore", "restore") as current:
        return restore(home, current, **words)


def installed(home: Home, **changes):
    spec = service(home, **changes)
    if spec.scope == "supervisor":
        did(SupervisorManager(home).install, spec)
    save(Record(spec=spec, installed="2026-11-23T00:00:00Z"))
    return spec


def generation(home: Home, name: str, kind: str = "conda", prefix: Path | None = None) -> Generation:
    folder = Store(home, "vllm").folder / name
    values = {"engine": "vllm", "id": name, "build": "b", "kind": kind, "python": "3.12", "state": "proven"}
    made = Generation(prefix=prefix or folder, created="2026-11-23T00:00:00Z", **values)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    write_manifest(folder, made)
    return made


def test_services_users_and_lists_are_put_back_and_a_second_time_changes_nothing(machine):
    spec = installed(machine)
    made = generation(machine, "g1")
    listing = Path(os.environ["HOME"]) / ".conda" / "environments.txt"
    first = restored(machine)
    assert [(each.name, each.outcome) for each in first.services] == [("chat", "started")]
    assert until(lambda: answering(spec))
    assert first.registered == [made.prefix]
    assert listing.read_text().splitlines() == [str(made.prefix)]
    assert first.link is not None
    assert first.link.resolve() == machine.root / "bin" / "firstlight"
    assert first.problems == []
    pid = SupervisorManager(machine).status(spec).pid

    second = restored(machine)
    assert [each.outcome for each in second.services] == ["running"]
    assert second.registered == []
    assert second.problems == []
    assert SupervisorManager(machine).status(spec).pid == pid


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="cutting off the network needs root")
def test_the_kept_tool_restores_with_another_python_and_no_network_at_all(machine, tmp_path):
    kept = keep_tool(machine)
    tool = machine.root / "tool" / "current"
    (tool / "bin" / "python").unlink()
    (tool / "bin" / "python").symlink_to("/nowhere/python")  # its Python went with the root disk
    environment = {"HOME": os.environ["HOME"], "PATH": f"{Path(sys.base_prefix) / 'bin'}:/usr/bin:/bin:/usr/sbin"}
    words = [*ALONE, str(kept.launcher), "restore", "--json"]
    # Its command would go to a folder of this machine: a mount of the test's own hides that.
    (tmp_path / "bin").mkdir()
    hide = 'mount --bind "$0" /usr/local/bin && exec "$@"'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide, str(tmp_path / "bin"), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "firstlight.restored/1"
    assert document["home"] == str(machine.root)
    assert document["hook"]["line"].endswith("bin/firstlight' restore")
    assert (tmp_path / "bin" / "firstlight").readlink() == kept.launcher


def test_the_tool_is_copied_once_and_again_only_when_it_changed(machine, monkeypatch):
    assert keep_tool(machine).fresh
    assert not keep_tool(machine).fresh
    monkeypatch.setattr("firstlight.serving.kept_tool._identity", lambda _parts: "another")
    assert keep_tool(machine).fresh
    assert sorted(entry.name for entry in (machine.root / "tool").iterdir()) == ["another", "current"]


def test_a_machine_without_the_right_python_says_what_to_do(machine):
    kept = keep_tool(machine)
    text = kept.launcher.read_text()
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    kept.launcher.write_text(text.replace(version, "3.99"))
    done = subprocess.run([str(kept.launcher), "restore"], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "made for Python 3.99, and this machine has none" in done.stderr
    assert "fix: install python3.99" in done.stderr


def test_a_folder_that_is_no_home_is_refused_and_left_as_it_is(tmp_path):
    with pytest.raises(FirstlightError, match="is no home of firstlight"):
        restored(Home(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_command_of_somebody_else_stays_and_is_told(machine):
    place = restoring.command_place()
    place.parent.mkdir(parents=True)
    place.write_text("#!/bin/sh\necho another\n")
    done = restored(machine)
    assert done.link is None
    assert f"{place} is there already and stays" in done.problems[0]
    assert place.read_text().endswith("another\n")


def test_a_link_that_leads_nowhere_is_replaced(machine):
    place = restoring.command_place()
    place.parent.mkdir(parents=True)
    place.symlink_to("/a/disk/that/is/gone/bin/firstlight")
    assert restored(machine).link == place
    assert place.resolve() == machine.root / "bin" / "firstlight"


def test_environments_that_cannot_run_any_more_are_told_with_what_to_do(machine):
    generation(machine, "moved", prefix=Path("/old/disk/environments/vllm/moved"))
    gone = generation(machine, "gone", kind="venv")
    (gone.prefix / "bin" / "python").unlink()
    (gone.prefix / "bin" / "python").symlink_to("/usr/bin/python3.nowhere")
    problems = "\n".join(restored(machine).problems)
    assert "vllm moved was built for /old/disk/environments/vllm/moved and cannot be moved" in problems
    assert "the Python of vllm gone is gone (/usr/bin/python3.nowhere): firstlight setup.repair vllm" in problems


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="systemd runs here")
def test_a_unit_where_systemd_does_not_run_is_told_and_the_others_start_all_the_same(machine):
    installed(machine, name="unit", scope="system")
    spec = installed(machine)
    done = {each.name: each for each in restored(machine).services}
    assert done["unit"].outcome == "failed"
    assert "does not run on this machine" in done["unit"].why
    assert "--scope supervisor" in done["unit"].fix
    assert done["chat"].outcome == "started"
    assert until(lambda: answering(spec))


def test_a_service_user_that_cannot_be_made_again_is_told(machine):
    spec = service(machine, name="unit", scope="system")
    save(Record(spec=spec, installed="2026-11-23T00:00:00Z", made_user="nobody-of-that-name"))
    assert "useradd --system nobody-of-that-name" in "\n".join(restored(machine).problems)


def test_nothing_is_started_where_that_is_asked_for(machine):
    spec = installed(machine)
    assert [each.outcome for each in restored(machine, start=False).services] == ["registered"]
    assert not answering(spec)
    assert SupervisorManager(machine).status(spec).state == "stopped"


@pytest.mark.parametrize(
    ("variables", "files", "name"),
    [
        ({"VAST_CONTAINERLABEL": "C.1"}, [], "vast.ai"),
        ({"RUNPOD_POD_ID": "abc"}, ["/.dockerenv"], "RunPod"),
        ({}, ["/root/autodl-tmp"], "AutoDL"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, [], "Kubernetes"),
        ({"WSL_DISTRO_NAME": "Ubuntu"}, [], "WSL"),
        ({}, ["/.dockerenv"], "a container"),
        ({}, [], "this machine"),
    ],
)
def test_places_are_known_by_their_variables_and_files(tmp_path, variables, files, name):
    for file in files:
        (tmp_path / file.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file.lstrip("/")).touch()
    assert find_host(variables, tmp_path).name == name


def test_the_line_for_a_start_hook_is_one_that_a_shell_reads_back(tmp_path):
    home = Home(tmp_path / 'it\'s 100% "mine"; $(false)')
    launcher = home.root / "bin" / "firstlight"
    launcher.parent.mkdir(parents=True)
    launcher.write_text('#!/bin/sh\nprintf "%s|" "$0" "$@"\n')
    launcher.chmod(0o755)
    hook = start_hook(home, {"VAST_CONTAINERLABEL": "C.1"}, tmp_path)
    said = subprocess.run(["sh", "-c", hook.line], capture_output=True, text=True, check=True)
    assert said.stdout == f"{launcher}|restore|"
    assert any(hook.line in each for each in hook.steps)
    pod = start_hook(home, {"RUNPOD_POD_ID": "abc"}, tmp_path)
    command = next(each.strip() for each in pod.steps if "bash -c" in each).replace("exec /start.sh", "echo then")
    said = subprocess.run(["sh", "-c", command.replace("bash", "sh")], capture_output=True, text=True, check=True)
    assert said.stdout == f"{launcher}|restore|then\n"


def test_a_home_that_goes_with_the_root_disk_is_told(tmp_path, monkeypatch):
    assert "goes with the root disk" in start_hook(Home(tmp_path), {"RUNPOD_POD_ID": "abc"}, tmp_path).warning
    kept = Home(Path("/workspace/firstlight"))
    assert start_hook(kept, {"RUNPOD_POD_ID": "abc"}, tmp_path).warning is None
    monkeypatch.setenv("RUNPOD_POD_ID", "abc")
    assert told(kept)[0].startswith("Nothing starts services by itself")


def test_the_document_holds_everything_that_is_shown(machine):
    document = msgspec.json.decode(msgspec.json.encode(restored(machine), enc_hook=str))
    assert set(document) == {*(field.name for field in msgspec.structs.fields(Restored))}
