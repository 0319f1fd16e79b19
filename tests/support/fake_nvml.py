"""Fake NVIDIA driver libraries: real shared objects, compiled from fake_nvidia.c, steered by a small text file."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("fake_nvidia.c")
NVML = "libnvidia-ml.so.1"
CUDA = "libcuda.so.1"
GIB = 1 << 30


def compile_libraries(folder: Path) -> dict[str, Path]:
    """Compile both libraries into the folder, each in a folder of its own, and return name → file."""
    built = {}
    for name, flags in ((NVML, []), (CUDA, ["-DAS_CUDA"])):
        target = folder / name.partition(".")[0] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        words = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", *flags, f"-Wl,-soname,{name}"]
        subprocess.run([*words, "-o", str(target), str(SOURCE)], check=True)
        built[name] = target
    return built


def device(name: str, capability: str, gib: float, **more: object) -> str:
    """Return a line that describes one GPU; `more` are the keys of fake_nvidia.c (mig, virtualization, fabric, …)."""
    facts = {"name": name, "capability": capability, "total": int(gib * GIB), "free": int(gib * GIB) - GIB, **more}
    return "device " + "|".join(f"{key}={value}" for key, value in facts.items() if value is not None)


@dataclass(frozen=True)
class FakeNvidia:
    """Driver libraries in a folder of the loader's path, and the file that says how they behave."""

    folder: Path
    behaviour: Path

    @classmethod
    def install(cls, folder: Path, libraries: Mapping[str, Path], *lines: str, names: tuple[str, ...] = (NVML, CUDA)):
        """Put the named libraries into the folder, behaving as the lines say."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / name).symlink_to(libraries[name])
        behaviour = folder / "behaviour.txt"
        behaviour.write_text("\n".join(lines) + "\n")
        return cls(folder, behaviour)

    @property
    def environment(self) -> dict[str, str]:
        """The variables that make the loader find them."""
        return {"LD_LIBRARY_PATH": str(self.folder), "FAKE_NVIDIA": str(self.behaviour)}
