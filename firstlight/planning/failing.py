"""What is said when nothing fits: the reasons, what would help here, and which engines do fit."""

from __future__ import annotations

import msgspec

from firstlight.errors import NothingFits
from firstlight.planning.plan import Plan


def nothing_fits(plan: Plan) -> NothingFits:
    """Return the error of a plan without a build.

    What is nearest to fitting comes first: a build refused for want of another device helps nobody who has none.
    """
    near = sorted(plan.refused, key=lambda refusal: refusal.rule == "device")
    reasons = "; ".join(f"{item.build}: {item.reason}" for item in near)
    remedies = [item.remedy for item in near if item.remedy and (item.rule != "device" or item is near[0])]
    others = [f"firstlight up --engine {other.engine}" for other in plan.alternatives]
    fixes = [*dict.fromkeys(remedies), *(f"or take an engine that fits: {line}" for line in others)]
    return NothingFits(
        f"no build of {plan.engine} fits this machine",
        why=reasons,
        fix="\n".join(fixes) or f"firstlight plan {plan.engine} --explain",
        document={"plan": msgspec.to_builtins(plan)},
    )
