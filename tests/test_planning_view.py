"""`plan` as a person reads it: the chosen build on top, every other one with its rule, fitted to the terminal."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.command import firstlight
from support.expectations import MACHINES, planned
from support.small_catalogue import GB, build, decide, machine

from firstlight.catalogue.loading import load_catalogue
from firstlight.machine.facts import Disk, load
from firstlight.planning.plan import Plan, Refusal
from firstlight.ui.tables import cells, wrapped
from firstlight.ui.views import plan_lines, refusal_lines

BUILDS = [
    *(build(f"arm-{n}", f"{n}.0", arch="aarch64") for n in range(1, 6)),
    build("old", "1.0", "11.8"),
    build("mid", "2.0", "12.1"),
    build("new", "3.0", "13.0"),
    build("hole", "2.5", "12.1", libc="2.99"),
]


def explained(plan: Plan, columns: int | None) -> list[str]:
    return plan_lines(plan, explain=True, columns=columns, builds=BUILDS)


def test_the_chosen_build_stands_on_top_and_the_others_newest_first() -> None:
    lines = explained(decide(machine("8.0", driver="535.54.03"), *BUILDS), 150)
    table = [line for line in lines if re.match(r"[ >] (old|mid|new|hole)", line)]
    assert [line.split()[0] for line in table] == [">", "new", "hole", "old"]
    rules = [re.search(r"  (chosen|driver|libc|fits)  ", line) for line in table]
    assert [rule and rule[1] for rule in rules] == ["chosen", "driver", "libc", "fits"]
    assert "13.0  580        2.28   driver" in table[1]
    assert "install driver 580 or newer" in table[1]
    assert lines[-1] == "  5 more builds: arch: it is for aarch64, this machine is x86_64"


def test_builds_that_were_not_asked_for_are_one_line() -> None:
    more = [build(f"more-{n}", f"0.{n}", "12.1") for n in range(5)]
    plan = decide(machine("8.0"), *BUILDS, *more, request={"cuda": "11.8"})
    lines = explained(plan, 150)
    assert "  8 more builds: requested: --cuda 11.8 was asked for" in lines
    assert not any("more-1" in line for line in lines)
    assert {item.build for item in plan.refused} >= {"more-1", "arm-1"}


@pytest.mark.parametrize("columns", [80, 100, 150, 200])
@pytest.mark.parametrize("name", ["a100-driver535-ubuntu2004", "p100-driver535", "v100-driver535-ubuntu2004"])
def test_the_lines_fit_the_terminal(name: str, columns: int) -> None:
    facts = load(MACHINES / f"{name}.json")
    for engine, page in load_catalogue().engines.items():
        plan = planned(facts, engine)
        for explain in (True, False):
            lines = plan_lines(plan, explain=explain, columns=columns, builds=page.build)
            long = [line for line in lines if cells(line) > columns and len(line.split()) > 2]
            assert long == []
            if explain:
                near = [item for item in plan.refused if item.rule not in {"arch", "requested"} or item.fits]
                assert all(any(item.build in line for line in lines) for item in near)


def test_a_pipe_gets_one_line_per_build() -> None:
    plan = decide(machine("7.5", driver="535.54.03"), *BUILDS)
    lines = explained(plan, None)
    assert len([line for line in lines if re.match(r"[ >] (old|mid|new|hole)", line)]) == 4
    assert max(map(len, lines)) > 120


def test_narrow_terminals_get_a_block_per_reason() -> None:
    lines = explained(decide(machine("5.0"), *BUILDS), 80)
    assert "  new, hole, mid, old: compute_capability" in lines
    assert "What would help:" not in lines


def test_wide_characters_count_as_the_terminal_shows_them() -> None:
    disks = [Disk(mount="/数据盘", free=GB // 2, writable=True), Disk(mount="/", free=99 * GB, writable=True)]
    plan = decide(machine("8.0", disks=disks), *BUILDS, request={"home": Path("/数据盘/模型")})
    assert "/数据盘 has 500 MB free" in "\n".join(explained(plan, 150))
    for columns in (60, 80, 120):
        assert [line for line in explained(plan, columns) if cells(line) > columns] == []
    assert wrapped("数据 数据 数据 数据 数据", 20, indent="") == ["数据 数据 数据 数据", "  数据"]


def test_nothing_fits_is_short_and_names_the_way_on() -> None:
    lines = plan_lines(planned(load(MACHINES / "p100-driver535.json"), "vllm"), explain=False, columns=100)
    text = "\n".join(lines)
    assert len(lines) < 60
    assert "What would help:" in text
    assert "firstlight setup.vllm --cuda cpu" in text
    assert re.search(r"firstlight (up --engine|plan) ollama", text)
    assert lines[-1].endswith("firstlight plan vllm --explain")
    assert "aarch64" not in text


def test_refusals_of_one_reason_are_one_row() -> None:
    same = [Refusal(build=f"b{n}", rule="driver", reason="too old", remedy="newer") for n in range(5)]
    lines = refusal_lines([*same, Refusal(build="c", rule="libc", reason="old")], None)
    assert len(lines) == 3
    assert lines[1].split("  ")[1:] == ["b0 and 4 others", "driver", "too old", "newer"]


def test_an_archive_says_nothing_of_torch_and_python() -> None:
    first = plan_lines(planned(load(MACHINES / "p100-driver535.json"), "ollama"), explain=False)[0]
    assert "torch" not in first
    assert "Python" not in first


def test_the_command_explains_and_writes_one_document() -> None:
    facts = str(MACHINES / "a100-driver535-ubuntu2004.json")
    told = firstlight("plan", "vllm", "--explain", "--cuda", "12", "--machine", facts)
    assert told.code == 0
    assert re.search(r"^> vllm-\S+-cu12\d  .*  chosen  ", told.out, re.MULTILINE)
    assert "more builds: arch: it is for aarch64, this machine is x86_64" in told.out
    document = firstlight("plan", "lmdeploy", "--json", "--machine", facts).document
    assert document["launch"]["backend"] == "turbomind"
    assert document["fallback"] in {item["build"] for item in document["refused"] if item["fits"]}
