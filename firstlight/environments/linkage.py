"""What shared libraries ask for, read from their ELF headers without loading them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from firstlight.environments.distributions import prefix_of, site_packages

_GLIBC = re.compile(r"^GLIBC_(\d+(?:\.\d+)+)$")
_CUDA = re.compile(r"^lib(?:cudart|cublas|cublasLt|nvrtc|nvJitLink)\.so\.(\d+)")
"""CUDA libraries that are numbered as CUDA itself; cuFFT, cuSPARSE and others count for themselves."""
_FROM_WHEELS = re.compile(
    r"^lib(?:cudart|cublas\w*|nvrtc|nvJitLink|nccl|curand|cufft|cusparse|cusolver|cudnn|torch\w*|c10\w*)\.so"
)
"""Libraries that come with the wheels of an environment, where they come at all."""


class Linked(msgspec.Struct, frozen=True, kw_only=True):
    """What one shared library asks for."""

    file: Path
    needed: list[str]
    """The libraries that it is linked with: `libcudart.so.12`."""
    glibc: str | None
    """The newest version of glibc that it asks for by symbol versions: `2.34`."""

    @property
    def cuda(self) -> list[str]:
        """The major versions of CUDA that it is linked with; two or more contradict each other."""
        return sorted({found[1] for name in self.needed if (found := _CUDA.match(name))}, key=int)


def read_linked(file: Path) -> Linked | None:
    """Return what an ELF file asks for (System V ABI: DT_NEEDED, and LSB's version needs); None: it is no ELF file."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.dynamic import DynamicSection
    from elftools.elf.elffile import ELFFile
    from elftools.elf.gnuversions import GNUVerNeedSection

    needed: list[str] = []
    versions: list[str] = []
    try:
        with file.open("rb") as stream:
            for section in ELFFile(stream).iter_sections():
                if isinstance(section, DynamicSection):
                    needed += [_soname(tag) for tag in section.iter_tags("DT_NEEDED")]
                elif isinstance(section, GNUVerNeedSection):
                    versions += [aux.name for _, names in section.iter_versions() for aux in names]
    except (OSError, ELFError, UnicodeDecodeError, ValueError):
        return None
    floors = [found[1] for name in versions if (found := _GLIBC.match(name))]
    return Linked(file=file, needed=needed, glibc=max(floors, key=_numbers, default=None))


def _soname(tag: Any) -> str:
    return str(tag.needed)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def extensions_of(python: Path, globs: Iterable[str]) -> list[Path]:
    """Return the files under an environment's site-packages that match; see `site_packages` for errors."""
    root = site_packages(python)
    return sorted({file for pattern in globs for file in root.glob(pattern) if file.is_file()})


def not_there(linked: Linked, python: Path) -> list[str]:
    """Return the libraries of CUDA and torch that a file is linked with and that its environment does not hold."""
    wanted = [name for name in linked.needed if _FROM_WHEELS.match(name)]
    if not wanted:
        return []
    root = site_packages(python)
    folders = [linked.file.parent, prefix_of(python) / "lib", root / "torch" / "lib"]
    folders += [*root.glob("nvidia/*/lib"), *root.glob("*.libs")]
    return [name for name in wanted if not any((folder / name).exists() for folder in folders)]
