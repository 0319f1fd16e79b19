"""The rules about GPUs and their driver: device, compute capability, driver, and Jetson boards."""

from __future__ import annotations

from collections.abc import Sequence

from firstlight.catalogue.types import Build
from firstlight.machine.facts import Gpu
from firstlight.planning.case import Case, refuse
from firstlight.planning.devices import Ways, has_nvidia, ways
from firstlight.planning.drivers import Driver, driver_of, native, runs
from firstlight.planning.plan import Refusal
from firstlight.planning.platforms import is_tegra, jetpack_of
from firstlight.planning.versions import at_least, capability, major, numbers

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


def device(case: Case) -> Refusal | None:
    """Refuse a CUDA build without a usable NVIDIA GPU."""
    machine, devices = case.machine, case.devices
    if case.build.cuda is None:
        return None
    if not has_nvidia(machine):
        if machine.gpus is None and machine.nvidia is None and machine.problems:
            case.assumed.append("an NVIDIA GPU (the probe could not tell)")
            return None
        others = sorted({gpu.vendor for gpu in machine.gpus or [] if gpu.vendor != "nvidia"})
        seen = f"; seen and not used: {', '.join(others)}" if others else ""
        return refuse(case, "device", f"there is no NVIDIA GPU here{seen}", "use a machine with an NVIDIA GPU")
    absent = [index for index in case.request.gpus or () if index not in devices.all_indexes]
    if machine.gpus is None and absent:
        case.assumed.append(f"the GPUs {_listed(absent)}")
    elif absent:
        there = f"there: {_listed(devices.all_indexes)}" if devices.all_indexes else "there is none"
        return refuse(case, "device", f"GPU {_listed(absent)} is no NVIDIA GPU of this machine ({there})", _other(case))
    if machine.nvidia is not None and machine.nvidia.problem in _PROBLEMS:
        reason, remedy = _PROBLEMS[machine.nvidia.problem]
        return refuse(case, "device", reason, remedy)
    if machine.gpus is not None and not devices.chosen:
        return refuse(case, "device", "the NVIDIA driver shows no GPU", "look at what the driver says: nvidia-smi")
    return None


def _other(case: Case) -> str:
    there = case.devices.all_indexes
    return f"choose among those that are: --gpus {_listed(there, ',')}" if there else "leave --gpus out"


def jetson(case: Case) -> Refusal | None:
    """Refuse a build made for one JetPack everywhere else."""
    build, machine, platforms = case.build, case.machine, case.catalogue.platforms
    if build.jetpack is None:
        return None
    if not is_tegra(machine, platforms):
        if machine.gpus is None and machine.host.kernel is None:
            case.assumed.append(f"a Jetson board with JetPack {build.jetpack}")
            return None
        return refuse(case, "device", f"it is made for Jetson boards with JetPack {build.jetpack}, this is none")
    have = jetpack_of(machine, platforms)
    if have is None:
        case.assumed.append(f"JetPack {build.jetpack}")
        return None
    if have.release == build.jetpack:
        return None
    return refuse(case, "driver", f"it is made for JetPack {build.jetpack}, this board has JetPack {have.release}")


def compute_capability(case: Case) -> Refusal | None:
    """Refuse a build that holds no code for one of the chosen GPUs, be it the engine's own or its torch's."""
    if case.build.cuda is None:
        return None
    for gpu in case.devices.chosen:
        have = gpu.compute_capability
        if have is None or capability(have) is None:
            case.assumed.append(f"compute capability of GPU {gpu.index} ({gpu.name or 'unnamed'})")
            continue
        found = ways(case.build, have, case.catalogue.platforms.tegra)
        if not found.runs:
            reason = f"GPU {gpu.index} ({gpu.name or 'unnamed'}) has compute capability {have}; {_lacks(case, found)}"
            return refuse(case, "compute_capability", reason)
    return None


def _lacks(case: Case, found: Ways) -> str:
    """Return what the binaries hold that do not run a GPU."""
    build = case.build
    if found.engine is None:
        return f"this build holds code for {_codes(build.capabilities, build.ptx)}"
    return f"its torch {build.torch_version} holds code for {_codes(build.torch_capabilities, build.torch_ptx)}"


def _codes(codes: Sequence[str] | None, ptx: str | None) -> str:
    parts = [*(codes or ()), *([f"PTX from {ptx} on"] if ptx else [])]
    return ", ".join(parts) or "none"


