"""Servers: watched while they load, told dead with the true cause, stopped whole, and gone when we are gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.patience import with_patience
from support.service_specs import spec as service_spec

from firstlight.errors import FirstlightError, UsageError, VerificationFailed
from firstlight.events import StepProgress, silent, step
from firstlight.home import Home
from firstlight.process import Command
from firstlight.serving.ports import free_port, port_holder, require_free_port
from firstlight.serving.records import process_start
from firstlight.serving.running import detach, list_running, rotate_log, stop_running, wait_detached
from firstlight.serving.server import RunningServer, ServerSpec
from firstlight.serving.services.records import Record as ServiceRecord
from firstlight.serving.services.records import save as save_service

PROGRAM = Path(__file__).parent / "support" / "loading_server.py"


def spec_of(tmp_path: Path, *words: str, port: int | None = None, **changes) -> ServerSpec:
    number = free_port() if port is None else port
    argv = (sys.executable, str(PROGRAM), "--port", str(number), *words)
    values = {"name": "loader", "log": tmp_path / "log" / "server.log", "engine": "vllm", "model_id": "tiny"}
    return ServerSpec(command=Command(argv), port=number, **{"ready_timeout": 60.0, **values, **changes})


def wait_ready(server: RunningServer, failure: type[FirstlightError] = FirstlightError) -> None:
    with step(silent, "start", "start") as handle:
        server.wait_ready(handle, failure)


def alive(pid: int) -> bool:
    return process_start(pid) is not None


def until(condition, seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def worker_ids(path: Path) -> list[int]:
    assert until(path.exists)
    return [int(word) for word in path.read_text().split()]


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path / "home")
    made.prepare()
    yield made
    for record in list_running(made):
        if record.alive:
            stop_running(made, record.name, grace=1.0)


# A server of ours


def test_a_loading_server_is_waited_for_and_stopped_whole(tmp_path):
    workers = tmp_path / "workers"
    with RunningServer.start(spec_of(tmp_path, "--workers", str(workers))) as server:
        wait_ready(server)
        assert server.start_seconds > 0.2
        assert server.exit_status() is None
        pids = worker_ids(workers)
        assert all(alive(pid) for pid in pids)
        server.stop(grace=2.0)
    assert until(lambda: not any(alive(pid) for pid in pids))
    assert server.exit_status() is not None
    assert "loading the weights" in server.spec.log.read_text()


def test_what_a_loading_server_says_is_told_as_progress(tmp_path):
    events = []
    server = RunningServer.start(spec_of(tmp_path, "--load", "2.5"))
    with server, step(events.append, "start", "start the engine") as handle:
        server.wait_ready(handle)
    details = [event.detail for event in events if isinstance(event, StepProgress)]
    assert any("loading the weights" in detail for detail in details)
    assert not any("it/s" in detail for detail in details)


def test_a_dead_server_is_told_at_once_with_the_true_cause(tmp_path):
    spec = spec_of(tmp_path, "--end", "die", "--load", "0.2", ready_timeout=3600.0)
    with RunningServer.start(spec) as server, pytest.raises(VerificationFailed) as caught:
        wait_ready(server, VerificationFailed)
    error = caught.value
    assert "exit status 1" in error.what
    assert "No available memory for the cache blocks" in error.why
    assert "nothing is left for the KV cache" in error.why
    assert "firstlight" in error.fix
    assert str(spec.log) in error.evidence
    assert "Engine core initialization failed" not in error.why


def test_a_silent_death_tells_the_status_and_the_log(tmp_path):
    spec = spec_of(tmp_path, "--end", "silent")
    with RunningServer.start(spec) as server, pytest.raises(FirstlightError) as caught:
        wait_ready(server)
    assert "exit status 3" in caught.value.what
    assert caught.value.why == "its log is empty"
    assert str(spec.log) in caught.value.fix


def test_a_server_that_the_kernel_killed_ran_out_of_memory(tmp_path):
    with RunningServer.start(spec_of(tmp_path, "--end", "kill")) as server, pytest.raises(FirstlightError) as caught:
        wait_ready(server)
    assert "signal 9" in caught.value.what
    assert "memory" in caught.value.why
    assert "dmesg" in caught.value.fix


def test_the_cause_of_an_earlier_run_in_the_same_log_is_not_told(tmp_path):
    spec = spec_of(tmp_path, "--end", "silent")
    spec.log.parent.mkdir()
    spec.log.write_text("ValueError: No available memory for the cache blocks.\n")
    with RunningServer.start(spec) as server, pytest.raises(FirstlightError) as caught:
        wait_ready(server)
    assert "cache blocks" not in caught.value.why


def test_a_server_that_never_opens_its_port_is_stopped(tmp_path):
    def claim(seconds):
        spec = spec_of(tmp_path, "--end", "never", "--load", "0", ready_timeout=seconds)
        with RunningServer.start(spec) as server:
            with pytest.raises(FirstlightError) as caught:
                wait_ready(server)
            assert server.exit_status() is not None
        assert f"within {seconds:.0f} s" in caught.value.what
        assert "loading the weights" in caught.value.why

    with_patience((2.0, 20.0, 100.0), claim)


def test_a_server_that_ignores_term_is_killed(tmp_path):
    with RunningServer.start(spec_of(tmp_path, "--ignore-term")) as server:
        wait_ready(server)
        server.stop(grace=0.5)
        assert server.exit_status() is not None
        server.stop()


def test_the_processes_of_a_server_that_died_are_cleared_up(tmp_path):
    workers = tmp_path / "workers"
    spec = spec_of(tmp_path, "--workers", str(workers), "--end", "die", "--load", "0.5")
    with RunningServer.start(spec) as server:
        pids = worker_ids(workers)
        with pytest.raises(FirstlightError):
            wait_ready(server)
    assert not any(alive(pid) for pid in pids)


def test_a_missing_program_and_an_unwritable_log_are_told(tmp_path):
    spec = ServerSpec(
        name="x", command=Command(("/nowhere/engine",)), port=free_port(), log=tmp_path / "l", engine="x", model_id="m"
    )
    with pytest.raises(FirstlightError, match="cannot start /nowhere/engine"):
        RunningServer.start(spec)
    (tmp_path / "file").write_text("")
    with pytest.raises(FirstlightError, match="cannot be written"):
        RunningServer.start(spec_of(tmp_path, log=tmp_path / "file" / "server.log"))


def test_a_server_finds_the_environment_and_folder_of_its_command(tmp_path):
    program = "import os; print('here', os.getcwd(), os.environ['MARK'], 'HOME' in os.environ, flush=True)"
    command = Command((sys.executable, "-c", program), {"MARK": "set", "HOME": None}, tmp_path)
    spec = spec_of(tmp_path)
    spec = ServerSpec(name="x", command=command, port=spec.port, log=spec.log, engine="x", model_id="m")
    with RunningServer.start(spec) as server, pytest.raises(FirstlightError):
        wait_ready(server)
    assert f"here {tmp_path} set False" in spec.log.read_text()


def test_a_held_descriptor_reaches_the_program(tmp_path):
    read, write = os.pipe()
    with os.fdopen(read) as told:
        program = f"import os; os.write({write}, b'held')"
        spec = spec_of(tmp_path)
        spec = ServerSpec(
            name="x",
            command=Command((sys.executable, "-c", program)),
            port=spec.port,
            log=spec.log,
            engine="x",
            model_id="m",
        )
        with RunningServer.start(spec, hold=(write,)) as server:
            assert until(lambda: server.exit_status() is not None)
        os.close(write)
        assert told.read() == "held"


PARENT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_serving import RunningServer, spec_of, wait_ready
server = RunningServer.start(spec_of(Path({folder!r}), "--workers", {workers!r}, "--ignore-term"))
wait_ready(server)
print("ready", flush=True)
time.sleep(600)
"""


