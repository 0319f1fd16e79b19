"""The catalogue's values: engines, their builds, and what each build needs.

Every file is decoded strictly: an unknown key or a value of the wrong kind is an error that names its place.
"""

# No annotations as strings here: msgspec compiles those anew in every run, 2 ms for `plan`.

from collections.abc import Mapping
from typing import Literal

import msgspec


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value of the catalogue."""


class Sizes(_Data, frozen=True, kw_only=True):
    """Bytes to download and bytes on disk after the install, measured or summed from the wheels."""

    download: int
    disk: int


class RegistryTorch(_Data, frozen=True, kw_only=True):
    """The registry's own torch, taken for a CPU build where no `+cpu` wheel is to be had.

    It works on the CPU but carries gigabytes of CUDA libraries: `download` and `disk` are the bytes that it adds,
    `instead_of` the bytes of the `+cpu` wheel that it saves.
    """

    download: int
    disk: int
    instead_of: int


class Wheel(_Data, frozen=True, kw_only=True):
    """An engine's wheel that the registry does not have: its address, and its hash where one is known."""

    url: str
    sha256: str | None = None
    size: int | None = None
    """Bytes."""
    indexes: list[str] = []
    """Other places of the same origin that hold it: package indexes of the project."""


class Asset(_Data, frozen=True, kw_only=True):
    """A file of a release that is no wheel: its name there, its hash and its size in bytes where they are known."""

    name: str
    sha256: str | None = None
    size: int | None = None


class MetadataShim(_Data, frozen=True, kw_only=True):
    """A distribution whose import name has no metadata of its own gets a minimal one."""

    name: str
    version: str


class SystemLibrary(_Data, frozen=True, kw_only=True):
    """A shared library that no wheel carries, and the packages that have it, by package manager."""

    name: str
    packages: dict[str, str]
    """For instance `{"apt-get": "libnuma1", "dnf": "numactl-libs"}`."""


class CudaLine(_Data, frozen=True, kw_only=True):
    """A CUDA release and its drivers: the lowest that runs it at all, and the lowest that was made for it."""

    version: str
    driver: str
    """Lowest driver, minor-version compatibility counted in."""
    native_driver: str
    """Lowest driver that runs it without minor-version compatibility, and so takes its PTX."""
    sources: dict[str, str]


class TorchLine(_Data, frozen=True, kw_only=True):
    """The builds of one torch release for one CUDA: what every engine that uses it inherits."""

    release: str
    arch: str
    cuda: str | None = None
    """The CUDA that it was made with; None: a CPU build."""
    local: str | None = None
    """Its local version (`cu129`, `cpu`), which names its index too; None: the registry's own build."""
    capabilities: list[str] | None = None
    ptx: str | None = None
    libc: str
    pythons: list[str]
    companions: dict[str, str] = {}
    """Distributions that must come from the same index, with their releases: `{"torchvision": "0.28.0"}`."""
    sources: dict[str, str]


