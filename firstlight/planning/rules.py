"""One small rule per constraint: each takes a case and gives a refusal, or None when the machine meets it.

An unknown fact (None) refuses nothing; it is written down in `Case.assumed`.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from firstlight.catalogue.types import Build, EngineEntry
from firstlight.machine.facts import Machine
from firstlight.planning.devices import Devices, has_nvidia, runs_on
from firstlight.planning.places import best_mount, home_on, mount_of
from firstlight.planning.plan import Refusal
from firstlight.planning.request import Request
from firstlight.planning.versions import at_least, major

_OLD_KERNEL = "4.15"
"""Oldest kernel for driver 580 (NVIDIA driver README, minimum requirements)."""
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
_PROBLEMS = {
    "driver_library_mismatch": (
        "the kernel's NVIDIA driver and the installed library have different versions",
        "restart the machine so that the kernel loads the installed driver: reboot",
    ),
    "no_device_nodes": (
        "the NVIDIA driver is loaded but /dev/nvidia* is missing",
        "make the device nodes: nvidia-modprobe -u -c=0; in a container, start it with --gpus all",
    ),
    "nvml_missing": (
        "the NVIDIA driver is loaded but its library libnvidia-ml.so.1 is missing",
        "install the driver's library package, or start the container with --gpus all",
    ),
    "fabric_manager": (
        "the GPUs are joined by NVSwitch and their fabric manager does not run",
        "start it: systemctl start nvidia-fabricmanager",
    ),
}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One build held against one machine and one request."""

    build: Build
    entry: EngineEntry
    machine: Machine
    request: Request
    devices: Devices
    environment: str
    home: str
    disk_needed: int
    assumed: list[str]
    """Collects what was unknown and taken as met."""


Rule = Callable[[Case], Refusal | None]


def refuse(case: Case, rule: str, reason: str, remedy: str | None = None) -> Refusal:
    """Return a refusal of the case's build."""
    return Refusal(build=case.build.id, rule=rule, reason=reason, remedy=remedy)


def requested(case: Case) -> Refusal | None:
    """Refuse what was not asked for: another build, release, CUDA or Python."""
    build, request = case.build, case.request
    if request.build is not None and build.id != request.build:
        return refuse(case, "requested", f"--build {request.build} was asked for")
    if request.release is not None and build.release != request.release:
        return refuse(case, "requested", f"it is release {build.release}, --release {request.release} was asked for")
    if request.cuda is not None and (build.cuda or "cpu") != request.cuda:
        made = f"made with CUDA {build.cuda}" if build.cuda else "a CPU build"
        return refuse(case, "requested", f"it is {made}, --cuda {request.cuda} was asked for")
    if request.gpus is not None and build.cuda is None:
        chosen = ",".join(map(str, request.gpus))
        return refuse(case, "requested", f"it is a CPU build, --gpus {chosen} was asked for", "leave --gpus out")
    return None


def arch(case: Case) -> Refusal | None:
    """Refuse another processor architecture."""
    have = case.machine.host.arch
    if have is None:
        case.assumed.append(f"processor architecture {case.build.arch}")
        return None
    have = _ARCHITECTURES.get(have, have)
    if have == case.build.arch:
        return None
    return refuse(case, "arch", f"it is for {case.build.arch}, this machine is {have}")


