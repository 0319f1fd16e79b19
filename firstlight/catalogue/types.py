"""The catalogue's values: engines, their builds, and what each build needs.

Every file is decoded strictly: an unknown key or a value of the wrong kind is an error that names its place.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value of the catalogue."""


class Sizes(_Data, frozen=True, kw_only=True):
    """Bytes to download and bytes on disk after the install, measured or summed from the wheels."""

    download: int
    disk: int


class CpuTorch(_Data, frozen=True, kw_only=True):
    """Where the CPU build of torch may come from, tried in this order: an index, the user's find-links, the registry.

    `fallback` is the registry's CUDA build: it works on the CPU but carries gigabytes of CUDA libraries.
    """

    version: str
    """The release, without a local part: `2.13.0`."""
    index: str
    """The index that holds `+cpu` wheels; mirrors of it stand in mirrors.toml."""
    download: int
    fallback_download: int
    fallback_disk: int


class MetadataShim(_Data, frozen=True, kw_only=True):
    """A distribution whose import name has no metadata of its own gets a minimal one."""

    name: str
    version: str


class SystemLibrary(_Data, frozen=True, kw_only=True):
    """A shared library that no wheel carries, and the packages that have it, by package manager."""

    name: str
    packages: dict[str, str]
    """For instance `{"apt-get": "libnuma1", "dnf": "numactl-libs"}`."""


class Build(_Data, frozen=True, kw_only=True):
    """One installable build of an engine, and everything that a machine must have to run it.

    `cuda` is the CUDA that the engine was made with (None: a CPU build); `torch_cuda` that of its torch.
    """

    id: str
    release: str
    arch: str
    cuda: str | None = None
    torch: str | None = None
    torch_cuda: str | None = None
    pythons: list[str]
    """Minor versions that it runs on, best first: `["3.12", "3.11"]`."""
    libc: str = "2.28"
    """Lowest glibc, the highest floor among its wheels."""
    driver: str | None = None
    """Lowest NVIDIA driver (minor-version compatibility counted in)."""
    native_driver: str | None = None
    """Lowest driver that runs its CUDA without minor-version compatibility."""
    capabilities: list[str] | None = None
    """Compute capabilities that its binaries hold code for, ascending."""
    ptx: str | None = None
    """The capability whose PTX lets newer GPUs run it, when it carries PTX."""
    cpu_flags: list[str] = []
    """Instruction sets that its CPU code needs, as /proc/cpuinfo spells them."""
    memory: int | None = None
    """Bytes of main memory that it needs to start on the CPU."""
    system_libraries: list[SystemLibrary] = []
    """Shared libraries that the system must have."""
    integrity: Literal["locked", "pinned"] = "pinned"
    requirements: list[str]
    """What the pip layer asks for."""
    pins: list[str] = []
    """Constraints on what comes along."""
    excludes: list[str] = []
    """Distributions that must stay out, though metadata asks for them."""
    overrides: list[str] = []
    """Requirements that replace what metadata says."""
    index: str | None = None
    """An index of its own (for torch and what belongs to it)."""
    cpu_torch: CpuTorch | None = None
    metadata_shims: list[MetadataShim] = []
    environment: dict[str, str] = {}
    """Environment variables that the engine needs with this build."""
    flags: list[str] = []
    """Flags that its server needs with this build."""
    sizes: Sizes
    sources: dict[str, str]
    """Where each figure comes from."""


class EngineEntry(_Data, frozen=True, kw_only=True):
    """One engine's page of the catalogue: envs/<engine>/builds.toml."""

    engine: str
    rank: int
    """Its place where engines are listed and offered as alternatives."""
    summary: str
    cpu: Literal["always", "no_gpu", "never"]
    """When it may run on the CPU: whenever no GPU can be used, only where there is no GPU and no driver, or never."""
    port: int
    """Its default port."""
    dtype_auto: str = "auto"
    dtype_half: str | None = None
    """What its dtype flag calls 16-bit floats for GPUs without bfloat16; None: it has no such flag."""
    tensor_parallel: bool = False
    """Whether it can spread one model over several GPUs."""
    bf16_floor: str = "8.0"
    """Below this compute capability the `half` dtype is used."""
    build: list[Build]


class Cause(_Data, frozen=True, kw_only=True):
    """A pattern of a log that names the true cause: regular expression, cause in words, fix, and where it was seen."""

    id: str
    pattern: str
    cause: str
    fix: str
    source: str


class MirrorSet(_Data, frozen=True, kw_only=True):
    """One canonical address and its mirrors, in the order that they are offered."""

    canonical: str
    mirrors: list[str] = []

    @property
    def all(self) -> list[str]:
        """The canonical address, then the mirrors."""
        return [self.canonical, *self.mirrors]


class Mirrors(_Data, frozen=True, kw_only=True):
    """envs/mirrors.toml."""

    conda: MirrorSet
    torch_cpu: MirrorSet


class Catalogue(msgspec.Struct, frozen=True):
    """All engines, by name, in the order that they are offered as alternatives."""

    engines: dict[str, EngineEntry]
