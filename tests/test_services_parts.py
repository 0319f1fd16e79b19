"""Parts of services that need no systemd: shares of a GPU, who runs it, secrets out of sight, what others tell."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from support.command import firstlight
from support.service_specs import GPU, spec

from firstlight.catalogue.loading import load_catalogue
from firstlight.errors import FirstlightError, UsageError
from firstlight.home import Home
from firstlight.serving.services import ready, scopes, systemctl, users, with_key
from firstlight.serving.services.failures import explain
from firstlight.serving.services.gpu import parse_apps
from firstlight.serving.services.metrics import total
from firstlight.serving.services.records import Record, all_services, load, require, save
from firstlight.serving.services.seen import parse_status
from firstlight.serving.services.spec import ServiceSpec, is_loopback
from firstlight.staying.sharing import require_memory
from firstlight.staying.wish import Wish, check_wish

VLLM = load_catalogue().engines["vllm"]
JOURNAL = """\
2026-11-23T17:00:00+0000 box chat[12]: loading
2026-11-23T17:00:01+0000 box chat[12]: RuntimeError: the first reason
2026-11-23T17:00:01+0000 box systemd[1]: chat.service: Main process exited, code=exited, status=1/FAILURE
2026-11-23T17:00:02+0000 box systemd[1]: chat.service: Scheduled restart job, restart counter is at 1.
2026-11-23T17:00:03+0000 box chat[13]: RuntimeError: the last reason
2026-11-23T17:00:03+0000 box systemd[1]: chat.service: Main process exited, code=exited, status=1/FAILURE
2026-11-23T17:00:04+0000 box systemd[1]: chat.service: Scheduled restart job, restart counter is at 2.
2026-11-23T17:00:05+0000 box chat[14]: loading again
"""


def recorded(home: Home, name: str, share: float | None, devices: tuple[str, ...] = GPU) -> ServiceSpec:
    made = spec(name=name, folder=home.services / name, memory_share=share, devices=devices)
    save(Record(spec=made, installed="2026-11-23T00:00:00Z"))
    return made


def test_two_services_that_would_take_more_than_one_gpu_has_are_refused_with_the_flag_that_divides_it(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path)
    recorded(home, "first", 0.6)
    with pytest.raises(FirstlightError) as refused:
        require_memory(home, spec(name="second", memory_share=0.92), VLLM, [])
    assert "first takes 60%" in str(refused.value.why)
    assert refused.value.fix == "-- --gpu-memory-utilization 0.35"
    require_memory(home, spec(name="second", memory_share=0.4), VLLM, [])


def test_services_on_different_gpus_do_not_share(tmp_path: Path) -> None:
    home = Home(tmp_path)
    recorded(home, "first", 0.92, ("/dev/nvidiactl", "/dev/nvidia1"))
    require_memory(home, spec(name="second", memory_share=0.92), VLLM, [])


def test_a_service_that_makes_room_is_not_counted(tmp_path: Path) -> None:
    home = Home(tmp_path)
    recorded(home, "first", 0.92)
    leaving = load(home, "first")
    assert leaving is not None
    require_memory(home, spec(name="second", memory_share=0.92), VLLM, [leaving])


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.1.2.3"])
def test_loopback_needs_no_key(host: str) -> None:
    assert is_loopback(host)
    check_wish(Wish(engine="transformers", model="m", host=host), load_catalogue().engines["transformers"])


@pytest.mark.parametrize("engine", ["transformers", "ollama"])
def test_an_engine_without_a_key_is_not_opened_unless_it_is_meant(engine: str) -> None:
    entry = load_catalogue().engines[engine]
    with pytest.raises(UsageError, match="open to everyone"):
        check_wish(Wish(engine=engine, model="m", host="0.0.0.0"), entry)
    check_wish(Wish(engine=engine, model="m", host="0.0.0.0", allow_open=True), entry)


@pytest.mark.parametrize("host", ["", "a b", "0.0.0.0\n"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(UsageError):
        check_wish(Wish(engine="vllm", model="m", host=host), VLLM)


def test_only_an_engine_that_loads_on_demand_needs_no_model() -> None:
    check_wish(Wish(engine="ollama"), load_catalogue().engines["ollama"])
    with pytest.raises(UsageError, match="no model"):
        check_wish(Wish(engine="vllm"), VLLM)


def test_a_folder_that_lets_no_other_user_in_is_named(tmp_path: Path) -> None:
    inner = tmp_path / "closed" / "open"
    inner.mkdir(parents=True)
    above = tuple(str(folder) for folder in (tmp_path, *tmp_path.parents))  # pytest closes its own folders
    assert users.blocked("nobody", [inner], hidden=above) is None
    (tmp_path / "closed").chmod(0o700)
    obstacle = users.blocked("nobody", [inner], hidden=above)
    assert obstacle is not None
    assert obstacle.obstacle == tmp_path / "closed"
    assert "drwx------" in obstacle.words
    assert users.blocked("root", [inner]) is None
    assert users.blocked("nobody", [inner], hidden=(*above, str(tmp_path / "closed"))) is None


def test_a_missing_user_is_refused_with_a_near_name() -> None:
    with pytest.raises(UsageError, match='did you mean "nobody"'):
        users.require_user("nobodyy")


def test_a_key_given_by_flag_alone_is_in_no_process_list(tmp_path: Path) -> None:
    package = tmp_path / "keyed"
    package.mkdir()
    (package / "__main__.py").write_text(
        "import json, os, pathlib, sys\n"
        "shown = pathlib.Path('/proc/self/cmdline').read_bytes().decode()\n"
        "print(json.dumps([sys.argv[1:], shown, 'SECRET' in os.environ, __name__]))\n"
    )
    helper = Path(str(with_key.__file__))
    words = [sys.executable, str(helper), "--variable", "SECRET", "--flag", "--api-keys", "-m", "keyed", "serve", "a b"]
    ended = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "SECRET": "hush-hush"}, capture_output=True, text=True, check=True
    )
    given, shown, left, name = json.loads(ended.stdout)
    assert given == ["serve", "a b", "--api-keys", "hush-hush"]
    assert "hush-hush" not in shown
    assert (left, name) == (False, "__main__")
    without = subprocess.run(
        words, cwd=tmp_path, env={**os.environ, "SECRET": ""}, capture_output=True, text=True, check=False
    )
    assert (without.returncode, "SECRET is not set" in without.stderr) == (1, True)


class Loading(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_response(200 if self.server.asked > 3 else 503)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, *_words: object) -> None:
        pass


def run_ready(port: int, *more: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-I", "-S", str(ready.__file__), "--port", str(port), "--timeout", "60", *more]
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


def test_waiting_ends_with_the_first_good_answer() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Loading)
    server.asked = 0  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        ended = run_ready(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
    assert (ended.returncode, server.asked) == (0, 4)  # type: ignore[attr-defined]


def test_waiting_ends_as_soon_as_the_engine_is_gone() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    ended = run_ready(9, "--pid", str(gone.pid))
    assert (ended.returncode, "ended before it answered" in ended.stdout) == (1, True)


def test_the_failure_is_that_of_the_last_run_which_ended() -> None:
    told = {
        "ActiveState": "active",
        "SubState": "running",
        "NRestarts": "2",
        "MainPID": "14",
        "UnitFileState": "enabled",
    }
    status = parse_status(spec(), told, "always", lambda: JOURNAL)
    assert (status.state, status.restarts, status.enabled, status.survives) == ("running", 2, True, "always")
    assert status.failure is not None
    assert status.failure.line == "RuntimeError: the last reason"


def test_a_service_that_never_failed_needs_no_log() -> None:
    def never() -> str:
        raise AssertionError

    told = {"ActiveState": "active", "SubState": "running", "NRestarts": "0", "MemoryCurrent": "18446744073709551615"}
    status = parse_status(spec(), told, "always", never)
    assert (status.failure, status.memory) == (None, None)
    assert "not enabled" in status.survives


@pytest.mark.parametrize(
    ("active", "sub", "state"),
    [
        ("activating", "start-post", "starting"),
        ("activating", "auto-restart", "restarting"),
        ("deactivating", "stop-sigterm", "stopped"),
        ("failed", "failed", "failed"),
        ("", "", "unknown"),
    ],
)
def test_states_of_systemd_in_our_words(active: str, sub: str, state: str) -> None:
    assert parse_status(spec(), {"ActiveState": active, "SubState": sub}, "", lambda: "").state == state


def test_systemds_own_causes_name_this_unit() -> None:
    log = "2026-11-23T17:00:01+0000 box systemd[1]: chat.service: Failed at step EXEC spawning /x: No such file"
    found = explain(spec(), log, "chat failed", fix="look")
    assert found.cause == "unit-exec"
    assert "systemctl cat chat.service" in str(found.fix)


METRICS = """\
# HELP vllm:request_success_total Count of successfully processed requests.
# TYPE vllm:request_success_total counter
vllm:request_success_total{finished_reason="stop",model_name="m"} 40.0
vllm:request_success_total{finished_reason="length",model_name="a } b"} 2.0
vllm:request_success_total_other 9.0
"""


def test_a_counter_is_summed_over_its_labels() -> None:
    assert total(METRICS, "vllm:request_success_total") == 42.0
    assert total(METRICS, "vllm:nothing") is None


def test_the_gpu_memory_of_a_service_is_that_of_its_own_processes() -> None:
    assert parse_apps("12, 100\n13, 20\n99, 7000\n14, [N/A]\n", [12, 13, 14]) == 120 * 1024 * 1024
    assert parse_apps("14, [N/A]\n", [14]) is None


def test_records_go_through_json_whole_and_hold_no_secret(tmp_path: Path) -> None:
    home = Home(tmp_path)
    made = recorded(home, "chat", 0.5)
    found = load(home, "chat")
    assert found is not None
    assert found.spec == made
    (home.services / "broken").mkdir()
    (home.services / "broken" / "service.json").write_text("{")
    assert [record.spec.name for record in all_services(home)] == ["chat"]
    with pytest.raises(UsageError, match='did you mean "chat"'):
        require(home, "chta")


def test_without_systemd_auto_takes_the_supervisor_and_the_others_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemctl, "RUNTIME", Path("/nonexistent"))
    chosen = scopes.choose("auto")
    assert chosen.scope == "supervisor"
    assert "nothing survives a reboot by itself" in chosen.survives
    for asked in ("system", "user"):
        with pytest.raises(FirstlightError, match="needs systemd") as refused:
            scopes.choose(asked)  # type: ignore[arg-type]
        assert refused.value.fix == "--scope supervisor"


def test_service_commands_without_services_say_what_to_do(tmp_path: Path) -> None:
    for verb in ("status", "start", "stop", "logs", "remove"):
        ended = firstlight(f"service.{verb}", home=tmp_path)
        assert (ended.code, "firstlight service.install" in ended.err) == (1, True)
    assert firstlight("service.install", "vlm", "--model", "m", home=tmp_path).code == 2
    assert firstlight("service.logs", "--lines", "many", home=tmp_path).code == 2


def test_specs_are_values() -> None:
    one, other = spec(), msgspec.structs.replace(spec(), port=8001)
    assert one != other
    assert other.base_url == "http://127.0.0.1:8001"
    assert msgspec.structs.replace(one, host="::").base_url == "http://[::1]:8000"
