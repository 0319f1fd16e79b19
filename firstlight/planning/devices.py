"""Which GPUs of a machine a build would run on."""

from __future__ import annotations

import msgspec

from firstlight.catalogue.types import Build, EngineEntry
from firstlight.machine.facts import Gpu, Machine
from firstlight.planning.versions import numbers


class Devices(msgspec.Struct, frozen=True, kw_only=True):
    """The NVIDIA GPUs in question: the chosen ones, and those left out because they lie below the engine's floor.

    With unlike GPUs both ends count: the lowest capability for kernels and dtype, the highest for the oldest build
    that knows it.
    """

    chosen: list[Gpu]
    left_out: list[Gpu]
    all_indexes: list[int]

    @property
    def indexes(self) -> list[int]:
        """Indexes of the chosen GPUs."""
        return [gpu.index for gpu in self.chosen]

    @property
    def lowest_capability(self) -> str | None:
        """The lowest known compute capability of the chosen GPUs."""
        known = [gpu.compute_capability for gpu in self.chosen if gpu.compute_capability]
        return min(known, key=numbers) if known else None

    @property
    def visible(self) -> str | None:
        """CUDA_VISIBLE_DEVICES, where not every NVIDIA GPU is used."""
        return ",".join(map(str, self.indexes)) if self.indexes and self.indexes != self.all_indexes else None


def nvidia_gpus(machine: Machine) -> list[Gpu]:
    """Return the machine's NVIDIA GPUs; an unknown list counts as none."""
    return [gpu for gpu in machine.gpus or [] if gpu.vendor == "nvidia"]


def has_nvidia(machine: Machine) -> bool:
    """Tell whether an NVIDIA GPU or its driver was seen."""
    return machine.nvidia is not None or bool(nvidia_gpus(machine))


def runs_on(build: Build, capability: str) -> bool:
    """Tell whether a build holds code for a compute capability.

    Machine code for X.y runs on X.z with z >= y; PTX of a capability runs on every newer one (CUDA C++ Programming
    Guide, "Binary Compatibility" and "PTX Compatibility").
    """
    if build.capabilities is None:
        return True
    have = numbers(capability)
    for listed in build.capabilities:
        code = numbers(listed)
        if code[0] == have[0] and code <= have:
            return True
    return build.ptx is not None and numbers(build.ptx) <= have


def floor_of(entry: EngineEntry) -> tuple[int, ...]:
    """Return the lowest compute capability that any build of an engine holds code for."""
    lowest = [numbers(build.capabilities[0]) for build in entry.build if build.capabilities]
    return min(lowest) if lowest else (0,)


def select(entry: EngineEntry, machine: Machine, asked: tuple[int, ...] | None) -> Devices:
    """Return the GPUs to use: those asked for, else all but the ones below the engine's floor where others remain."""
    every = nvidia_gpus(machine)
    indexes = [gpu.index for gpu in every]
    if asked is not None:
        return Devices(chosen=[gpu for gpu in every if gpu.index in asked], left_out=[], all_indexes=indexes)
    floor = floor_of(entry)
    fit = [gpu for gpu in every if gpu.compute_capability is None or numbers(gpu.compute_capability) >= floor]
    if not fit:
        return Devices(chosen=every, left_out=[], all_indexes=indexes)
    return Devices(chosen=fit, left_out=[gpu for gpu in every if gpu not in fit], all_indexes=indexes)
