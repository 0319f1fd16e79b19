"""Conda environments without conda: solved and installed by py-rattler in a worker process."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

import firstlight
from firstlight.environments.conda_list import register_prefix, unregister_prefix
from firstlight.environments.conda_packages import STOPPED, CondaPackage, Failure, Order, failure_of
from firstlight.environments.conda_programs import CondaProgram, create_with, find_program
from firstlight.environments.pipconfig import redact
from firstlight.environments.sources import channel_url
from firstlight.errors import FirstlightError, NetworkFailed, UsageError, VerificationFailed
from firstlight.events import Step
from firstlight.files import write_atomic
from firstlight.machine.space import free_bytes, no_room
from firstlight.process import Child, Command

__all__ = ["CondaPackage", "create_prefix", "register_prefix", "unregister_prefix"]

STALL = 90.0
"""Seconds without a byte, a linked package or growing repodata, after which a channel counts as silent."""

_OFFICIAL = "https://conda.anaconda.org/"
_SOLVING = 300.0  # seconds that conda's own solver may think without a word on a slow machine
_MISSING = {"ImportError", "ModuleNotFoundError"}
_UNUSABLE = {*_MISSING, "crashed"}
_FINAL = {"InvalidMatchSpecError", "disk", "interrupted", *_MISSING}  # no other channel would help


def attempts(channels: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the channel lists to try, one after the other.

    Channels of the same name (`…/cloud/conda-forge` and `…/conda-forge`) are mirrors of one another: one stands in for
    another. Channels of different names belong together, in the order given.
    """
    mirrors: dict[str, list[str]] = {}
    for channel in channels:
        url = channel_url(channel)
        group = mirrors.setdefault(url.rpartition("/")[2], [])
        if url not in group:
            group.append(url)
    rounds = max((len(group) for group in mirrors.values()), default=0)
    return [tuple(group[min(turn, len(group) - 1)] for group in mirrors.values()) for turn in range(rounds)]


def worker_request(prefix: Path, specs: Sequence[str], channels: Sequence[str], cache: Path) -> dict[str, Any]:
    """Return what the worker is asked: one JSON document on its standard input, or as its one argument."""
    return {
        "prefix": str(prefix.absolute()),
        "specs": list(specs),
        "channels": list(channels),
        "cache": str(cache.absolute()),
    }


def create_prefix(
    prefix: Path,
    specs: Sequence[str],
    channels: Sequence[str],
    cache: Path,
    *,
    step: Step,
    log: Path,
    hold: tuple[int, ...] = (),
    stall: float = STALL,
    variables: Mapping[str, str] | None = None,
) -> list[CondaPackage]:
    """Create a conda environment and return its packages; conda itself is not needed, and can use it afterwards.

    What an earlier, interrupted attempt left in `prefix` is completed. Only `prefix` and `cache` are written.

    Args:
        prefix: where; it can never be moved afterwards.
        specs: what, as match specs (`python 3.12.*`).
        channels: where from, best first; channels of the same name are mirrors of one another.
        cache: unpacked packages, on the filesystem of `prefix` so that hard links work.
        step: takes the progress, in bytes.
        log: file that what happens is appended to.
        hold: descriptors that the worker keeps open.
        stall: seconds after which a silent channel is given up.
        variables: environment variables for the worker: certificate and proxy of the user's configuration.

    Raises:
        UsageError: a spec is malformed, or no channel was given.
        FirstlightError: the solver finds no set of packages, or there is no room.
        VerificationFailed: every source delivers damaged packages.
        NetworkFailed: no source delivers; each is named with its reason.
    """
    prefix = prefix.absolute()
    prefix.mkdir(parents=True, exist_ok=True)
    order = Order(
        prefix=prefix,
        specs=tuple(specs),
        cache=cache,
        kept=_kept(prefix),
        step=step,
        log=log,
        hold=hold,
        stall=stall,
        variables=variables or {},
    )
    made = _make(order, attempts(channels))
    if not isinstance(made, list):
        raise made
    _finish(prefix, specs, made)
    for package in made:
        _note(log, f"+ {package.url} sha256:{package.sha256}")
    return made


def _kept(prefix: Path) -> frozenset[str]:
    """Return the names in a prefix that are no part of a half-made environment."""
    begun = (prefix / "conda-meta").exists()
    return frozenset(entry.name for entry in prefix.iterdir() if not begun or (entry.is_file() and entry.suffix))


def _make(order: Order, tries: list[tuple[str, ...]]) -> list[CondaPackage] | FirstlightError:
    """Try one list of channels after the other, with py-rattler or the program that stands in for it."""
    failures: list[Failure] = []
    program: CondaProgram | None = None
    turn = 0
    while turn < len(tries):
        sources = tries[turn]
        _note(order.log, f"conda packages from {', '.join(sources)}: {', '.join(order.specs)}")
        result = _run_worker(order, sources) if program is None else create_with(program, _patient(order), sources)
        if not isinstance(result, Failure):
            return result
        _note(order.log, f"{result.kind}: {result.reason}")
        if program is None and result.kind in _UNUSABLE and (program := _instead(result, order.step)) is not None:
            continue
        failures.append(result)
        if result.kind in _FINAL:
            break
        turn += 1
        if turn < len(tries):
            order.step.warn(f"{result.channels[0]}: {_short(result.reason)}; trying {redact(tries[turn][0])}")
    return _explain(failures, order.specs, order.prefix, order.cache)


def _patient(order: Order) -> Order:
    return msgspec.structs.replace(order, stall=max(order.stall, _SOLVING))


