"""What right plans keep: rules over the machines of tests/machines, and how a plan is held against one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from firstlight.catalogue.loading import load_catalogue
from firstlight.machine.facts import Machine, load
from firstlight.planning.choose import choose
from firstlight.planning.plan import Plan
from firstlight.tasks.asking import request_of

MACHINES = Path(__file__).parent.parent / "machines"
_PAGES = {"expected.json": ".", "real/index.json": "real", "made/index.json": "made"}
_ALWAYS_READ = frozenset({"exit", "alternative"})


@dataclass(frozen=True)
class Expectation:
    """One rule about the plan of one engine on one machine."""

    machine: str
    engine: str
    strength: str
    options: tuple[str, ...] = ()
    always: dict[str, Any] = field(default_factory=dict)
    never: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    warned: tuple[str, ...] = ()
    remedies: tuple[str, ...] = ()
    why: str = ""

    @property
    def name(self) -> str:
        """The rule as a test's name."""
        wish = {**self.always, **{f"not {key}": value for key, value in self.never.items()}}
        wish |= {f"refused {rule}": text for rule, text in self.refused.items()}
        words = " ".join(f"{key} {value}" for key, value in wish.items())
        return f"{Path(self.machine).stem}: {' '.join([self.engine, *self.options])}: {words}"


def machine_files() -> list[Path]:
    """Return the files of facts, without the pages of rules."""
    pages = {MACHINES / page for page in _PAGES}
    return sorted(path for path in MACHINES.glob("**/*.json") if path not in pages)


def expectations() -> Iterator[Expectation]:
    """Give every rule of every page."""
    for page, folder in _PAGES.items():
        document = json.loads((MACHINES / page).read_text())
        for name, entry in document["machines"].items():
            for rule in entry["rules"]:
                lists = {key: tuple(rule[key]) for key in ("options", "warned", "remedies") if key in rule}
                yield Expectation(machine=f"{folder}/{name}.json", **{**rule, **lists})


def plan_for(expectation: Expectation) -> Plan:
    """Return the plan that a rule is about."""
    machine = load(MACHINES / expectation.machine)
    return planned(machine, expectation.engine, expectation.options)


def planned(machine: Machine, engine: str, options: tuple[str, ...] = ()) -> Plan:
    """Return the plan for an engine and options of the command line."""
    words = dict(zip((name.removeprefix("--") for name in options[::2]), options[1::2], strict=True))
    return choose(machine, load_catalogue(), request_of(engine, machine, elsewhere=True, **words))


def facts_of(plan: Plan) -> dict[str, Any]:
    """Return what rules may name of a plan; build and launch keys are there only where a build was chosen."""
    facts: dict[str, Any] = {"exit": 0 if plan.build else 3, "alternative": [o.engine for o in plan.alternatives]}
    if plan.build is None or plan.launch is None:
        return facts
    build, launch = plan.build, plan.launch
    runners = {entry.id: entry.runner for entry in load_catalogue().engines[plan.engine].build}
    return {
        **facts,
        "build": build.id,
        "runner": runners.get(build.id),
        "release": build.release,
        "cuda": build.cuda,
        "cuda_major": build.cuda.split(".")[0] if build.cuda else None,
        "torch": build.torch,
        "torch_cuda_major": build.torch_cuda.split(".")[0] if build.torch_cuda else None,
        "arch": build.arch,
        "gpus": plan.gpus,
        "dtype": launch.dtype,
        "backend": launch.backend,
        "visible_devices": launch.visible_devices,
        "fallback": plan.fallback,
    }


def holds(wanted: Any, got: Any) -> bool:
    """Tell whether a value is the wanted one: a version specifier, one of a list, or the very same."""
    if isinstance(got, list) and not isinstance(wanted, list):
        return wanted in got
    if isinstance(wanted, str) and wanted[:1] in "<>=" and wanted:
        return got is not None and Version(str(got)) in SpecifierSet(wanted, prereleases=True)
    return wanted == got if wanted is None or isinstance(wanted, (int, list)) else str(wanted) == str(got)


def broken(expectation: Expectation, plan: Plan) -> str | None:
    """Return in words how a plan breaks a rule, None when it keeps it."""
    facts = facts_of(plan)
    for key, wanted in expectation.always.items():
        if (key in facts or key in _ALWAYS_READ) and not holds(wanted, facts[key]):
            return f"{key} is {facts[key]!r}, not {wanted!r}"
    never = expectation.never
    if never and all(key in facts and holds(wanted, facts[key]) for key, wanted in never.items()):
        return f"it is {never}"
    for rule, text in expectation.refused.items():
        if not any(item.rule == rule and text in item.reason for item in plan.refused):
            return f"no build is refused by {rule} with {text!r}"
    for texts, lines in ((expectation.warned, plan.warnings), (expectation.remedies, plan.remedies)):
        for text in texts:
            if not any(text in line for line in lines):
                return f"nothing says {text!r}"
    return None
