"""What plans say about one rule: which engines it keeps from their newest release, and which from every build."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from firstlight.catalogue.names import command_for
from firstlight.catalogue.types import Build, EngineEntry
from firstlight.doctor.evidence import Evidence
from firstlight.doctor.findings import Remedy, by_hand
from firstlight.machine.facts import Machine
from firstlight.planning.contradictions import sensible
from firstlight.planning.devices import has_nvidia
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
    GPU; None: the rule keeps the engine from this machine's GPU. Where there is no NVIDIA GPU, the builds for
    processors are judged in the same way.
    """

    engine: str
    build: Build
    refusal: Refusal
    floor: Refusal
    """That of the build which asks for the least of what the rule holds against it."""
    instead: str | None
    on_cpu: bool
    """Whether a CPU build was chosen though there is a GPU."""

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
    graphics = has_nvidia(evidence.machine)
    found = (_barrier(page, plan, graphics) for page, plan in pages(evidence))
    return [barrier for barrier in found if barrier is not None and barrier.refusal.rule == rule]


def _barrier(page: EngineEntry, plan: Plan, graphics: bool) -> Barrier | None:
    builds = {build.id: build for build in page.build if (build.cuda is not None) is graphics}
    used = builds.get(plan.build.id) if plan.build is not None else None
    refused = [item for item in plan.refused if item.rule in _FAR_TO_NEAR and item.build in builds]
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
        floor=min(same, key=lambda item: _asked(builds[item.build], item.rule)),
        instead=used.id if used is not None else None,
        on_cpu=plan.build is not None and used is None,
    )


def _asked(build: Build, rule: str) -> tuple[tuple[int, ...], ...]:
    """Return how much a build asks for by a rule, for comparing; of rules without a figure its age."""
    figure = {"driver": build.driver, "libc": build.libc}.get(rule)
    return (numbers(figure or ""), *_rank(build))


def nearest_refusal(evidence: Evidence, plan: Plan) -> Refusal | None:
    """Return why an engine has no build here: of the builds that came nearest to fitting, the one that asks the least.

    Where that is no question of more or less, it is the newest.
    """
    barrier = _barrier(evidence.catalogue.engines[plan.engine], plan, has_nvidia(evidence.machine))
    if barrier is not None:
        return _least(evidence, barrier)
    known = [item for item in plan.refused if item.rule in _FAR_TO_NEAR]
    return max(known, key=lambda item: _FAR_TO_NEAR.index(item.rule), default=next(iter(plan.refused), None))


def _rank(build: Build) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return numbers(build.release), numbers(build.cuda or "")


def _least(evidence: Evidence, barrier: Barrier) -> Refusal:
    """Return the refusal that asks for the least, where less would do: an older driver, an older glibc."""
    of_another_kind = barrier.refusal.rule == "libc" and settled(evidence).host.libc not in {"glibc", None}
    less = barrier.refusal.rule in {"driver", "libc"} and not of_another_kind
    return barrier.floor if less else barrier.refusal


def remedy_for(refusal: Refusal, engine: str, words: str = "put the home where there is room") -> Remedy | None:
    """Return what a plan proposes as a remedy; only what can be pasted becomes a command.

    Args:
        refusal: of a build.
        engine: the build's engine.
        words: what a bare line says that puts the home elsewhere.
    """
    proposed = refusal.remedy
    if proposed is None:
        return None
    if proposed.startswith("export "):
        return by_hand(words, proposed)
    sentence, _, line = proposed.rpartition(": ")
    if line.startswith("--gpus "):
        return by_hand(sentence, f"{command_for(engine)} {line}")
    return by_hand(sentence, line) if sentence and line.startswith("firstlight ") else by_hand(proposed)


def settled(evidence: Evidence) -> Machine:
    """Return the facts as the plans take them: contradictions settled in favour of what can do less."""
    return sensible(evidence.machine, evidence.catalogue).machine


def passed(evidence: Evidence, rule: str) -> bool:
    """Tell whether any build that is judged here met a rule; where none came so far, nothing is enough for it."""
    later = _FAR_TO_NEAR[_FAR_TO_NEAR.index(rule) + 1 :]
    graphics = has_nvidia(evidence.machine)
    for page, plan in pages(evidence):
        judged = {build.id for build in page.build if (build.cuda is not None) is graphics}
        if plan.build is not None and plan.build.id in judged:
            return True
        if any(item.rule in later and item.build in judged for item in plan.refused):
            return True
    return False


def outgrown(plan: Plan, build: str) -> Refusal | None:
    """Return why a build that is set up does not fit this machine any more; its disk is taken already."""
    return next((item for item in plan.refused if item.build == build and item.rule in _FAR_TO_NEAR[:-1]), None)


def names(words: list[str]) -> str:
    """Return words as a sentence lists them: `a, b and c`."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""