class Build(_Data, frozen=True, kw_only=True):
    """One installable build of an engine, and everything that a machine must have to run it.

    `cuda` is the CUDA that the engine was made with (None: a CPU build); `torch_cuda` that of its torch. What follows
    from the CUDA line and from torch (drivers, the C library, Pythons) is filled in when the catalogue is loaded.
    """

    id: str
    release: str
    arch: str
    cuda: str | None = None
    torch: str | None = None
    torch_cuda: str | None = None
    torch_local: str | None = None
    """The local version of its torch, with which the torch index of that name owns it; None: the registry's torch."""
    companions: dict[str, str] = {}
    """Distributions that come from the index of its torch, with their releases (filled in)."""
    pythons: list[str] = []
    """Minor versions that it runs on, best first: `["3.12", "3.11"]`; none: it needs no Python."""
    libc: str | None = None
    """Lowest glibc, the highest floor among its wheels; None: unknown, nothing is refused."""
    driver: str | None = None
    """Lowest NVIDIA driver (minor-version compatibility counted in)."""
    native_driver: str | None = None
    """Lowest driver that runs its CUDA without minor-version compatibility."""
    capabilities: list[str] | None = None
    """Compute capabilities that its binaries hold machine code for, ascending; `9.0a` runs on 9.0 alone."""
    ptx: str | None = None
    """The lowest capability whose PTX lets newer GPUs run it, when it carries PTX."""
    torch_capabilities: list[str] | None = None
    """The same of its torch (filled in)."""
    torch_ptx: str | None = None
    jetpack: str | None = None
    """The major version of NVIDIA JetPack that it is made for; None: not for Jetson boards' own driver stack."""
    runner: str | None = None
    """The folder of GPU libraries that this build stands for, for engines that bring several (`cuda_v12`)."""
    cpu_flags: list[str] = []
    """Instruction sets that its CPU code needs, as /proc/cpuinfo spells them."""
    memory: int | None = None
    """Bytes of main memory that it needs to start on the CPU."""
    system_libraries: list[SystemLibrary] = []
    """Shared libraries that the system must have."""
    locks: dict[str, Literal["locked", "pinned"]] = {}
    """By Python, what its locks hold (filled in): every file by its hash, or some by their version alone."""
    wheel: Wheel | None = None
    """The engine's own wheel, where it is fetched by its address."""
    assets: list[Asset] = []
    """The files that it is made of, for engines that are no wheels."""
    covers: str | None = None
    """Other releases with the very same figures, as a PEP 440 specifier (`>=0.5.8,<=0.9.2`)."""
    requirements: list[str] = []
    """What the pip layer asks for, beside torch and the wheel."""
    pins: list[str] = []
    """Constraints on what comes along."""
    excludes: list[str] = []
    """Distributions that must stay out, though metadata asks for them."""
    overrides: list[str] = []
    """Requirements that replace what metadata says."""
    newest: str | None = None
    """The last day whose packages its lock may hold, ISO 8601: an old set with today's packages may not work."""
    registry_torch: RegistryTorch | None = None
    metadata_shims: list[MetadataShim] = []
    environment: dict[str, str] = {}
    """Environment variables that the engine needs with this build."""
    flags: list[str] = []
    """Flags that its server needs with this build."""
    caution: str | None = None
    """What must be said when it is chosen, in words."""
    caution_below: str | None = None
    """Said only where a GPU lies below this compute capability."""
    tolerated: dict[str, str] = {}
    """Model modules, by name or shell pattern, that do not import in this build, and why that is no harm."""
    sizes: Sizes
    sources: dict[str, str]
    """Where each figure comes from."""

    @property
    def torch_version(self) -> str | None:
        """The exact version of its torch, local part included: `2.13.0+cu129`."""
        return f"{self.torch}+{self.torch_local}" if self.torch and self.torch_local else self.torch


class Examination(_Data, frozen=True, kw_only=True):
    """What is looked at in a new environment before the engine is proven: an `import` alone is a false green."""

    command: list[str]
    """Words after `python`, `-m` first, that run the engine's own command line and must end with 0."""
    packages: list[str] = []
    """Packages whose modules must all import, the engine's models; or patterns (`transformers.models.*.modeling_*`)."""
    extensions: list[str] = []
    """Shared libraries of the engine, as globs under site-packages, whose CUDA must be torch's."""
    tokenizer: list[str]
    """`module:function`, the first one that the release has: loads a tokenizer from a folder as its server does."""
    optional: dict[str, str] = {}
    """Imports that no plain install brings, and what for: a model module that lacks one is skipped."""
    without_gpu: list[str] = []
    """Patterns of what the engine says where there is no GPU: without a driver such a failure is none."""


