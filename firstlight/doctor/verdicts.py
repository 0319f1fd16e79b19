"""The verdict per engine, and the one thing to do next."""

from __future__ import annotations

from firstlight.doctor.evidence import Evidence
from firstlight.doctor.findings import Finding
from firstlight.doctor.judging import nearest_refusal, outgrown
from firstlight.doctor.probes.installed import Installed
from firstlight.doctor.report import Verdict
from firstlight.planning.devices import has_nvidia
from firstlight.planning.plan import Plan


def verdicts(evidence: Evidence) -> list[Verdict]:
    """Return a verdict for every engine."""
    return [_verdict(evidence, plan) for plan in evidence.plans]


def _verdict(evidence: Evidence, plan: Plan) -> Verdict:
    present = evidence.installed.of(plan.engine) if evidence.installed is not None else None
    if present is not None:
        return _installed(plan, present)
    if plan.build is not None:
        build = plan.build
        kind = f"CUDA {build.cuda}" if build.cuda else "on the CPU"
        python = f", Python {build.python}" if build.python else ""
        unused = build.cuda is None and has_nvidia(evidence.machine)
        return Verdict(
            engine=plan.engine,
            state="limited" if unused else "possible",
            build=build.id,
            text=f"can be set up as {build.id} ({kind}{python}{'; the GPU stays unused' if unused else ''})",
            command=f"firstlight up --engine {plan.engine}",
        )
    reason = nearest_refusal(plan)
    return Verdict(
        engine=plan.engine,
        state="impossible",
        build=None,
        text=f"can't: {reason.reason if reason is not None else 'the catalogue has no build for this machine'}",
        command=f"firstlight plan {plan.engine} --explain",
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
    if "possible" in states or "limited" in states:
        return "firstlight up"  # it knows which of them is best here
    return engines[0].command if engines else None