def test_a_killed_parent_takes_the_whole_server_with_it(tmp_path):
    workers = tmp_path / "workers"
    text = PARENT.format(tests=str(Path(__file__).parent), folder=str(tmp_path), workers=str(workers))
    with subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline() == "ready\n"
        pids = worker_ids(workers)
        assert all(alive(pid) for pid in pids)
        parent.kill()
    assert until(lambda: not any(alive(pid) for pid in pids)), "workers outlived their killed owner"


def test_a_killed_guard_does_not_leave_the_program_behind(tmp_path):
    with RunningServer.start(spec_of(tmp_path)) as server:
        wait_ready(server)
        holder = port_holder(server.spec.port)
        assert holder is not None
        assert holder.pid not in {None, server.pid}
        os.kill(server.pid, signal.SIGKILL)
        assert until(lambda: not alive(holder.pid))


def test_a_term_for_the_guard_alone_reaches_the_program(tmp_path):
    with RunningServer.start(spec_of(tmp_path)) as server:
        wait_ready(server)
        os.kill(server.pid, signal.SIGTERM)
        assert until(lambda: server.exit_status() is not None)
        assert server.exit_status() == 128 + signal.SIGTERM


def test_wait_returns_the_exit_status(tmp_path):
    with RunningServer.start(spec_of(tmp_path, "--end", "silent")) as server:
        assert server.wait() == 3


