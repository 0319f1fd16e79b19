"""Services under the supervisor: the life of a service on a machine without systemd, with the real program."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from firstlight.errors import FirstlightError, UsageError
from firstlight.events import Note, silent, step
from firstlight.home import Home
from firstlight.serving.ports import free_port
from firstlight.serving.records import process_start
from firstlight.serving.services.log_files import last_lines
from firstlight.serving.services.ready import answers
from firstlight.serving.services.spec import Readiness, ServiceSpec
from firstlight.serving.services.supervisor import SupervisorManager
from firstlight.serving.services.supervisor_home import SupervisorHome

PROGRAM = Path(__file__).parent / "support" / "loading_server.py"
AWKWARD = 'a %(here)s ;long # "home" ' + "x" * 120


def until(condition, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return bool(condition())


def service(home: Home, *words: str, name: str = "chat", program: Path = PROGRAM, **changes) -> ServiceSpec:
    port = free_port()
    values = {
        "name": name,
        "engine": "vllm",
        "scope": "supervisor",
        "folder": home.services / name,
        "generation": None,
        "link": home.environments / "vllm" / "current",
        "model": "owner/a model %(x)s",
        "model_path": home.models / "a model %s",
        "model_id": "a model",
        "port": port,
        "argv": (sys.executable, str(program), "--port", str(port), *words),
        "environment": {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "SPELT": "50% of a ;day #1 %(name)s"},
        "readiness": Readiness(path="/health", timeout=120.0),
    }
    return ServiceSpec(**{**values, **changes})


def did(action, spec: ServiceSpec):
    with step(silent, "service", "service") as current:
        return action(spec, current)


def answering(spec: ServiceSpec) -> bool:
    return answers("127.0.0.1", spec.port, "/health")


def supervisors(home: Home) -> list[int]:
    """Return the processes that run in a home's folder of the supervisor."""
    folder = (home.root / "supervisor").resolve()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == folder:
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.fixture
def place(request, tmp_path, monkeypatch):
    """A manager; what a failed test leaves running is ended. The copy of the tool is test_restore's subject."""
    monkeypatch.setattr("firstlight.serving.kept_tool.keep_tool", lambda _home: None)
    made = SupervisorManager(Home(tmp_path / getattr(request, "param", "home")))
    yield made
    for name in made.place.services():
        spec = service(made.home, name=name)
        did(made.remove, spec)
    assert until(lambda: not supervisors(made.home))


@pytest.mark.parametrize("place", ["home", AWKWARD], indirect=True, ids=["plain", "awkward"])
def test_a_killed_service_comes_back_and_remove_leaves_nothing(place):
    spec = service(place.home)
    did(place.install, spec)
    assert place.status(spec).state == "stopped"
    did(place.start, spec)
    first = place.status(spec)
    assert (first.state, first.restarts, first.enabled) == ("running", 0, False)
    assert first.memory > 1_000_000
    os.kill(first.pid, signal.SIGKILL)
    assert until(lambda: place.status(spec).restarts == 1 and place.status(spec).state == "running")
    assert answering(spec)
    assert place.status(spec).pid != first.pid

    did(place.stop, spec)
    assert not answering(spec)
    assert place.status(spec).state == "stopped"
    did(place.start, spec)
    assert place.status(spec).restarts == 0

    told = did(place.remove, spec)
    assert told == ["stopped chat", "ended the supervisor: no service is left"]
    assert not answering(spec)
    assert until(lambda: not supervisors(place.home))
    assert not (place.home.root / "supervisor").exists()


def test_the_engine_gets_its_variables_and_its_key_as_they_are_and_nobody_else_sees_them(place, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "not-for-services")
    secrets = tmp_path / "secrets"
    secrets.write_text('# a key\nVLLM_API_KEY=hush-0815%1 # "x"\nQUOTED="two words"\n')
    secrets.chmod(0o600)
    spec = service(place.home, secrets=secrets)
    did(place.install, spec)
    did(place.start, spec)
    raw = Path(f"/proc/{place.status(spec).pid}/environ").read_bytes()
    got = dict(item.split("=", 1) for item in raw.decode().split("\0") if item)
    assert got["SPELT"] == "50% of a ;day #1 %(name)s"
    assert got["VLLM_API_KEY"] == 'hush-0815%1 # "x"'
    assert got["QUOTED"] == "two words"
    assert "SECRET_OF_THE_CALLER" not in got
    for process in supervisors(place.home):
        seen = Path(f"/proc/{process}/environ").read_bytes() + Path(f"/proc/{process}/cmdline").read_bytes()
        assert b"hush-0815" not in seen
        assert b"not-for-services" not in seen
    written = [file for file in place.home.root.rglob("*") if file.is_file() and not file.is_symlink()]
    assert not [file for file in written if b"hush-0815" in file.read_bytes()]
    assert "hush-0815" not in json.dumps(msgspec.to_builtins(place.status(spec)))
    assert (spec.folder / "launch.json").stat().st_mode & 0o077 == 0
    assert (place.home.root / "supervisor").stat().st_mode & 0o077 == 0


