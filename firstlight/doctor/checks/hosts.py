"""The system itself: what could not be read, what contradicts itself, C library, WSL, sudo, limits, shared memory."""

from __future__ import annotations

from collections.abc import Iterable

from firstlight.doctor.check import Check
from firstlight.doctor.evidence import DAMAGED, PLAN, Evidence, seen
from firstlight.doctor.findings import Finding, by_hand, fail, ok, skip, warn
from firstlight.doctor.judging import Barrier, barriers, names, passed, remedy_for, settled
from firstlight.machine.facts import Machine
from firstlight.planning.case import gigabytes
from firstlight.planning.contradictions import sensible
from firstlight.planning.devices import has_nvidia, nvidia_gpus

OPEN_FILES = 65_535
"""What servers with many connections raise the soft limit to (vllm/utils, set_ulimit, 0.10–0.33)."""
_SHM = "/dev/shm"  # noqa: S108 - named, never written
SHARED_MEMORY = 1 << 30
"""Bytes of /dev/shm for one model over several GPUs: tensors are handed over in it, NCCL has its buffers there."""
LOCKED_MEMORY = 64 << 20


def catalogue(evidence: Evidence) -> Iterable[Finding]:
    """Tell pages of the catalogue that cannot be read, and plans that facts without sense have broken."""
    for item in evidence.unseen:
        if item.name.startswith(DAMAGED):
            yield fail(
                f"the {item.name} is damaged",
                detail="Nothing can be planned for it; everything else goes on.",
                evidence=item.reason,
                remedy=by_hand("correct the file, or install firstlight again"),
                subject=item.name,
            )
        elif item.name.startswith(PLAN):
            yield Finding(
                status="crash",
                summary=f"there is no {item.name}: the facts of this machine broke it",
                evidence=item.reason,
                subject=item.name,
            )


def facts(evidence: Evidence) -> Iterable[Finding]:
    """Tell which facts could not be read: what is unknown is taken as met by the plan."""
    nvidia = evidence.machine.nvidia
    troubled = nvidia is not None and nvidia.problem is not None
    reasons: dict[str, list[str]] = {}
    for problem in evidence.machine.problems:
        # Mounts that do not answer, and a driver with a problem, have checks of their own.
        if not problem.probe.startswith("disks:") and not (troubled and problem.probe.startswith("gpu.")):
            reasons.setdefault(problem.probe, []).append(problem.reason)
    for probe, lines in reasons.items():
        yield warn(
            f"{probe} could not be read{' in full' if len(lines) > 1 else ''}",
            detail="What is unknown refuses nothing: a plan that rests on it may turn out wrong.",
            evidence="\n".join(dict.fromkeys(lines)),
            remedy=by_hand("look at the facts, and at what the machine itself says", "firstlight machine"),
            subject=probe,
        )
    missing = _missing(evidence.machine)
    if missing and not evidence.machine.problems:
        yield skip(f"these facts do not tell: {names(missing)}")


def _missing(machine: Machine) -> list[str]:
    """Return what plans rest on and these facts leave out."""
    host = machine.host
    known = {
        "the processor": host.arch,
        "the C library": host.libc_version,
        "the memory": machine.memory.total,
        "the disks": machine.disks,
        "the GPUs": machine.gpus,
    }
    return [name for name, fact in known.items() if fact is None]


def contradictions(evidence: Evidence) -> Iterable[Finding]:
    """Tell facts that cannot be true together."""
    sense = sensible(evidence.machine, evidence.catalogue)
    for line in sense.told:
        remedy = by_hand(sense.driver_remedy) if sense.driver_remedy and "driver" in line else None
        yield warn("facts contradict each other", evidence=line, remedy=remedy, subject=line)


def libc(evidence: Evidence) -> Iterable[Finding]:
    """Hold the C library against what the engines' wheels ask for."""
    host = settled(evidence).host
    have = " ".join(filter(None, [host.libc or "the C library", host.libc_version]))
    found = barriers(evidence, "libc")
    if found and host.libc not in {"glibc", None}:
        yield _another_libc(have, found)
        return
    for barrier in found:
        reason = barrier.refusal if barrier.instead else barrier.floor
        taken = f"{barrier.instead} is taken instead." if barrier.instead else None
        how = warn if barrier.instead or barrier.on_cpu else fail
        what = barrier.release if barrier.instead else f"every build of {barrier.engine} that could run here"
        yield how(
            f"{have} is too old for {what}",
            detail="It would run on the CPU." if barrier.on_cpu else taken,
            evidence=f"{reason.build}: {reason.reason}",
            affects=[barrier.engine],
            remedy=remedy_for(reason, barrier.engine),
            subject=barrier.engine,
        )
    if not found and host.libc_version is None:
        yield skip("the C library is unknown")
    elif not found and not passed(evidence, "libc"):
        yield skip(f"C library: {have}; no engine fits here for another reason")
    elif not found:
        yield ok(f"C library: {have}, enough for the newest release of every engine that fits here")


