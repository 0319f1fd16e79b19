"""What is set up, against the machine as it is now: drivers, cards and C libraries change under an environment."""

from __future__ import annotations

from collections.abc import Iterable

from firstlight.doctor.check import Check
from firstlight.doctor.evidence import Evidence, seen
from firstlight.doctor.findings import Finding, by_hand, fail, ok, skip, warn
from firstlight.doctor.judging import outgrown, pages


def fits(evidence: Evidence) -> Iterable[Finding]:
    """Hold the build of each current generation against the rules that would choose it today."""
    current = seen(evidence.installed)
    if not current.current:
        yield skip("no engine is set up yet")
    for page, plan in pages(evidence):
        present = current.of(page.engine)
        if present is None:
            continue
        refusal = outgrown(plan, present.build)
        if refusal is not None:
            yield fail(
                f"{present.build} is set up and does not fit this machine any more",
                detail="It fitted when it was set up: the driver, the cards or the system have changed since.",
                evidence=f"{refusal.rule}: {refusal.reason}",
                affects=[page.engine],
                remedy=by_hand("set up the build that fits now", f"firstlight setup.{page.engine}"),
                subject=page.engine,
            )
        elif present.state != "proven" and page.kind == "wheels":
            yield warn(
                f"{present.build} is set up and was never proven",
                detail="An environment that imports is no proof: only a completion is.",
                affects=[page.engine],
                remedy=by_hand("prove it", f"firstlight setup.prove {page.engine}"),
                subject=page.engine,
            )
        else:
            yield ok(f"{present.build} fits this machine", subject=page.engine)


CHECKS: tuple[Check, ...] = (
    Check(
        id="installed-fits",
        group="environments",
        title="what is set up fits this machine",
        look=fits,
        needs=("installed",),
        source="the rules of `firstlight plan`",
    ),
)
