"""What plans say about one rule: which engines it keeps from their newest release, and which from every build."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from firstlight.catalogue.types import Build, EngineEntry
from firstlight.doctor.evidence import Evidence
from firstlight.planning.plan import Plan, Refusal
from firstlight.planning.versions import numbers

_FAR_TO_NEAR = (
    "cpu_policy",
    "device",
    "compute_capability",
    "libc",
    "driver",
    "python",
    "cpu",
    "memory",
    "disk",
)
"""The planner's rules in the order in which a build passes them; those beside it say nothing about the machine."""


class Barrier(msgspec.Struct, frozen=True, kw_only=True):
    """A rule that refuses builds of an engine.

    `refusal` is that of the newest build refused by the rule. `instead` is the build that was chosen all the same, on a
    GPU; None: the rule keeps the engine from this machine's GPU.
    """

    engine: str
    build: Build
    refusal: Refusal
    floor: Refusal
    """That of the oldest build refused by the rule: what would be the least to ask for."""
    instead: str | None
    on_cpu: bool
    """Whether a CPU build was chosen."""

    @property
    def release(self) -> str:
        """The engine and its newest release."""
        return f"{self.engine} {self.build.release}"


def pages(evidence: Evidence) -> Iterator[tuple[EngineEntry, Plan]]:
    """Give each engine's page with its plan."""
    for plan in evidence.plans:
        yield evidence.catalogue.engines[plan.engine], plan


def barriers(evidence: Evidence, rule: str) -> list[Barrier]:
    """Return the engines that a rule keeps from their newest release, or from this machine's GPUs altogether.

    Of all builds of that release the one that came nearest to fitting tells which rule it is.
    """
    found = (_barrier(page, plan) for page, plan in pages(evidence))
    return [barrier for barrier in found if barrier is not None and barrier.refusal.rule == rule]


def _barrier(page: EngineEntry, plan: Plan) -> Barrier | None:
    builds = {build.id: build for build in page.build}
    chosen = builds[plan.build.id] if plan.build is not None else None
    used = chosen if chosen is not None and chosen.cuda is not None else None
    refused = [item for item in plan.refused if item.rule in _FAR_TO_NEAR and builds[item.build].cuda is not None]
    if used is not None:
        refused = [item for item in refused if numbers(builds[item.build].release) > numbers(used.release)]
        newest = max((numbers(builds[item.build].release) for item in refused), default=())
        refused = [item for item in refused if numbers(builds[item.build].release) == newest]
    nearest = max((_FAR_TO_NEAR.index(item.rule) for item in refused), default=None)
    if nearest is None:
        return None
    same = [item for item in refused if item.rule == _FAR_TO_NEAR[nearest]]
    first = max(same, key=lambda item: _rank(builds[item.build]))
    return Barrier(
        engine=page.engine,
        build=builds[first.build],
        refusal=first,
        floor=min(same, key=lambda item: _rank(builds[item.build])),
        instead=used.id if used is not None else None,
        on_cpu=chosen is not None and used is None,
    )


def nearest_refusal(plan: Plan) -> Refusal | None:
    """Return why an engine has no build here: the refusal of the first build that came nearest to fitting."""
    known = [item for item in plan.refused if item.rule in _FAR_TO_NEAR]
    return max(known, key=lambda item: _FAR_TO_NEAR.index(item.rule), default=next(iter(plan.refused), None))


def _rank(build: Build) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return numbers(build.release), numbers(build.cuda or "")


def outgrown(plan: Plan, build: str) -> Refusal | None:
    """Return why a build that is set up does not fit this machine any more; its disk is taken already."""
    return next((item for item in plan.refused if item.build == build and item.rule in _FAR_TO_NEAR[:-1]), None)


def names(words: list[str]) -> str:
    """Return words as a sentence lists them: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