def _another_libc(have: str, found: list[Barrier]) -> Finding:
    """Return one finding for all engines: there is one cause."""
    engines = [barrier.engine for barrier in found]
    how = warn if all(barrier.instead or barrier.on_cpu for barrier in found) else fail
    return how(
        f"{have} is another C library than the one that the engines' programs are made for",
        detail=f"Those of {names(engines)} need glibc: none of them starts here.",
        evidence="\n".join(f"{barrier.refusal.build}: {barrier.refusal.reason}" for barrier in found),
        affects=engines,
        remedy=remedy_for(found[0].refusal, engines[0]),
    )


def processor(evidence: Evidence) -> Iterable[Finding]:
    """Hold the processor's instruction sets against the builds that run on it."""
    yield from _of_processor(evidence, "cpu", "this processor", evidence.machine.cpu.flags is not None)


def main_memory(evidence: Evidence) -> Iterable[Finding]:
    """Hold main memory against the builds that run a model in it."""
    total = evidence.machine.memory.total
    have = f"{gigabytes(total)} of main memory" if total is not None else "main memory"
    yield from _of_processor(evidence, "memory", have, total is not None)


def _of_processor(evidence: Evidence, rule: str, have: str, known: bool) -> Iterable[Finding]:
    if has_nvidia(evidence.machine):
        yield skip(f"{have}: engines run on the NVIDIA GPU here")
        return
    found = barriers(evidence, rule)
    for barrier in found:
        yield warn(
            f"{have} is not enough for {barrier.release if barrier.instead else f'any build of {barrier.engine}'}",
            detail=f"{barrier.instead} is taken instead." if barrier.instead else None,
            evidence=f"{barrier.refusal.build}: {barrier.refusal.reason}",
            affects=[barrier.engine],
            remedy=remedy_for(barrier.refusal, barrier.engine),
            subject=barrier.engine,
        )
    if not known:
        yield skip(f"{have}: unknown")
    elif not found and not passed(evidence, rule):
        yield skip(f"{have}: no engine fits here for another reason")


def wsl(evidence: Evidence) -> Iterable[Finding]:
    """Judge the Windows Subsystem for Linux: version 1 has no GPUs at all."""
    version = evidence.machine.host.wsl
    if version is None:
        yield skip("this is not the Windows Subsystem for Linux")
    elif version == "1":
        yield fail(
            "this is WSL 1, which has no GPUs and no Linux kernel of its own",
            affects=list(evidence.catalogue.engines),
            remedy=by_hand("turn it into WSL 2, in Windows' PowerShell", "wsl --set-version <distribution> 2"),
        )
    else:
        yield ok(
            "WSL 2: the GPU's driver is Windows' own",
            detail="Never install a Linux driver inside; memory is what .wslconfig gives (half of the machine's).",
        )


def sudo(evidence: Evidence) -> Iterable[Finding]:
    """Tell whether this user can become root: only system services and system packages need it."""
    host = evidence.machine.host
    words = {
        "root": "you are root",
        "passwordless": "sudo works without a password",
        "password": "sudo asks for a password",
        "absent": "no sudo: everything goes into your own folders, services run as user units or in the foreground",
    }
    if host.uid == 0:
        yield ok(words["root"])
    elif host.sudo is None:
        yield skip("whether sudo works is unknown")
    else:
        yield ok(words.get(host.sudo, f"sudo: {host.sudo}"))


