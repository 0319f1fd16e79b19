"""Measures the downloader beside its peers, in one run: aria2c, curl, sha256sum and tar, on loopback servers.

    .venv/bin/python scripts/bench_fetch.py [--runs 3] [--only mirrors,lossy,unthrottled,unpack] [--json] [--folder DIR]

Four cases, each the median of RUNS, every download held against its SHA-256 (outside the measured time):
  mirrors      10 MB/s a connection, two mirrors: at most 1.1 × `aria2c -x8 -s16 -k1M`
  lossy        80 ms and 1 % loss, cubic, two mirrors (root, network namespaces): at most aria2c's best
  unthrottled  one loopback source: at least 0.8 × the rate of `curl | tee FILE | sha256sum`
  unpack       a tgz of 1.4 GB at 100 MB/s: at most 1.15 × the download alone and 0.5 × `curl && sha256sum && tar -xzf`
and the most memory that ours and all its processes ever held: under 150 MB. What is missing here is said and left out.
Times include the start of each program.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benching.links import FAR, FAR_HOSTS, NEAR, inside, lossy_link, why_no_link
from benching.running import REPOSITORY, Ran, Served, ours, run, served

MB = 1_000_000
MEMORY_GOAL = 150 * MB


@dataclass
class Contender:
    """One way to do it, and how its runs went."""

    name: str
    words: Callable[[Served], Sequence[str] | str]
    seconds: list[float] = field(default_factory=list)
    busy: float = 0.0
    """Processor seconds of its last run."""
    peak: int = 0
    failed: str = ""

    @property
    def median(self) -> float:
        """Return the median of the seconds."""
        return statistics.median(self.seconds) if self.seconds else float("nan")


@dataclass(frozen=True)
class Goal:
    """A ratio that is promised: ours / the fastest of the peers, of seconds."""

    against: tuple[str, ...]
    at_most: float


@dataclass
class Case:
    """What is measured: who takes part, the goals, and what came out."""

    name: str
    what: str
    contenders: list[Contender]
    goals: list[Goal]
    left_out: list[str] = field(default_factory=list)


class Bench:
    """The folder that everything is in, the number of runs, and the files that are served."""

    def __init__(self, folder: Path, runs: int) -> None:
        self.folder, self.runs = folder, runs
        self.out = folder / "out"
        self.target = self.out / "file"

    def file(self, size: int) -> Path:
        """Return a file of so many random bytes."""
        path = self.folder / f"{size}.bin"
        if not path.exists():
            with path.open("wb") as file:
                for _block in range(size // MB):
                    file.write(os.urandom(MB))
        return path

    def archive(self) -> Path:
        """Return a tgz of about 1.4 GB that holds what an inference engine's archive holds."""
        path = self.folder / "engine.tgz"
        if not path.exists():
            writer = REPOSITORY / "tests" / "support" / "archives.py"
            words = [sys.executable, str(writer), "--layout", str(path), "--bytes", "2350000000"]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        return path

    def race(self, case: Case, served_by: Served, right: Callable[[Contender], str]) -> Case:
        """Run the contenders in turn, RUNS times over; `right` says what is wrong with a result, or nothing."""
        run(ours([], self.target), self.folder)  # its modules are compiled once
        for _round in range(self.runs):
            for contender in case.contenders:
                shutil.rmtree(self.out, ignore_errors=True)
                self.out.mkdir()
                ran: Ran = run(contender.words(served_by), self.out)
                wrong = right(contender)
                if ran.returncode != 0 or wrong:
                    contender.failed = f"exit code {ran.returncode}: {wrong} {ran.output.strip()[-300:]}"
                    continue
                contender.seconds.append(ran.seconds)
                contender.busy = ran.busy
                contender.peak = max(contender.peak, ran.peak)
        shutil.rmtree(self.out, ignore_errors=True)
        return case


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def holds(target: Path, sha256: str) -> Callable[[Contender], str]:
    """Return a judge that holds the one file that was fetched against its hash."""

    def judge(_contender: Contender) -> str:
        return "" if target.exists() and sha256_of(target) == sha256 else "the file is not right"

    return judge


