"""`plan` as a person reads it: the chosen build on top, every other one with its rule, fitted to the terminal."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import firstlight
from support.expectations import MACHINES, planned
from support.small_catalogue import GB, build, decide, machine

from firstlight.catalogue.loading import load_catalogue
from firstlight.machine.facts import Disk, load
from firstlight.planning.plan import Plan, Refusal
from firstlight.planning.request import Supply
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


def test_words_that_fit_nothing_are_told_in_the_first_line_and_repeated_in_the_last() -> None:
    facts = str(MACHINES / "a100-driver535-ubuntu2004.json")
    told = firstlight("plan", "vllm", "--cuda", "99", "--machine", facts)
    assert told.code == 3
    lines = told.out.splitlines()
    assert re.fullmatch(r"vllm: nothing fits as asked; without --cuda 99: vllm-\S+", lines[0])
    assert lines[-1] == f"Every build and its reason: firstlight plan vllm --cuda 99 --machine {facts} --explain"
    assert re.search(r"^  \d+ builds: requested: --cuda 99 was asked for$", told.out, re.MULTILINE)
    assert "choose a CUDA that vllm has builds for: --cuda 1" in told.out
    spaced = plan_lines(planned(load(MACHINES / "p100-driver535.json"), "vllm"), explain=False, machine="my facts.json")
    assert spaced[-1].endswith("firstlight plan vllm --machine 'my facts.json' --explain")


def test_better_builds_that_cannot_be_had_are_told_without_being_asked() -> None:
    words = {"supply": Supply(silent={"mid": "its wheel's place does not answer"})}
    lines = plan_lines(decide(machine("8.0", driver="535.54.03"), *BUILDS, request=words), explain=False)
    assert lines[0].startswith("engine: old ")
    told = "because mid would be the better build, but it cannot be had: its wheel's place does not answer"
    assert any(told in line for line in lines)


def test_a_cpu_build_for_another_processor_stands_before_the_missing_gpu() -> None:
    lines = plan_lines(planned(load(MACHINES / "made/graviton-no-gpu-aarch64.json"), "vllm"), explain=False)
    first = next(
        at for at, line in enumerate(lines) if "the CPU build is for x86_64 only; this machine is aarch64" in line
    )
    assert first < next(at for at, line in enumerate(lines) if "there is no NVIDIA GPU here" in line)
    assert "What would help:" not in lines


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


@pytest.mark.parametrize(("variable", "kept"), [("", True), ("1", False)])
def test_what_a_command_imports_is_compiled_once_unless_python_was_told_otherwise(
    tmp_path: Path, variable: str, kept: bool
) -> None:
    variables = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": variable}
    words = ["plan", "ollama", "--json", "--machine", str(MACHINES / "a100-driver535-ubuntu2004.json")]
    ended = subprocess.run(
        [sys.executable, "-m", "firstlight.cli", *words], env=variables, check=True, capture_output=True, timeout=60
    )
    assert ended.stderr == b""
    assert bool(list(tmp_path.rglob("choose.*.pyc"))) is kept