def device(case: Case) -> Refusal | None:
    """Refuse a CUDA build without a usable NVIDIA GPU, and a CPU build where the engine's policy forbids it."""
    machine, request = case.machine, case.request
    if case.build.cuda is None:
        if case.entry.cpu == "no_gpu" and has_nvidia(machine) and request.cuda != "cpu":
            reason = f"{case.entry.engine} is not put on the CPU by itself where there is an NVIDIA GPU or driver"
            fits = all(rule(case) is None for rule in (arch, libc, python, cpu, memory, disk))
            remedy = f"ask for it: firstlight setup.{case.entry.engine} --cuda cpu" if fits else None
            return refuse(case, "device", reason, remedy)
        return None
    if not has_nvidia(machine):
        if machine.gpus is None and machine.nvidia is None and machine.problems:
            case.assumed.append("an NVIDIA GPU (the probe could not tell)")
            return None
        others = sorted({gpu.vendor for gpu in machine.gpus or [] if gpu.vendor != "nvidia"})
        seen = f"; seen and not used: {', '.join(others)}" if others else ""
        return refuse(case, "device", f"there is no NVIDIA GPU here{seen}", "use a machine with an NVIDIA GPU")
    if request.gpus is not None and not case.devices.chosen:
        there = ", ".join(map(str, case.devices.all_indexes)) or "none"
        return refuse(
            case, "device", f"none of the GPUs {list(request.gpus)} is here (there: {there})", "change --gpus"
        )
    if machine.nvidia is not None and machine.nvidia.problem in _PROBLEMS:
        reason, remedy = _PROBLEMS[machine.nvidia.problem]
        return refuse(case, "device", reason, remedy)
    if machine.gpus is not None and not case.devices.chosen:
        return refuse(case, "device", "the NVIDIA driver shows no GPU", "look at what the driver says: nvidia-smi")
    return None


def driver(case: Case) -> Refusal | None:
    """Refuse a build that needs a newer driver; `nvidia.cuda` stands in for an unknown one and for WSL's numbers."""
    build, nvidia = case.build, case.machine.nvidia
    if build.cuda is None or build.driver is None or not has_nvidia(case.machine):
        return None
    remedy = _driver_remedy(case, build.driver)
    if nvidia is None:
        return refuse(case, "driver", "an NVIDIA GPU is here but no driver runs it", remedy)
    have = None if case.machine.host.wsl else nvidia.driver
    if have is not None:
        if at_least(have, build.driver):
            return None
        return refuse(case, "driver", f"needs driver >= {build.driver}, this machine has {have}", remedy)
    if nvidia.cuda is not None:
        if major(nvidia.cuda) >= major(build.cuda):
            return None
        reason = f"needs a driver that runs CUDA {major(build.cuda)}.x (>= {build.driver}), this one runs {nvidia.cuda}"
        return refuse(case, "driver", reason, remedy)
    case.assumed.append(f"an NVIDIA driver >= {build.driver}")
    return None


def _driver_remedy(case: Case, floor: str) -> str:
    kernel, wsl = case.machine.host.kernel, case.machine.host.wsl
    if wsl:
        return f"install NVIDIA's Windows driver {floor} or newer; inside WSL nothing is installed"
    if major(floor) >= 580 and kernel is not None and not at_least(kernel, _OLD_KERNEL):
        return (
            f"none on this system: driver {floor} needs kernel {_OLD_KERNEL}, "
            f"this is {kernel}; move to a newer distribution"
        )
    if case.machine.host.container:
        return f"install driver {floor} or newer on the host that runs this container"
    return f"install driver {floor} or newer"


def compute_capability(case: Case) -> Refusal | None:
    """Refuse a build that holds no code for one of the chosen GPUs."""
    if case.build.cuda is None:
        return None
    for gpu in case.devices.chosen:
        have = gpu.compute_capability
        if have is None:
            case.assumed.append(f"compute capability of GPU {gpu.index} ({gpu.name or 'unnamed'})")
        elif not runs_on(case.build, have):
            codes = ", ".join(case.build.capabilities or [])
            others = [
                other.index
                for other in case.devices.chosen
                if other.compute_capability is None or runs_on(case.build, other.compute_capability)
            ]
            remedy = f"choose other GPUs: --gpus {','.join(map(str, others))}" if others else None
            reason = f"GPU {gpu.index} ({gpu.name}) has compute capability {have}; this build holds code for {codes}"
            return refuse(case, "compute_capability", reason, remedy)
    return None


