"""What is said when nothing fits: the reasons, what would help here, and which engines do fit."""

from __future__ import annotations

import shlex
from collections.abc import Iterable

import msgspec

from firstlight.catalogue.names import command_for
from firstlight.errors import NothingFits
from firstlight.planning.plan import Plan, Refusal

_NEAR = ("source", "disk", "memory", "cpu", "python", "driver", "libc", "compute_capability", "device")
"""Rules in the order of how near a build came; those of another architecture or that nobody asked for come last."""
_FEW = 3
_MOST = 5
"""Reasons beyond which nobody reads on."""


def nothing_fits(plan: Plan) -> NothingFits:
    """Return the error of a plan without a build: the nearest reasons, and every one of them in its document."""
    groups = grouped(plan.refused, coarsely=True)
    near = [group for group in groups if group[0].rule in _NEAR] or groups
    near.sort(key=lambda group: _NEAR.index(group[0].rule) if group[0].rule in _NEAR else len(_NEAR))
    reasons = [*plan.warnings, *(f"{names(group)}: {group[0].reason}" for group in near[:_MOST])]
    if len(near) > _MOST:
        reasons.append(f"all of them: {explaining(plan)}")
    others = [command_for(other.engine) for other in plan.alternatives]
    fixes = [*plan.remedies, *(f"leave {each.words} out: {each.build} fits then" for each in plan.without)]
    fixes += [f"take an engine that fits: {line}" for line in others]
    return NothingFits(
        f"no build of {plan.engine} fits this machine{' as asked' if plan.without else ''}",
        why="; ".join(reasons),
        fix="\n".join(fixes) or explaining(plan),
        document={"plan": msgspec.to_builtins(plan)},
    )


def explaining(plan: Plan, machine: str | None = None) -> str:
    """Return the command that shows every build and its reason, for the same words and the same file of facts."""
    words = [*plan.asked, *([f"--machine {shlex.quote(machine)}"] if machine else [])]
    return " ".join(["firstlight", "plan", plan.engine, *words, "--explain"])


def grouped(refused: Iterable[Refusal], *, coarsely: bool = False) -> list[list[Refusal]]:
    """Return the refusals with those of one rule, reason and remedy together, in the order of their first.

    Args:
        refused: the refusals.
        coarsely: whether what a reason says of the machine, before its first semicolon, is enough to be the same.
    """
    groups: dict[tuple[str, str, str | None], list[Refusal]] = {}
    for item in refused:
        reason = item.reason.partition("; ")[0] if coarsely else item.reason
        groups.setdefault((item.rule, reason, item.remedy), []).append(item)
    return list(groups.values())


def names(group: list[Refusal]) -> str:
    """Return the builds of a group: up to three by name, else the newest and how many others."""
    if len(group) <= _FEW:
        return ", ".join(item.build for item in group)
    return f"{group[0].build} and {len(group) - 1} others"
