"""The frozen values that say what a machine is (schema firstlight.machine/1).

Sizes are bytes, versions are strings, and what is unknown is None (null in JSON), also for lists. Unknown keys of a
file are ignored on reading, so that facts written by a newer firstlight stay readable.
"""

# No annotations as strings here: msgspec compiles those anew in every run, 2 ms for `plan`.

from pathlib import Path
from typing import Literal

import msgspec

from firstlight.errors import UsageError

SCHEMA = "firstlight.machine/1"

NvidiaProblem = Literal[
    "driver_library_mismatch", "no_device_nodes", "nvml_missing", "uvm_not_loaded", "fabric_manager", "other"
]


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """Operating system, libc, container and user."""

    os: str | None = None
    os_version: str | None = None
    os_name: str | None = None
    kernel: str | None = None
    arch: str | None = None
    libc: str | None = None
    """`glibc` or `musl`."""
    libc_version: str | None = None
    wsl: str | None = None
    """`1` or `2` inside the Windows Subsystem for Linux."""
    container: str | None = None
    """`docker`, `podman`, `lxc`, `kubernetes`, `systemd-nspawn`, … inside a container."""
    user: str | None = None
    uid: int | None = None
    sudo: str | None = None
    """`root`, `passwordless`, `password` or `absent`."""
    hostname: str | None = None
    product: str | None = None
    """Board or instance name (DMI or device tree), e.g. `NVIDIA Jetson AGX Orin`."""


class Init(msgspec.Struct, frozen=True, kw_only=True):
    """What supervises services: `systemd` (really running), `none`, or the name of process 1."""

    system: str | None = None
    state: str | None = None


class Cpu(msgspec.Struct, frozen=True, kw_only=True):
    """Processor model, cores this process may use, and instruction-set flags as /proc/cpuinfo spells them."""

    model: str | None = None
    cores: int | None = None
    flags: list[str] | None = None


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Main memory in bytes, with a container's limit taken into account; `shm` is the size of /dev/shm."""

    total: int | None = None
    available: int | None = None
    shm: int | None = None


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """One mounted filesystem; `writable` is the result of a real write test."""

    mount: str
    fs: str | None = None
    total: int | None = None
    free: int | None = None
    writable: bool | None = None
    persistent: bool | None = None


class Nvidia(msgspec.Struct, frozen=True, kw_only=True):
    """The NVIDIA driver; `cuda` is the newest CUDA it runs, `toolkit` the installed nvcc's CUDA."""

    driver: str | None = None
    cuda: str | None = None
    toolkit: str | None = None
    problem: NvidiaProblem | None = None
    problem_detail: str | None = None
    source: str | None = None
    """Which way told: `nvml`, `sysfs`, `procfs`, `libcuda` or `nvidia-smi`."""


class Gpu(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU; `compute_capability` is NVIDIA's `major.minor`."""

    index: int
    vendor: str = "nvidia"
    name: str | None = None
    compute_capability: str | None = None
    memory_total: int | None = None
    memory_free: int | None = None
    mig: bool | None = None
    vgpu: bool | None = None
    uuid: str | None = None


class Python(msgspec.Struct, frozen=True, kw_only=True):
    """A Python interpreter of this machine; `venv` and `ensurepip` tell whether it can make environments."""

    path: str | None = None
    version: str
    ensurepip: bool | None = None


class Conda(msgspec.Struct, frozen=True, kw_only=True):
    """A conda installation: its base prefix, its program and version, and the environments that it knows."""

    root: str
    executable: str | None = None
    version: str | None = None
    environments: list[str] | None = None


class ProbeFailure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a fact is null: the probe's name and the reason."""

    probe: str
    reason: str


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a decision may rest on. It goes to JSON and back unchanged."""

    schema: str = SCHEMA
    host: Host = Host()
    init: Init = Init()
    cpu: Cpu = Cpu()
    memory: Memory = Memory()
    disks: list[Disk] | None = None
    nvidia: Nvidia | None = None
    gpus: list[Gpu] | None = None
    pythons: list[Python] | None = None
    conda: Conda | None = None
    problems: list[ProbeFailure] = []


def to_json(machine: Machine, *, indent: int = 2) -> str:
    """Return the machine as the JSON text of schema firstlight.machine/1."""
    return msgspec.json.format(msgspec.json.encode(machine), indent=indent).decode()


def from_json(text: str | bytes, origin: str) -> Machine:
    """Return the machine that a JSON text describes; unknown keys are ignored.

    Args:
        text: a document of schema firstlight.machine/1.
        origin: the file's name, for messages.

    Raises:
        UsageError: it is not JSON, of another schema, or a value has the wrong type (the place is named).
    """
    fix = "make one on the machine that it should describe: firstlight machine --json > machine.json"
    try:
        raw = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise UsageError(f"{origin} is not JSON", why=str(error), fix=fix) from error
    schema = raw.get("schema") if isinstance(raw, dict) else None
    if schema != SCHEMA:
        got = f'"{schema}"' if schema else "no schema"
        raise UsageError(f"{origin} does not describe a machine", why=f'it has {got}, not "{SCHEMA}"', fix=fix)
    try:
        return msgspec.convert(raw, Machine)
    except msgspec.ValidationError as error:
        raise UsageError(f"{origin} has a value of the wrong kind", why=str(error), fix=fix) from error


def load(path: Path) -> Machine:
    """Return the machine described by a file; see `from_json`.

    Raises:
        UsageError: the file cannot be read, or `from_json` refuses it.
    """
    try:
        return from_json(path.read_bytes(), str(path))
    except OSError as error:
        raise UsageError(
            f"cannot read {path}", why=error.strerror or str(error), fix="firstlight machine --json > machine.json"
        ) from error