def shared_memory(evidence: Evidence) -> Iterable[Finding]:
    """Hold /dev/shm against tensor parallelism."""
    size, cards = evidence.machine.memory.shm, nvidia_gpus(evidence.machine)
    parallel = [page.engine for page in evidence.catalogue.engines.values() if page.tensor_parallel]
    if len(cards) < 2:
        yield skip("one model over several GPUs does not come up: there are not two NVIDIA GPUs")
    elif size is None:
        yield skip("the size of /dev/shm is unknown")
    elif size >= SHARED_MEMORY:
        yield ok(f"{_SHM}: {gigabytes(size)}")
    else:
        container = evidence.machine.host.container
        remedy = (
            by_hand("start the container with more (Docker's default is 64 MB): docker run --shm-size=16g")
            if container
            else by_hand("make it bigger until the next boot", "sudo mount -o remount,size=16G /dev/shm", root=True)
        )
        yield warn(
            f"{_SHM} has {gigabytes(size)}: too little for one model over {len(cards)} GPUs",
            detail="The processes of one model hand tensors over in it; NCCL ends with `unhandled system error`.",
            affects=parallel,
            remedy=remedy,
        )


def open_files(evidence: Evidence) -> Iterable[Finding]:
    """Hold the limit of open files against servers with many connections."""
    limit = seen(evidence.limits).open_files
    if limit is None:
        yield skip("the limit of open files is unknown")
    elif limit.hard is None or limit.hard >= OPEN_FILES:
        yield ok(f"open files: {limit.hard or 'unlimited'}")
    else:
        yield warn(
            f"open files: at most {limit.hard}, servers ask for {OPEN_FILES}",
            detail="With many connections at once a server stops taking new ones (`Too many open files`).",
            evidence=f"soft {limit.soft}, hard {limit.hard}",
            affects=[page.engine for page in evidence.catalogue.engines.values() if page.tensor_parallel],
            remedy=by_hand(f"start the container with more: docker run --ulimit nofile={OPEN_FILES}:{OPEN_FILES}")
            if evidence.machine.host.container
            else by_hand(
                "raise it for every user, and log in again",
                f"echo '* - nofile {OPEN_FILES}' | sudo tee /etc/security/limits.d/90-nofile.conf",
                root=True,
            ),
        )


def locked_memory(evidence: Evidence) -> Iterable[Finding]:
    """Hold the limit of locked memory against InfiniBand, which registers memory that must not move."""
    limits = seen(evidence.limits)
    limit = limits.locked_memory
    if limit is None:
        yield skip("the limit of locked memory is unknown")
    elif limit.hard is None or limit.hard >= LOCKED_MEMORY or not limits.infiniband:
        yield ok(f"locked memory: {gigabytes(limit.hard) if limit.hard is not None else 'unlimited'}")
    else:
        yield warn(
            f"locked memory: at most {gigabytes(limit.hard)}, and there is InfiniBand here",
            detail="NCCL cannot register its buffers (`ibv_reg_mr failed`): several nodes talk over TCP or not at all.",
            remedy=by_hand(
                "lift it for your user, or start the container with --ulimit memlock=-1",
                "echo '* - memlock unlimited' | sudo tee /etc/security/limits.d/90-memlock.conf",
                root=True,
            ),
        )


CHECKS: tuple[Check, ...] = (
    Check(id="catalogue", group="host", title="the catalogue can be read, and every engine planned", look=catalogue),
    Check(id="facts", group="host", title="every fact could be read", look=facts),
    Check(id="contradictions", group="host", title="no facts contradict each other", look=contradictions),
    Check(
        id="libc",
        group="host",
        title="the C library is new enough for the engines' wheels",
        look=libc,
        source="platform tags of the wheels (PEP 600), and symbol versions where a tag lies",
    ),
    Check(
        id="processor",
        group="host",
        title="the processor has the instruction sets that builds for it ask for",
        look=processor,
        source="instruction sets of the CPU builds in envs/",
    ),
    Check(
        id="main-memory",
        group="host",
        title="main memory holds what runs on the processor",
        look=main_memory,
        source="memory of the CPU builds in envs/",
    ),
    Check(id="wsl", group="host", title="the Windows Subsystem for Linux is one that has GPUs", look=wsl),
    Check(id="sudo", group="host", title="whether this user can become root", look=sudo),
    Check(
        id="shared-memory",
        group="host",
        title=f"{_SHM} is big enough for one model over several GPUs",
        look=shared_memory,
        source="vllm-project/vllm#1710; NCCL user guide, troubleshooting, shared memory",
    ),
    Check(
        id="open-files",
        group="host",
        title="the limit of open files suits a server",
        look=open_files,
        needs=("limits",),
        source="vllm/utils, set_ulimit",
    ),
    Check(
        id="locked-memory",
        group="host",
        title="the limit of locked memory suits InfiniBand",
        look=locked_memory,
        needs=("limits",),
        source="NCCL user guide, troubleshooting, InfiniBand",
    ),
)
