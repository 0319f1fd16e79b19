"""The disks against the plans: room, write permission, a bigger mount elsewhere, what a restart empties, and /tmp."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import PurePosixPath

from firstlight.doctor.check import Check
from firstlight.doctor.evidence import Evidence, seen
from firstlight.doctor.findings import Finding, Remedy, by_hand, fail, ok, skip, warn
from firstlight.doctor.judging import barriers, names, remedy_for, settled
from firstlight.planning.places import COMFORT, best_mount, default_home, home_on, mount_of
from firstlight.planning.plan import Refusal
from firstlight.planning.rules import gigabytes

TEMPORARY = 4_000_000_000
"""Bytes that the temporary folder should hold: pip and the hubs' libraries unpack whole wheels and shards there."""
_MEMORY_FILESYSTEMS = frozenset({"tmpfs", "ramfs"})


def room(evidence: Evidence) -> Iterable[Finding]:
    """Hold the mount of the home against what each engine's plan would write."""
    if evidence.machine.disks is None:
        yield skip("what disks there are is unknown")
        return
    machine = settled(evidence)
    own = mount_of(machine, _home(evidence))
    if own is not None and own.writable is False:
        yield skip("the home cannot be written, so its room is of no use (disk-writable)")
    else:
        yield from _without_room(evidence)
        yield from _smaller(evidence)
    homes = {plan.home for plan in evidence.plans if plan.build is not None and plan.home is not None}
    for home in sorted(homes):
        place = mount_of(machine, home)
        free = f"{gigabytes(place.free)} free on {place.mount}" if place and place.free is not None else "room unknown"
        needed = [
            f"{plan.engine} {gigabytes(plan.needs.disk)}"
            for plan in evidence.plans
            if plan.home == home and plan.build is not None and plan.needs is not None
        ]
        yield ok(f"{home}: {free}; needed: {', '.join(needed)}", subject=home)


def _without_room(evidence: Evidence) -> Iterable[Finding]:
    """Tell the engines for which there is no room, together where the same remedy mends them."""
    found: dict[tuple[str, ...], list[tuple[str, Refusal]]] = {}
    for plan in evidence.plans:
        refusal = next((item for item in plan.refused if item.rule == "disk"), None)
        if plan.build is None and refusal is not None:
            found.setdefault(tuple(_room_for(plan.engine, refusal).commands), []).append((plan.engine, refusal))
    for group in found.values():
        engines = [engine for engine, _refusal in group]
        yield fail(
            f"no room for {names(engines)}",
            detail="Environment, model and the next update beside the old one all lie in one home.",
            evidence="\n".join(f"{refusal.build}: {refusal.reason}" for _engine, refusal in group),
            affects=engines,
            remedy=_room_for(*group[0]),
            subject=", ".join(engines),
        )


def _smaller(evidence: Evidence) -> Iterable[Finding]:
    """Tell engines that get an older release, or the processor, because the disk has no room for another build."""
    for barrier in barriers(evidence, "disk"):
        if barrier.instead or barrier.on_cpu:
            yield warn(
                f"no room for {barrier.release}{'' if barrier.instead else ' on the GPU'}",
                detail=f"{barrier.instead} is taken instead." if barrier.instead else "It would run on the CPU.",
                evidence=f"{barrier.refusal.build}: {barrier.refusal.reason}",
                affects=[barrier.engine],
                remedy=_room_for(barrier.engine, barrier.refusal),
                subject=barrier.engine,
            )


def _room_for(engine: str, refusal: Refusal) -> Remedy:
    """Return how room is made: another mount where one has it, else words."""
    remedy = remedy_for(refusal, engine)
    if remedy is not None and remedy.commands:
        return remedy
    return by_hand("make room there, or put the home on another disk: export FIRSTLIGHT_HOME=/path/with/room")