def test_a_service_that_dies_while_it_loads_is_told_with_the_true_cause_and_left_stopped(place):
    spec = service(place.home, "--end", "die")
    did(place.install, spec)
    with pytest.raises(FirstlightError, match=r"chat ended after \d+ s, before it was ready") as caught:
        did(place.start, spec)
    assert caught.value.cause == "kv_cache_memory" or "No available memory" in caught.value.why
    assert place.status(spec).state == "stopped"


def test_a_service_that_never_answers_is_stopped_when_its_time_is_up(place):
    spec = service(place.home, "--end", "never", readiness=Readiness(path="/health", timeout=1.5))
    did(place.install, spec)
    with pytest.raises(FirstlightError, match="did not answer within"):
        did(place.start, spec)
    assert place.status(spec).state == "stopped"


def test_a_crash_loop_ends_as_failed_with_our_explanation(place, tmp_path):
    marker = tmp_path / "healthy"
    marker.touch()
    program = tmp_path / "first good then bad.py"
    words = ("runpy", "sys", "pathlib")
    program.write_text(
        f"import {', '.join(words)}\n"
        f"if not pathlib.Path({str(marker)!r}).exists():\n"
        "    sys.argv += ['--end', 'die']\n"
        f"runpy.run_path({str(PROGRAM)!r}, run_name='__main__')\n"
    )
    spec = service(place.home, program=program, start_burst=2)
    did(place.install, spec)
    did(place.start, spec)
    marker.unlink()
    os.kill(place.status(spec).pid, signal.SIGKILL)
    assert until(lambda: place.status(spec).state == "failed", 120.0)
    status = place.status(spec)
    assert status.detail == "FATAL"
    assert status.failure is not None
    assert "given up" in status.failure.what
    assert "No available memory" in (status.failure.line or "")


def test_the_first_installation_tells_what_no_reboot_brings_back_and_what_to_paste(place, monkeypatch):
    monkeypatch.setenv("VAST_CONTAINERLABEL", "C.1")
    spec, said = service(place.home), []
    for _ in range(2):
        with step(said.append, "service", "service") as current:
            place.install(spec, current)
    notes = [event.text for event in said if isinstance(event, Note)]
    assert sum("Nothing starts services by itself when vast.ai starts again" in text for text in notes) == 1
    assert f"{place.home.root}/bin/firstlight restore" in "\n".join(notes)


def test_two_services_live_side_by_side_and_the_supervisor_stays_until_the_last_one_goes(place):
    one, two = service(place.home, name="one"), service(place.home, name="two")
    for spec in (one, two):
        did(place.install, spec)
        did(place.start, spec)
    pid = place.status(two).pid
    assert did(place.remove, one) == ["stopped one"]
    assert answering(two)
    assert place.status(two).pid == pid  # another service's removal did not touch it
    assert "ended the supervisor: no service is left" in did(place.remove, two)


def test_two_starts_at_once_make_one_supervisor(place):
    one, two = service(place.home, name="one"), service(place.home, name="two")
    for spec in (one, two):
        did(place.install, spec)
    barrier, failures = threading.Barrier(2), []

    def start(spec: ServiceSpec) -> None:
        barrier.wait(30.0)
        try:
            did(SupervisorManager(place.home).start, spec)
        except FirstlightError as error:
            failures.append(error)

    threads = [threading.Thread(target=start, args=(spec,)) for spec in (one, two)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    words = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in supervisors(place.home)]
    assert sum(b"supervisor.supervisord" in word and b"guard.py" not in word for word in words) == 1
    assert answering(one)
    assert answering(two)


def test_what_a_reboot_leaves_behind_does_not_stand_in_the_way(place):
    spec = service(place.home)
    did(place.install, spec)
    did(place.start, spec)
    every = supervisors(place.home)
    socket = place.place.socket()
    for pid in every:
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: not supervisors(place.home))
    assert socket.exists()  # as a power cut leaves it
    (place.place.folder / "supervisord.pid").write_text(f"{os.getpid()}\n")  # its number is another program's now
    assert place.status(spec).state == "stopped"
    assert "does not run" in place.status(spec).detail
    assert until(lambda: not answering(spec))
    did(place.start, spec)
    assert place.status(spec).state == "running"


