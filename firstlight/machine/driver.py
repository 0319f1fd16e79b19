"""Traces of the NVIDIA driver in files: kernel module, device nodes, libraries, toolkit."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import msgspec

from firstlight import process
from firstlight.errors import FirstlightError
from firstlight.machine.facts import Gpu
from firstlight.machine.host import read_product, read_wsl
from firstlight.machine.system import System, exists, is_file

NVML = "libnvidia-ml.so.1"
CUDA = "libcuda.so.1"
_LIBRARY_FOLDERS = (
    "/usr/lib/wsl/lib",
    "/usr/local/nvidia/lib64",
    "/usr/local/nvidia/lib",
    "/run/opengl-driver/lib",
    "/usr/lib64",
    "/usr/lib64/nvidia",
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu/nvidia/current",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu/nvidia",
    "/usr/lib/aarch64-linux-gnu/tegra",
    "/usr/lib/nvidia",
    "/usr/lib",
    "/usr/local/lib",
    "/lib64",
    "/lib",
)
NVCC_SECONDS = 2.0


class Traces(msgspec.Struct, frozen=True, kw_only=True):
    """What files tell about NVIDIA before anything is asked."""

    kernel_driver: str | None
    """Version of the loaded kernel module."""
    kernel_source: str | None
    """`sysfs` or `procfs`."""
    nodes: bool
    """/dev/nvidiactl or a /dev/nvidia<number> is there."""
    unified_memory: bool
    """/dev/nvidia-uvm is there, or will be made when CUDA starts."""
    nvml: Path | None
    cuda: Path | None
    smi: Path | None
    wsl: bool
    tegra: str | None
    """The board's name on a Jetson."""
    nvswitch: bool

    @property
    def any(self) -> bool:
        """Whether anything speaks for an NVIDIA driver."""
        return bool(self.kernel_driver or self.nodes or self.nvml or self.smi or self.tegra)


def read_traces(system: System) -> Traces:
    """Return the traces of the NVIDIA driver."""
    version, source = _kernel_driver(system)
    try:
        names = {path.name for path in system.path("/dev").glob("nvidia*")}
    except OSError:
        names = set()
    nodes = "nvidiactl" in names or any(re.fullmatch(r"nvidia\d+", name) for name in names)
    return Traces(
        kernel_driver=version,
        kernel_source=source,
        nodes=nodes,
        unified_memory="nvidia-uvm" in names or _makes_nodes(system),
        nvml=find_library(system, NVML),
        cuda=find_library(system, CUDA),
        smi=system.which("nvidia-smi") or _existing(system.path("/usr/lib/wsl/lib/nvidia-smi")),
        wsl=read_wsl(system) is not None,
        tegra=_tegra(system),
        nvswitch=bool(system.entries("/proc/driver/nvidia-nvswitch/devices")),
    )


def parse_proc_version(text: str) -> str | None:
    """Return the version in /proc/driver/nvidia/version, of the proprietary and of the open kernel module."""
    match = re.search(r"Kernel Module(?:\s+for\s+\S+)?\s+(\d+\.\d+(?:\.\d+)*)", text)
    return match.group(1) if match else None


def _kernel_driver(system: System) -> tuple[str | None, str | None]:
    version = system.text_of("/sys/module/nvidia/version")
    if version and re.fullmatch(r"\d+(\.\d+)+", version):
        return version, "sysfs"
    version = parse_proc_version(system.text_of("/proc/driver/nvidia/version") or "")
    return (version, "procfs") if version else (None, None)


def _makes_nodes(system: System) -> bool:
    """Tell whether starting CUDA loads nvidia-uvm by itself: through the set-uid helper, outside containers."""
    from firstlight.machine.container import read_container

    helper = system.path("/usr/bin/nvidia-modprobe")
    try:
        return bool(helper.stat().st_mode & 0o4000) and read_container(system) is None
    except OSError:
        return False


def _tegra(system: System) -> str | None:
    product = read_product(system) or ""
    if re.search(r"jetson|tegra|orin|xavier|thor", product, re.IGNORECASE) and "nvidia" in product.lower():
        return product
    return "NVIDIA Jetson" if system.exists("/etc/nv_tegra_release") else None


def find_library(system: System, name: str) -> Path | None:
    """Return where the dynamic loader finds a driver library: LD_LIBRARY_PATH, its cache, then known folders."""
    for folder in system.environment.get("LD_LIBRARY_PATH", "").split(":"):
        if folder and is_file(Path(folder) / name):
            return Path(folder) / name
    for match in re.finditer(
        rb"(/[^\0]*/" + re.escape(name.encode()) + rb")\0", system.bytes_of("/etc/ld.so.cache") or b""
    ):
        found = _existing(system.path(match.group(1).decode("utf-8", "surrogateescape")))
        if found is not None:
            return found
    return next((path for folder in _LIBRARY_FOLDERS if (path := _existing(system.path(f"{folder}/{name}")))), None)


def library_version(library: Path | None) -> str | None:
    """Return the driver version in the name of the file that a library link leads to (`….so.535.183.01`)."""
    if library is None:
        return None
    try:
        match = re.search(r"\.so\.(\d+\.\d+(?:\.\d+)*)$", library.resolve().name)
    except (OSError, RuntimeError):
        return None
    return match.group(1) if match else None


def read_proc_gpus(system: System) -> list[Gpu]:
    """Return the GPUs that the kernel module itself lists, with name and UUID, in PCI order."""
    gpus = []
    for place, folder in enumerate(system.entries("/proc/driver/nvidia/gpus")):
        text = system.text_of(f"/proc/driver/nvidia/gpus/{folder.name}/information") or ""
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
        uuid = facts.get("GPU UUID")
        gpus.append(
            Gpu(
                index=place,
                name=facts.get("Model") if facts.get("Model") != "Unknown" else None,
                uuid=uuid if uuid and "?" not in uuid else None,
            )
        )
    return gpus


def read_toolkit(system: System) -> str | None:
    """Return `major.minor` of the installed CUDA toolkit: that of nvcc on PATH, else /usr/local/cuda, else None."""
    nvcc = system.which("nvcc")
    homes = [nvcc.resolve().parent.parent] if nvcc is not None else []
    homes.append(system.path("/usr/local/cuda"))
    for home in homes:
        version = read_toolkit_files(home)
        if version is not None:
            return version
        compiler = nvcc if nvcc is not None and home == homes[0] else _existing(home / "bin" / "nvcc")
        if compiler is not None:
            version = system.attempt("nvidia.toolkit", partial(_ask_nvcc, system, compiler), None)
            if version is not None:
                return version
    return None


def read_toolkit_files(home: Path) -> str | None:
    """Return the toolkit version by `version.json` (CUDA 11.1 and newer) or `version.txt` (older), or None."""
    try:
        document = json.loads((home / "version.json").read_bytes())
        return _major_minor(document["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    try:
        return _major_minor((home / "version.txt").read_text(errors="replace"))
    except OSError:
        return None


def _ask_nvcc(system: System, compiler: Path) -> str | None:
    try:
        ended = process.run(
            [str(compiler), "--version"],
            environment=system.additions(LC_ALL="C"),
            timeout=max(0.1, system.remaining(NVCC_SECONDS)),
        )
    except FirstlightError:
        return None
    match = re.search(r"release (\d+\.\d+)", ended.tail)
    return match.group(1) if match else None


def _major_minor(text: str) -> str | None:
    match = re.search(r"(\d+\.\d+)", text)
    return match.group(1) if match else None


def _existing(path: Path) -> Path | None:
    return path if exists(path) else None