def routes(file: Path, hosts: Sequence[str], **faults: object) -> list[dict[str, object]]:
    """Return servers at `hosts` that give `file`."""
    return [
        {"host": host, "routes": [{"path": f"/{file.name}", "file": str(file), "faults": faults}]} for host in hosts
    ]


def peers_of(case: Case, *programs: str) -> bool:
    """Return whether the programs are installed, and note those that are not."""
    missing = [program for program in programs if shutil.which(program) is None]
    case.left_out += [f"{program} is not installed" for program in missing]
    return not missing


def aria2(bench: Bench, options: str, before: Sequence[str] = ()) -> Callable[[Served], list[str]]:
    """Return aria2c's command."""
    fixed = ["-q", "--allow-overwrite=true", "-d", str(bench.out), "-o", bench.target.name]
    return lambda place: [*before, "aria2c", *options.split(), *fixed, *place.urls]


def mirrors(bench: Bench) -> Case:
    """Two mirrors that give 10 MB/s to each connection."""
    file = bench.file(200 * MB)
    sha256 = sha256_of(file)
    case = Case("mirrors", "200 MB, 10 MB/s a connection, two mirrors", [], [])
    case.contenders.append(Contender("firstlight", lambda at: ours(at.urls, bench.target, sha256=sha256)))
    if peers_of(case, "aria2c"):
        case.contenders.append(Contender("aria2c -x8 -s16 -k1M", aria2(bench, "-x8 -s16 -k1M")))
        case.goals.append(Goal(("aria2c -x8 -s16 -k1M",), 1.1))
    with served(routes(file, ("127.0.0.1", "127.0.0.2"), bytes_per_second=10 * MB)) as place:
        return bench.race(case, place, holds(bench.target, sha256))


def lossy(bench: Bench) -> Case:
    """Two mirrors at the far end of a bad line."""
    file = bench.file(40 * MB)
    sha256 = sha256_of(file)
    case = Case("lossy", "40 MB, 80 ms, 1 % loss, cubic, 10 MB/s a connection, two mirrors", [], [])
    if why := why_no_link():
        case.left_out.append(why)
        return case
    near = inside(NEAR, [])
    case.contenders.append(Contender("firstlight", lambda at: [*near, *ours(at.urls, bench.target, sha256=sha256)]))
    if peers_of(case, "aria2c"):
        ways = ("-x8 -s16 -k1M", "-x16 -s32 -k1M")
        case.contenders += [Contender(f"aria2c {way}", aria2(bench, way, near)) for way in ways]
        case.goals.append(Goal(tuple(f"aria2c {way}" for way in ways), 1.0))
    servers = routes(file, FAR_HOSTS, bytes_per_second=10 * MB)
    with lossy_link(bench.folder, 80, 1), served(servers, "cubic", inside(FAR, [])) as place:
        return bench.race(case, place, holds(bench.target, sha256))


def unthrottled(bench: Bench) -> Case:
    """One source as fast as this machine."""
    file = bench.file(2000 * MB)
    sha256 = sha256_of(file)
    case = Case("unthrottled", "2 GB, one loopback source, no limit", [], [])
    case.contenders.append(Contender("firstlight", lambda at: ours(at.urls, bench.target, sha256=sha256)))
    pipe = f"curl -sS --fail URL | tee {bench.target} | sha256sum"
    if peers_of(case, "curl", "sha256sum"):
        case.contenders.append(Contender("curl | tee FILE | sha256sum", lambda at: pipe.replace("URL", at.urls[0])))
        case.goals.append(Goal(("curl | tee FILE | sha256sum",), 1 / 0.8))
    with served(routes(file, ("127.0.0.1",))) as place:
        return bench.race(case, place, holds(bench.target, sha256))