def test_a_killed_supervisor_leaves_no_engine_behind(place):
    spec = service(place.home)
    did(place.install, spec)
    did(place.start, spec)
    engine = place.status(spec).pid
    os.kill(int((place.place.folder / "supervisord.pid").read_text()), signal.SIGKILL)
    assert until(lambda: process_start(engine) is None)
    assert until(lambda: not supervisors(place.home))


def test_a_supervisor_whose_socket_was_cleared_away_is_found_and_replaced(place):
    spec = service(place.home)
    did(place.install, spec)
    did(place.start, spec)
    before = supervisors(place.home)
    place.place.socket().unlink()
    did(place.start, spec)
    assert place.status(spec).state == "running"
    assert not set(before) & set(supervisors(place.home))


def test_a_taken_port_is_told_and_nothing_is_started(place):
    spec = service(place.home)
    other = subprocess.Popen([sys.executable, str(PROGRAM), "--port", str(spec.port), "--load", "0"])
    try:
        assert until(lambda: answering(spec))
        did(place.install, spec)
        with pytest.raises(FirstlightError, match=f"port {spec.port} is taken"):
            did(place.start, spec)
        assert place.status(spec).pid is None
    finally:
        other.kill()
        other.wait()


def test_a_missing_user_is_refused_before_anything_is_written(place):
    spec = service(place.home, user="nobody-of-that-name")
    with pytest.raises(UsageError, match="there is no user nobody-of-that-name"):
        did(place.install, spec)
    assert not place.home.root.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can start a service as another user")
def test_root_starts_a_service_as_another_user_that_may_not_look_into_the_supervisor(place):
    user = pwd.getpwuid(65534).pw_name
    open_folder = Path("/tmp") / f"firstlight-test-{os.getpid()}"
    open_folder.mkdir(mode=0o755)
    try:
        program = open_folder / "server.py"
        program.write_bytes(PROGRAM.read_bytes())
        python = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin")
        if python is None:
            pytest.skip("this machine has no Python that another user may run")
        spec = service(place.home, user=user, cache=open_folder / "cache", cache_folders=("hub",))
        spec = msgspec.structs.replace(spec, argv=(python, str(program), *spec.argv[2:]))
        did(place.install, spec)
        did(place.start, spec)
        status = Path(f"/proc/{place.status(spec).pid}/status").read_text()
        assert "Uid:\t65534\t65534\t65534\t65534" in status
        assert (open_folder / "cache" / "hub").stat().st_uid == 65534
    finally:
        did(place.remove, spec)
        shutil.rmtree(open_folder)


def test_workers_in_sessions_of_their_own_end_with_the_service(place, tmp_path):
    listed = tmp_path / "workers"
    spec = service(place.home, "--workers", str(listed))
    did(place.install, spec)
    did(place.start, spec)
    assert until(listed.exists)
    workers = [int(word) for word in listed.read_text().split()]
    did(place.stop, spec)
    assert until(lambda: not any(process_start(pid) for pid in workers))


def test_the_log_goes_on_where_it_was_put_aside(tmp_path):
    log = tmp_path / "service.log"
    (tmp_path / "service.log.2").write_text("one\ntwo\n")
    (tmp_path / "service.log.1").write_text("three\nfour\n")
    log.write_text("five\n" + "x" * 200_000 + "\n")
    assert last_lines(log, 1) == ["x" * 200_000]
    assert last_lines(log, 4) == ["three", "four", "five", "x" * 200_000]
    assert last_lines(log, 100)[:2] == ["one", "two"]
    assert last_lines(tmp_path / "none.log", 5) == []


def test_following_a_log_uses_a_program_that_goes_on_after_rotation(place):
    spec = service(place.home)
    words = place.log_command(spec, follow=True, lines=7)
    assert words == ["tail", "-F", "-n", "7", str(spec.folder / "service.log")]


def test_a_folder_that_others_may_write_to_never_holds_the_socket(tmp_path, monkeypatch):
    shared = tmp_path / "s"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(shared))
    home = Home(tmp_path / AWKWARD)
    place = SupervisorHome(home)
    place.folder.mkdir(parents=True)
    assert shared not in place.choose_socket().parents


def test_a_home_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    place = SupervisorManager(Home(tmp_path / "file" / "home"))
    with pytest.raises(FirstlightError, match="cannot be written"):
        did(place.install, service(place.home))
