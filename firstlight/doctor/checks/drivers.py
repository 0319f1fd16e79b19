"""The NVIDIA driver: is it there, is it whole, is it new enough, and is another library in front of its own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec

from firstlight.doctor.check import Check
from firstlight.doctor.evidence import Evidence, seen
from firstlight.doctor.findings import Finding, Remedy, by_hand, fail, ok, skip, warn
from firstlight.doctor.judging import barriers, names, passed, remedy_for, settled
from firstlight.machine.facts import Machine, NvidiaProblem
from firstlight.planning.devices import has_nvidia, nvidia_gpus
from firstlight.planning.versions import numbers

_NO_NVIDIA = "there is no NVIDIA GPU and no driver here"
_CONSUMER = re.compile(r"geforce|titan", re.IGNORECASE)
_INSTALL = {
    "ubuntu": ("sudo ubuntu-drivers install --gpgpu",),
    "debian": ("sudo apt-get install nvidia-driver   # section non-free",),
    "fedora": ("sudo dnf install akmod-nvidia   # RPM Fusion",),
    "arch": ("sudo pacman -S nvidia",),
}
_MANUAL = "install it as https://docs.nvidia.com/datacenter/tesla/driver-installation-guide/ says, and reboot"
_CONTAINER = "start the container with its GPUs: docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,utility"


class _Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """A problem of the driver in words; `container` replaces the remedy where the driver belongs to the host."""

    id: str
    problem: NvidiaProblem
    title: str
    summary: str
    detail: str
    remedy: Remedy
    container: str | None
    source: str


_TROUBLES = (
    _Trouble(
        id="driver-library",
        problem="driver_library_mismatch",
        title="kernel module and libraries of the NVIDIA driver are of one version",
        summary="the loaded NVIDIA kernel module and the installed libraries are of different versions",
        detail="The driver was updated and the old module still runs. CUDA fails with error 803, and some engines fall "
        "back to the CPU without a word.",
        remedy=by_hand("restart the machine, so that the kernel loads the installed module", "sudo reboot", root=True),
        container="restart the container: the host's driver was updated under it",
        source="ollama/ollama#15918; NVML_ERROR_LIB_RM_VERSION_MISMATCH",
    ),
    _Trouble(
        id="device-nodes",
        problem="no_device_nodes",
        title="the device nodes of the NVIDIA driver are there",
        summary="the NVIDIA driver is loaded, but there is no /dev/nvidia0",
        detail="No program can open a GPU without its device node.",
        remedy=by_hand("make the nodes", "sudo nvidia-modprobe -u -c=0", root=True),
        container=_CONTAINER,
        source="NVIDIA driver README, device files",
    ),
    _Trouble(
        id="unified-memory",
        problem="uvm_not_loaded",
        title="the kernel module nvidia-uvm is loaded",
        summary="the kernel module nvidia-uvm is not loaded: /dev/nvidia-uvm is missing",
        detail="nvidia-smi works without it, CUDA does not: engines see no GPU.",
        remedy=by_hand(
            "load it, and at every boot",
            "sudo nvidia-modprobe -u -c=0",
            "echo nvidia-uvm | sudo tee /etc/modules-load.d/nvidia-uvm.conf",
            root=True,
        ),
        container="load it on the host (sudo nvidia-modprobe -u -c=0), then start the container again",
        source="Ollama, docs/troubleshooting: nvidia-modprobe -u",
    ),
    _Trouble(
        id="fabric-manager",
        problem="fabric_manager",
        title="the fabric manager runs where GPUs are joined by NVSwitch",
        summary="the GPUs are joined by NVSwitch, and their fabric is not set up",
        detail="CUDA fails with error 802 (system not yet initialized) until nvidia-fabricmanager runs, in the very "
        "version of the driver.",
        remedy=by_hand("start it now and at every boot", "sudo systemctl enable --now nvidia-fabricmanager", root=True),
        container="start it on the host: sudo systemctl enable --now nvidia-fabricmanager",
        source="NVIDIA Fabric Manager user guide; gpustack/gpustack#1254",
    ),
    _Trouble(
        id="nvml",
        problem="nvml_missing",
        title="the driver's library NVML is there",
        summary="the NVIDIA driver is loaded, but its library libnvidia-ml.so.1 is missing",
        detail="Engines ask it which GPUs there are; without it they end with `Failed to infer device type`.",
        remedy=by_hand(
            "install the driver's libraries in the version of the module", "cat /proc/driver/nvidia/version"
        ),
        container=_CONTAINER,
        source="vllm-project/vllm#13946",
    ),
    _Trouble(
        id="driver-answers",
        problem="other",
        title="the NVIDIA driver answers",
        summary="the NVIDIA driver does not answer as it should",
        detail="Facts about the GPUs may be missing, and engines may hang where this program gave up.",
        remedy=by_hand("see what the driver and the kernel say", "nvidia-smi", "sudo dmesg | grep -i -e nvrm -e xid"),
        container=None,
        source="NVIDIA, Xid errors",
    ),
)


_OF_LINUX = frozenset({"driver_library_mismatch", "no_device_nodes", "uvm_not_loaded", "fabric_manager"})
"""Problems of a driver whose kernel module is Linux' own."""


