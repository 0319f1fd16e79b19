"""The log reader: which engine wrote a log, what it died of (seldom its last line), and what to do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

from firstlight.catalogue.types import Cause
from firstlight.doctor.findings import Finding, Remedy
from firstlight.doctor.log_file import UNCOUNTED, LogParts, read_end, read_parts
from firstlight.doctor.secrets import without_secrets
from firstlight.doctor.story import LogCause, LogStory, remedy_of
from firstlight.machine.facts import Machine
from firstlight.resources import data_folder
from firstlight.serving.causes import CausePage, FoundCause, find_causes, is_generic, load_causes, load_page, thinned

SUPERVISOR = "systemd"
"""The folder of causes that are no engine's: what the supervisor of services writes."""
_MATCHES = 200
_WIDTH = 300
_OF_A_LOG = re.compile(
    r"\d:\d\d:\d\d|\b(?:INFO|WARN(?:ING)?|ERROR|DEBUG|FATAL)\b|\blevel=|[Ee]rror: "
    r"|^Traceback|^\s+File \"|^\[\w+\]|^usage:"
)
_FEW = 10
"""One line of so many, at least, begins as those of logs do: a document has fewer."""


@cache
def known_pages() -> dict[str, CausePage]:
    """Return what is known of each engine's logs, by the engine's name."""
    names = sorted(path.parent.name for path in data_folder("envs").glob("*/causes.toml"))
    pages = {name: load_page(name) for name in names}
    return {name: page for name, page in pages.items() if page.signs}


@cache
def _shared_causes() -> list[Cause]:
    return load_causes(SUPERVISOR)


def likely_engines(sample: str, pages: dict[str, CausePage]) -> list[str]:
    """Return the engines whose signs a log shows most often: one, or several that it cannot tell apart, or all."""
    counts = {name: sum(_count(sign, sample) for sign in page.signs) for name, page in pages.items()}
    most = max(counts.values(), default=0)
    return [name for name, count in counts.items() if count == most]


def _count(sign: str, text: str) -> int:
    return sum(1 for _ in islice(re.finditer(sign, text, re.MULTILINE), _MATCHES))


def tell(parts: LogParts, engine: str | None = None) -> LogStory:
    """Return what a log tells, from the lines of it that were kept.

    Args:
        parts: the lines.
        engine: who wrote it; without it that is seen from the lines, and where it is not, the engine is taken whose
            causes name most of what went wrong.
    """
    pages = {engine: known_pages().get(engine, CausePage())} if engine else known_pages()
    lines = thinned(parts.lines)
    likely = likely_engines("\n".join([parts.sample, *(text[:_WIDTH] for _number, text in lines)]), pages)
    shared = _shared_causes()
    stories = {name: tuple(_told(name, lines, pages[name].starts, [*pages[name].cause, *shared])) for name in likely}

    def named(name: str) -> tuple[int, int]:
        return sum(item.found.cause is not None for item in stories[name]), len(pages[name].cause)

    best = max(stories, key=named, default=None)
    causes = stories[best] if best is not None else ()
    last = next((text for _number, text in reversed(parts.lines) if text.strip()), "")
    return LogStory(
        engine=best, certain=len(likely) == 1, causes=causes, last_line=last.strip() if is_generic(last) else ""
    )


def _told(
    engine: str, lines: Sequence[tuple[int, str]], starts: list[str], causes: Sequence[Cause]
) -> Iterator[LogCause]:
    """Give what the last run tells; where it tells nothing, the run before it, and so on."""
    for earlier, run in enumerate(_runs(lines, starts)):
        found = find_causes(run, causes)
        if found:
            yield from (LogCause(engine=engine, found=item, earlier=earlier) for item in found)
            return


def _runs(lines: Sequence[tuple[int, str]], starts: list[str]) -> Iterator[Sequence[tuple[int, str]]]:
    """Give the lines of each run, the last run first."""
    pattern = re.compile("|".join(starts)) if starts else None
    end = len(lines)
    for index in range(len(lines) - 1, -1, -1):
        if index == 0 or (pattern is not None and pattern.search(lines[index][1][:1000])):
            if index < end:
                yield lines[index:end]
            end = index


def read_log(path: Path, engine: str | None = None, machine: Machine | None = None) -> list[Finding]:
    """Return what a log tells, as findings: the true cause first.

    Args:
        path: the log: plain or packed text of any size.
        engine: who wrote it, where that is known.
        machine: where it is to be mended, where that is known.

    Raises:
        UsageError: it cannot be read, or is no text.
    """
    parts = read_end(path)
    if parts is not None:
        story = tell(parts, engine)
        if any(item.found.cause and item.found.cause.fatal for item in story.causes):
            return _findings(path, parts, story, machine)
    parts = read_parts(path)
    return _findings(path, parts, tell(parts, engine), machine)


