"""Reads the whole machine: one probe per subject, all at the same time, each isolated from the others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from firstlight.machine import conda, cpu, disks, gpu, host, init, memory, pythons, user
from firstlight.machine.facts import Cpu, Gpu, Host, Init, Machine, Memory, Nvidia
from firstlight.machine.system import Probe, System

DEADLINE = 8.0


def read_machine(
    root: Path = Path("/"), *, environment: Mapping[str, str] | None = None, deadline: float | None = None
) -> Machine:
    """Return the facts of this machine; what cannot be read is null, and `problems` says why. Never raises for a probe.

    Args:
        root: where /proc, /sys, /etc, … lie; a tree on disk stands for another machine.
        environment: the variables that count (PATH, HOME, CONDA_EXE, …); this process's own by default.
        deadline: seconds until probes that do not answer are given up; DEADLINE by default.
    """
    seconds = DEADLINE if deadline is None else deadline
    system = System(root, dict(os.environ) if environment is None else environment, seconds)
    # The slowest first: they wait for other processes while the others read files.
    graphics: Probe[tuple[Nvidia | None, list[Gpu] | None]] = Probe(system, "gpu", gpu.read, (None, None))
    owner = Probe(system, "user", user.read, Host())
    supervisor = Probe(system, "init", init.read, Init())
    interpreters = Probe(system, "pythons", pythons.read, None)
    storage = Probe(system, "disks", disks.read, None)
    machine = Probe(system, "host", host.read, Host())
    processor = Probe(system, "cpu", cpu.read, Cpu())
    main_memory = Probe(system, "memory", memory.read, Memory())
    conda_base = Probe(system, "conda", conda.read, None)
    who = owner.value()
    nvidia, gpus = graphics.value()
    return Machine(
        host=msgspec.structs.replace(machine.value(), user=who.user, uid=who.uid, sudo=who.sudo),
        init=supervisor.value(),
        cpu=processor.value(),
        memory=main_memory.value(),
        disks=storage.value(),
        nvidia=nvidia,
        gpus=gpus,
        pythons=interpreters.value(),
        conda=conda_base.value(),
        problems=system.failures,
    )
