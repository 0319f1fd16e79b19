"""The doctor's page: groups, marks, the verdict per engine, counts, and the one next command."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import msgspec

from firstlight.doctor.check import GROUPS, Check
from firstlight.doctor.findings import Finding, Status
from firstlight.doctor.report import THERE_ALONE, Counts, Examination, Mended, Verdict
from firstlight.doctor.table import CHECKS
from firstlight.fetching.words import size
from firstlight.machine.facts import Machine
from firstlight.ui.tables import cells, pad, wrapped
from firstlight.ui.terminal import as_typed

_TITLES = {
    "host": "System",
    "gpu": "GPU and driver",
    "disk": "Disks",
    "python": "Python and compiler",
    "environments": "Environments",
    "engines": "Engines",
    "services": "Services and ports",
    "network": "Network",
    "log": "Log",
}
_MARKS: dict[Status, str] = {"ok": "✓", "warn": "!", "fail": "✗", "skip": "-", "crash": "☠"}
_PLAIN_MARKS: dict[Status, str] = {"ok": "ok", "warn": "!!", "fail": "XX", "skip": "--", "crash": "??"}
MOST_LINES = 8
"""Lines of evidence that the page shows of one finding."""
_SIGNS = str.maketrans({"…": "...", "–": "-", "—": "-", "×": "x", "’": "'", "≥": ">=", "→": "->"})
_VERDICTS: dict[str, Status] = {
    "ready": "ok",
    "broken": "fail",
    "possible": "ok",
    "limited": "warn",
    "impossible": "skip",
}


def page(examination: Examination, columns: int, *, unicode: bool, everything: bool = False) -> list[str]:
    """Return an examination as lines of at most `columns`; commands to paste stay whole, however long they are.

    Args:
        examination: what was found.
        columns: the width of the terminal.
        unicode: whether marks beyond ASCII can be shown.
        everything: show what was skipped one by one, too.
    """
    marks = _MARKS if unicode else _PLAIN_MARKS
    if not unicode:
        examination = _spelled_plainly(examination)
    lines = [*_head(examination.machine, columns)]
    for mended in examination.mended:
        lines += _mended(mended, columns, marks)
    groups = dict.fromkeys([*GROUPS, *(finding.group for finding in examination.findings)])
    for group in groups:
        members = [finding for finding in examination.findings if finding.group == group]
        shown = _group(members, columns, marks, everything=everything)
        lines += ["", _TITLES.get(group, group), *shown] if shown else []
    lines += _verdicts(examination.verdicts, columns, marks)
    lines += ["", *_counts(examination, columns, everything=everything)]
    if examination.next:
        words = any(item.remedy is not None and item.remedy.text == examination.next for item in examination.findings)
        lines += wrapped(f"next: {examination.next}", columns, indent="") if words else [f"next: {examination.next}"]
    return lines


def _spelled_plainly(examination: Examination) -> Examination:
    """Return the examination with typographic signs in our own sentences spelled in ASCII."""

    def plain(value: Any) -> Any:
        if isinstance(value, str):
            return value.translate(_SIGNS)
        if isinstance(value, list):
            return [plain(item) for item in value]
        return {key: plain(item) for key, item in value.items()} if isinstance(value, dict) else value

    told = {name: plain(msgspec.to_builtins(getattr(examination, name))) for name in ("findings", "verdicts", "mended")}
    raw = {**msgspec.to_builtins(examination), **told, "next": plain(examination.next)}
    return msgspec.convert(raw, Examination)


def _head(machine: Machine | None, columns: int) -> list[str]:
    """Return the machine in one sentence: what everybody asks first in an issue."""
    if machine is None:
        return []
    host, nvidia = machine.host, machine.nvidia
    kinds: dict[str, int] = {}
    for gpu in machine.gpus or []:
        memory = f" {size(gpu.memory_total)}" if gpu.memory_total else ""
        name = f"{gpu.name or gpu.vendor}{memory}"
        kinds[name] = kinds.get(name, 0) + 1
    graphics = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in kinds.items())
    parts = [
        f"{host.os_name or host.os or 'unknown system'}{f' in {host.container}' if host.container else ''}",
        f"{host.libc or 'C library'} {host.libc_version or 'unknown'}",
        *([f"kernel {host.kernel}"] if host.kernel else []),
        host.arch or "unknown processor",
        graphics or ("GPUs unknown" if machine.gpus is None else "no GPU"),
    ]
    if nvidia is not None:
        parts.append(f"driver {nvidia.driver or 'unknown'}")
    return wrapped(", ".join(parts), columns, indent="")


def _group(findings: list[Finding], columns: int, marks: dict[Status, str], *, everything: bool) -> list[str]:
    """Return the findings of a group; without `everything` what has nothing to tell is named in one line at its end."""
    lines: list[str] = []
    quiet: dict[str, None] = {}
    for finding in findings:
        if everything or not (finding.status == "skip" or _tells_nothing(finding)):
            lines += _finding(finding, columns, marks)
        elif finding.status == "ok":
            quiet[finding.id] = None
    if quiet:
        mark = f"[{marks['ok']}]"
        text = f"{'also well' if lines else 'all well'}: {', '.join(quiet)}"
        first, *rest = wrapped(text, columns - 2, indent=" " * (cells(mark) + 1))
        lines += [f"{mark} {first.lstrip()}", *rest]
    return lines


def _tells_nothing(finding: Finding) -> bool:
    """Tell whether a finding says no more than its check's title: that all is well."""
    return finding.status == "ok" and finding.summary == _titles().get(finding.id)


@cache
def _titles() -> dict[str, str]:
    return {check.id: check.title for check in CHECKS}