class AsService(_Data, frozen=True, kw_only=True):
    """What is to be known of an engine that runs as a service."""

    metrics_path: str | None = None
    """Its page of metrics (Prometheus text)."""
    requests_metric: str | None = None
    """The counter on that page that counts answered requests."""
    memory_flags: list[str] = []
    """The flags that say which part of a GPU's memory it takes."""
    memory_share: float | None = None
    """The part that it takes by itself; None: as much as the model needs."""
    on_demand: bool = False
    """Whether it loads the models of its own store as they are asked for, so that a service needs to name none."""
    probe: list[str] = []
    """Words of its own program that end with 0 once its server answers, where it brings no Python."""
    unit: str | None = None
    """Pattern of the systemd unit that its own installer writes."""


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
    backend: str | None = None
    """The back end that its server is started with; None: it has no such flag."""
    backend_virtual: str | None = None
    """The back end for slices of a GPU (MIG, vGPU), where the other one fails."""
    key_flag: str | None = None
    """The flag that makes its server ask for a key; None: it has no such flag, its API is open to all who reach it."""
    key_variable: str | None = None
    """The environment variable that does the same."""
    service: AsService = AsService()
    kind: Literal["wheels", "archive"] = "wheels"
    """How it is installed: into a Python environment, or by unpacking a release archive."""
    examination: Examination | None = None
    sources: dict[str, str] = {}
    """Where figures come from that no build names a source of its own for."""
    bf16_floor: str = "8.0"
    """Below this compute capability the `half` dtype is used."""
    build: list[Build]


class Cause(_Data, frozen=True, kw_only=True):
    """A pattern of a log that names the true cause: regular expression, cause in words, fix, and where it was seen."""

    id: str
    pattern: str
    cause: str
    fix: str
    older_build: bool = False
    """Whether a build of an older CUDA cures it: the fix then names the one that the plan falls back to."""
    source: str
    quiet: bool = False
    """Whether lines of level INFO and DEBUG are searched too: some engines tell their failures there."""
    fatal: bool = True
    """Whether the engine cannot do its work; False: it goes on, slower or with less."""
    vague: bool = False
    """Whether it is told only where nothing more exact is found: what many causes lead to."""


class MirrorSet(_Data, frozen=True, kw_only=True):
    """One canonical address and its mirrors, in the order that they are offered."""

    canonical: str
    mirrors: list[str] = []
    flat: list[str] = []
    """Those of the mirrors that list all files on one page instead of being a package index."""

    @property
    def all(self) -> list[str]:
        """The canonical address, then the mirrors."""
        return [self.canonical, *self.mirrors]


class Mirrors(_Data, frozen=True, kw_only=True):
    """envs/mirrors.toml.

    `torch` are the parents of PyTorch's indexes (`…/whl`, to which `cu129` is added). `github` are addresses that an
    address on GitHub can be put behind, or under; only files whose hash is known are taken from them.
    """

    conda: MirrorSet
    torch: MirrorSet
    pypi: MirrorSet
    github: MirrorSet


class JetPack(_Data, frozen=True, kw_only=True):
    """A major release of NVIDIA JetPack, known by the major CUDA of its driver or by its kernel."""

    release: str
    cuda: str
    kernel: str
    own_driver: bool
    """Whether its driver is the board's own: no desktop driver's number, and no CUDA newer than its own."""
    sources: dict[str, str]


class DriverKernel(_Data, frozen=True, kw_only=True):
    """The oldest Linux kernel that a driver branch, and every newer one, can be installed on."""

    driver: str
    kernel: str
    sources: dict[str, str]


class Platforms(_Data, frozen=True, kw_only=True):
    """envs/platforms.toml: what NVIDIA's platforms ask for beside a CUDA release."""

    tegra: list[str] = []
    """Compute capabilities of the GPUs in Jetson boards, which run code of exactly their own capability."""
    jetpack: list[JetPack] = []
    kernel: list[DriverKernel] = []
    sources: dict[str, str] = {}


class Catalogue(msgspec.Struct, frozen=True):
    """All engines, by name, in the order that they are offered as alternatives; a page is read when it is needed."""

    engines: Mapping[str, EngineEntry]
    cuda: Mapping[str, CudaLine] = {}
    """CUDA releases by version."""
    platforms: Platforms = Platforms()