@pytest.mark.parametrize(
    ("host", "url"), [("0.0.0.0", "http://127.0.0.1:9"), ("::", "http://[::1]:9"), ("h", "http://h:9")]
)
def test_a_server_on_all_addresses_is_reached_by_loopback(tmp_path, host, url):
    assert spec_of(tmp_path, port=9, host=host).base_url == url


def test_another_server_that_answers_on_the_port_is_not_taken_for_ours(tmp_path):
    spec = spec_of(tmp_path, "--end", "never", "--load", "0")
    other = [sys.executable, str(PROGRAM), "--port", str(spec.port), "--load", "0"]
    with RunningServer.start(spec) as server, subprocess.Popen(other, stdout=subprocess.DEVNULL) as intruder:
        try:
            with pytest.raises(FirstlightError, match="another server answers") as caught:
                wait_ready(server)
            assert str(intruder.pid) in caught.value.why
        finally:
            intruder.kill()


def test_no_proxy_stands_between_us_and_the_server(tmp_path, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with RunningServer.start(spec_of(tmp_path)) as server:
        wait_ready(server)


# Ports


def test_a_taken_port_is_told_with_its_holder_and_a_free_one():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        holder = port_holder(port)
        assert holder is not None
        assert (holder.pid, holder.address) == (os.getpid(), "127.0.0.1")
        with pytest.raises(FirstlightError, match=f"port {port} is taken") as caught:
            require_free_port("127.0.0.1", port)
    assert f"process {os.getpid()}" in caught.value.why
    assert "pytest" in caught.value.why
    another = int(caught.value.fix.removeprefix("--port "))
    require_free_port("127.0.0.1", another)
    require_free_port("127.0.0.1", port)


@pytest.mark.parametrize(("mine", "fix"), [(True, "firstlight service.stop chat "), (False, "--port ")])
def test_a_port_held_by_a_service_of_ours_is_told_with_its_name(tmp_path, mine, fix):
    home = Home(tmp_path)
    words = tuple(Path("/proc/self/cmdline").read_text().split("\0")[:-1])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        spec = service_spec(folder=home.services / "chat", port=port, argv=words if mine else ("/bin/other",))
        spec.folder.mkdir(parents=True)
        save_service(ServiceRecord(spec=spec, installed="2026-11-23T00:00:00Z"))
        with pytest.raises(FirstlightError, match=f"port {port} is taken") as caught:
            require_free_port("127.0.0.1", port, home)
    assert caught.value.fix.startswith(fix)


def test_a_port_of_all_addresses_and_of_ip6_is_seen():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        holder = port_holder(listener.getsockname()[1])
        assert holder is not None
        assert holder.address == "::1"
    with socket.create_server(("0.0.0.0", 0)) as listener, pytest.raises(FirstlightError, match="taken"):
        require_free_port("127.0.0.1", listener.getsockname()[1])


def test_a_port_that_is_bound_and_not_yet_opened_is_taken():
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind(("127.0.0.1", 0))
        with pytest.raises(FirstlightError, match="is taken") as caught:
            require_free_port("127.0.0.1", bound.getsockname()[1])
    assert "not opened it yet" in caught.value.why


def test_leftovers_of_closed_connections_are_no_obstacle():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _address = listener.accept()
            accepted.close()
            assert client.recv(1) == b""
    with socket.socket() as probe, pytest.raises(OSError, match="in use"):
        probe.bind(("127.0.0.1", port))  # the leftover is really there
    require_free_port("127.0.0.1", port)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_number_that_is_no_port_is_refused(port):
    with pytest.raises(UsageError):
        require_free_port("127.0.0.1", port)


@pytest.mark.parametrize("host", ["203.0.113.77", "no such host", "not.a.host.invalid"])
def test_an_address_that_is_not_ours_is_refused(host):
    with pytest.raises(UsageError):
        require_free_port(host, free_port())


def test_the_port_of_a_detached_server_of_ours_says_how_to_stop_it(tmp_path, home):
    spec = spec_of(tmp_path, name="mine")
    record = detach(spec, home)
    with step(silent, "start", "start") as handle:
        wait_detached(spec, record, home, handle)
    with pytest.raises(FirstlightError, match="is taken") as caught:
        require_free_port("127.0.0.1", spec.port, home)
    assert "firstlight down mine" in caught.value.fix


# Detached servers

DETACHER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_serving import Home, detach, spec_of
detach(spec_of(Path({folder!r}), name="kept", port={port}), Home(Path({home!r})))
"""


def test_a_detached_server_outlives_its_starter_and_is_stopped_by_name(tmp_path, home):
    port = free_port()
    text = DETACHER.format(tests=str(Path(__file__).parent), folder=str(tmp_path), port=port, home=str(home.root))
    subprocess.run([sys.executable, "-c", text], check=True)
    [record] = list_running(home)
    assert (record.name, record.model, record.endpoint) == ("kept", "tiny", f"http://127.0.0.1:{port}")
    assert record.alive
    with step(silent, "start", "start") as handle:
        wait_detached(spec_of(tmp_path, name="kept", port=port), record, home, handle)
    fields = Path(f"/proc/{record.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[3]) == record.pid, "it leads a session of its own"
    assert int(fields[4]) == 0, "it has no terminal"
    stopped = stop_running(home)
    assert (stopped.record, stopped.ran) == (record, True)
    assert not alive(record.pid)
    assert list_running(home) == []
    assert "loading the weights" in Path(record.log).read_text()


def test_a_detached_server_that_dies_leaves_its_cause_and_no_record(tmp_path, home):
    spec = spec_of(tmp_path, "--end", "die", name="dying")
    record = detach(spec, home)
    with step(silent, "start", "start") as handle, pytest.raises(VerificationFailed) as caught:
        wait_detached(spec, record, home, handle, VerificationFailed)
    assert "No available memory" in caught.value.why
    assert "exit status 1" in caught.value.what
    assert record.log in caught.value.evidence
    assert list_running(home) == []


def test_a_name_is_taken_only_while_its_server_runs(tmp_path, home):
    detach(spec_of(tmp_path, name="one"), home)
    with pytest.raises(FirstlightError, match="runs already") as caught:
        detach(spec_of(tmp_path, name="one"), home)
    assert caught.value.fix == "firstlight down one"
    log = home.services / "one" / "server.log"
    assert until(lambda: log.stat().st_size > 0)
    stop_running(home, "one", grace=1.0)
    again = detach(spec_of(tmp_path, name="one"), home)
    assert again.alive
    assert log.with_name("server.log.1").exists()


def test_unknown_names_are_told_with_what_runs(tmp_path, home):
    with pytest.raises(FirstlightError, match="no detached server runs"):
        stop_running(home)
    detach(spec_of(tmp_path, name="chat"), home)
    detach(spec_of(tmp_path, name="draft"), home)
    with pytest.raises(UsageError, match='did you mean "chat"') as caught:
        stop_running(home, "chatt")
    assert "draft" in caught.value.why
    with pytest.raises(UsageError, match="several servers run"):
        stop_running(home)


def test_a_process_that_got_the_recorded_number_is_never_touched(tmp_path, home):
    detach(spec_of(tmp_path, name="old"), home)
    path = home.services / "old" / "running.json"
    stop_text = path.read_text()
    stop_running(home, "old", grace=1.0)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True) as bystander:
        try:
            text = (
                stop_text.split('"pid":')[0]
                + f'"pid": {bystander.pid},'
                + stop_text.split('"pid":')[1].partition(",")[2]
            )
            path.write_text(text)
            [record] = list_running(home)
            assert (record.pid, record.alive) == (bystander.pid, False)
            stopped = stop_running(home, "old")
            assert not stopped.ran
            assert bystander.poll() is None
            assert not path.exists()
        finally:
            bystander.kill()


def test_a_damaged_record_hinders_no_one(tmp_path, home):
    folder = home.services / "broken"
    folder.mkdir(parents=True)
    (folder / "running.json").write_text("{")
    detach(spec_of(tmp_path, name="whole"), home)
    assert [record.name for record in list_running(home)] == ["whole"]
    with pytest.raises(FirstlightError, match="does not record") as caught:
        detach(spec_of(tmp_path, name="broken"), home)
    assert caught.value.fix.startswith("remove it: rm ")


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "ä", "x" * 65])
def test_a_name_that_cannot_be_a_folder_is_refused(tmp_path, home, name):
    with pytest.raises(UsageError):
        detach(spec_of(tmp_path, name=name), home)


def test_old_logs_are_few_and_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("firstlight.serving.running.OLD_LOG_BYTES", 10)
    log = tmp_path / "server.log"
    for text in ("first", "second", "third", "a long fourth run"):
        log.write_text(text)
        rotate_log(log)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "server.log.1": "fourth run",
        "server.log.2": "third",
    }
    rotate_log(log)
