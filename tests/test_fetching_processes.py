"""Downloads that are killed, interrupted and run twice at once; disks that are full or read-only; clocks that jump."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time

import pytest
from support.faults import Faults
from support.fetching_child import Children
from support.fetching_lab import (
    DATA,
    HASTY,
    PIECE,
    SHA256,
    SIZE,
    in_place,
    lab_in,
    mend,
    only_the_rest,
)

from firstlight.errors import FirstlightError, NetworkFailed, VerificationFailed

root = pytest.mark.root
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small file system")


@pytest.fixture
def lab(tmp_path, monkeypatch):
    with lab_in(tmp_path, monkeypatch) as made:
        yield made


# Processes


@pytest.fixture
def children(tmp_path):
    with Children(tmp_path) as program:
        yield program


def test_killed_fifty_times_in_one_download(lab, children):
    mirrors = [lab.mirror(Faults(total_bytes_per_second=4 << 20)) for _ in range(2)]
    urls, chance, killed = [mirror.url for mirror in mirrors], random.Random(5), 0
    completed = 0
    while killed < 50:
        running = children.start(urls, lab.target, SHA256)
        mirrors[killed % 2].at(chance.randrange(1, SIZE // 6), lambda running=running: running.signal(signal.SIGKILL))
        code = running.wait()
        if code == 0:  # it was quicker: from the start again, the kills go on
            assert lab.target.read_bytes() == DATA
            lab.target.unlink()
            completed += 1
            continue
        assert code == -signal.SIGKILL
        killed += 1
        assert not lab.target.exists() or lab.target.read_bytes() == DATA
    for mirror in mirrors:
        mirror.watches.clear()
    last = children.start(urls, lab.target, SHA256)
    assert last.wait() == 0
    assert completed or last.told()["resumed"] > 0  # fifty runs without an end came further all the same
    assert lab.target.read_bytes() == DATA
    assert lab.left() == ["file.bin"]


def test_what_a_killed_process_had_is_not_asked_for_again(lab, children):
    mirror = lab.mirror()
    hold = mirror.hold(SIZE * 3 // 4)
    running = children.start([mirror.url], lab.target, SHA256)
    assert hold.reached.wait(60)
    assert wait_for(lambda: lab.kept() > SIZE // 4)
    running.signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    hold.go.set()
    mirror.holds.clear()
    with only_the_rest(lab, mirror) as there:
        fetched = lab.fetch(mirror)
    in_place(lab, fetched)
    assert fetched.resumed == there > SIZE // 4


def test_the_state_is_never_more_than_a_mebibyte_behind(lab):
    """Also where so much comes before it is time to save: here that time never comes."""
    mirror = lab.mirror()
    hold = mirror.hold(SIZE * 3 // 4)
    thread = threading.Thread(target=lab.fetch, args=(mirror,), kwargs={"policy": {"save_seconds": 3600.0}})
    thread.start()
    assert hold.reached.wait(60)
    assert wait_for(lambda: lab.kept() >= SIZE * 3 // 4 - (1 << 20))
    hold.go.set()
    thread.join()
    assert lab.left() == ["file.bin"]


def test_a_state_whose_last_line_was_torn_keeps_the_others(lab, children):
    mirror = lab.mirror()
    hold = mirror.hold(SIZE * 3 // 4)
    running = children.start([mirror.url], lab.target, SHA256)
    assert hold.reached.wait(60)
    assert wait_for(lambda: lab.kept() > SIZE // 4)
    running.signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL
    hold.go.set()
    before, state = lab.kept(), lab.folder / "file.bin.partial.json"
    with state.open("ab") as stream:
        stream.write(b"\n[[0,4194304,0")
    assert lab.kept() == before
    with state.open("ab") as stream:
        stream.write(b"\n" + bytes(100))
    with only_the_rest(lab, mirror) as there:
        in_place(lab, lab.fetch(mirror))
    assert there == before


def test_interrupted_and_resumed(lab, children):
    mirror = lab.mirror()
    hold = mirror.hold(SIZE // 2)
    running = children.start([mirror.url], lab.target, SHA256)
    assert hold.reached.wait(60)
    assert wait_for(lambda: lab.kept() > SIZE // 4)
    running.signal(signal.SIGINT)
    assert running.wait() == 130
    assert lab.left() == ["file.bin.partial", "file.bin.partial.json"]
    hold.go.set()
    mirror.holds.clear()
    with only_the_rest(lab, mirror) as there:
        fetched = lab.fetch(mirror)
    in_place(lab, fetched)
    assert fetched.resumed == there > SIZE // 4


def test_two_processes_fetch_it_once(lab, children):
    mirror = lab.mirror()
    hold = mirror.hold(SIZE // 2)
    first = children.start([mirror.url], lab.target, SHA256)
    assert hold.reached.wait(60)
    second = children.start([mirror.url], lab.target, SHA256)
    hold.go.set()
    assert [first.wait(), second.wait()] == [0, 0]
    assert lab.target.read_bytes() == DATA
    assert lab.left() == ["file.bin"]
    assert first.told()["bytes"] >= SIZE
    assert second.told() == {"bytes": 0, "resumed": 0, "reused": True}


def test_the_second_process_goes_on_where_the_first_was_killed(lab, children):
    mirror = lab.mirror()
    hold = mirror.hold(SIZE * 3 // 4)
    first = children.start([mirror.url], lab.target, SHA256)
    assert hold.reached.wait(60)
    assert wait_for(lambda: lab.kept() > SIZE // 4)
    second = children.start([mirror.url], lab.target, SHA256)
    first.signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    hold.go.set()
    assert second.wait() == 0
    assert lab.target.read_bytes() == DATA
    assert second.told()["resumed"] > 0


def wait_for(condition):
    """Wait until something holds; only guards against hanging."""
    for _ in range(3000):
        if condition():
            return True
        time.sleep(0.02)
    return False


# Disk and clock


@contextlib.contextmanager
def small_disk(folder, size):
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@root
@needs_root
def test_a_full_disk_is_told_before_the_first_byte(lab):
    mirror = lab.mirror()
    with small_disk(lab.folder, "1m"):
        with pytest.raises(FirstlightError) as caught:
            lab.fetch(mirror)
        assert caught.value.code == 1
        assert "room" in f"{caught.value.what} {caught.value.why}"
        assert not lab.target.exists()
        assert mirror.given <= 2  # the probe
        subprocess.run(["mount", "-o", "remount,size=64m", lab.folder], check=True)
        in_place(lab, lab.fetch(mirror))


@root
@needs_root
def test_a_disk_that_fills_midway_keeps_what_is_there(lab):
    mirror = lab.mirror(Faults(length="chunked", no_range=True, etag="none"))
    with small_disk(lab.folder, "2m"):
        with pytest.raises(FirstlightError) as caught:
            lab.fetch(mirror, policy={"reserve": False})
        assert caught.value.code == 1
        assert not lab.target.exists()
        subprocess.run(["mount", "-o", "remount,size=64m", lab.folder], check=True)
        mend(mirror)
        in_place(lab, lab.fetch(mirror))


@root
@needs_root
def test_the_room_is_taken_before_another_program_can_take_it(lab):
    mirror = lab.mirror()
    hold = mirror.hold(PIECE)
    with small_disk(lab.folder, "6m"):
        found = []
        thread = threading.Thread(target=lambda: found.append(lab.fetch(mirror)))
        thread.start()
        assert hold.reached.wait(60)
        with contextlib.suppress(OSError):
            (lab.folder / "greedy").write_bytes(bytes(5 << 20))
        hold.go.set()
        thread.join(120)
        (lab.folder / "greedy").unlink()
        in_place(lab, found[0])


@root
@needs_root
def test_a_read_only_file_system(lab):
    mirror = lab.mirror()
    with small_disk(lab.folder, "64m"):
        subprocess.run(["mount", "-o", "remount,ro", lab.folder], check=True)
        with pytest.raises(FirstlightError) as caught:
            lab.fetch(mirror)
        assert caught.value.code == 1
        assert "read-only" in f"{caught.value.what} {caught.value.why}".lower()
        assert mirror.given <= 2
        subprocess.run(["mount", "-o", "remount,rw", lab.folder], check=True)
        in_place(lab, lab.fetch(mirror))


def test_a_clock_that_jumps(lab, monkeypatch):
    real, chance = time.time, random.Random(7)
    monkeypatch.setattr(time, "time", lambda: real() + chance.choice([-1e9, -4000.0, 0.0, 4000.0, 1e9]))
    mirror = lab.mirror(Faults(failing=3, retry_after="1", reset_every=600_000))
    in_place(lab, lab.fetch(mirror))


def test_the_state_on_disk_is_garbage(lab):
    mirror = lab.mirror(Faults(dies_after=SIZE // 2))
    with pytest.raises(NetworkFailed):
        lab.fetch(mirror, policy=HASTY)
    state = lab.folder / "file.bin.partial.json"
    state.write_bytes(state.read_bytes()[:-20])
    mend(mirror)
    in_place(lab, lab.fetch(mirror))


@pytest.mark.parametrize("damage", ["cut", "overwritten", "gone"])
def test_the_partial_file_is_damaged_between_two_runs(lab, damage):
    mirror = lab.mirror(Faults(dies_after=SIZE // 2))
    with pytest.raises(NetworkFailed):
        lab.fetch(mirror, policy=HASTY)
    partial = lab.folder / "file.bin.partial"
    if damage == "cut":
        os.truncate(partial, 1000)
    elif damage == "overwritten":
        partial.write_bytes(bytes(SIZE))
    else:
        partial.unlink()
    mend(mirror)
    try:
        fetched = lab.fetch(mirror)
    except VerificationFailed:
        assert not lab.target.exists()
        fetched = lab.fetch(mirror)
    in_place(lab, fetched)