def driver(evidence: Evidence) -> Iterable[Finding]:
    """Tell whether NVIDIA GPUs have a driver."""
    machine = evidence.machine
    cards = nvidia_gpus(machine)
    if not has_nvidia(machine):
        unknown = machine.gpus is None
        yield skip("what GPUs there are is unknown") if unknown else ok(f"{_NO_NVIDIA}: engines run on the processor")
    elif machine.nvidia is None or _not_loaded(machine):
        named = names(sorted({card.name or "an NVIDIA GPU" for card in cards}))
        yield fail(
            f"{named}: no NVIDIA driver is {'loaded' if machine.nvidia is not None else 'here'}",
            detail="The GPU is on the bus and nothing can use it.",
            evidence=_told(machine) or None,
            affects=_with_cuda(evidence),
            remedy=_how_to_install(machine),
            source="PCI bus, /proc/driver/nvidia, /sys/module/nvidia",
        )
    elif machine.gpus is not None and not cards:
        yield warn(
            f"driver {machine.nvidia.driver or ''} shows no GPU".replace("  ", " "),
            detail="It is loaded, and lists no GPU: none is passed to this container, or the card fell off the bus.",
            affects=_with_cuda(evidence),
            remedy=by_hand(_CONTAINER)
            if machine.host.container
            else by_hand("see what the driver says", "nvidia-smi -L"),
        )
    elif machine.nvidia.driver is None and machine.nvidia.cuda is None:
        yield skip("the NVIDIA driver does not tell its version")
    else:
        counted = settled(evidence).nvidia or machine.nvidia
        runs = f", runs CUDA up to {counted.cuda}" if counted.cuda else ""
        yield ok(f"NVIDIA driver {machine.nvidia.driver or 'of unknown version'}{runs}")


def _not_loaded(machine: Machine) -> bool:
    """Tell whether only libraries of a driver are here, which say that its module is not loaded (nvml.h, error 9)."""
    nvidia = machine.nvidia
    return nvidia is not None and nvidia.driver is None and "Driver Not Loaded" in _told(machine)


def _how_to_install(machine: Machine) -> Remedy:
    if machine.host.wsl:
        return by_hand("install NVIDIA's driver for Windows, never one inside WSL")
    if machine.host.container:
        return by_hand(_CONTAINER)
    return by_hand(_MANUAL, *_INSTALL.get(machine.host.os or "", ()), root=True)


def _with_cuda(evidence: Evidence) -> list[str]:
    """Return the engines that have builds for NVIDIA GPUs."""
    return [page.engine for page in evidence.catalogue.engines.values() if any(build.cuda for build in page.build)]


def _told(machine: Machine) -> str:
    """Return what the ways of asking the driver said."""
    detail = machine.nvidia.problem_detail if machine.nvidia is not None else None
    said = [f"{item.probe}: {item.reason}" for item in machine.problems if item.probe.startswith("gpu.")]
    return "\n".join(dict.fromkeys(filter(None, [detail, *(line for line in said if (detail or "-") not in line)])))


def _trouble(trouble: _Trouble) -> Callable[[Evidence], Iterable[Finding]]:
    """Return the check for one problem of the driver."""

    def check(evidence: Evidence) -> Iterable[Finding]:
        machine = evidence.machine
        if machine.nvidia is None:
            yield skip(_NO_NVIDIA if not has_nvidia(machine) else "there is no NVIDIA driver")
        elif trouble.problem in _OF_LINUX and machine.host.wsl:
            yield skip("under WSL the driver is Windows' own")
        elif machine.nvidia.problem == trouble.problem:
            remedy = by_hand(trouble.container) if machine.host.container and trouble.container else trouble.remedy
            yield fail(
                trouble.summary,
                detail=trouble.detail,
                evidence=_told(machine),
                affects=_with_cuda(evidence),
                remedy=remedy,
            )
        else:
            yield ok(trouble.title)

    return check