def driver(case: Case) -> Refusal | None:
    """Refuse a build that needs a newer driver: for its CUDA, or because a GPU needs its PTX compiled.

    Minor-version compatibility covers machine code alone: PTX of a newer toolkit does not compile (NVIDIA, CUDA minor
    version compatibility, "Application considerations").
    """
    build, machine = case.build, case.machine
    if build.cuda is None or build.driver is None or not has_nvidia(machine) or build.jetpack is not None:
        return None
    if machine.nvidia is None:
        reason = f"an NVIDIA GPU is here but no driver runs it; this build needs driver >= {build.driver}"
        return refuse(case, "driver", *_with_remedy(case, reason, build.driver))
    have = driver_of(machine, case.catalogue.platforms)
    met = runs(have, build, case.catalogue.cuda)
    if met is False:
        return refuse(case, "driver", *_with_remedy(case, _too_old(have, build), build.driver))
    if met is None:
        case.assumed.append(f"an NVIDIA driver >= {build.driver}")
    for gpu in by_ptx(case):
        if native(have, build) is False:
            reason = (
                f"GPU {gpu.index} ({gpu.compute_capability}) would run its PTX alone, which driver "
                f"{build.native_driver} and newer compile; this machine has {have.words}"
            )
            return refuse(case, "driver", *_with_remedy(case, reason, build.native_driver or build.driver))
    return None


def _too_old(have: Driver, build: Build) -> str:
    if have.own:
        return f"made with CUDA {build.torch_cuda or build.cuda}, this board has {have.words} at most"
    if have.number is not None or have.cuda is None:
        return f"needs driver >= {build.driver}, this machine has {have.words}"
    return f"needs driver >= {build.driver}, which runs CUDA {major(build.cuda or '')}.x; this machine has {have.words}"


def by_ptx(case: Case) -> list[Gpu]:
    """Return the chosen GPUs for which the driver compiles a CUDA build's PTX at the first start."""
    if not case.build.cuda:
        return []
    kinds = {gpu.compute_capability for gpu in case.devices.chosen}  # eight GPUs are mostly of one
    tegra = case.catalogue.platforms.tegra
    compiled = {kind for kind in kinds if kind and capability(kind) and ways(case.build, kind, tegra).by_ptx}
    return [gpu for gpu in case.devices.chosen if gpu.compute_capability in compiled]


def _with_remedy(case: Case, reason: str, floor: str) -> tuple[str, str | None]:
    """Return a reason and what would help on this very machine; where nothing can, the reason says why."""
    host, jetpack = case.machine.host, jetpack_of(case.machine, case.catalogue.platforms)
    if case.driver_remedy is not None:
        return reason, case.driver_remedy
    if jetpack is not None and jetpack.own_driver:
        return reason, _jetpack_remedy(case)
    if host.wsl:
        return reason, f"install NVIDIA's Windows driver {major(floor)} or newer; inside WSL nothing is installed"
    kernel = host.kernel or ""
    for floor_of_kernel in case.catalogue.platforms.kernel:
        too_old = numbers(kernel) and not at_least(kernel, floor_of_kernel.kernel)
        if too_old and major(floor) >= major(floor_of_kernel.driver):
            return f"{reason} (that driver needs kernel {floor_of_kernel.kernel}, this is {kernel})", None
    if any(gpu.mig is not True for gpu in case.devices.slices):
        return reason, f"have the host's administrator move its vGPU software, then the guest, to driver {floor}"
    if host.container:
        return reason, f"install driver {floor} or newer on the host that runs this {_inside(host.container)}"
    return reason, f"install driver {floor} or newer"


def _inside(container: str) -> str:
    return "pod" if container == "kubernetes" else "container"


def _jetpack_remedy(case: Case) -> str | None:
    wanted = major(case.build.torch_cuda or case.build.cuda or "")
    for known in case.catalogue.platforms.jetpack:
        if major(known.cuda) >= wanted:
            return f"install JetPack {known.release} or newer, where NVIDIA has it for this board"
    return None


def native_for(case: Case) -> bool | None:
    """Tell whether the machine's driver runs a case's CUDA build without minor-version compatibility."""
    if case.build.cuda is None or case.build.jetpack is not None or case.machine.nvidia is None:
        return None
    return native(driver_of(case.machine, case.catalogue.platforms), case.build)


def _listed(indexes: Sequence[int], between: str = ", ") -> str:
    return between.join(map(str, indexes))
