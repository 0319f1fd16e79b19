"""Runs every fault of a network, a mirror and a disk against ours, aria2c, curl and wget, and prints the table.

    .venv/bin/python scripts/bench_faults.py [--only WORD] [--programs firstlight,aria2c,curl,wget] [--json]

40 MB at 10 MB/s a connection from loopback servers that really misbehave. Each program has a patience of 5 seconds for
silence and is told to follow redirects and to try again; those that can check a hash are told it (unless the row says
otherwise), those that know one address get the bad one. A program that fails is run once more when the fault is over:
was what it had got kept, and is the file right then? Needs root for the two rows of the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benching.fault_rows import GOOD, ROWS, SIZE, Row
from benching.running import environment, ours
from support.faulty_server import FaultyServer, faulty_server

LIMIT = 120.0
HOSTS = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
ARIA2 = "-q -x8 -s8 -k1M --timeout=5 --max-tries=12 --retry-wait=1 --allow-overwrite=true -c"
CURL = "-sS -f -L -C - --retry 12 --retry-all-errors --retry-delay 1 --speed-limit 1000 --speed-time 5"
WGET = "-q -c --tries=12 --waitretry=1 --timeout=5 --retry-on-http-error=503"


@dataclass(frozen=True)
class Outcome:
    """How a program dealt with a fault."""

    row: str
    program: str
    told: str
    seconds: float
    requests: int


class Fight:
    """One program against one row: its servers, its folder, its runs."""

    def __init__(self, row: Row, program: str, servers: list[FaultyServer], folder: Path) -> None:
        self.row, self.program, self.folder = row, program, folder
        self.target = folder / "file"
        self.data, self.other = contents()
        known = row.mirrors if program in {"firstlight", "aria2c"} else row.mirrors[:1]
        self.routes = [
            server.add("/file", self.data, faults, then=self.other if row.changes else None)
            for server, faults in zip(servers, known, strict=False)
        ]

    def words(self) -> list[str]:
        """Return the program's command."""
        urls, name = [route.url for route in self.routes], str(self.target)
        digest = hashlib.sha256(self.data).hexdigest() if self.row.hash_known else None
        if self.program == "firstlight":
            return ours(urls, self.target, sha256=digest, policy={"stall_seconds": 5})
        if self.program == "aria2c":
            check = [f"--checksum=sha-256={digest}"] if digest else []
            return ["aria2c", *ARIA2.split(), *check, "-d", str(self.folder), "-o", "file", *urls]
        if self.program == "curl":
            return ["curl", *CURL.split(), "-o", name, urls[0]]
        return ["wget", *WGET.split(), "-O", name, urls[0]]

    def run(self, kill_at: int | None) -> tuple[int | None, float]:
        """Run it once; the exit code (None: it hung and was ended) and the seconds."""
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(
            self.words(),
            cwd=self.folder,
            env=environment(),
            start_new_session=True,
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
        )
        if kill_at is not None:
            self.routes[0].at(kill_at, process.kill)
        began = time.perf_counter()
        try:
            code: int | None = process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            code = None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return code, time.perf_counter() - began

    def right(self) -> bool:
        """Return whether the file in place is one object, whole (the newer one counts too)."""
        return self.target.exists() and self.target.read_bytes() in {self.data, self.other}

    def given(self) -> int:
        """Return the bytes that all servers have given."""
        return sum(route.given for route in self.routes)

    def fight(self, mend: Callable[[], None]) -> Outcome:
        """Run it, and once more when the fault has passed."""
        code, seconds = self.run(self.row.kill_at)
        requests = sum(route.requests() for route in self.routes)
        told = self.judge(code)
        if code != 0 and self.row.passes:
            mend()
            for route in self.routes:
                route.faults, route.dead = GOOD, False
                if self.row.kill_at is not None:
                    route.change()
            before = self.given()
            again, _seconds = self.run(None)
            told += self.judge_again(again, self.given() - before)
        return Outcome(self.row.name, self.program, told, seconds, requests)

    def judge(self, code: int | None) -> str:
        """Say how the first run ended."""
        if code == 0:
            return "right bytes" if self.right() else "**wrong file, exit 0**"
        ended = "hung" if code is None else "killed" if code == -signal.SIGKILL else f"error (exit {code})"
        if self.target.exists() and not self.right() and self.target.stat().st_size >= SIZE:
            ended += ", wrong bytes under the final name"
        return ended

    def judge_again(self, code: int | None, fetched: int) -> str:
        """Say how the second run ended, and how much of the first it could use."""
        if code != 0:
            return f"; then error (exit {code})" if code is not None else "; then hung"
        if not self.right():
            return "; then **wrong file, exit 0**"
        kept = max(0, SIZE - fetched) * 100 // SIZE
        return f"; then right, {kept} % kept"


def contents() -> tuple[bytes, bytes]:
    """Return the file, and what it may change to."""
    return random.Random(1).randbytes(SIZE), random.Random(2).randbytes(SIZE)  # noqa: S311 - bytes to move


@contextlib.contextmanager
def place(row: Row, base: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Make the folder that the file goes to; also give what mends it."""
    folder = base / "out"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if row.place == "folder":
        yield folder, lambda: None
        return
    size = "20m" if row.place == "full" else "200m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    if row.place == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    try:
        yield folder, lambda: subprocess.run(["mount", "-o", "remount,rw,size=200m", str(folder)], check=True)  # type: ignore[func-returns-value]
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fight(row: Row, program: str, base: Path) -> Outcome:
    """Return how a program deals with a fault."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(faulty_server(host)) for host in HOSTS[: len(row.mirrors)]]
        folder, mend = stack.enter_context(place(row, base))
        return Fight(row, program, servers, folder).fight(mend)


def markdown(outcomes: list[Outcome], programs: list[str]) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| fault | " + " | ".join(programs) + " |"
    yield "|---|" + "---|" * len(programs)
    found = {(outcome.row, outcome.program): outcome for outcome in outcomes}
    for row in dict.fromkeys(outcome.row for outcome in outcomes):
        cells = [found[row, program] for program in programs]
        told = [f"{cell.told} ({cell.seconds:.1f} s, {cell.requests} req.)" for cell in cells]
        yield f"| {row} | " + " | ".join(told) + " |"


def main() -> None:
    """Fight it out and print the table."""
    parser = argparse.ArgumentParser(description="every fault beside the peers")
    parser.add_argument("--only", default="", help="rows that hold this word")
    parser.add_argument("--programs", default="firstlight,aria2c,curl,wget")
    parser.add_argument("--json", action="store_true")
    words = parser.parse_args()
    programs = [name for name in words.programs.split(",") if name == "firstlight" or shutil.which(name)]
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        for row in ROWS:
            if words.only not in row.name:
                continue
            if row.place != "folder" and os.geteuid() != 0:
                print(f"left out (needs root): {row.name}", file=sys.stderr)
                continue
            for program in programs:
                outcomes.append(fight(row, program, Path(name)))
                print(asdict(outcomes[-1]), file=sys.stderr)
    if words.json:
        print(json.dumps([asdict(outcome) for outcome in outcomes], indent=2))
    else:
        print("\n".join(markdown(outcomes, programs)))


if __name__ == "__main__":
    main()
