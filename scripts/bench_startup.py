"""Measures start-up against a bare Invoke task: `machine` (goal: at most 2.5 times), `doctor` (3 times) and `plan`.

    .venv/bin/python scripts/bench_startup.py [RUNS]

Every command runs in turn with its peer, so that a machine that slows down slows both; medians and the median of the
pairwise ratios are printed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEER = "from invoke import task\n\n\n@task\ndef hello(c):\n    print('hi')\n"


def seconds(words: list[str], folder: Path) -> float:
    """Return the wall seconds of one run."""
    began = time.perf_counter()
    # The doctor ends with 1 where it finds something.
    sound = "doctor" not in words
    subprocess.run(words, cwd=folder, check=sound, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - began


def main() -> None:
    """Run the pairs and print the table."""
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    programs = Path(sys.executable).parent
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tasks.py").write_text(PEER)
        peer = [str(programs / "invoke"), "hello"]
        facts = folder / "machine.json"
        ours = [str(programs / "firstlight")]
        facts.write_bytes(subprocess.run([*ours, "machine", "--json"], check=True, capture_output=True).stdout)
        commands = {
            "machine --json": [*ours, "machine", "--json"],
            "doctor": [*ours, "doctor"],
            "plan vllm --machine FILE": [*ours, "plan", "vllm", "--machine", str(facts), "--json"],
            "--version": [*ours, "--version"],
        }
        print(f"{'command':<28}{'median s':>10}{'invoke s':>10}{'ratio':>8}")
        for label, words in commands.items():
            seconds(words, folder), seconds(peer, folder)
            pairs = [(seconds(words, folder), seconds(peer, folder)) for _ in range(runs)]
            mine, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
            ratio = statistics.median(one / other for one, other in pairs)
            print(f"{label:<28}{mine:>10.3f}{theirs:>10.3f}{ratio:>8.2f}")


if __name__ == "__main__":
    main()
