"""On a machine with a real NVIDIA GPU: what we read is what nvidia-smi says."""

from __future__ import annotations

import subprocess

import pytest

from firstlight.machine.reading import read_machine

pytestmark = pytest.mark.gpu


def query(*fields):
    words = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    text = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return [[word.strip() for word in line.split(",")] for line in text.splitlines()]


def test_the_driver_and_its_gpus():
    machine = read_machine(deadline=60.0)
    assert machine.nvidia.source == "nvml"
    assert machine.nvidia.problem is None
    header = subprocess.run(["nvidia-smi"], capture_output=True, text=True, check=True).stdout
    assert machine.nvidia.cuda in header
    gpus = [gpu for gpu in machine.gpus if gpu.vendor == "nvidia"]
    rows = query("index", "name", "uuid", "driver_version", "compute_cap", "memory.total", "mig.mode.current")
    assert len(rows) == len(gpus)
    for gpu, (index, name, uuid, driver, capability, total, mig) in zip(gpus, rows, strict=True):
        assert (str(gpu.index), gpu.name, gpu.uuid, gpu.compute_capability) == (index, name, uuid, capability)
        assert machine.nvidia.driver == driver
        assert gpu.mig is (mig == "Enabled")
        if not gpu.mig:
            assert abs(gpu.memory_total - (int(total) << 20)) < 1 << 20
            assert 0 <= gpu.memory_free <= gpu.memory_total
    assert machine.problems == []


def test_hidden_devices_are_still_facts(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [gpu for gpu in read_machine(deadline=60.0).gpus if gpu.vendor == "nvidia"]
