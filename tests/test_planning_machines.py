"""Every machine of tests/machines: the decisions that are expected, and rules that any right plan keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.expectations import Expectation, broken, expectations, machine_files, plan_for

from firstlight.catalogue.loading import load_catalogue
from firstlight.machine.facts import load
from firstlight.planning.choose import choose
from firstlight.planning.request import Request

RULES = list(expectations())


@pytest.mark.parametrize("expectation", RULES, ids=lambda rule: rule.name)
def test_the_plan_keeps_what_is_expected(expectation: Expectation) -> None:
    plan = plan_for(expectation)
    wrong = broken(expectation, plan)
    assert wrong is None, f"{wrong}; expected because {expectation.why}; chosen: {plan.build}"


def test_the_checker_sees_broken_rules() -> None:
    rule = next(rule for rule in RULES if rule.always.get("cuda") == "12.9")
    plan = plan_for(rule)
    assert broken(rule, plan) is None
    for wrong in (
        Expectation(rule.machine, rule.engine, "hard", always={"cuda": "13.0"}),
        Expectation(rule.machine, rule.engine, "hard", always={"exit": 3}),
        Expectation(rule.machine, rule.engine, "hard", always={"alternative": "ollama"}),
        Expectation(rule.machine, rule.engine, "hard", never={"cuda_major": ">=12"}),
        Expectation(rule.machine, rule.engine, "hard", never={"exit": 0}),
        Expectation(rule.machine, rule.engine, "hard", refused={"driver": "no such text"}),
        Expectation(rule.machine, rule.engine, "hard", warned=("no such text",)),
    ):
        assert broken(wrong, plan) is not None, wrong
    assert broken(Expectation(rule.machine, rule.engine, "hard", never={"cuda": "12.9", "release": "1"}), plan) is None


@pytest.mark.parametrize("path", machine_files(), ids=lambda path: path.stem)
def test_every_build_is_chosen_or_refused_once(path: Path) -> None:
    catalogue = load_catalogue()
    for name, page in catalogue.engines.items():
        plan = choose(load(path), catalogue, Request(engine=name))
        named = [item.build for item in plan.refused] + ([plan.build.id] if plan.build else [])
        assert sorted(named) == sorted(build.id for build in page.build)
