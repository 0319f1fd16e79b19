"""One small rule per constraint: each takes a case and gives a refusal, or None when the machine meets it.

An unknown fact (None) refuses nothing; it is written down in `Case.assumed`.
"""

from __future__ import annotations

import shlex

from firstlight.catalogue.types import Build
from firstlight.planning.case import Case, Rule, command, gigabytes, refuse
from firstlight.planning.devices import has_nvidia
from firstlight.planning.gpu_rules import compute_capability, device, driver, jetson
from firstlight.planning.places import best_mount, home_on, mount_of
from firstlight.planning.plan import Refusal
from firstlight.planning.versions import at_least, major, numbers

__all__ = ["RULES", "architecture", "gigabytes", "judge", "usable_pythons"]
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


def architecture(name: str) -> str:
    """Return a processor architecture in the kernel's spelling."""
    return _ARCHITECTURES.get(name.lower(), name)


def arch(case: Case) -> Refusal | None:
    """Refuse another processor architecture."""
    have = case.machine.host.arch
    if have is None:
        case.assumed.append(f"processor architecture {case.build.arch}")
        return None
    if architecture(have) == case.build.arch:
        return None
    if case.build.cuda is None and not has_nvidia(case.machine):
        made = {build.arch for build in case.entry.build if build.cuda is None}
        if made == {case.build.arch}:  # what is nearest where there is no GPU: not the builds that need one
            return refuse(case, "cpu", f"the CPU build is for {case.build.arch} only; this machine is {have}")
    return refuse(case, "arch", f"it is for {case.build.arch}, this machine is {have}")


def requested(case: Case) -> Refusal | None:
    """Refuse what was not asked for: another build, release, CUDA or a CPU build where GPUs were named."""
    build, request = case.build, case.request
    if request.build is not None and build.id != request.build:
        return refuse(case, "requested", f"--build {request.build} was asked for")
    if request.release is not None and build.release != request.release:
        return refuse(case, "requested", f"it is release {build.release}, --release {request.release} was asked for")
    if request.cuda is not None and not made_with(build, request.cuda):
        made = f"made with CUDA {build.cuda}" if build.cuda else "a CPU build"
        return refuse(case, "requested", f"it is {made}, --cuda {request.cuda} was asked for")
    if request.gpus is not None and build.cuda is None:
        chosen = ",".join(map(str, request.gpus))
        return refuse(case, "requested", f"it is a CPU build, --gpus {chosen} was asked for", "leave --gpus out")
    return None


def made_with(build: Build, wish: str) -> bool:
    """Tell whether a build was made with the CUDA of a wish: `cpu`, `12.1`, or `12` for any 12.x."""
    if build.cuda is None or wish == "cpu":
        return build.cuda is None and wish == "cpu"
    return build.cuda == wish or wish == str(major(build.cuda))


def source(case: Case) -> Refusal | None:
    """Refuse what was found out to be out of reach: no source has its wheel or its torch, as far as one was asked."""
    reason = case.request.supply.silent.get(case.build.id)
    return refuse(case, "source", reason, "check the network, or name a source: --find-links DIR") if reason else None


def cpu_policy(case: Case) -> Refusal | None:
    """Refuse a CPU build where the engine's policy forbids it."""
    engine = case.entry.engine
    if case.build.cuda is not None or case.entry.cpu == "always" or case.request.cuda == "cpu":
        return None
    if case.entry.cpu == "never":
        return refuse(case, "device", f"{engine} does not run on the CPU")
    if not has_nvidia(case.machine):
        return None
    reason = f"{engine} is not put on the CPU by itself where there is an NVIDIA GPU or driver"
    fits = all(rule(case) is None for rule in (libc, python, cpu, memory, disk))
    return refuse(case, "device", reason, f"run it on the CPU: {command(engine, '--cuda cpu')}" if fits else None)


def libc(case: Case) -> Refusal | None:
    """Refuse a machine whose C library is older than the wheels ask for, or is not glibc."""
    host, floor = case.machine.host, case.build.libc
    if floor is None:
        return None
    if host.libc is not None and host.libc != "glibc":
        remedy = "use a container of a distribution with glibc" if not host.container else "use an image with glibc"
        return refuse(case, "libc", f"its binaries need glibc >= {floor}, this machine has {host.libc}", remedy)
    if not numbers(host.libc_version or ""):
        case.assumed.append(f"glibc >= {floor}")
        return None
    if at_least(host.libc_version or "", floor):
        return None
    return refuse(case, "libc", f"needs glibc >= {floor}, this machine has {host.libc_version}", _newer_libc(case))


def _newer_libc(case: Case) -> str:
    host, floor = case.machine.host, case.build.libc
    if host.container:
        return f"use an image with glibc {floor} or newer"
    if host.wsl:
        return f"install a distribution with glibc {floor} or newer: wsl --list --online"
    return f"use a container of a distribution with glibc {floor} or newer, or upgrade this one"


def python(case: Case) -> Refusal | None:
    """Refuse when no Python that the build runs on can be had in this kind of environment."""
    if not case.build.pythons or usable_pythons(case):
        return None
    runs = ", ".join(case.build.pythons)
    if case.request.python is not None and case.request.python not in case.build.pythons:
        reason = f"--python {case.request.python} was asked for, it runs on {runs}"
        return refuse(case, "python", reason, "leave --python out")
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
    room = f"make room on {place.mount}: {gigabytes(case.disk_needed)} are needed"
    best = best_mount(case.machine)
    roomy = best if best is not None and (best.free or 0) >= case.disk_needed and best.mount != place.mount else None
    remedy = f"export FIRSTLIGHT_HOME={shlex.quote(home_on(case.machine, roomy))}" if roomy else room
    if place.writable is False:
        other = remedy if roomy else "export FIRSTLIGHT_HOME=/path/that/you/can/write"
        return refuse(case, "disk", f"{case.home} lies on {place.mount}, where this user cannot write", other)
    if place.free >= case.disk_needed:
        return None
    reason = f"needs {gigabytes(case.disk_needed)}, {place.mount} has {gigabytes(place.free)} free"
    return refuse(case, "disk", reason, remedy)


RULES: tuple[Rule, ...] = (
    arch,
    requested,
    device,
    jetson,
    cpu_policy,
    compute_capability,
    libc,
    driver,
    python,
    cpu,
    memory,
    disk,
    source,
)
"""In this order the first refusal is told: what nobody can change on a machine comes before what an admin can."""


def judge(case: Case) -> tuple[Refusal | None, int]:
    """Return the first refusal of a case, and how many rules it passed."""
    for passed, rule in enumerate(RULES):
        refusal = rule(case)
        if refusal is not None:
            return refusal, passed
    return None, len(RULES)