def _finding(finding: Finding, columns: int, marks: dict[Status, str]) -> Iterator[str]:
    mark = f"[{marks[finding.status]}]"
    depth = " " * (cells(mark) + 1)
    first, *rest = wrapped(_sentence(finding.summary), columns, indent=depth) or [depth]
    yield f"{mark} {first[len(depth) :]}"
    yield from rest
    if finding.status in {"ok", "skip"}:
        return
    for line in (finding.detail or "").splitlines():
        yield from wrapped(line, columns, indent=depth)
    seen = (finding.evidence or "").splitlines()
    for number, line in enumerate(seen[:MOST_LINES]):
        inner = " " * min(len(line) - len(line.lstrip()), 8)
        first_word, deeper = ("seen: ", depth) if number == 0 else ("", f"{depth}      {inner}")
        yield from wrapped(f"{first_word}{line.strip()}", columns, indent=deeper)
    if len(seen) > MOST_LINES:
        yield f"{depth}      {len(seen) - MOST_LINES} lines more, in --json"
    if finding.affects:
        yield from wrapped(f"affects: {', '.join(finding.affects)}", columns, indent=depth)
    yield from _remedy(finding, columns, depth)
    if finding.id:
        yield f"{depth}({finding.id})"


def _remedy(finding: Finding, columns: int, depth: str) -> Iterator[str]:
    remedy = finding.remedy
    if remedy is None:
        return
    notes = [
        note for note, is_so in (("as root", remedy.needs_root), ("doctor --fix does it", remedy.automatic)) if is_so
    ]
    how = f" ({', '.join(notes)})" if notes else ""
    yield from wrapped(f"fix: {remedy.text}{how}", columns, indent=depth)
    for command in remedy.commands:
        yield f"{depth}  $ {command}"


def _sentence(text: str) -> str:
    return " ".join(text.split())


def _verdicts(verdicts: list[Verdict], columns: int, marks: dict[Status, str]) -> list[str]:
    if not verdicts:
        return []
    wide = max(cells(verdict.engine) for verdict in verdicts)
    lines = ["", "What can run here"]
    for verdict in verdicts:
        mark = f"[{marks[_VERDICTS[verdict.state]]}]"
        head = f"{mark} {pad(f'{verdict.engine}:', wide + 1)} "
        first, *rest = wrapped(verdict.text, columns - cells(head), indent="")
        lines += [f"{head}{first}", *(f"{' ' * cells(head)}{line.strip()}" for line in rest)]
    return lines


def _counts(examination: Examination, columns: int, *, everything: bool) -> list[str]:
    counts: Counts = examination.counts
    words = [
        f"{counts.ok} ok",
        f"{counts.warn} {'warning' if counts.warn == 1 else 'warnings'}",
        f"{counts.fail} {'failure' if counts.fail == 1 else 'failures'}",
    ]
    if counts.crash:
        words.append(f"{counts.crash} broken {'check' if counts.crash == 1 else 'checks'}")
    words += _skips(_skipped(examination))
    lines = wrapped(", ".join(words), columns, indent="")
    flags = [flag for flag in ("--network", "--deep") if any(flag in item.summary for item in _skipped(examination))]
    if flags and not everything:
        lines += wrapped(f"more is looked at with {' and '.join(flags)}", columns, indent="")
    return lines


_WHY_SKIPPED = (
    ("only with --network", "waiting for --network"),
    ("only with --deep", "waiting for --deep"),
    (THERE_ALONE, THERE_ALONE),
    ("unknown", "unknown"),
    ("not looked at", "not looked at"),
)


def _skips(skipped: list[Finding]) -> list[str]:
    """Return how many checks were skipped for which reason; most concern something that is not here."""
    kinds: dict[str, int] = {}
    for finding in skipped:
        words = next((words for sign, words in _WHY_SKIPPED if sign in finding.summary), "not for this machine")
        kinds[words] = kinds.get(words, 0) + 1
    return [f"{count} {words}" for words, count in sorted(kinds.items(), key=lambda item: item[0] == THERE_ALONE)]


def _skipped(examination: Examination) -> list[Finding]:
    return [finding for finding in examination.findings if finding.status == "skip"]


def _mended(mended: Mended, columns: int, marks: dict[Status, str]) -> list[str]:
    status: Status = {"done": "ok", "refused": "skip", "failed": "fail"}[mended.outcome]  # type: ignore[assignment]
    subject = f" ({mended.subject})" if mended.subject else ""
    why = f": {mended.why}" if mended.why else ""
    return wrapped(f"[{marks[status]}] {mended.outcome}: {mended.text}{subject}{why}", columns, indent="")


def list_of_checks(checks: list[Check], columns: int) -> list[str]:
    """Return the ids of the checks with what they look at, by group."""
    wide = max((cells(check.id) for check in checks), default=0) + 4
    lines: list[str] = []
    for group in GROUPS:
        members = [check for check in checks if check.group == group]
        if members:
            lines += ["", _TITLES.get(group, group)] if lines else [_TITLES.get(group, group)]
        for check in members:
            when = "" if check.speed == "normal" else f" (with --{check.speed})"
            if wide + cells(check.title) + cells(when) <= columns:
                lines.append(f"  {pad(check.id, wide - 2)}{check.title}{when}")
            else:
                lines += [f"  {check.id}", *wrapped(f"{check.title}{when}", columns, indent="    ")]
    return lines


def work_lines(rows: list[tuple[str, list[str]]]) -> list[str]:
    """Return what `--fix` would do: for each remedy its words and its actions."""
    return [line for text, actions in rows for line in (text, *(f"  {as_typed(action)}" for action in actions))]