def driver_cuda(evidence: Evidence) -> Iterable[Finding]:
    """Hold the driver against the newest release of each engine."""
    nvidia = settled(evidence).nvidia
    if nvidia is None:
        yield skip(_NO_NVIDIA if not has_nvidia(evidence.machine) else "there is no NVIDIA driver")
        return
    known = f"driver {nvidia.driver}" if nvidia.driver else f"a driver for CUDA {nvidia.cuda}" if nvidia.cuda else None
    have = known or "the driver"
    found = barriers(evidence, "driver")
    for barrier in found:
        if barrier.instead:
            yield warn(
                f"{have} is too old for {barrier.release}",
                detail=f"{barrier.instead} is the newest that it runs, and is taken instead.",
                evidence=barrier.refusal.reason,
                affects=[barrier.engine],
                remedy=remedy_for(barrier.refusal, barrier.engine),
                subject=barrier.engine,
            )
        else:
            yield fail(
                f"{have} is too old for every build of {barrier.engine} that this GPU can run",
                detail="It would run on the CPU." if barrier.on_cpu else None,
                evidence=f"{barrier.floor.build}: {barrier.floor.reason}",
                affects=[barrier.engine],
                remedy=remedy_for(barrier.floor, barrier.engine),
                subject=barrier.engine,
            )
    if not found and known is None:
        yield skip("which CUDA the driver runs is unknown")
    elif not found and not passed(evidence, "driver"):
        yield skip(f"{have}: no engine has a build for the GPU here, for another reason")
    elif not found:
        yield ok(f"{have} is new enough for the newest release of every engine that fits here")


def cuda_compat(evidence: Evidence) -> Iterable[Finding]:
    """Judge libcuda: a compatibility package or another driver's library in front of the driver's own."""
    libraries = seen(evidence.libraries)
    library, kernel = libraries.cuda, libraries.kernel_driver
    if library is None or evidence.machine.nvidia is None:
        yield skip("there is no libcuda.so.1 here" if library is None else "there is no NVIDIA driver")
        return
    where = f"{library.path} ({library.version or 'version unknown'}), kernel module {kernel or 'unknown'}"
    consumer = [card.name for card in nvidia_gpus(evidence.machine) if card.name and _CONSUMER.search(card.name)]
    lines = "\n".join([where, *libraries.compat_lines])
    older = bool(library.version and kernel and numbers(library.version) < numbers(kernel))
    newer = bool(library.version and kernel and numbers(library.version) > numbers(kernel))
    if library.compat and consumer:
        yield fail(
            f"a CUDA compatibility package is in front of the driver's libcuda, and {consumer[0]} cannot use it",
            detail="Forward compatibility is for data-centre GPUs; on others CUDA ends with error 804 (or 803).",
            evidence=lines,
            affects=_with_cuda(evidence),
            remedy=_without_compat(evidence, libraries.compat_lines),
        )
    elif older or (newer and not library.compat):
        yield fail(
            "the libcuda.so.1 that programs find is not the loaded driver's",
            detail="CUDA ends with error 803 (unsupported display driver / CUDA driver combination).",
            evidence=lines,
            affects=_with_cuda(evidence),
            remedy=_without_compat(evidence, libraries.compat_lines),
        )
    elif library.compat:
        yield ok("a CUDA compatibility package is in use, on a GPU that may", evidence=lines)
    else:
        yield ok("libcuda.so.1 is the driver's own")


def _without_compat(evidence: Evidence, lines: tuple[str, ...]) -> Remedy:
    commands = [f"sudo rm {line.partition(': ')[0]} && sudo ldconfig" for line in lines]
    path = seen(evidence.libraries).cuda
    folder = path.path.rpartition("/")[0] if path else ""
    variables = evidence.variables
    searched = (variables.get("LD_LIBRARY_PATH") if variables else None) or ""
    if folder in searched.split(":"):
        left = ":".join(word for word in searched.split(":") if word and word != folder)
        commands.insert(0, f"export LD_LIBRARY_PATH={left}" if left else "unset LD_LIBRARY_PATH")
    return by_hand("take that folder out of the loader's way", *dict.fromkeys(commands), root=bool(lines))


CHECKS: tuple[Check, ...] = (
    Check(id="driver", group="gpu", title="NVIDIA GPUs have a driver", look=driver),
    *(
        Check(id=trouble.id, group="gpu", title=trouble.title, look=_trouble(trouble), source=trouble.source)
        for trouble in _TROUBLES
    ),
    Check(
        id="driver-cuda",
        group="gpu",
        title="the driver runs the newest release of each engine",
        look=driver_cuda,
        source="NVIDIA, CUDA minor version compatibility; envs/cuda.toml",
    ),
    Check(
        id="cuda-compat",
        group="gpu",
        title="libcuda is the driver's own",
        look=cuda_compat,
        needs=("libraries",),
        uses=("variables",),
        source="NVIDIA, CUDA forward compatibility; cuda.h errors 803 and 804; gpustack/gpustack#4678",
    ),
)
