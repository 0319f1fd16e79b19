"""Examines a new environment before the engine is proven: that it imports says little, an `import` is a false green."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from firstlight.environments import verdicts
from firstlight.environments.distributions import InstalledPackage, freeze
from firstlight.environments.examination_report import Report, Subject, Told, decode
from firstlight.environments.examined import Check, Examined
from firstlight.environments.fatbins import Code, capabilities, scan_file
from firstlight.environments.linkage import Linked, extensions_of, not_there, read_linked
from firstlight.errors import FirstlightError, VerificationFailed
from firstlight.events import Step
from firstlight.process import Child, Command

__all__ = ["Examined", "Subject", "examine", "program", "require_passed"]

_WORKER = Path(__file__).with_name("examination_worker.py")
_SILENCE = 300.0
"""Seconds that one module may take to import, on two busy cores and from a cold disk."""
_SAID = 20
"""Lines of the engine's command line that are kept."""
_ADOPTED_MUST = {"command", "tokenizer", "capability"}
"""What an environment that somebody else made must do; the rest of it is theirs to judge, and is told."""


def examine(
    subject: Subject,
    model: Path,
    *,
    step: Step,
    log: Path,
    variables: Mapping[str, str | None],
    hold: tuple[int, ...] = (),
) -> Examined:
    """Look at an environment in every way that needs no GPU, and return what was seen; nothing is raised for it.

    Its own Python imports torch, loads the engine's compiled part, runs the engine's command line, loads a tokenizer
    and imports every model module. Into an adopted environment nothing is written, no bytecode either.

    Args:
        subject: the environment and what it must be.
        model: a folder with a tokenizer.
        step: takes the progress.
        log: takes what the programs print.
        variables: the environment variables of the engine's server.
        hold: descriptors that the programs keep open.
    """
    began, clock = time.time(), time.monotonic()
    installed, files = _look(subject)
    module = subject.wish.command[1:] if subject.wish.command[:1] == ["-m"] else subject.wish.command
    job = {
        "extensions": [str(file) for file in files],
        "command": module,
        "tokenizer": subject.wish.tokenizer,
        "folder": str(model),
        "packages": subject.wish.packages,
    }
    words = program(subject.python, writes=not subject.adopted)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="examine") as pool:
        compiled = pool.submit(_compiled, subject, files)
        report = _work(Command(words, dict(variables)), job, step, log, hold)
        checks = _judge(subject, report, installed, compiled.result())
    return Examined(
        at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        seconds=round(time.monotonic() - clock, 3),
        checks=[_mild(check) for check in checks] if subject.adopted else checks,
    )


def program(python: Path, *, writes: bool) -> tuple[str, ...]:
    """Return the words of the program that looks at an environment; it may write bytecode, or nothing at all."""
    return (str(python), "-I", "-u", *(() if writes else ("-B",)), str(_WORKER))


def _look(subject: Subject) -> tuple[list[InstalledPackage], list[Path]]:
    """Return the distributions and the compiled part of the engine, read without running anything."""
    try:
        return freeze(subject.python), extensions_of(subject.python, subject.wish.extensions)
    except FirstlightError:  # a distribution's own prefix keeps its packages elsewhere
        return [], []


class _Compiled(msgspec.Struct, frozen=True):
    """What the engine's compiled part is linked with, what of that is not there, and the code that it holds."""

    linked: list[Linked]
    absent: list[str]
    codes: list[str]
    ptx: str | None


def _compiled(subject: Subject, files: list[Path]) -> _Compiled:
    linked = [each for each in map(read_linked, files) if each is not None]
    absent = sorted({name for each in linked for name in not_there(each, subject.python)})
    held: Counter[Code] = Counter()
    for file in files if subject.gpus else []:
        held += scan_file(file)
    return _Compiled(linked, absent, *capabilities(held))


def _judge(subject: Subject, report: Report, installed: list[InstalledPackage], compiled: _Compiled) -> list[Check]:
    seen = report.one("torch")
    static: list[Check] = [verdicts.distributions(subject, installed), verdicts.torch(subject, report, installed)]
    if seen is not None and seen.error is None:
        static.append(verdicts.libraries(subject, compiled.linked, compiled.absent, seen.cuda))
    return [
        *static,
        verdicts.libc(subject, compiled.linked),
        verdicts.capability(subject, report),
        verdicts.kernels(subject, compiled.codes, compiled.ptx),
        verdicts.extensions(subject, report),
        verdicts.command(subject, report),
        verdicts.tokenizer(subject, report),
        verdicts.modules(subject, report),
    ]


def _mild(check: Check) -> Check:
    if check.status != "fail" or check.id in _ADOPTED_MUST:
        return check
    return msgspec.structs.replace(check, status="warn")


def _work(command: Command, job: Mapping[str, object], step: Step, log: Path, hold: tuple[int, ...]) -> Report:
    """Run the worker and return what it told, also where it died or fell silent."""
    events: list[Told] = []
    said: list[str] = []
    recent: deque[str] = deque(maxlen=_SAID)
    heard = [time.monotonic()]

    def listen(line: str) -> None:
        heard[0] = time.monotonic()
        told = decode(line)
        if told is None:
            if line.strip():
                recent.append(line.strip())
            return
        events.append(told)
        if told.event == "command":
            said.extend(recent)
        recent.clear()

    child = Child(command, log=log, on_line=listen, stdin=msgspec.json.encode(job).decode(), hold=hold, leash=True)
    try:
        while (status := child.wait(0.2)) is None:
            _tell(events, step)
            if time.monotonic() - heard[0] > _SILENCE:
                child.stop(grace=2.0)
                return Report(events=events, said=said, death=f"nothing was heard for {_SILENCE:g} s")
    except BaseException:
        child.stop(grace=5.0)
        raise
    if status == 0 and events and events[-1].event == "end":
        return Report(events=events, said=said)
    return Report(events=events, said=said or [*recent], death=_death(status, recent))


def _tell(events: list[Told], step: Step) -> None:
    names = next((told.names for told in events if told.event == "modules"), [])
    done = sum(told.event == "module" for told in events)
    if names:
        step.progress(done, len(names), "items", names[min(done, len(names) - 1)])


def _death(status: int, recent: Sequence[str]) -> str:
    if status == -9:
        return "its Python was killed: the kernel does so when memory runs out"
    last = f": {recent[-1]}" if recent else ""
    return f"its Python was ended by signal {-status}{last}" if status < 0 else f"its Python ended with {status}{last}"


def require_passed(examined: Examined, subject: Subject, log: Path) -> None:
    """Refuse an environment that did not pass.

    Raises:
        VerificationFailed: with every check that failed, and what mends the first.
    """
    failed = examined.failed
    if not failed:
        return
    lines = [f"{check.id}: {line}" for check in failed for line in check.detail or [check.summary]]
    raise VerificationFailed(
        f"{subject.generation.id} did not pass its examination: {', '.join(check.id for check in failed)}",
        why="; ".join(check.summary for check in failed[:3]),
        fix=failed[0].fix,
        document={"examination": msgspec.to_builtins(examined)},
        evidence="\n".join([*lines, f"whole log: {log}"]),
    )