def writable(evidence: Evidence) -> Iterable[Finding]:
    """Tell when the home lies where this user cannot write."""
    home = _home(evidence)
    place, folder = mount_of(evidence.machine, home), evidence.home_folder
    if folder is not None and folder.path == home:
        can, where = folder.writable, folder.above
    elif place is not None and place.writable is not None:
        can, where = place.writable, place.mount
    else:
        yield skip("whether the home can be written is unknown")
        return
    if can:
        yield ok(f"{home} can be written" if where == home else f"{where}, which the home goes to, can be written")
        return
    kind = f" ({place.fs} on {place.mount})" if place is not None else ""
    yield fail(
        f"{where}, which {'is the home' if where == home else 'would hold the home'}, cannot be written",
        detail="It is mounted read-only, full, no folder, or belongs to somebody else.",
        evidence=f"{home}{kind}",
        affects=list(evidence.catalogue.engines),
        remedy=by_hand("put the home elsewhere", _elsewhere(evidence, home)),
    )


def _elsewhere(evidence: Evidence, home: str) -> str:
    """Return the line that puts the home on the best mount other than its own."""
    here, best = mount_of(evidence.machine, home), best_mount(evidence.machine)
    usable = best is not None and best.writable is not False and (here is None or best.mount != here.mount)
    folder = home_on(evidence.machine, best) if usable and best is not None else "/path/that/you/can/write"
    return f"export FIRSTLIGHT_HOME={shlex.quote(folder)}"


def executable(evidence: Evidence) -> Iterable[Finding]:
    """Tell when the home lies on a mount that lets no program run."""
    folder = seen(evidence.home_folder)
    if folder.path != _home(evidence):
        yield skip("the home is not there yet")
    elif folder.no_exec:
        yield fail(
            f"{folder.mount}, which holds the home, lets no program run (noexec)",
            detail="Environments are full of programs and libraries: `Permission denied`, `failed to map segment`.",
            evidence=f"{folder.path} on {folder.mount}, option noexec",
            affects=list(evidence.catalogue.engines),
            remedy=by_hand("put the home elsewhere", _elsewhere(evidence, folder.path)),
            source="mount(8), noexec",
        )


def bigger(evidence: Evidence) -> Iterable[Finding]:
    """Tell when the home in use lies on a small mount while another one is big."""
    home = _home(evidence)
    place, best = mount_of(evidence.machine, home), best_mount(evidence.machine)
    if place is None or best is None or place.free is None or best.free is None:
        yield skip("what disks there are is unknown")
        return
    usual = mount_of(evidence.machine, default_home(evidence.machine))
    if evidence.home is None and usual is not None and usual.mount != place.mount:
        yield ok(
            f"{usual.mount} is small ({gigabytes(usual.free or 0)} free): the home goes to {place.mount} "
            f"({gigabytes(place.free)} free)"
        )
    elif place.mount == best.mount or place.free >= COMFORT or best.free < 2 * place.free:
        yield ok(f"{place.mount} ({gigabytes(place.free)} free) is where the room is")
    else:
        folder = home_on(evidence.machine, best)
        yield warn(
            f"{place.mount} has {gigabytes(place.free)} free, {best.mount} has {gigabytes(best.free)}",
            detail="Environments and models lie in the home; caches of pip, conda and the hubs lie in your own folder.",
            evidence=f"home: {home}",
            remedy=by_hand("put the home there", f"export FIRSTLIGHT_HOME={shlex.quote(folder)}"),
        )


def persistent(evidence: Evidence) -> Iterable[Finding]:
    """Tell when a restart empties the home's mount."""
    if evidence.machine.disks is None:
        yield skip("what disks there are is unknown")
        return
    homes = {plan.home for plan in evidence.plans if plan.home is not None} or {_home(evidence)}
    lost = []
    for home in sorted(homes):
        place = mount_of(evidence.machine, home)
        if place is not None and place.persistent is False:
            lost.append((home, place))
    if not lost:
        yield ok("the home lies on no mount that is known to be emptied at a restart")
    for home, place in lost:
        kept = [disk for disk in evidence.machine.disks or [] if disk.persistent is not False and disk.writable]
        best = max(kept, key=lambda disk: disk.free or 0, default=None)
        remedy = (
            by_hand(
                "put the home on a mount that stays",
                f"export FIRSTLIGHT_HOME={shlex.quote(home_on(evidence.machine, best))}",
            )
            if best is not None
            else by_hand(
                "mount a volume that stays, and put the home there", "export FIRSTLIGHT_HOME=/path/on/the/volume"
            )
        )
        yield warn(
            f"{home} is gone when this container or machine is made again",
            detail=f"{place.mount} is {'memory' if place.fs in _MEMORY_FILESYSTEMS else 'the layer of a container'}: "
            "environments and models would have to be fetched again.",
            evidence=f"{place.mount} ({place.fs})",
            remedy=remedy,
            subject=home,
        )


