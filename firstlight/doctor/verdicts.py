"""The verdict per engine, and the one thing to do next."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from firstlight.catalogue.names import command_for, engine_names, installable_names
from firstlight.doctor.evidence import Evidence
from firstlight.doctor.findings import Finding
from firstlight.doctor.judging import nearest_refusal, outgrown, remedy_for
from firstlight.doctor.probes.installed import Installed
from firstlight.doctor.report import Verdict
from firstlight.planning.devices import has_nvidia
from firstlight.planning.plan import ChosenBuild, Plan


def verdicts(evidence: Evidence, findings: Iterable[Finding] = ()) -> list[Verdict]:
    """Return a verdict for every engine; what failed for it takes the shine off what would fit."""
    failed = [finding for finding in findings if finding.status == "fail"]
    return [_held_against(_verdict(evidence, plan), failed) for plan in evidence.plans]


def _held_against(verdict: Verdict, failed: list[Finding]) -> Verdict:
    """Return a verdict that does not contradict the failures that name its engine."""
    against = next((finding for finding in failed if verdict.engine in finding.affects), None)
    if against is None or verdict.state not in {"ready", "possible"}:
        return verdict
    return msgspec.structs.replace(verdict, state="limited", text=f"{verdict.text}, but: {against.summary}")


def _verdict(evidence: Evidence, plan: Plan) -> Verdict:
    present = evidence.installed.of(plan.engine) if evidence.installed is not None else None
    if present is not None:
        return _installed(plan, present)
    if plan.build is not None:
        return _fitting(evidence, plan, plan.build)
    reason = nearest_refusal(evidence, plan)
    remedy = remedy_for(reason, plan.engine) if reason is not None else None
    some = next((line for line in remedy.commands if " --gpus " in line), None) if remedy is not None else None
    if some is not None:
        return Verdict(
            engine=plan.engine,
            state="limited",
            build=None,
            text=f"only with --gpus {some.rpartition(' ')[2]}: no build holds code for all of the GPUs here",
            command=some,
        )
    return Verdict(
        engine=plan.engine,
        state="impossible",
        build=None,
        text=f"can't: {reason.reason if reason is not None else 'the catalogue has no build for this machine'}",
        command=f"firstlight plan {plan.engine} --explain",
    )


def _fitting(evidence: Evidence, plan: Plan, build: ChosenBuild) -> Verdict:
    """Return the verdict on an engine that has a build for this machine and is not set up."""
    kind = f"CUDA {build.cuda}" if build.cuda else "on the CPU"
    python = f", Python {build.python}" if build.python else ""
    unused = build.cuda is None and has_nvidia(evidence.machine)
    figures = f"({kind}{python}{'; the GPU stays unused' if unused else ''})"
    text = f"can be set up as {build.id} {figures}"
    if plan.engine in set(engine_names()) - set(installable_names()):
        text = f"fits as {build.id} {figures}; this version of firstlight does not set it up yet"
    command = command_for(plan.engine)
    return Verdict(
        engine=plan.engine, state="limited" if unused else "possible", build=build.id, text=text, command=command
    )


def _installed(plan: Plan, present: Installed) -> Verdict:
    refusal = outgrown(plan, present.build)
    wrong = present.problems[0] if present.problems else refusal.reason if refusal is not None else None
    if wrong is not None:
        return Verdict(
            engine=plan.engine,
            state="broken",
            build=present.build,
            text=f"is set up as {present.build}, but: {wrong}",
            command=f"firstlight setup.repair {plan.engine}" if present.problems else f"firstlight setup.{plan.engine}",
        )
    proven = f"proven, of {present.created[:10]}" if present.state == "proven" else "not proven yet"
    return Verdict(
        engine=plan.engine,
        state="ready",
        build=present.build,
        text=f"ready ({present.build}, {proven})",
        command=f"firstlight up --engine {plan.engine}"
        if present.state == "proven"
        else f"firstlight setup.prove {plan.engine}",
    )


def next_step(findings: list[Finding], engines: list[Verdict]) -> str | None:
    """Return what to do next: what mends the first failure, else what brings an engine to its first token."""
    for finding in findings:
        if finding.status == "fail" and finding.remedy is not None:
            if finding.remedy.automatic:
                return "firstlight doctor --fix"
            return finding.remedy.commands[0] if finding.remedy.commands else finding.remedy.text
    states = [verdict.state for verdict in engines]
    for state in ("ready", "broken"):
        if state in states:
            return engines[states.index(state)].command
    offered = [verdict for verdict in engines if verdict.state in {"possible", "limited"}]
    commands = [verdict.command or "" for verdict in offered]
    if any(not line.startswith("firstlight plan ") and " --gpus " not in line for line in commands):
        return "firstlight up"  # it knows which of them is best here
    if offered:
        return offered[0].command
    return engines[0].command if engines else None