def _findings(path: Path, parts: LogParts, story: LogStory, machine: Machine | None) -> list[Finding]:
    if not parts.lines:
        return [_finding("warn", f"{path} is empty", detail=None, remedy=_other_log())]
    if not story.causes and not _is_a_log(parts):
        return [_finding("warn", f"{path} does not look like the log of an engine", detail=None, remedy=_other_log())]
    if not story.causes:
        whose = f"the log of {story.engine}" if story.certain else "the log (of an engine that is not known)"
        return [_finding("ok", f"no failure in {whose}", detail=_how_much(parts))]
    return [
        finding_of(item, str(path), story, parts if number == 0 else None, machine)
        for number, item in enumerate(story.causes)
    ]


def _is_a_log(parts: LogParts) -> bool:
    """Tell whether a good part of the lines begins as those of logs do."""
    lines = [line for line in parts.sample.splitlines() if line.strip()]
    return sum(1 for line in lines if _OF_A_LOG.search(line[:_WIDTH])) * _FEW >= len(lines)


def _other_log() -> Remedy:
    return Remedy(
        text="name the log that the server wrote: that of a service, or services/NAME/server.log in firstlight's home",
        commands=["journalctl -u NAME --no-pager > server.log"],
    )


def finding_of(
    item: LogCause, name: str, story: LogStory, parts: LogParts | None = None, machine: Machine | None = None
) -> Finding:
    """Return one thing that a log tells as a finding.

    Args:
        item: what it is.
        name: the log's name for people.
        story: all that the log tells.
        parts: the log, for the finding that tells how much of it was read.
        machine: where it is to be mended, where that is known.
    """
    found, cause = item.found, item.found.cause
    where = f"line {found.number:,}" if found.number < UNCOUNTED else "near the end"
    detail = [f"{where} of {name}: {without_secrets(found.line)}"]
    if story.last_line and story.last_line not in found.line:
        detail.append(f"The last line says only: {without_secrets(story.last_line)[:200]}")
    if item.earlier:
        detail.append(f"This was an earlier run: {item.earlier} began after it and show no failure.")
    if not story.certain:
        detail.append(f"Nothing in it says which engine wrote it: this is what it means for {item.engine}.")
    if parts is not None and (how_much := _how_much(parts)):
        detail.append(how_much)
    whose = f"{item.engine}: " if story.certain else ""
    told = cause.cause if cause and story.certain else _neutral(cause.cause, item.engine) if cause else ""
    what = told or f"it failed, and the cause is not a known one: {without_secrets(found.line)[:160]}"
    severe = (cause is None or cause.fatal) and not item.earlier
    return _finding(
        "fail" if severe else "warn",
        f"{whose}{what}",
        detail="\n".join(detail),
        evidence=without_secrets(found.excerpt),
        affects=[item.engine] if story.certain else [],
        remedy=_remedy(cause, item.engine, story, machine) if cause else _look(name, found),
        source=cause.source if cause else None,
        subject=cause.id if cause else "unknown",
    )


def _neutral(text: str, engine: str) -> str:
    """Return a sentence about an engine without its name, for a log that another one may have written."""
    return re.sub(rf"\bthis {engine}\b|\b{engine}\b", "the engine", text, flags=re.IGNORECASE)


def _remedy(cause: Cause, engine: str, story: LogStory, machine: Machine | None) -> Remedy:
    """Return a cause's remedy; what is right for one engine alone is no line to paste where another may be meant."""
    remedy = remedy_of(cause, machine)
    if story.certain or not any(engine in line for line in remedy.commands):
        return remedy
    return Remedy(text=f"{remedy.text}; if it is {engine}: {'; '.join(remedy.commands)}")


def _look(name: str, found: FoundCause) -> Remedy:
    line = f"+{found.number} " if found.number < UNCOUNTED else "+G "
    return Remedy(text="read the log from that line on", commands=[f"less {line}{shlex.quote(name)}"])


def _how_much(parts: LogParts) -> str | None:
    """Return how much of the log was read, where it was not all of it."""
    size = f"{parts.size / 1e9:.1f} GB" if parts.size > 1e8 else f"{parts.size / 1e6:.0f} MB"
    return {
        "whole": None,
        "failures": f"Of {size} the beginning, the end and every part that speaks of a failure were read.",
        "late": f"Time was up after {size}: of the rest only the end was read.",
        "end": f"Of {size} only the end was read, where the last run died.",
    }[parts.extent]


def _finding(
    status: str,
    summary: str,
    *,
    detail: str | None,
    evidence: str | None = None,
    affects: list[str] | None = None,
    remedy: Remedy | None = None,
    source: str | None = None,
    subject: str | None = None,
) -> Finding:
    raw = {"status": status, "summary": summary, "detail": detail, "evidence": evidence, "affects": affects or []}
    return Finding(id="log", group="log", remedy=remedy, source=source, subject=subject, **raw)  # type: ignore[arg-type]