def unpack(bench: Bench) -> Case:
    """An archive fetched, verified and unpacked."""
    file = bench.archive()
    sha256, tree = sha256_of(file), bench.out / "tree"
    with subprocess.Popen(["tar", "-tzf", str(file)], stdout=subprocess.PIPE, text=True) as listing:
        members = sum(not name.endswith("/\n") for name in listing.stdout or ())
    case = Case("unpack", f"a tgz of {file.stat().st_size / MB:.0f} MB at 100 MB/s", [], [])
    whole = "firstlight: download, verify, unpack"
    alone = "firstlight: download and verify"
    case.contenders += [
        Contender(whole, lambda at: ours(at.urls, bench.target, sha256=sha256, unpack=str(tree))),
        Contender(alone, lambda at: ours(at.urls, bench.target, sha256=sha256)),
    ]
    case.goals.append(Goal((alone,), 1.15))
    if peers_of(case, "curl", "sha256sum", "tar"):
        name = "curl && sha256sum && tar -xzf"
        then = f"sha256sum {bench.target} && mkdir {tree} && tar -xzf {bench.target} -C {tree}"
        line = f"curl -sS --fail -o {bench.target} URL && {then}"
        case.contenders += [
            Contender(name, lambda at: line.replace("URL", at.urls[0])),
            Contender("curl", lambda at: f"curl -sS --fail -o {bench.target} {at.urls[0]}"),
        ]
        case.goals += [Goal((name,), 0.5), Goal(("curl",), 1.15)]

    def judge(contender: Contender) -> str:
        if bench.target.exists() and sha256_of(bench.target) != sha256:
            return "the file is not right"
        found = sum(len(files) for _root, _folders, files in os.walk(tree))
        if ("unpack" in contender.name or "tar" in contender.name) and found != members:
            return f"{found} files of {members} unpacked"
        return ""

    with served(routes(file, ("127.0.0.1",), total_bytes_per_second=100 * MB)) as place:
        return bench.race(case, place, judge)


CASES = {"mirrors": mirrors, "lossy": lossy, "unthrottled": unthrottled, "unpack": unpack}


def ratios(case: Case) -> Iterator[dict[str, object]]:
    """Yield ours against each goal."""
    first = case.contenders[0].median
    for goal in case.goals:
        best = min((c for c in case.contenders if c.name in goal.against), key=lambda c: c.median)
        ratio = first / best.median
        yield {"against": best.name, "ratio": ratio, "at_most": goal.at_most, "met": ratio <= goal.at_most}


def show(case: Case) -> None:
    """Print a case for people."""
    print(f"\n{case.name}: {case.what}")
    for contender in case.contenders:
        told = ", ".join(f"{value:.2f}" for value in contender.seconds)
        figures = f"{contender.median:>8.2f} s  {contender.busy:>6.2f} s CPU  {contender.peak / MB:>6.0f} MB"
        print(f"  {contender.name:<38}{figures}  ({told})")
        if contender.failed:
            print(f"    FAILED: {contender.failed}")
    for found in ratios(case):
        met = "met" if found["met"] else "MISSED"
        print(f"  {found['ratio']:.2f} × {found['against']} (goal: at most {found['at_most']:.2f}): {met}")
    for contender in case.contenders:
        if contender.name.startswith("firstlight") and contender.peak > MEMORY_GOAL:
            print(f"  {contender.name} held {contender.peak / MB:.0f} MB (goal: under {MEMORY_GOAL / MB:.0f}): MISSED")
    for reason in case.left_out:
        print(f"  left out: {reason}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="the downloader beside its peers")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", default=",".join(CASES))
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the served files are kept for the next time (5 GB)")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = words.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        cases = []
        for chosen in words.only.split(","):
            case = CASES[chosen](Bench(folder, words.runs))
            cases.append(case)
            if not words.json:
                show(case)
    if words.json:
        print(json.dumps([told(case) for case in cases], indent=2))
    else:
        print(f"\n{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


def told(case: Case) -> dict[str, object]:
    """Return a case as JSON."""
    contenders = [
        {key: value for key, value in {**vars(c), "median": c.median}.items() if key != "words"}
        for c in case.contenders
    ]
    document = {"name": case.name, "what": case.what, "contenders": contenders, "left_out": case.left_out}
    return {**document, "ratios": list(ratios(case))}


if __name__ == "__main__":
    main()
