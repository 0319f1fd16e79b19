"""Measures a conda prefix with Python and pip from a warm cache (goal: under 1 s), as `setup` makes it.

    .venv/bin/python scripts/bench_prefix.py [RUNS] [CHANNEL]

Without a channel one is built on the spot from this Python, as the tests do. The first run fills the cache and is told
apart. `worker` is the process of py-rattler alone, `setup` also what is written and recorded around it.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from firstlight.environments.conda import create_prefix, worker_request
from firstlight.events import Step, silent

REPOSITORY = Path(__file__).resolve().parents[1]


def local_channel(folder: Path) -> str:
    """Return a channel that holds this Python and pip."""
    sys.path.insert(0, str(REPOSITORY / "tests"))
    from support.local_channel import build_channel

    return str(build_channel(folder / "channel" / "conda-forge"))


def whole(prefix: Path, specs: list[str], channel: str, cache: Path) -> float:
    """Return the wall seconds of the prefix as `setup` makes it."""
    began = time.perf_counter()
    create_prefix(prefix, specs, [channel], cache, step=Step(silent, "bench", "bench"), log=cache.parent / "log.txt")
    return time.perf_counter() - began


def worker(prefix: Path, specs: list[str], channel: str, cache: Path) -> float:
    """Return the wall seconds of the worker alone."""
    from firstlight.environments.sources import channel_url

    prefix.mkdir()
    request = json.dumps(worker_request(prefix, specs, [channel_url(channel)], cache))
    words = [sys.executable, "-m", "firstlight.environments.conda_worker", request]
    began = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY)
    return time.perf_counter() - began


def main() -> None:
    """Run and print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    specs = [f"python {sys.version_info[0]}.{sys.version_info[1]}.*", "pip"]
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        channel = sys.argv[2] if len(sys.argv) > 2 else local_channel(base)
        cold = whole(base / "first", specs, channel, base / "cache")
        files = sum(len(names) for _root, _folders, names in os.walk(base / "first"))
        seconds: dict[str, list[float]] = {"setup": [], "worker": []}
        for run in range(runs):
            for label, measure in (("setup", whole), ("worker", worker)):
                prefix = base / f"{label}-{run}"
                seconds[label].append(measure(prefix, specs, channel, base / "cache"))
                shutil.rmtree(prefix)
        print(f"{channel}: {files} files; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(f"{'cold':<10}{cold:>8.2f} s")
        for label, taken in seconds.items():
            told = ", ".join(f"{value:.2f}" for value in taken)
            print(f"{label:<10}{statistics.median(taken):>8.2f} s  median of {runs} ({told})")


if __name__ == "__main__":
    main()
