"""The whole reading: facts go to JSON and back, probes are isolated, and a tree on disk stands for a machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from support import machine_tree
from support.patience import with_patience

from firstlight.errors import UsageError
from firstlight.machine import facts
from firstlight.machine.reading import read_machine

MACHINES = Path(__file__).parent / "machines"
CAPTURED = sorted(path for path in MACHINES.glob("**/*.json") if path.name not in {"expected.json", "index.json"})


@pytest.mark.parametrize("path", CAPTURED, ids=lambda path: path.stem)
def test_captured_machine_goes_through_facts_unchanged(path):
    machine = facts.load(path)
    again = facts.from_json(facts.to_json(machine), "again")
    assert again == machine
    kept = json.loads(facts.to_json(machine))
    for section, captured in json.loads(path.read_text()).items():
        assert contains(kept[section], captured), section


def contains(kept, captured):
    if isinstance(captured, dict):
        return all(contains(kept[key], value) for key, value in captured.items())
    if isinstance(captured, list):
        return len(kept) == len(captured) and all(contains(a, b) for a, b in zip(kept, captured, strict=True))
    return kept == captured


def test_all_captured_machines_are_here():
    assert len(CAPTURED) >= 21


def test_unknown_keys_are_ignored_and_wrong_kinds_are_named(tmp_path):
    document = {"schema": facts.SCHEMA, "host": {"os": "ubuntu", "moon": "full"}, "later": 1}
    assert facts.from_json(json.dumps(document), "x").host.os == "ubuntu"
    document["host"] = {"uid": "zero"}
    with pytest.raises(UsageError) as caught:
        facts.from_json(json.dumps(document), "x")
    assert "host.uid" in (caught.value.why or "")
    missing = tmp_path / "none.json"
    with pytest.raises(UsageError, match=r"none\.json"):
        facts.load(missing)


def test_this_machine_is_read():
    machine = read_machine()
    assert machine.host.arch == os.uname().machine
    assert machine.host.kernel == os.uname().release
    assert machine.host.uid == os.geteuid()
    assert machine.cpu.cores is not None
    assert 1 <= machine.cpu.cores <= len(os.sched_getaffinity(0))
    assert machine.memory.total is not None
    assert machine.disks is not None
    assert machine.disks[0].mount == "/"
    assert machine.disks[0].free == pytest.approx(shutil.disk_usage("/").free, rel=0.2)
    assert facts.from_json(facts.to_json(machine), "here") == machine


def test_our_own_virtual_environment_is_not_a_python_of_the_machine():
    pythons = read_machine().pythons
    assert pythons
    for python in pythons:
        assert not Path(python.path).is_relative_to(sys.prefix) or sys.prefix == sys.base_prefix
        told = subprocess.run([python.path, "-I", "-S", "-V"], capture_output=True, text=True, check=True)
        assert (told.stdout or told.stderr).split()[1] == python.version


@pytest.mark.parametrize(
    ("target", "get", "unknown"),
    [
        ("firstlight.machine.cpu.read", lambda machine: machine.cpu, facts.Cpu()),
        ("firstlight.machine.memory.read", lambda machine: machine.memory, facts.Memory()),
        ("firstlight.machine.disks.read", lambda machine: machine.disks, None),
        ("firstlight.machine.gpu.read", lambda machine: (machine.nvidia, machine.gpus), (None, None)),
        ("firstlight.machine.pythons.read", lambda machine: machine.pythons, None),
        ("firstlight.machine.conda.read", lambda machine: machine.conda, None),
        ("firstlight.machine.init.read", lambda machine: machine.init, facts.Init()),
        ("firstlight.machine.host.read_product", lambda machine: machine.host.product, None),
    ],
)
def test_a_probe_that_raises_is_null_with_its_reason(monkeypatch, target, get, unknown):
    def broken(_system):
        raise RuntimeError("the drawer is empty\nsecond line")

    before = read_machine()
    monkeypatch.setattr(target, broken)
    machine = read_machine()
    assert get(machine) == unknown
    assert [problem.reason for problem in machine.problems] == ["RuntimeError: the drawer is empty"]
    assert machine.host.kernel == before.host.kernel


def test_a_probe_that_hangs_is_null_with_its_reason(monkeypatch):
    release = threading.Event()
    monkeypatch.setattr("firstlight.machine.cpu.read", lambda _system: release.wait(300) and facts.Cpu())

    def claim(deadline):
        machine = read_machine(deadline=deadline)
        assert machine.cpu == facts.Cpu()
        assert [problem.probe for problem in machine.problems] == ["cpu"]
        assert "no answer within" in machine.problems[0].reason
        assert machine.memory.total

    try:
        with_patience((1.0, 8.0, 60.0), claim)
    finally:
        release.set()


def test_a_tree_stands_for_another_machine(tmp_path):
    root = machine_tree.plant(tmp_path, {**machine_tree.BARE, "/dev/shm": None})
    machine = read_machine(root, environment={"PATH": "", "HOME": "/home/nobody"})
    assert machine.host.os_name == "Ubuntu 22.04.5 LTS"
    assert machine.host.hostname == "node-1"
    assert machine.host.kernel == "5.15.0-122-generic"
    assert machine.host.container is None
    assert machine.cpu == facts.Cpu(
        model="Intel(R) Xeon(R) Gold 6154 CPU @ 3.00GHz", cores=32, flags=["fpu", "sse", "avx2", "avx512f"]
    )
    assert machine.memory.total == 263788284 * 1024
    assert machine.nvidia is None
    assert machine.gpus == []
    assert machine.pythons == []
    assert machine.conda is None
    assert machine.problems == []


def test_an_empty_tree_is_all_unknown_and_no_error(tmp_path):
    machine = read_machine(tmp_path, environment={})
    assert machine.host == facts.Host(uid=os.geteuid(), user=machine.host.user, sudo=machine.host.sudo)
    assert machine.cpu == facts.Cpu()
    assert machine.memory == facts.Memory()
    assert machine.disks is None
    assert [problem.probe for problem in machine.problems] == ["disks"]
    msgspec.json.encode(machine)


def test_reading_starts_no_program_where_files_tell_all(tmp_path):
    """A machine without NVIDIA pays for no worker, no sudo as root, no interpreter started."""
    code = (
        "import sys; calls = []\n"
        "sys.addaudithook(lambda name, words: calls.append(str(words[0])) if name == 'subprocess.Popen' else None)\n"
        "from pathlib import Path\n"
        "from firstlight.machine.reading import read_machine\n"
        "import os; os.geteuid = lambda: 0\n"
        "read_machine(Path(sys.argv[1]), environment={'PATH': sys.argv[2], 'HOME': '/nowhere'})\n"
        "print(calls)\n"
    )
    root = machine_tree.plant(tmp_path / "tree", machine_tree.BARE)
    machine_tree.program(tmp_path / "bin", "sudo", "exit 0")
    ended = subprocess.run(
        [sys.executable, "-c", code, str(root), str(tmp_path / "bin")],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent,
    )
    assert ended.stdout.strip() == "[]"
