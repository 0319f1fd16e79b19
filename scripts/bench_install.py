"""Measures the pip layer of an environment against the same `uv pip install` done by hand (goal: at most 1.1 times).

    .venv/bin/python scripts/bench_install.py [RUNS] [ENGINE] [--locked]

Cold: each run has an empty cache. Warm: both share a filled one. The two run in turn; medians and the median of the
pairwise ratios are printed. The requirements are those of the engine's CPU build, from pip's configured sources. With
--locked both install the very list of the build's lock: firstlight with every hash, by hand `--no-deps` alone (goal for
a warm cache: under 1.2 times).
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from firstlight.catalogue.loading import load_catalogue
from firstlight.environments.deciding import decide
from firstlight.environments.locking.applying import lock_for, with_lock
from firstlight.environments.owning import address, is_flat
from firstlight.environments.pipconfig import PipSettings, read_pip_settings, uv_arguments
from firstlight.environments.specify import python_of, wheels_of
from firstlight.environments.wheels import WheelSet, find_uv, install_wheels
from firstlight.events import Step, silent
from firstlight.machine.reading import read_machine
from firstlight.planning.request import Request


def fresh(folder: Path, python: str) -> Path:
    """Return the interpreter of a new virtual environment."""
    subprocess.run([str(find_uv()), "venv", "--quiet", "--python", python, str(folder)], check=True)
    return folder / "bin" / "python"


def ours(python: Path, wheels: WheelSet, settings: PipSettings, cache: Path, folder: Path) -> float:
    """Return the wall seconds of firstlight's pip layer."""
    began = time.perf_counter()
    install_wheels(python, wheels, settings, cache, step=Step(silent, "bench", "bench"), log=folder / "log.txt")
    return time.perf_counter() - began


def by_hand(python: Path, wheels: WheelSet, settings: PipSettings, cache: Path, folder: Path) -> float:
    """Return the wall seconds of `uv pip install` of the same requirements from the same sources."""
    indexes = [address(item.places[0]) for item in wheels.owned if not is_flat(item.places[0])]
    merged = msgspec.structs.replace(settings, extra_index_urls=(*dict.fromkeys(indexes), *settings.extra_index_urls))
    words, variables = uv_arguments(merged)
    torch = [f"{item.name}=={item.version}" for item in wheels.asked]
    files = []
    for option, lines in (("constraints", wheels.constraints), ("excludes", wheels.excludes)):
        if lines:
            (folder / f"{option}.txt").write_text("\n".join(lines) + "\n")
            files += [f"--{option}", str(folder / f"{option}.txt")]
    command = [
        str(find_uv()),
        "pip",
        "install",
        "--quiet",
        "--python",
        str(python),
        *words,
        *files,
        *wheels.requirements,
        *torch,
    ]
    began = time.perf_counter()
    subprocess.run(command, check=True, env=os.environ | variables | {"UV_CACHE_DIR": str(cache)})
    return time.perf_counter() - began


def list_by_hand(python: Path, wheels: WheelSet, settings: PipSettings, cache: Path, folder: Path) -> float:
    """Return the wall seconds of `uv pip install --no-deps` of the versions of a lock from the same sources."""
    indexes = [address(item.places[0]) for item in wheels.owned if not is_flat(item.places[0])]
    merged = msgspec.structs.replace(settings, extra_index_urls=(*dict.fromkeys(indexes), *settings.extra_index_urls))
    words, variables = uv_arguments(merged)
    (folder / "list.txt").write_text("".join(f"{line.partition(' ')[0]}\n" for line in wheels.locked))
    command = [str(find_uv()), "pip", "install", "--quiet", "--no-deps", "--no-build", "--python", str(python), *words]
    command += ["--python-platform", wheels.locked_platform or "linux", "--requirements", str(folder / "list.txt")]
    began = time.perf_counter()
    subprocess.run(command, check=True, env=os.environ | variables | {"UV_CACHE_DIR": str(cache)})
    return time.perf_counter() - began


def main() -> None:
    """Run the pairs and print the table."""
    locked = "--locked" in sys.argv
    words = [word for word in sys.argv[1:] if word != "--locked"]
    runs = int(words[0]) if words else 3
    engine = words[1] if len(words) > 1 else "transformers"
    machine, settings, page = read_machine(), read_pip_settings(), load_catalogue().engines[engine]
    asked = Request(engine=engine, cuda="cpu", environment="venv")
    request, plan = decide(asked, machine, settings, Step(silent, "bench", "bench"))
    if plan.build is None:
        sys.exit(f"no CPU build of {engine} fits here")
    build = next(build for build in page.build if build.id == plan.build.id)
    wheels, python = wheels_of(plan, build, request), python_of(machine, plan.build.python)
    if locked:
        wheels = with_lock(wheels, lock_for(plan, build, request), build, None)
        if not wheels.whole:
            sys.exit(f"{build.id} has no whole lock for Python {plan.build.python}")
    hand_made = list_by_hand if locked else by_hand
    print(f"{build.id}, Python {plan.build.python}, torch from {plan.torch_source}{', locked' if locked else ''}")
    print(f"{'cache':<8}{'firstlight s':>14}{'by hand s':>12}{'ratio':>8}")
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        for cache_kind in ("cold", "warm"):
            pairs = []
            for run in range(runs + (cache_kind == "warm")):
                pair = []
                for label, measure in (("ours", ours), ("hand", hand_made)):
                    folder = base / f"{cache_kind}-{run}-{label}"
                    folder.mkdir()
                    cache = base / "cache" if cache_kind == "warm" else folder / "cache"
                    pair.append(measure(fresh(folder / "env", python), wheels, settings, cache, folder))
                    subprocess.run(["rm", "-rf", str(folder)], check=True)
                if cache_kind == "cold" or run:
                    pairs.append(pair)
            mine, hand = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(one / other for one, other in pairs)
            print(f"{cache_kind:<8}{mine:>14.2f}{hand:>12.2f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()
