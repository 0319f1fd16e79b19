"""The examination: all probes start together, each with a time limit, and every check sees one frozen evidence."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from firstlight.catalogue.types import Catalogue
from firstlight.doctor.check import GROUPS, Check
from firstlight.doctor.evidence import PLAN, Evidence, NotSeen, Unseen
from firstlight.doctor.findings import Finding, skip, without_sudo
from firstlight.doctor.looking import DoctorProbe, Look
from firstlight.doctor.readable import readable_catalogue
from firstlight.doctor.report import THERE_ALONE, Examination, counted
from firstlight.doctor.table import CHECKS, PROBES
from firstlight.doctor.verdicts import next_step, verdicts
from firstlight.errors import UsageError, did_you_mean
from firstlight.home import Home, default_root
from firstlight.machine.facts import Machine, ProbeFailure
from firstlight.machine.reading import read_machine
from firstlight.machine.system import Background, System, reason_of
from firstlight.planning.choose import choose
from firstlight.planning.plan import Plan
from firstlight.planning.request import Request

MACHINE_SECONDS = 2.8
"""For the machine's facts; a driver that hangs uses all of it."""
SECONDS = 3.6
"""For all probes that ask neither the network nor big files: with start-up and page the whole stays below 5 seconds."""
NETWORK_SECONDS = 40.0
DEEP_SECONDS = 3600.0


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be examined: the ids of checks (none: all), and how far to look."""

    only: tuple[str, ...] = ()
    network: bool = False
    deep: bool = False


def chosen_checks(wish: Wish, checks: Sequence[Check] = CHECKS) -> list[Check]:
    """Return the checks that a wish names, in the order in which they are shown.

    Raises:
        UsageError: an id is none; near ones are offered.
    """
    known = [check.id for check in checks]
    for name in wish.only:
        if name not in known:
            raise UsageError(
                f'there is no check "{name}"{did_you_mean(name, known)}', fix="firstlight doctor --list-checks"
            )
    chosen = [check for check in checks if not wish.only or check.id in wish.only]
    return sorted(chosen, key=lambda check: GROUPS.index(check.group))


def examine_this_machine(
    wish: Wish,
    *,
    root: Path = Path("/"),
    environment: Mapping[str, str] | None = None,
    checks: Sequence[Check] = CHECKS,
    probes: Sequence[DoctorProbe] = PROBES,
) -> Examination:
    """Examine the machine that we run on.

    Raises:
        UsageError: a check is named that does not exist.
    """
    began = time.monotonic()
    chosen = chosen_checks(wish, checks)
    variables = dict(os.environ) if environment is None else dict(environment)
    limit = DEEP_SECONDS if wish.deep else NETWORK_SECONDS if wish.network else SECONDS
    system = System(root, variables, limit)
    reading = Background("machine", lambda: read_machine(root, environment=variables, deadline=MACHINE_SECONDS))
    late = Machine(problems=[ProbeFailure(probe="machine", reason=f"no answer within {SECONDS:.1f} s")])

    def facts() -> Machine:
        reading.wait(began + SECONDS - time.monotonic())
        return reading.outcome(late)

    catalogue, damaged = readable_catalogue()  # while the others wait for programs and disks
    look = Look(system, catalogue, facts, network=wish.network, deep=wish.deep)
    homing = Background("home", look.home_in_use)
    wanted = {name for check in chosen for name in (*check.needs, *check.uses)} | {"installed"}
    started = [
        (probe, Background(f"doctor-{probe.name}", _reader(probe, look)))
        for probe in probes
        if probe.name in wanted and _allowed(probe.speed, wish)
    ]
    machine = facts()
    homing.wait(began + SECONDS - time.monotonic())
    home = homing.outcome(None)
    plans, unplanned = _plans(machine, catalogue, home, default_root(variables))
    fields: dict[str, Any] = {}
    unseen = [*damaged, *unplanned]
    for probe, work in started:
        ends = began + SECONDS if probe.speed == "normal" and not wish.deep else system.ends
        fields[probe.name], trouble = _outcome(probe, work, ends - time.monotonic())
        unseen += [trouble] if trouble is not None else []
    evidence = Evidence(machine=machine, catalogue=catalogue, plans=plans, home=home, unseen=tuple(unseen), **fields)
    return _judge(evidence, chosen, wish, began, "")


def examine_described(wish: Wish, machine: Machine, *, checks: Sequence[Check] = CHECKS) -> Examination:
    """Examine a machine by its facts alone; what only the machine itself can tell is skipped.

    Raises:
        UsageError: a check is named that does not exist.
    """
    began = time.monotonic()
    chosen = chosen_checks(wish, checks)
    catalogue, damaged = readable_catalogue()
    plans, unplanned = _plans(machine, catalogue, None, None)
    evidence = Evidence(machine=machine, catalogue=catalogue, plans=plans, unseen=(*damaged, *unplanned))
    return _judge(evidence, chosen, wish, began, THERE_ALONE)


def examine_log(path: Path) -> Examination:
    """Look for the true cause in a log of an engine.

    Raises:
        FirstlightError: the file cannot be read.
    """
    from firstlight.doctor.logs import read_log

    began = time.monotonic()
    machine = read_machine(deadline=MACHINE_SECONDS)
    findings = [without_sudo(finding, machine) for finding in read_log(path, machine=machine)]
    return Examination(
        machine=machine,
        counts=counted(findings),
        findings=findings,
        next=next_step(findings, []),
        seconds=round(time.monotonic() - began, 3),
    )


def _reader(probe: DoctorProbe, look: Look) -> Any:
    return lambda: probe.read(look)


def _allowed(speed: str, wish: Wish) -> bool:
    return speed == "normal" or (speed == "network" and wish.network) or (speed == "deep" and wish.deep)


def _outcome(probe: DoctorProbe, work: Background[Any], seconds: float) -> tuple[Any, Unseen | None]:
    ended = work.wait(seconds)
    if not ended:
        return None, Unseen(name=probe.name, reason="it did not answer in time", broke=True)
    if work.error is not None:
        return None, Unseen(name=probe.name, reason=reason_of(work.error), broke=True)
    return work.outcome(None), None


def _plans(
    machine: Machine, catalogue: Catalogue, home: Home | None, default_home: Path | None
) -> tuple[tuple[Plan, ...], list[Unseen]]:
    """Return a plan per engine; facts that make no sense may break one, and that is told."""
    plans, broken = [], []
    for name in catalogue.engines:
        request = Request(engine=name, home=home.root if home is not None else None, default_home=default_home)
        try:
            plans.append(choose(machine, catalogue, request))
        except Exception as error:  # noqa: BLE001 - one engine's plan must never take the page with it
            broken.append(Unseen(name=f"{PLAN}{name}", reason=reason_of(error), broke=True))
    return tuple(plans), broken


def _judge(evidence: Evidence, checks: list[Check], wish: Wish, began: float, elsewhere: str) -> Examination:
    found = [finding for check in checks for finding in run_check(check, evidence, wish, elsewhere)]
    findings = [without_sudo(finding, evidence.machine) for finding in found]
    engines = [] if wish.only else verdicts(evidence, findings)
    return Examination(
        machine=evidence.machine,
        counts=counted(findings),
        findings=findings,
        verdicts=engines,
        next=next_step(findings, engines),
        seconds=round(time.monotonic() - began, 3),
    )


def run_check(check: Check, evidence: Evidence, wish: Wish, elsewhere: str = "") -> list[Finding]:
    """Return a check's findings; what it needs and nobody looked at makes a skip, and what breaks it makes a crash."""
    if not _allowed(check.speed, wish):
        return [_signed(check, skip(f"{check.title}: {elsewhere or f'only with --{check.speed}'}"))]
    for name in check.needs:
        if getattr(evidence, name) is None:
            return [_signed(check, _unanswered(check, evidence, name, elsewhere))]
    try:
        found = [*check.look(evidence)]
    except NotSeen:
        found = [skip(f"{check.title}: not looked at")]
    except Exception as error:  # noqa: BLE001 - a check that breaks is a finding, and the others go on
        found = [Finding(status="crash", summary=f"this check itself broke: {check.title}", evidence=reason_of(error))]
    return [_signed(check, finding) for finding in found or [Finding(status="ok", summary=check.title)]]


def _unanswered(check: Check, evidence: Evidence, name: str, elsewhere: str) -> Finding:
    why = next((item for item in evidence.unseen if item.name == name), None)
    if why is not None and why.broke:
        return Finding(
            status="crash",
            summary=f"could not be looked at: {check.title}",
            evidence=f"{name}: {why.reason}",
        )
    return skip(f"{check.title}: {elsewhere or 'not looked at'}")


def _signed(check: Check, finding: Finding) -> Finding:
    return msgspec.structs.replace(
        finding,
        id=finding.id or check.id,
        group=finding.group or check.group,
        source=finding.source or (check.source if finding.status in {"warn", "fail"} else None),
    )


def all_ids(checks: Iterable[Check] = CHECKS) -> list[str]:
    """Return the ids of all checks."""
    return [check.id for check in checks]
