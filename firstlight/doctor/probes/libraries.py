"""Which driver libraries the loader takes, and which CUDA libraries LD_LIBRARY_PATH puts before those of wheels."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from firstlight.doctor.looking import Look
from firstlight.machine.driver import CUDA, NVML, find_library, library_version, parse_proc_version
from firstlight.machine.system import System, printable

_SHADOWING = re.compile(
    r"^lib(?:cudart|cublas|cublasLt|cudnn|nccl|cusparse|cufft|curand|cusolver|nvrtc|nvJitLink|cupti|torch|c10)\b.*\.so"
)
"""Libraries that CUDA builds of torch bring along in wheels: another release before them breaks `import torch`."""
_COMPAT = re.compile(r"(?:^|/)(?:compat|cuda-compat)(?:/|$)")
"""NVIDIA's forward-compatibility packages install to <cuda>/compat; conda-forge's to <prefix>/cuda-compat."""
_MOST_NAMES = 4


class DriverLibrary(msgspec.Struct, frozen=True, kw_only=True):
    """A library of the driver: its file, the driver version in its name, and whether it is a compatibility package."""

    path: str
    version: str | None = None
    compat: bool = False


class ShadowFolder(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of LD_LIBRARY_PATH with CUDA libraries in it (some of their names)."""

    folder: str
    libraries: tuple[str, ...]


class Libraries(msgspec.Struct, frozen=True, kw_only=True):
    """The driver's libraries as the loader finds them, the kernel module's version, and what shadows wheels."""

    cuda: DriverLibrary | None = None
    nvml: DriverLibrary | None = None
    kernel_driver: str | None = None
    compat_lines: tuple[str, ...] = ()
    """Lines of /etc/ld.so.conf.d that name a compatibility folder, with their file."""
    shadows: tuple[ShadowFolder, ...] = ()


def read(look: Look) -> Libraries:
    """Return the libraries that count."""
    system = look.system
    kernel = system.text_of("/sys/module/nvidia/version") or parse_proc_version(
        system.text_of("/proc/driver/nvidia/version") or ""
    )
    return Libraries(
        cuda=_driver_library(system, CUDA),
        nvml=_driver_library(system, NVML),
        kernel_driver=kernel or None,
        compat_lines=tuple(_compat_lines(system)),
        shadows=tuple(_shadows(system.environment.get("LD_LIBRARY_PATH", ""))),
    )


def _driver_library(system: System, name: str) -> DriverLibrary | None:
    found = find_library(system, name)
    if found is None:
        return None
    try:
        real = found.resolve()
    except (OSError, RuntimeError):
        real = found
    compat = any(_COMPAT.search(printable(path.parent)) for path in (found, real))
    return DriverLibrary(path=printable(found), version=library_version(found), compat=compat)


def _compat_lines(system: System) -> list[str]:
    found = []
    for file in system.entries("/etc/ld.so.conf.d"):
        lines = (system.text_of(f"/etc/ld.so.conf.d/{file.name}") or "").splitlines()
        named = [line.strip() for line in lines if _COMPAT.search(line.strip()) and not line.lstrip().startswith("#")]
        found += [f"/etc/ld.so.conf.d/{printable(file.name)}: {line}" for line in named]
    return found


def _shadows(search_path: str) -> list[ShadowFolder]:
    found = []
    for word in dict.fromkeys(search_path.split(":")):
        if not word.startswith("/"):
            continue
        try:
            names = sorted(entry.name for entry in Path(word).iterdir() if _SHADOWING.match(entry.name))
        except OSError:
            continue
        if names:
            shown = (*names[:_MOST_NAMES], *(["…"] if len(names) > _MOST_NAMES else []))
            found.append(ShadowFolder(folder=printable(word), libraries=shown))
    return found
