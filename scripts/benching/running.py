"""Runs a program to be measured, and the faulty server beside it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SERVER = Path(__file__).with_name("serve.py")
OURS = Path(__file__).with_name("ours.py")


@dataclass(frozen=True)
class Ran:
    """How a program ended: seconds of the clock and of processors, the most memory that it and its children held."""

    seconds: float
    busy: float
    peak: int
    returncode: int
    output: str


@dataclass(frozen=True)
class Served:
    """The running server: an address for each route, and what it has seen."""

    urls: list[str]
    seen_at: str

    def seen(self) -> dict[str, dict[str, int]]:
        """Return requests and bytes by the path of the route, of the first host."""
        with urllib.request.urlopen(self.seen_at, timeout=10) as answer:
            document: dict[str, dict[str, int]] = json.load(answer)
        return document


def environment() -> dict[str, str]:
    """Return the environment of what is measured: ours as it is when installed, with its modules compiled."""
    compiled = {
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONPYCACHEPREFIX": f"{tempfile.gettempdir()}/firstlight-bench-compiled",
    }
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, **compiled, "no_proxy": "*"}


def family(pid: int) -> list[int]:
    """Return a process and all that it started."""
    found = [pid]
    with contextlib.suppress(OSError, ValueError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text("ascii").split():
                found += family(int(child))
    return found


def processor_seconds() -> float:
    """Return the processor seconds of all programs that were run and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def high_water(pid: int) -> int:
    """Return the most memory that a process has held, in bytes; 0 when it is gone."""
    with contextlib.suppress(OSError):
        match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text("ascii"))
        return int(match[1]) << 10 if match else 0
    return 0


def run(words: Sequence[str] | str, folder: Path, limit: float = 900.0) -> Ran:
    """Run a program (a string: a shell's line) in a group of its own; after `limit` seconds it is ended."""
    peaks: dict[int, int] = {}
    with tempfile.TemporaryFile() as output:
        began, busy = time.perf_counter(), processor_seconds()
        process = subprocess.Popen(
            words,
            shell=isinstance(words, str),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment(),
        )
        watching = threading.Event()

        def watch() -> None:
            while not watching.wait(0.1):
                for pid in family(process.pid):
                    peaks[pid] = max(peaks.get(pid, 0), high_water(pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        seconds = time.perf_counter() - began
        watching.set()
        watcher.join()
        output.seek(0)
        told = output.read().decode(errors="replace")
    return Ran(seconds, processor_seconds() - busy, sum(peaks.values()), process.returncode, told)


@contextlib.contextmanager
def served(servers: list[dict[str, Any]], congestion: str = "", before: Sequence[str] = ()) -> Iterator[Served]:
    """Run the server while the block runs; `before` are words in front of its command (another namespace)."""
    with tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as spec:
        json.dump({"servers": servers, "congestion": congestion}, spec)
        spec.flush()
        words = [*before, sys.executable, str(SERVER), spec.name]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            urls = json.loads(process.stdout.readline() if process.stdout else b"")
            yield Served(urls, "/".join(urls[0].split("/")[:3]) + "/-/seen")
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.wait(30)


def ours(urls: Sequence[str], target: Path, **more: object) -> list[str]:
    """Return the command that fetches `urls` to `target` with firstlight's own downloader (see `ours.py`)."""
    return [sys.executable, str(OURS), json.dumps({"urls": list(urls), "target": str(target), **more})]
