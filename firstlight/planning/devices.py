"""Which GPUs of a machine a build would run on, and by which of its code."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from firstlight.catalogue.types import Build, EngineEntry
from firstlight.machine.facts import Gpu, Machine
from firstlight.planning.versions import capability, numbers

Way = Literal["code", "ptx"]
"""How a GPU is run: by machine code, or by PTX that its driver compiles first."""
_SLICE = re.compile(r"-\d+[ABCQ](?:ME)?$|\bMIG\b|^(?:NVIDIA )?GRID ")
"""Names of slices: a vGPU profile (memory in GB and series, `A100D-4C`), a MIG device (NVIDIA vGPU documentation)."""


class Devices(msgspec.Struct, frozen=True, kw_only=True):
    """The NVIDIA GPUs in question: the chosen ones, and those left out because they lie below the engine's floor.

    With unlike GPUs both ends count: the lowest capability for kernels and dtype, the highest for the oldest build
    that knows it.
    """

    chosen: list[Gpu]
    left_out: list[Gpu]
    unmatched: list[Gpu] = []
    """Those left out because no build runs them together with the chosen ones."""
    all_indexes: list[int]

    @property
    def indexes(self) -> list[int]:
        """Indexes of the chosen GPUs."""
        return [gpu.index for gpu in self.chosen]

    @property
    def lowest_capability(self) -> str | None:
        """The lowest known compute capability of the chosen GPUs."""
        known = [gpu.compute_capability for gpu in self.chosen if capability(gpu.compute_capability)]
        return min(known, key=lambda text: capability(text) or ()) if known else None

    @property
    def visible(self) -> str | None:
        """CUDA_VISIBLE_DEVICES, where not every NVIDIA GPU is used."""
        return ",".join(map(str, self.indexes)) if self.indexes and self.indexes != self.all_indexes else None

    @property
    def slices(self) -> list[Gpu]:
        """The chosen GPUs that are slices of one: MIG devices and virtual GPUs."""
        return [gpu for gpu in self.chosen if is_slice(gpu)]

    def only(self, gpus: Sequence[Gpu]) -> Devices:
        """Return the same machine's devices with some of the chosen ones alone."""
        others = [gpu for gpu in self.chosen if gpu not in gpus]
        return msgspec.structs.replace(self, chosen=list(gpus), unmatched=others)


def nvidia_gpus(machine: Machine) -> list[Gpu]:
    """Return the machine's NVIDIA GPUs; an unknown list counts as none."""
    return [gpu for gpu in machine.gpus or [] if gpu.vendor == "nvidia"]


def has_nvidia(machine: Machine) -> bool:
    """Tell whether an NVIDIA GPU or its driver was seen."""
    return machine.nvidia is not None or bool(nvidia_gpus(machine))


def is_slice(gpu: Gpu) -> bool:
    """Tell whether a GPU is a slice of one: MIG is on, or it is a virtual GPU by its own word or by its name."""
    return bool(gpu.mig or gpu.vgpu or _SLICE.search(gpu.name or ""))


def way(codes: Sequence[str] | None, ptx: str | None, wanted: str, tegra: Sequence[str]) -> Way | None:
    """Tell how binaries run a GPU; None: not at all. Binaries of which nothing is known run everything.

    Machine code for X.y runs on X.z with z >= y, and `X.ya` on X.y alone. GPUs of Jetson boards and those of others
    never share machine code. PTX of a capability can be compiled for every newer GPU (CUDA C++ Programming Guide,
    "Binary Compatibility" and "PTX Compatibility").

    Args:
        codes: compute capabilities that there is machine code for.
        ptx: the lowest capability that there is PTX for.
        wanted: the GPU's compute capability.
        tegra: the capabilities of Jetson boards.
    """
    have = capability(wanted)
    if have is None or (codes is None and ptx is None):
        return "code"
    for listed in codes or ():
        code, alone = numbers(listed), listed.endswith("a") or wanted in tegra or listed in tegra
        if code == have or (not alone and code[0] == have[0] and code <= have):
            return "code"
    if ptx is None:
        return None
    forward = have == numbers(ptx) if ptx.endswith("a") else have >= numbers(ptx)
    return "ptx" if forward else None


class Ways(msgspec.Struct, frozen=True):
    """How a build runs one GPU: by the engine's own binaries, and by those of its torch."""

    engine: Way | None
    torch: Way | None

    @property
    def runs(self) -> bool:
        """Whether both can."""
        return self.engine is not None and self.torch is not None

    @property
    def by_ptx(self) -> bool:
        """Whether the driver has to compile PTX for it."""
        return "ptx" in {self.engine, self.torch}


def ways(build: Build, wanted: str, tegra: Sequence[str]) -> Ways:
    """Return how a build runs a GPU of a compute capability."""
    return Ways(
        way(build.capabilities, build.ptx, wanted, tegra),
        way(build.torch_capabilities, build.torch_ptx, wanted, tegra),
    )


def runs_on(build: Build, wanted: str, tegra: Sequence[str] = ()) -> bool:
    """Tell whether a build, and its torch, hold code for a compute capability."""
    return ways(build, wanted, tegra).runs


def floor_of(entry: EngineEntry, arch: str | None) -> tuple[int, ...]:
    """Return the lowest compute capability that any build of an engine for this architecture holds code for."""
    floors = [_floor(build) for build in entry.build if build.cuda and arch in {None, build.arch}]
    return min(floors, default=(0,))


def _floor(build: Build) -> tuple[int, ...]:
    """Return the lowest capability that both the engine's binaries and its torch's hold code for."""
    floors = []
    for codes, ptx in ((build.capabilities, build.ptx), (build.torch_capabilities, build.torch_ptx)):
        listed = [numbers(code) for code in (*(codes or ()), *((ptx,) if ptx else ()))]
        floors += [min(listed)] if listed else []
    return max(floors, default=(0,))


def select(entry: EngineEntry, machine: Machine, asked: tuple[int, ...] | None) -> Devices:
    """Return the GPUs to use: those asked for, else all but the ones below the engine's floor where others remain."""
    every = nvidia_gpus(machine)
    indexes = [gpu.index for gpu in every]
    if asked is not None:
        return Devices(chosen=[gpu for gpu in every if gpu.index in asked], left_out=[], all_indexes=indexes)
    floor = floor_of(entry, machine.host.arch)
    fit = [gpu for gpu in every if (capability(gpu.compute_capability) or floor) >= floor]
    if not fit:
        return Devices(chosen=every, left_out=[], all_indexes=indexes)
    return Devices(chosen=fit, left_out=[gpu for gpu in every if gpu not in fit], all_indexes=indexes)
