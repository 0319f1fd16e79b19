"""Facts that contradict each other: each is told, and the safer reading is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from firstlight.catalogue.types import Catalogue
from firstlight.machine.facts import Gpu, Machine
from firstlight.planning.platforms import own_driver_stack
from firstlight.planning.versions import at_least, capability, major, numbers

_MUSL_MAJOR = 1
"""musl counts 1.x, glibc 2.x."""
_ARCHITECTURES = ("x86_64", "aarch64")


class Sense(msgspec.Struct, frozen=True, kw_only=True):
    """The facts as the plan takes them, what contradicted itself in them, and what would clear that up."""

    machine: Machine
    told: list[str]
    driver_remedy: str | None = None
    """What to do where the driver and its CUDA disagree: another driver alone would not help."""


def sensible(machine: Machine, catalogue: Catalogue) -> Sense:
    """Return the facts with contradictions settled in favour of what can do less."""
    told: list[str] = []
    machine, remedy = _driver_against_cuda(machine, catalogue, told)
    for settle in _SETTLERS:
        machine = settle(machine, told)
    told += _only_told(machine)
    return Sense(machine=machine, told=told, driver_remedy=remedy)


def _driver_against_cuda(machine: Machine, catalogue: Catalogue, told: list[str]) -> tuple[Machine, str | None]:
    """Hold the driver's branch against the CUDA that it is said to run; the one that can do less counts.

    Windows' numbers (WSL) and those of boards with a driver of their own are no Linux branches: their CUDA counts.
    """
    nvidia = machine.nvidia
    if nvidia is None or nvidia.driver is None or nvidia.cuda is None or machine.host.wsl:
        return machine, None
    branch, cuda = major(nvidia.driver), nvidia.cuda
    if not branch or len(numbers(cuda)) < 2 or own_driver_stack(machine, catalogue.platforms):
        return machine, None
    lines = sorted(catalogue.cuda.values(), key=lambda line: numbers(line.version), reverse=True)
    for line in lines:
        native = major(line.native_driver)
        if branch < native and at_least(cuda, line.version):
            told.append(
                f"driver {nvidia.driver} and CUDA {cuda} do not belong together (CUDA {line.version} came with driver "
                f"{native}; a cuda-compat library may be in front): the driver counts"
            )
            return msgspec.structs.replace(machine, nvidia=msgspec.structs.replace(nvidia, cuda=None)), None
    for line in lines:
        if branch >= major(line.native_driver) and not at_least(cuda, line.version):
            told.append(
                f"driver {nvidia.driver} runs CUDA {line.version}, but CUDA {cuda} is what it says "
                f"(an older libcuda may be in front): CUDA {cuda} counts"
            )
            remedy = (
                f"look why driver {nvidia.driver} says CUDA {cuda}: an older libcuda.so.1 (LD_LIBRARY_PATH, a compat "
                "folder of an image), or a driver update before the last restart"
            )
            return msgspec.structs.replace(machine, nvidia=msgspec.structs.replace(nvidia, driver=None)), remedy
    return machine, None


def _libc(machine: Machine, told: list[str]) -> Machine:
    """Settle a C library whose version is the other one's: musl, which refuses, is the safer reading."""
    host = machine.host
    version = numbers(host.libc_version or "")
    if not version or host.libc not in {"glibc", "musl"}:
        return machine
    if (host.libc == "musl") == (version[0] <= _MUSL_MAJOR):
        return machine
    told.append(f"the C library is said to be {host.libc} {host.libc_version}, which there is not: it counts as musl")
    return msgspec.structs.replace(machine, host=msgspec.structs.replace(host, libc="musl"))


def _gpus(machine: Machine, told: list[str]) -> Machine:
    """Settle two GPUs under one index: the one of the lower compute capability counts."""
    kept: dict[int, Gpu] = {}
    for gpu in machine.gpus or []:
        other = kept.get(gpu.index)
        if other is not None:
            told.append(f"two GPUs have the index {gpu.index} ({other.name}, {gpu.name}): one is counted")
        if other is None or (capability(gpu.compute_capability) or (0, 0)) < (
            capability(other.compute_capability) or (0, 0)
        ):
            kept[gpu.index] = gpu
    if machine.gpus is None or len(kept) == len(machine.gpus):
        return machine
    return msgspec.structs.replace(machine, gpus=list(kept.values()))


def _disks(machine: Machine, told: list[str]) -> Machine:
    """Settle filesystems with more free than they hold: the smaller number counts."""
    disks = []
    for disk in machine.disks or []:
        free, total = disk.free, disk.total
        if free is not None and total is not None and free > total:
            told.append(f"{disk.mount} is said to have {free} bytes free of {total}: {total} count")
            disks.append(msgspec.structs.replace(disk, free=total))
        else:
            disks.append(disk)
    return machine if machine.disks is None else msgspec.structs.replace(machine, disks=disks)


_SETTLERS: tuple[Callable[[Machine, list[str]], Machine], ...] = (_libc, _gpus, _disks)


def _only_told(machine: Machine) -> Iterator[str]:
    """Give what is told and settled by the rules themselves."""
    nvidia, gpus = machine.nvidia, machine.gpus
    seen = [gpu for gpu in gpus or [] if gpu.vendor == "nvidia"]
    if seen and nvidia is None:
        yield f"there is an NVIDIA GPU ({seen[0].name or 'unnamed'}) but no NVIDIA driver: it counts as unusable"
    if nvidia is not None and nvidia.problem is None and gpus is not None and not seen:
        yield "there is an NVIDIA driver but no NVIDIA GPU in the list: it counts as a machine without one"
    kernel, arch = machine.host.kernel or "", machine.host.arch
    for name in _ARCHITECTURES:
        if kernel.endswith(f".{name}") and arch in _ARCHITECTURES and arch != name:
            yield f"the kernel {kernel} is one for {name}, the programs are for {arch}: {arch} counts"
    if kernel.endswith("-tegra") and arch == "x86_64":
        yield f"the kernel {kernel} is a Jetson's, the programs are for {arch}: {arch} counts"
