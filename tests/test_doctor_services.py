"""The doctor on services: systemd's answers, journals, dead detached servers, APIs open to the network."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.doctor_look import judge, look, told
from support.machine_tree import plant, program
from support.service_specs import spec as service_spec

from firstlight.doctor.probes import services
from firstlight.doctor.probes.services import OpenServer, ServicesSeen, engine_of, parse_show
from firstlight.doctor.probes.stories import story_of
from firstlight.doctor.probes.supervised import SupervisedSeen
from firstlight.home import Home
from firstlight.machine.facts import Init, Machine
from firstlight.serving.records import Detached, boot_id, process_start
from firstlight.serving.services.records import Record, save

LOGS = Path(__file__).parent / "data" / "logs"
OLLAMA_UNIT = "[Service]\nExecStart=/usr/local/bin/ollama serve\nUser=ollama\n"
VLLM_UNIT = "[Service]\nExecStart=/srv/env/bin/python -m vllm serve /srv/m\n"
UNITS = {"/etc/systemd/system/ollama.service": OLLAMA_UNIT, "/run/systemd/system": None}
FAILED = "Id=ollama.service\nActiveState=failed\nResult=exit-code\nExecMainStatus=1\nNRestarts=5\nUnitFileState=enabled"


def shown(folder: Path, answer: str, journal: Path | None = None, more: str = "") -> Path:
    """Put a systemctl and a journalctl on disk that answer so; returns their folder."""
    answers = folder / "answer.txt"
    folder.mkdir(exist_ok=True)
    answers.write_text(answer + "\n")
    program(folder, "systemctl", more, f'[ "$1" = show ] && exec /bin/cat {answers}', "exit 1")
    program(folder, "journalctl", f"exec /bin/cat {journal}" if journal else "exit 1")
    return folder


@pytest.fixture
def seen(tmp_path):
    """Return a function that reads the services of a tree with these programs on PATH."""

    def read(files, programs=None, **variables):
        root = plant(tmp_path / "tree", files)
        path = str(programs) if programs else ""
        return services.read(look(root, home=tmp_path / "home", PATH=path, HOME=str(tmp_path / "user"), **variables))

    return read


class TestUnits:
    def test_a_failed_unit_tells_the_true_cause_of_its_journal(self, seen, tmp_path):
        found = seen(UNITS, shown(tmp_path / "bin", FAILED, LOGS / "ollama" / "home-missing.log"))
        (finding,) = judge("services", services=found)
        assert (finding.status, finding.subject) == ("fail", "ollama")
        assert finding.summary.startswith("ollama.service failed: Ollama keeps its key under HOME")
        assert "systemd says only: exit-code, exit status 1, started again 5 times" in finding.detail
        assert "$HOME is not defined" in finding.evidence
        assert finding.remedy.commands == ["sudo systemctl edit ollama"]
        assert finding.remedy.needs_root

    def test_what_systemd_itself_says_is_understood(self, seen, tmp_path):
        found = seen(UNITS, shown(tmp_path / "bin", FAILED, LOGS / "systemd" / "unit-exec.log"))
        (finding,) = judge("services", services=found)
        assert "the program that the unit's ExecStart= names is not there" in finding.summary

    def test_without_a_journal_the_command_to_read_it_is_named(self, seen, tmp_path):
        (finding,) = judge("services", services=seen(UNITS, shown(tmp_path / "bin", FAILED)))
        assert finding.summary == "ollama.service failed (exit-code, exit status 1, started again 5 times)"
        assert finding.remedy.commands == ["journalctl -u ollama -n 200 --no-pager"]

    def test_a_unit_that_starts_again_and_again_has_failed(self, seen, tmp_path):
        answer = FAILED.replace("failed", "activating")
        assert told(judge("services", services=seen(UNITS, shown(tmp_path / "bin", answer)))) == [("fail", "ollama")]

    @pytest.mark.parametrize(
        ("state", "status"), [("active", ["ok"]), ("inactive", ["warn"]), ("activating", ["ok"]), ("nonsense", ["ok"])]
    )
    def test_other_states(self, seen, tmp_path, state, status):
        answer = f"Id=ollama.service\nActiveState={state}\nNRestarts=0\nUnitFileState=enabled"
        found = judge("services", services=seen(UNITS, shown(tmp_path / "bin", answer)))
        assert [finding.status for finding in found] == status

    def test_several_units_are_asked_at_once(self, seen, tmp_path):
        files = {**UNITS, "/etc/systemd/system/chat.service": VLLM_UNIT}
        answer = f"{FAILED}\n\nId=chat.service\nActiveState=active\nResult=success\nNRestarts=0"
        found = judge("services", services=seen(files, shown(tmp_path / "bin", answer)))
        assert sorted(told(found)) == [("fail", "ollama"), ("ok", "chat")]

    def test_without_a_running_systemd_nothing_is_asked(self, seen, tmp_path):
        files = {"/etc/systemd/system/ollama.service": OLLAMA_UNIT}
        found = judge("services", services=seen(files, shown(tmp_path / "bin", FAILED)))
        assert [finding.status for finding in found] == ["skip"]

    def test_no_unit_at_all(self, seen):
        assert [finding.status for finding in judge("services", services=seen({"/etc": None}))] == ["skip"]

    def test_a_systemctl_that_hangs_costs_little(self, seen, tmp_path, monkeypatch):
        monkeypatch.setattr(services, "SHOW_SECONDS", 0.3)
        began = time.monotonic()
        found = seen(UNITS, shown(tmp_path / "bin", FAILED, more="/bin/sleep 300"))
        assert time.monotonic() - began < 150  # it would hang for 300
        assert [finding.status for finding in judge("services", services=found)] == ["skip"]

    @pytest.mark.parametrize("output", ["", "\n\n\n", "Id\nActiveState", "nonsense=\n\n=x", "\0\0"])
    def test_odd_answers_of_systemctl_are_no_traceback(self, output):
        assert parse_show(output) == {}


class TestSupervised:
    @pytest.mark.parametrize(
        ("state", "runs", "status", "command"),
        [
            ("RUNNING", True, "ok", None),
            ("STARTING", True, "ok", None),
            ("STOPPED", True, "warn", "firstlight service.start chat"),
            ("FATAL", True, "fail", "firstlight service.logs chat"),
            ("BACKOFF", True, "fail", "firstlight service.logs chat"),
            ("", False, "warn", "firstlight restore"),
        ],
    )
    def test_a_service_under_our_supervisor(self, state, runs, status, command):
        service = SupervisedSeen(name="chat", engine="vllm", state=state, log="/h/service.log", supervisor=runs)
        (finding,) = judge("services", services=ServicesSeen(supervised=(service,)))
        assert (finding.status, finding.subject) == (status, "chat")
        assert (finding.remedy.commands if finding.remedy else []) == ([command] if command else [])

    def test_one_that_was_given_up_tells_the_true_cause_of_its_log(self):
        story = story_of(LOGS / "ollama" / "home-missing.log", "ollama")
        service = SupervisedSeen(name="chat", engine="ollama", state="FATAL", log="/h/service.log", story=story)
        (finding,) = judge("services", services=ServicesSeen(supervised=(service,)))
        assert finding.summary.startswith("the service chat failed: Ollama keeps its key under HOME")

    @pytest.mark.parametrize(("runs", "status"), [(True, "ok"), (False, "warn")])
    def test_a_supervisor_of_ours_is_one(self, runs, status):
        here = Machine(init=Init(system="bash"))
        service = SupervisedSeen(name="chat", engine="vllm", state="", log="/h/service.log", supervisor=runs)
        (finding,) = judge("supervisor", machine=here, services=ServicesSeen(supervised=(service,)))
        assert finding.status == status
        assert (finding.remedy.commands if finding.remedy else ["firstlight restore"]) == ["firstlight restore"]

    def test_a_supervisor_that_has_ended_is_seen(self, tmp_path):
        home = Home(tmp_path / "home")
        (home.root / "supervisor").mkdir(parents=True)
        spec = service_spec(folder=home.services / "chat", scope="supervisor")
        spec.folder.mkdir(parents=True)
        save(Record(spec=spec, installed="2026-11-23T00:00:00Z"))
        found = services.read(look(tmp_path / "tree", home=home.root)).supervised
        assert [(each.name, each.supervisor, each.state) for each in found] == [("chat", False, "")]


def write_record(home: Path, name: str, *, alive: bool, log: Path) -> Path:
    record = Detached(
        name=name,
        pid=os.getpid(),
        pid_start=(process_start(os.getpid()) or 0) if alive else 1,
        boot_id=boot_id(),
        engine="vllm",
        model="m",
        endpoint="http://127.0.0.1:8000",
        started=0.0,
        log=str(log),
    )
    path = home / "services" / name / "running.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**{key: getattr(record, key) for key in record.__struct_fields__}, "details": {}}))
    return path


class TestRecords:
    def test_a_dead_detached_server_tells_why(self, seen, tmp_path):
        log = LOGS / "vllm" / "gpu-memory-held.log"
        write_record(tmp_path / "home", "chat", alive=False, log=log)
        (finding,) = judge("detached", services=seen({}))
        assert (finding.status, finding.subject) == ("warn", "chat")
        assert finding.summary == "the server chat (vllm, m) is dead: another process holds a part of the GPU's memory"
        assert str(log) in finding.detail

    def test_without_a_log_the_record_can_be_removed(self, seen, tmp_path):
        path = write_record(tmp_path / "home", "chat", alive=False, log=tmp_path / "gone.log")
        (finding,) = judge("detached", services=seen({}))
        assert [action.path for action in finding.remedy.actions] == [str(path)]
        assert finding.remedy.commands == ["firstlight down chat"]

    def test_a_live_one_is_ok(self, seen, tmp_path):
        write_record(tmp_path / "home", "chat", alive=True, log=tmp_path / "gone.log")
        assert told(judge("detached", services=seen({}))) == [("ok", "chat")]

    def test_a_record_that_cannot_be_read_is_told(self, seen, tmp_path):
        path = tmp_path / "home" / "services" / "odd" / "running.json"
        path.parent.mkdir(parents=True)
        path.write_text("{")
        (finding,) = judge("detached", services=seen({}))
        assert (finding.status, finding.subject) == ("warn", str(path))
        assert finding.remedy.automatic

    def test_a_start_that_failed_is_told_though_it_left_no_record(self, seen, tmp_path):
        folder = tmp_path / "home" / "services" / "chat"
        folder.mkdir(parents=True)
        (folder / "server.log").write_bytes((LOGS / "vllm" / "no-cache-blocks.log").read_bytes())
        (folder / "exit-status").write_text("1\n")
        (finding,) = judge("detached", services=seen({}))
        assert (finding.status, finding.subject, finding.affects) == ("warn", "chat", ["vllm"])
        assert finding.summary.startswith("the server chat ended with exit status 1: the weights already fill")

    @pytest.mark.parametrize("status", ["0", "143", "130", "nonsense", ""])
    def test_a_server_that_was_stopped_is_no_failure(self, seen, tmp_path, status):
        folder = tmp_path / "home" / "services" / "chat"
        folder.mkdir(parents=True)
        (folder / "exit-status").write_text(status)
        assert [finding.status for finding in judge("detached", services=seen({}))] == ["skip"]

    def test_a_failure_of_long_ago_is_forgotten(self, seen, tmp_path):
        folder = tmp_path / "home" / "services" / "chat"
        folder.mkdir(parents=True)
        (folder / "exit-status").write_text("1")
        os.utime(folder / "exit-status", (1.0, 1.0))
        assert [finding.status for finding in judge("detached", services=seen({}))] == ["skip"]

    def test_no_record_at_all(self, seen):
        assert [finding.status for finding in judge("detached", services=seen({}))] == ["skip"]

    def test_a_log_that_is_no_log_tells_nothing(self, tmp_path):
        binary = tmp_path / "server.log"
        binary.write_bytes(bytes(range(256)) * 100)
        assert story_of(binary, "vllm") is None


HEADER = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
ROW = "   {n}: {address}:{port:04X} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  {uid} 0 {inode} 1\n"


def table(*rows: tuple[str, int, int], state: str = "0A") -> str:
    return HEADER + "".join(
        ROW.format(n=n, address=address, port=port, state=state, uid=0, inode=inode)
        for n, (address, port, inode) in enumerate(rows)
    )


ANY, ANY6, LOOPBACK = "00000000", "0" * 32, "0100007F"


def process(pid: int, inode: int, *words: str, environment: str = "HOME=/root\0") -> dict[str, str]:
    return {
        f"/proc/{pid}/cmdline": "\0".join(words) + "\0",
        f"/proc/{pid}/environ": environment,
        f"/proc/{pid}/fd-{inode}": "",
    }


@pytest.fixture
def opened(tmp_path):
    """Return a function that reads which servers of a tree are open to the network."""

    def read(files, links):
        root = plant(tmp_path / "tree", files)
        for pid, inode in links.items():
            folder = root / "proc" / str(pid) / "fd"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "7").symlink_to(f"socket:[{inode}]")
        return services.read(look(root, home=tmp_path / "home", HOME=str(tmp_path / "user"))).open

    return read


class TestOpenServers:
    def test_ollama_on_every_address_has_no_key(self, opened):
        files = {"/proc/net/tcp6": table((ANY6, 11434, 55)), **process(9, 55, "/usr/local/bin/ollama", "serve")}
        found = opened(files, {9: 55})
        assert found == (OpenServer(engine="ollama", port=11434, address="::", pid=9, key=False),)
        (finding,) = judge("api-open", services=ServicesSeen(open=found))
        assert finding.status == "warn"
        assert finding.summary.endswith("(port 11434): nobody is asked for a key")
        assert finding.evidence == ":::11434, process 9"

    def test_a_key_of_ollamas_cloud_is_no_key_of_its_api(self, opened):
        words = ("/usr/bin/ollama", "serve")
        files = {"/proc/net/tcp": table((ANY, 11434, 55))}
        files |= process(9, 55, *words, environment="OLLAMA_API_KEY=secret\0")
        assert opened(files, {9: 55})[0].key is False

    @pytest.mark.parametrize(
        ("words", "environment", "key"),
        [
            (("/env/bin/vllm", "serve", "/m", "--api-key", "secret"), "", True),
            (("python", "-m", "vllm.entrypoints.cli.main", "serve", "/m", "--api-key=secret"), "", True),
            (("/env/bin/python3", "/env/bin/vllm", "serve", "/m"), "VLLM_API_KEY=secret\0", True),
            (("/env/bin/vllm", "serve", "/m"), "VLLM_API_KEY=\0HOME=/\0", False),
            (("/env/bin/vllm", "serve", "/m"), "HOME=/\0", False),
        ],
    )
    def test_a_key_is_seen_in_flags_and_variables_and_never_told(self, opened, words, environment, key):
        files = {"/proc/net/tcp": table((ANY, 8001, 77)), **process(12, 77, *words, environment=environment)}
        found = opened(files, {12: 77})
        assert [(server.engine, server.port, server.key) for server in found] == [("vllm", 8001, key)]
        findings = judge("api-open", services=ServicesSeen(open=found))
        assert [finding.status for finding in findings] == ["ok" if key else "warn"]
        assert "secret" not in repr(findings)

    def test_loopback_closed_and_foreign_sockets_are_no_matter(self, opened):
        rows = table((LOOPBACK, 11434, 1), (ANY, 22, 2)) + table((ANY, 8000, 3), state="01").removeprefix(HEADER)
        files = {"/proc/net/tcp": rows, **process(5, 2, "/usr/sbin/sshd", "-D")}
        assert opened(files, {5: 2}) == ()

    def test_of_a_process_that_cannot_be_seen_only_a_port_of_its_own_tells(self, opened):
        found = opened({"/proc/net/tcp": table((ANY, 8000, 3), (ANY, 11434, 4))}, {})
        assert found == (OpenServer(engine="ollama", port=11434, address="0.0.0.0", key=False),)

    def test_where_a_key_cannot_be_seen_that_is_said(self):
        server = OpenServer(engine="vllm", port=8000, address="0.0.0.0", pid=7)
        (finding,) = judge("api-open", services=ServicesSeen(open=(server,)))
        assert (finding.status, finding.affects) == ("warn", ["vllm"])
        assert "cannot be seen from here" in finding.summary

    @pytest.mark.parametrize("text", ["", "nonsense", HEADER + "x y z\n", HEADER + "0: zz:1 a 0A\n", "\0\xff"])
    def test_an_odd_table_of_the_kernel_is_no_traceback(self, opened, text):
        assert opened({"/proc/net/tcp": text}, {}) == ()

    def test_a_real_socket_of_a_real_process_is_found(self, tmp_path):
        script = tmp_path / "vllm"
        script.write_text(
            "import socket, sys\ns = socket.socket()\ns.bind(('0.0.0.0', 0))\ns.listen()\n"
            "print(s.getsockname()[1], flush=True)\nsys.stdin.read()\n"
        )
        words = [sys.executable, str(script), "--api-key", "secret"]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            port = int(server.stdout.readline())
            found = services.read(look(home=tmp_path / "home", HOME=str(tmp_path))).open
            server.stdin.close()
        assert OpenServer(engine="vllm", port=port, address="0.0.0.0", pid=server.pid, key=True) in found
        socket.socket().close()


@pytest.mark.parametrize(
    ("words", "engine"),
    [
        (["/opt/ollama/bin/nginx", "-g"], None),
        (["/srv/vllm/env/bin/python", "train.py"], None),
        (["python", "-m", "transformers.cli.transformers", "serve"], "transformers"),
        (["/env/bin/transformers", "serve"], "transformers"),
        (["/usr/bin/env", "ollama", "serve"], "ollama"),
        ([], None),
    ],
)
def test_an_engine_is_known_by_its_program_and_not_by_a_folder(words, engine):
    assert engine_of(words, ["vllm", "transformers", "ollama"]) == engine