def libc(case: Case) -> Refusal | None:
    """Refuse a machine whose C library is older than the wheels ask for, or is not glibc."""
    host, floor = case.machine.host, case.build.libc
    if host.libc is not None and host.libc != "glibc":
        return refuse(
            case, "libc", f"its wheels need glibc, this machine has {host.libc}", "use a glibc distribution's container"
        )
    if host.libc_version is None:
        case.assumed.append(f"glibc >= {floor}")
        return None
    if at_least(host.libc_version, floor):
        return None
    return refuse(
        case,
        "libc",
        f"needs glibc >= {floor}, this machine has {host.libc_version}",
        "use a newer distribution, or a container of one",
    )


def python(case: Case) -> Refusal | None:
    """Refuse when no Python that the build runs on can be had in this kind of environment."""
    if usable_pythons(case):
        return None
    runs = ", ".join(case.build.pythons)
    if case.request.python is not None and case.request.python not in case.build.pythons:
        return refuse(
            case, "python", f"--python {case.request.python} was asked for, it runs on {runs}", "leave --python out"
        )
    wanted = case.request.python or runs
    return refuse(
        case,
        "python",
        f"a virtual environment needs a Python {wanted} on this machine and there is none",
        "use conda packages, which bring their own Python: --environment conda",
    )


def usable_pythons(case: Case) -> list[str]:
    """Return the Pythons (minor versions) that the build runs on and this kind of environment can have, best first."""
    wanted = [minor for minor in case.build.pythons if case.request.python in {None, minor}]
    here = case.machine.pythons
    if case.environment == "conda" or here is None:
        return wanted
    minors = {".".join(found.version.split(".")[:2]) for found in here}
    return [minor for minor in wanted if minor in minors]


def cpu(case: Case) -> Refusal | None:
    """Refuse a CPU build on a processor that lacks its instruction sets."""
    if case.build.cuda is not None or not case.build.cpu_flags:
        return None
    have = case.machine.cpu.flags
    if have is None:
        case.assumed.append(f"processor flags {', '.join(case.build.cpu_flags)}")
        return None
    missing = [flag for flag in case.build.cpu_flags if flag not in have]
    if missing:
        return refuse(case, "cpu", f"needs the instruction sets {', '.join(missing)}, which this processor lacks")
    return None


def memory(case: Case) -> Refusal | None:
    """Refuse a CPU build that this machine's memory cannot hold."""
    if case.build.cuda is not None or case.build.memory is None:
        return None
    have = case.machine.memory.total
    if have is None:
        case.assumed.append("enough main memory")
        return None
    if have >= case.build.memory:
        return None
    return refuse(case, "memory", f"needs {gigabytes(case.build.memory)} of memory, this machine has {gigabytes(have)}")


def disk(case: Case) -> Refusal | None:
    """Refuse when the mount of the home has no room, and name the mount that has."""
    place = mount_of(case.machine, case.home)
    if place is None or place.free is None:
        case.assumed.append(f"{gigabytes(case.disk_needed)} free at {case.home}")
        return None
    best = best_mount(case.machine)
    roomy = best if best is not None and (best.free or 0) >= case.disk_needed and best.mount != place.mount else None
    remedy = f"export FIRSTLIGHT_HOME={home_on(case.machine, roomy)}" if roomy else "free some space"
    if place.writable is False:
        other = remedy if roomy else "export FIRSTLIGHT_HOME=/path/that/you/can/write"
        return refuse(case, "disk", f"{case.home} lies on {place.mount}, where this user cannot write", other)
    if place.free >= case.disk_needed:
        return None
    reason = f"needs {gigabytes(case.disk_needed)}, {place.mount} has {gigabytes(place.free)} free"
    return refuse(case, "disk", reason, remedy)


def gigabytes(size: int) -> str:
    """Return a size in words: `2.1 GB` (10^9 bytes) or `61 MB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


RULES: tuple[Rule, ...] = (
    requested,
    arch,
    device,
    compute_capability,
    libc,
    driver,
    python,
    cpu,
    memory,
    disk,
)
"""In this order the first refusal is told: what nobody can change on a machine comes before what an admin can."""