def answering(evidence: Evidence) -> Iterable[Finding]:
    """Tell mounts that do not answer: whatever touches them hangs."""
    if evidence.machine.disks is None:
        yield skip("what disks there are is unknown")
    silent = [problem for problem in evidence.machine.problems if problem.probe.startswith("disks:")]
    for problem in silent:
        mount = problem.probe.partition(":")[2]
        yield fail(
            f"{mount} does not answer",
            detail="Every program that touches it hangs, and cannot be ended: a search for models, `df`, the shell.",
            evidence=problem.reason,
            remedy=by_hand(
                "bring its server back, or take the mount away", f"sudo umount -l {shlex.quote(mount)}", root=True
            ),
            subject=mount,
        )


def temporary(evidence: Evidence) -> Iterable[Finding]:
    """Judge the temporary folder: there, writable, no memory, big enough."""
    folder = seen(evidence.temporary)
    where = f"{folder.folder}{' (TMPDIR)' if folder.set_by else ''}"
    if not folder.exists or not folder.writable:
        yield fail(
            f"the temporary folder {where} {'cannot be written' if folder.exists else 'is not there'}",
            detail="Nearly every program needs one; pip ends with a message about something else.",
            affects=list(evidence.catalogue.engines),
            remedy=by_hand("choose one that is", "unset TMPDIR" if folder.set_by else "export TMPDIR=$HOME/tmp"),
        )
        return
    if folder.free is None:
        yield skip("the room in the temporary folder is unknown")
        return
    in_memory = folder.fs in _MEMORY_FILESYSTEMS
    if folder.free >= TEMPORARY and not in_memory:
        yield ok(f"{where}: {gigabytes(folder.free)} free")
        return
    best = best_mount(evidence.machine)
    roomy = best is not None and (best.free or 0) > folder.free and best.mount != "/"
    place = str(PurePosixPath(best.mount) / "tmp") if roomy and best is not None else "$HOME/tmp"
    remedy = by_hand("use a folder on a disk for big work", f"mkdir -p {place} && export TMPDIR={place}")
    if folder.free < TEMPORARY:
        yield warn(
            f"{where} has {gigabytes(folder.free)} free{', and lies in memory' if in_memory else ''}",
            detail="Wheels of several gigabytes are unpacked there: `No space left on device` on a disk that has room. "
            "firstlight itself keeps such files in its home.",
            evidence=f"{folder.folder} ({folder.fs or 'unknown file system'})",
            remedy=remedy,
            source="pypa/pip#12444; vllm-project/vllm#7025",
        )
    else:
        yield ok(f"{where}: {gigabytes(folder.free)} free, in memory: what is written there takes main memory")


def _home(evidence: Evidence) -> str:
    """Return where the home is: the one in use, else where most plans put it, else this user's default."""
    if evidence.home is not None:
        return str(evidence.home.root)
    return next((plan.home for plan in evidence.plans if plan.home is not None), default_home(evidence.machine))


CHECKS: tuple[Check, ...] = (
    Check(id="disk-room", group="disk", title="there is room for the engines", look=room, source="sizes in envs/"),
    Check(id="disk-writable", group="disk", title="the home can be written", look=writable, uses=("home_folder",)),
    Check(
        id="disk-noexec",
        group="disk",
        title="programs may run from the home's disk",
        look=executable,
        needs=("home_folder",),
    ),
    Check(id="disk-bigger", group="disk", title="the home lies where the room is", look=bigger),
    Check(id="disk-persistent", group="disk", title="the home survives a restart", look=persistent),
    Check(id="disk-answers", group="disk", title="every mount answers", look=answering),
    Check(
        id="temporary-folder",
        group="disk",
        title="the temporary folder has room",
        look=temporary,
        needs=("temporary",),
    ),
)