def _instead(failure: Failure, step: Step) -> CondaProgram | None:
    """Return the program of this machine that stands in for py-rattler, which does not run here."""
    program = find_program(os.environ)
    if program is not None:
        step.warn(
            f"py-rattler does not run here ({_short(failure.reason)}): "
            f"{program.path}, {program.kind} {program.version}, makes the environment"
        )
    return program


def _note(log: Path, line: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8", errors="replace") as sink:
        sink.write(f"{redact(line)}\n")


def _run_worker(order: Order, sources: tuple[str, ...]) -> list[CondaPackage] | Failure:
    names = tuple(redact(source) for source in sources)
    heard = [time.monotonic()]
    ending: list[dict[str, Any]] = []

    def listen(line: str) -> None:
        heard[0] = time.monotonic()
        try:
            told = json.loads(line)
        except ValueError:
            return  # a library's own words
        if told.get("event") == "progress":
            order.step.progress(told["done"], told["total"] or None, detail=told["detail"])
        elif told.get("event") in {"result", "error"}:
            ending.append(told)

    package_root = str(Path(firstlight.__file__).resolve().parent.parent)
    paths = [package_root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    argv = (sys.executable, "-m", "firstlight.environments.conda_worker")
    command = Command(argv, {**order.variables, "PYTHONPATH": os.pathsep.join(paths)}, Path(package_root))
    request = worker_request(order.prefix, order.specs, sources, order.cache)
    child = Child(command, on_line=listen, stdin=json.dumps(request), hold=order.hold, leash=True)
    try:
        while (status := child.wait(0.1)) is None:
            if time.monotonic() - heard[0] > order.stall:
                child.stop(grace=2.0)
                return Failure(names, "silent", f"nothing arrived for {order.stall:g} s")
    except BaseException:
        child.stop(grace=5.0)
        raise
    if ending and ending[-1]["event"] == "result":
        return msgspec.convert(ending[-1]["packages"], list[CondaPackage])
    if ending:
        return failure_of(names, str(ending[-1]["kind"]), str(ending[-1]["message"]))
    kind = "interrupted" if status in STOPPED else "crashed"
    return Failure(names, kind, child.output[-500:] or f"the worker ended with status {status}")


def _short(message: str) -> str:
    """Return the first and the last of a chain of causes in one line."""
    lines = [line.removeprefix("Caused by: ").strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return "unknown reason"
    ends = lines if len(lines) < 3 else [lines[0], lines[-1]]
    return "; ".join(dict.fromkeys(ends))[:400]


def _explain(failures: list[Failure], specs: Sequence[str], prefix: Path, cache: Path) -> FirstlightError:
    wish = ", ".join(specs)
    if not failures:
        return UsageError(
            "no conda channel was named", fix="name one: --channel https://conda.anaconda.org/conda-forge"
        )
    last = failures[-1]
    evidence = "\n".join(f"{', '.join(item.channels)}: {item.reason}" for item in failures)
    each = "; ".join(f"{', '.join(item.channels)}: {_short(item.reason)}" for item in failures)
    solver = next((item for item in failures if item.kind == "SolverError"), None)
    if last.kind == "InvalidMatchSpecError":
        error: FirstlightError = UsageError(f"a package was asked for in the wrong words: {wish}", why=last.reason)
    elif last.kind == "disk":
        error = no_room(min((prefix, cache), key=free_bytes), f"the packages {wish}", None)
    elif last.kind == "interrupted":
        error = FirstlightError("the installation was stopped", fix="run the same command again: it goes on from there")
    elif solver is not None:
        why = " ".join(solver.reason.split()).removeprefix("Cannot solve the request because of: ")
        error = FirstlightError(
            f"no set of conda packages fits: {wish}",
            why=f"{why} (asked: {', '.join(solver.channels)})",
            fix="name a channel that has them with --channel URL, or another Python with --python",
        )
    elif all(item.kind == "checksum" for item in failures):
        error = VerificationFailed(
            "the conda packages arrive damaged", why=each, fix="name another channel with --channel URL"
        )
    elif last.kind in _MISSING:
        error = FirstlightError(
            "py-rattler, which makes conda environments, does not run here",
            why=f"{last.reason}; nor is there a conda, mamba or micromamba",
            fix="do without conda packages: --environment venv; or install micromamba, which is one file",
        )
    elif all(item.kind == "crashed" for item in failures):
        error = FirstlightError("the conda worker ended by itself", why=each, fix="run the same command again")
    else:
        error = NetworkFailed(
            "no conda channel delivered",
            why=each,
            fix="name a channel that answers (--channel URL), or do without conda: --environment venv",
        )
    error.evidence = evidence if evidence != error.why else None
    return error


def _finish(prefix: Path, specs: Sequence[str], packages: list[CondaPackage]) -> None:
    """Complete what py-rattler leaves out, and take away what it leaves too much.

    Without a history block conda shows no requested specs; a CACHEDIR.TAG makes backups skip the environment.
    Source: conda 26.7 `history.py` (the format that it parses).
    """
    (prefix / "CACHEDIR.TAG").unlink(missing_ok=True)
    history = prefix / "conda-meta" / "history"
    before = history.read_text(encoding="utf-8") if history.exists() else ""
    if before.strip():
        return
    lines = [f"==> {datetime.now().astimezone():%Y-%m-%d %H:%M:%S} <==", "# cmd: firstlight"]
    for package in packages:
        channel = package.channel.removeprefix(_OFFICIAL)
        lines.append(f"+{channel}/{package.subdir}::{package.name}-{package.version}-{package.build}")
    lines.append(f"# update specs: {list(specs)!r}")
    write_atomic(history, "".join(f"{redact(line)}\n" for line in lines))
