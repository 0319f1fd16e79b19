"""Processor, the cores that this process may use, and its instruction sets."""

from __future__ import annotations

import os

from firstlight.machine.cgroup import read_cpu_quota
from firstlight.machine.facts import Cpu
from firstlight.machine.system import System

_ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
    "0xd40": "Neoverse-V1",
    "0xd42": "Cortex-A78AE",
    "0xd49": "Neoverse-N2",
    "0xd4f": "Neoverse-V2",
}
"""Arm's part numbers: its /proc/cpuinfo has no model name (util-linux, sys-utils/lscpu-arm.c)."""


def read(system: System) -> Cpu:
    """Return the processor; `cores` is the smaller of the CPU affinity and the control groups' quota."""
    model, flags, processors = parse_cpuinfo(system.text_of("/proc/cpuinfo") or "")
    allowed = len(os.sched_getaffinity(0)) if system.live else parse_allowed(system.text_of("/proc/self/status") or "")
    counts = [count for count in (allowed or processors or None, read_cpu_quota(system)) if count]
    return Cpu(model=model, cores=min(counts) if counts else None, flags=flags)


def parse_cpuinfo(text: str) -> tuple[str | None, list[str] | None, int]:
    """Return (model, flags, processors) of a /proc/cpuinfo; model and flags are those of its first processor."""
    first: dict[str, str] = {}
    processors = 0
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        name = key.strip()
        if colon:
            processors += name == "processor"
            first.setdefault(name, value.strip())
    flags = first.get("flags") or first.get("Features")
    model = first.get("model name") or first.get("Model")
    if model is None and first.get("CPU implementer") == "0x41":
        model = _ARM_PARTS.get(first.get("CPU part", ""))
    return model or None, flags.split() if flags else None, processors


def parse_allowed(status: str) -> int | None:
    """Return how many cores `Cpus_allowed_list` of /proc/self/status names ("0-3,8")."""
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "Cpus_allowed_list":
            bounds = [part.strip().partition("-") for part in value.split(",")]
            return sum(int(last or first) - int(first) + 1 for first, _, last in bounds)
    return None
