"""Files, locks, processes, steps and homes: what everything stands on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from support.patience import with_patience

from firstlight.errors import FirstlightError, did_you_mean
from firstlight.events import Event, StepFinished, StepProgress, StepStarted, step
from firstlight.files import remove_tree, switch_symlink, write_atomic, writer_lock
from firstlight.home import MARKER, Home, default_root, find_home
from firstlight.process import Child, Command, group_alive, run, stop_children


def test_an_atomic_write_leaves_the_old_file_when_it_fails(tmp_path: Path) -> None:
    target = tmp_path / "a" / "file.txt"
    write_atomic(target, "first", mode=0o600)
    assert target.read_text() == "first"
    assert target.stat().st_mode & 0o777 == 0o600
    with pytest.raises(TypeError):
        write_atomic(target, None)  # type: ignore[arg-type]
    assert target.read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_switch_is_one_rename_and_works_again(tmp_path: Path) -> None:
    link = tmp_path / "current"
    switch_symlink(link, "one")
    switch_symlink(link, "two")
    assert str(link.readlink()) == "two"
    assert [path.name for path in tmp_path.iterdir()] == ["current"]


def test_a_removed_tree_is_gone_and_a_missing_one_is_no_error(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "below").mkdir(parents=True)
    remove_tree(tree)
    remove_tree(tree)
    assert list(tmp_path.iterdir()) == []


def test_the_lock_names_its_holder_and_outlives_it_with_a_child(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with writer_lock(lock, "environments"):
        with pytest.raises(FirstlightError, match="another firstlight") as caught, writer_lock(lock, "environments"):
            pass
        assert str(os.getpid()) in caught.value.what
    program = (
        "import os, subprocess, sys\n"
        "from pathlib import Path\n"
        "from firstlight.files import writer_lock\n"
        "with writer_lock(Path(sys.argv[1]), 'environments') as hold:\n"
        "    child = subprocess.Popen(['sleep', '600'], pass_fds=(hold,), stdout=-3, stderr=-3)\n"
        "    print(child.pid, flush=True)\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(lock)], capture_output=True, text=True, check=False)
    child = int(killed.stdout)
    try:
        with pytest.raises(FirstlightError) as caught, writer_lock(lock, "environments"):
            pass
        assert caught.value.what == (
            f"a killed firstlight was changing the environments; programs that it started still work "
            f"(sleep, process {child})"
        )
        assert caught.value.fix == f"wait for them, or look: ps -fp {child}"
    finally:
        os.kill(child, signal.SIGKILL)
    with writer_lock(lock, "environments", wait=120.0):
        pass


def test_a_lock_that_its_holder_removed_is_made_again_by_who_waited(tmp_path: Path) -> None:
    lock, held, done = tmp_path / ".lock", threading.Event(), threading.Event()

    def wait() -> None:
        with writer_lock(lock, "environments", wait=60.0):
            held.set()
            done.wait(60)

    with writer_lock(lock, "environments"):
        waiter = threading.Thread(target=wait)
        waiter.start()
        lock.unlink()
    try:
        assert held.wait(60)
        with pytest.raises(FirstlightError, match="another firstlight"), writer_lock(lock, "environments"):
            pass
    finally:
        done.set()
        waiter.join()


def test_a_run_keeps_tail_log_and_status(tmp_path: Path) -> None:
    lines: list[str] = []
    ended = run(
        [sys.executable, "-c", "import sys; print('out'); print(sys.stdin.read()); sys.exit(3)"],
        log=tmp_path / "log.txt",
        on_line=lines.append,
        stdin="given",
    )
    assert (ended.returncode, ended.tail) == (3, "out\ngiven")
    assert lines == ["out", "given"]
    assert (tmp_path / "log.txt").read_text() == "out\ngiven\n"


def test_the_last_words_of_a_program_are_waited_for_and_what_it_left_behind_is_not() -> None:
    late = threading.Event()
    ended = run(["sh", "-c", "echo one; echo two"], on_line=lambda line: line == "one" and late.wait(1.5))
    assert ended.tail == "one\ntwo"
    left = int(run(["sh", "-c", "sleep 600 & echo $!"]).tail)
    os.kill(left, signal.SIGKILL)  # it still ran, and held the pipe


def test_a_program_without_stdin_reads_its_end(tmp_path: Path) -> None:
    assert run(["cat"], folder=tmp_path, timeout=300).returncode == 0


def test_a_run_past_its_time_is_stopped_with_its_children() -> None:
    def claim(seconds: float) -> None:
        with pytest.raises(FirstlightError, match="did not end within") as caught:
            run(["sh", "-c", "echo working; sleep 600 & sleep 600"], timeout=seconds)
        assert caught.value.why == "working"

    with_patience((0.5, 5.0, 50.0), claim)


def test_a_missing_program_is_a_clear_error() -> None:
    with pytest.raises(FirstlightError, match="cannot start no-such-program"):
        run(["no-such-program"])


def test_stop_ends_the_whole_group_even_when_term_is_ignored() -> None:
    seen = threading.Event()
    program = "trap '' TERM; (trap '' TERM; sleep 600) & echo ready; sleep 600"
    child = Child(Command(("sh", "-c", program)), on_line=lambda _line: seen.set())
    assert seen.wait(120)
    child.stop(grace=0.3)
    assert child.poll() is not None
    deadline = time.monotonic() + 120
    while group_alive(child.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not group_alive(child.pid)


def test_stop_children_ends_what_still_runs() -> None:
    child = Child(Command(("sleep", "600")))
    stop_children(grace=120.0)
    assert child.poll() == -signal.SIGTERM


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", "os._exit(0)", "pass"])
def test_a_leashed_program_ends_with_its_starter_however_that_goes(end: str) -> None:
    program = (
        "import os, time\n"
        "from firstlight.process import Child, Command, run\n"
        "run(['true'], leash=True)\n"
        "words = 'trap \"\" TERM; sleep 600 & echo ready; sleep 600'\n"
        "child = Child(Command(('sh', '-c', words)), leash=True)\n"
        "while not child.output:\n"
        "    time.sleep(0.01)\n"
        f"print(child.pid, flush=True)\n{end}\n"
    )
    starter = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    group = int(starter.stdout)
    deadline = time.monotonic() + 120
    while group_alive(group) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not group_alive(group)


def test_a_full_disk_for_the_log_does_not_stop_the_program(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run(["echo", "done"], log=tmp_path / "file" / "below" / "log.txt").tail == "done"


def test_variables_are_laid_over_and_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIRST", "1")
    ended = run(["sh", "-c", 'echo "${FIRST-none} $SECOND"'], environment={"FIRST": None, "SECOND": "2"})
    assert ended.tail == "none 2"


def test_steps_are_timed_and_told_also_when_they_fail() -> None:
    events: list[Event] = []
    with step(events.append, "fetch", "fetch it") as current:
        current.progress(50, 100)
        current.progress(100, 100)
    with pytest.raises(ValueError, match="no"), step(events.append, "bad", "fail"):
        raise ValueError("no")
    kinds = [type(event) for event in events]
    assert kinds == [StepStarted, StepProgress, StepProgress, StepFinished, StepStarted, StepFinished]
    done, failed = [event for event in events if isinstance(event, StepFinished)]
    assert (done.outcome, done.bytes, failed.outcome) == ("done", 100, "failed")
    assert done.seconds >= 0


def test_homes_by_variable_user_and_mount(tmp_path: Path) -> None:
    assert default_root({"FIRSTLIGHT_HOME": "/x y/ü"}, uid=0) == Path("/x y/ü")
    assert default_root({}, uid=0) == Path("/var/lib/firstlight")
    assert default_root({"HOME": "/home/a"}, uid=1000) == Path("/home/a/.local/share/firstlight")
    assert default_root({"HOME": "/home/a", "XDG_DATA_HOME": "/data"}, uid=1000) == Path("/data/firstlight")
    home = Home(tmp_path / "firstlight")
    nowhere = {"HOME": str(tmp_path / "nobody"), "XDG_DATA_HOME": str(tmp_path / "nobody")}
    if os.geteuid() != 0:
        assert find_home([str(tmp_path)], nowhere) is None
    home.prepare()
    assert (home.root / MARKER).is_file()
    if os.geteuid() != 0:
        assert find_home([str(tmp_path)], nowhere) == home.root
    assert find_home([], {"FIRSTLIGHT_HOME": str(home.root)}) == home.root


def test_a_home_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FirstlightError, match="cannot be written") as caught:
        Home(tmp_path / "file" / "home").prepare()
    assert "FIRSTLIGHT_HOME" in (caught.value.fix or "")


def test_near_words_are_offered_and_far_ones_are_not() -> None:
    assert did_you_mean("vlm", ["vllm", "ollama"]) == ' (did you mean "vllm"?)'
    assert did_you_mean("zzz", ["vllm"]) == ""
