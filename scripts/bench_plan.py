"""Measures `plan` over the whole catalogue: whole commands against bare start-up (goal: 20 ms beyond it), and inside.

    .venv/bin/python scripts/bench_plan.py [RUNS]

Every command runs in turn with `--version`, so that a machine that slows down slows both. Printed are medians on the
clock, and the least processor time of all runs, which tells most on a machine that is busy with other things. The
machines are an A100 with an older driver, for which every build of the engine is looked at, and a P100, for which
nothing of vLLM fits and the pages of all engines are read. Then, inside one process: reading each page, and deciding.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

GOAL = 20.0
"""Milliseconds beyond start-up."""
_COMPILED = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Bytecode is kept, as where firstlight is installed: else every run would compile what it imports."""
FACTS = Path(__file__).resolve().parent.parent / "tests" / "machines"
CASES = [("vllm", "a100-driver535-ubuntu2004"), ("vllm", "p100-driver535"), ("ollama", "a100-driver535-ubuntu2004")]


class Cost(NamedTuple):
    """Seconds of one run: on the clock, and of processor time, which a busy machine does not change."""

    wall: float
    processor: float


def cost(words: list[str]) -> Cost:
    """Return what one run costs; a plan that fits nowhere ends with 3."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(words, check=False, env=_COMPILED, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode not in {0, 3}:
        raise SystemExit(f"{' '.join(words)} ended with {ended.returncode}")
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def commands(runs: int) -> None:
    """Run each plan beside `--version` and print the figures."""
    program = str(Path(sys.executable).parent / "firstlight")
    print(f"{'milliseconds':<46}{'wall':>8}{'start':>8}{'beyond':>8}{'least work':>12}{'start':>8}{'beyond':>8}")
    for engine, name in CASES:
        words = [program, "plan", engine, "--json", "--machine", str(FACTS / f"{name}.json")]
        start = [program, "--version"]
        cost(words), cost(start)
        pairs = [(cost(words), cost(start)) for _ in range(runs)]
        mine, bare = (statistics.median(each.wall for each in column) * 1000 for column in zip(*pairs, strict=True))
        beyond = statistics.median(one.wall - other.wall for one, other in pairs) * 1000
        worked, idle = (min(each.processor for each in column) * 1000 for column in zip(*pairs, strict=True))
        verdict = "" if min(beyond, worked - idle) <= GOAL else "  over the goal"
        line = f"{mine:>8.1f}{bare:>8.1f}{beyond:>8.1f}{worked:>12.1f}{idle:>8.1f}{worked - idle:>8.1f}{verdict}"
        print(f"{f'plan {engine} {name}':<46}{line}")


def inside(runs: int) -> None:
    """Time reading and deciding in this process: the least processor time of all runs."""
    from firstlight.catalogue import loading
    from firstlight.machine.facts import load
    from firstlight.planning.choose import choose
    from firstlight.planning.request import Request

    def timed(work: Callable[[], object]) -> float:
        spent = []
        for _ in range(runs):
            began = time.process_time()
            work()
            spent.append(time.process_time() - began)
        return min(spent) * 1000

    def forget() -> None:
        for cached in (loading._load, loading.load_cuda, loading.load_torch):  # noqa: SLF001 - reads again on purpose
            cached.cache_clear()

    def read(engine: str) -> None:
        forget()
        loading.load_catalogue().engines[engine]

    catalogue = loading.load_catalogue()
    print(f"\n{'inside':<30}{'builds':>8}{'read ms':>10}{'decide ms':>10}")
    facts = load(FACTS / "a100-driver535-ubuntu2004.json")
    for engine, page in catalogue.engines.items():
        request = Request(engine=engine)
        reading, deciding = timed(partial(read, engine)), timed(partial(choose, facts, catalogue, request))
        print(f"{engine:<30}{len(page.build):>8}{reading:>10.1f}{deciding:>10.2f}")


if __name__ == "__main__":
    commands(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
    inside(int(sys.argv[1]) if len(sys.argv) > 1 else 15)
