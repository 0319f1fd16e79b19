"""Reads a server's log for the true cause of its death. The last line is seldom it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

import msgspec

from firstlight.catalogue.loading import read_toml
from firstlight.catalogue.types import Cause
from firstlight.errors import FirstlightError
from firstlight.resources import data_folder

_LIMIT = 16 * 1024 * 1024
_EXCERPT_WIDTH = 300
_MANY_LINES = 5_000
_ALIKE = 30
"""Of more lines than `_MANY_LINES` that differ in figures only, this many from each end are looked at."""
_LINE_WIDTH = 4_096
"""Signs of a line that are looked at: a model's configuration or a request may fill megabytes with one line."""

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_PROGRESS = re.compile(
    r"[^\r|]*?\d{1,3}%[^|\r]*\|[^|\r]*\|\s*[\d.,]+\S*/[\d.,?]+\S*\s*\[[^\]\r]*\]"  # bar between two rules
    r"|[^\r|]*?\d{1,3}%[^|\r]*\|\s*\d+/\d+\s*\[[^\]\r]*\]"  # no bar: "50% Completed | 1/2 [00:01<00:01]"
    r"|[^\r|]*?\d+it \[[^\]\r]*it/s\]"
)
_BAR = re.compile(r"\d%[^|\r]{0,80}\||\dit \[")
"""A quick look for one: the pattern above is slow on long lines without."""
_LEVELS = "DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL"
_PREFIXES = (
    re.compile(r"^[a-z0-9][\w.-]* +\| "),  # one of several containers (docker compose)
    re.compile(r"^[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d+)? \S+ [^\s\[\]]+\[\d+\]: "),  # journald, syslog
    re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d\d:?\d\d \S+ [^\s\[\]]+\[\d+\]: "),  # journalctl -o short-iso
    re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:\d\d) std(?:out|err) [FP] "),  # kubelet's files
    re.compile(r"^\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?(?: - | )"),
    re.compile(r"^\((?P<tag>[\w.:-]+ pid=\d+)[^)]*\) ?"),  # one of several processes
    re.compile(r"^\[?(?P<tag>rank\d+)\]?: ?"),
    re.compile(rf"^\[?(?P<level>{_LEVELS})\]? \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? (?:\[[^\]\s]+:\d+\]|\S+\.py:\d+\]) ?"),
    re.compile(r"^(?P<letter>[IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [^\s\]]+:\d+\] ?"),  # glog and torch
    re.compile(rf"^(?P<level>{_LEVELS}):[ \t]+"),
    re.compile(rf"^\[(?P<level>{_LEVELS})\] "),
    re.compile(rf"^[\w.]+ - (?P<level>{_LEVELS}) - (?:\S+:\d+ - )?"),
    re.compile(rf"^\w+\.go:\d+: (?P<level>{_LEVELS}) "),
    re.compile(rf"^\[TM\]\[(?P<level>{_LEVELS})\] "),
)
_FIGURES = re.compile(r"[0-9a-f]*[0-9][0-9a-f]*")
_DOCKER = re.compile(r'^\{"log":"(?:[^"\\]|\\.)*"')
_LETTERS = {"I": "INFO", "W": "WARNING", "E": "ERROR", "F": "FATAL"}
_LEVEL_WORD = re.compile(rf"\blevel=(?P<level>{_LEVELS})\b", re.IGNORECASE)
_PYTHON_WARNING = re.compile(r"\b[A-Z]\w*Warning: ")
_TRACEBACK = "Traceback (most recent call last):"
_EXCEPTION = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?::|$)")
_ERROR_LINE = re.compile(
    r"^(?:\S+: )?(?:fatal )?error: |error while loading shared libraries|^Segmentation fault|\(core dumped\)|^Killed$"
    r"|^panic: |: command not found$|^cannot start |^(?:[a-z_]\w*\.)*[a-z_]\w*(?:error|exception): ",
    re.IGNORECASE,
)
_ELSEWHERE = re.compile(
    r"(?:see|check) (?:the )?(?:root cause|stack ?trace|error|logs?)\b|for the root cause|startup failed\. Exiting"
    r"|\bfailed to start\.?$|^Failed to start |: Failed with result |: Main process exited, code=exited, status=1/"
    r"|Start request repeated too quickly|Scheduled restart job",
    re.IGNORECASE,
)
"""Lines that say of themselves that the cause stands elsewhere."""
_ENDINGS = re.compile(r"^(?:\w+\.)*(?:KeyboardInterrupt|SystemExit|CancelledError|GeneratorExit|BrokenPipeError)\b")
"""Exceptions that are how a program ends, not why."""


class FoundCause(msgspec.Struct, frozen=True, kw_only=True):
    """The line that tells why, its number (from 1), lines around it, and the known cause where a pattern names it."""

    cause: Cause | None
    line: str
    number: int
    excerpt: str


class CausePage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What envs/<engine>/causes.toml tells of an engine's logs: how one is known, and why it died."""

    signs: list[str] = []
    """Regular expressions of lines that only this engine writes."""
    starts: list[str] = []
    """Regular expressions of lines with which a run begins."""
    cause: list[Cause] = []
    """Most specific first."""


class _Line(msgspec.Struct, frozen=True):
    number: int
    tag: str
    level: str
    text: str

    @property
    def quiet(self) -> bool:
        return self.level in {"DEBUG", "INFO"}

    @property
    def warning(self) -> bool:
        return self.level in {"WARNING", "WARN"}

    @property
    def error(self) -> bool:
        return self.level in {"ERROR", "CRITICAL", "FATAL"}


def load_page(engine: str, folder: Path | None = None) -> CausePage:
    """Return what is known of an engine's logs; an empty page when it has no causes.toml.

    Raises:
        FirstlightError: the file is wrong: an unknown key, a pattern that is no regular expression, an id used twice.
    """
    path = (folder or data_folder("envs")) / engine / "causes.toml"
    if not path.is_file():
        return CausePage()
    page = read_toml(path, CausePage)
    signs = [("a sign", sign) for sign in page.signs] + [("a start", start) for start in page.starts]
    for name, pattern in signs + [(cause.id, cause.pattern) for cause in page.cause]:
        try:
            re.compile(pattern)
        except re.error as error:
            raise FirstlightError(
                f"the pattern of {name} in {path} is no regular expression",
                why=str(error),
                fix="correct the pattern",
            ) from error
    return page


def load_causes(engine: str, folder: Path | None = None) -> list[Cause]:
    """Return the causes known of an engine, most specific first; see `load_page`."""
    return load_page(engine, folder).cause


def read_log(path: Path, offset: int = 0) -> str:
    """Return a log's text from the byte `offset` on; of a huge one the first and the last 8 MiB."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(min(offset, size))
            if size - offset <= _LIMIT:
                return stream.read().decode(errors="replace")
            head = stream.read(_LIMIT // 2)
            stream.seek(size - _LIMIT // 2)
            return (head + b"\n" + stream.read()).decode(errors="replace")
    except OSError:
        return ""


def _unwrapped(raw: str) -> str:
    """Return the line that Docker's own log file (one JSON document per line) carries."""
    match = _DOCKER.match(raw)
    if match is None:
        return raw
    try:
        return str(msgspec.json.decode(match.group()[len('{"log":') :], type=str)).rstrip("\n")
    except msgspec.DecodeError:
        return raw


def is_generic(raw: str) -> bool:
    """Tell whether a raw line of a log says only that something failed, and that the cause stands elsewhere."""
    return bool(_ELSEWHERE.search(clean_line(raw)))


def _visible(raw: str) -> str:
    """Return what a line shows in the end: no colours, no progress bars, the text after the last carriage return."""
    text = _ANSI.sub("", _unwrapped(raw) if raw.startswith('{"log"') else raw)
    if _BAR.search(text):
        text = _PROGRESS.sub("", text)
    return next((piece for piece in reversed(text.split("\r")) if piece.strip()), "").rstrip()


def _parse(number: int, raw: str) -> _Line:
    text, tag, level = _visible(raw[:_LINE_WIDTH]), "", ""
    stripped = True
    while stripped:
        stripped = False
        for prefix in _PREFIXES:
            match = prefix.match(text)
            if match:
                text, stripped = text[match.end() :], True
                groups = match.groupdict()
                tag = groups.get("tag") or tag
                level = groups.get("level") or _LETTERS.get(groups.get("letter", "")) or level
    if not level:
        word = _LEVEL_WORD.search(text)
        level = word["level"].upper() if word else "WARNING" if _PYTHON_WARNING.search(text) else ""
    return _Line(number, tag, level, text)


def clean_line(raw: str) -> str:
    """Return what a raw line of a log says: no colours, progress bars, process or time prefixes; may be empty."""
    return _parse(0, raw).text.strip()


def progress_line(raw: str) -> str:
    """Return what a raw line tells a person who waits, or an empty string for warnings, fragments and empty lines."""
    line = _parse(0, raw)
    text = line.text.strip()
    return text if not line.warning and line.level != "DEBUG" and len(text.split()) > 1 else ""


def _final_exceptions(lines: Sequence[_Line]) -> Iterator[_Line]:
    """Yield the exception line that ends each traceback, in order; tracebacks of several processes may interleave."""
    for index, start in enumerate(lines):
        if start.quiet or not start.text.strip().startswith(_TRACEBACK):
            continue
        for line in lines[index + 1 : index + 1000]:
            if line.tag != start.tag or line.quiet or line.warning:
                continue
            if line.text.strip().startswith(_TRACEBACK):
                break
            if not line.text.startswith((" ", "\t")) and _EXCEPTION.match(line.text):
                yield line
                break


def _matching(lines: Sequence[_Line], causes: Iterable[Cause]) -> Iterator[tuple[Cause, _Line]]:
    """Give each cause that some line shows, with the first such line."""
    for cause in causes:
        pattern = re.compile(cause.pattern)
        line = next((line for line in lines if pattern.search(line.text)), None)
        if line is not None:
            yield cause, line


def _by_pattern(lines: Sequence[_Line], causes: Sequence[Cause]) -> Iterator[tuple[Cause, _Line]]:
    """Give the causes that some line shows: of errors first, then of warnings, then those told as mere information."""
    told = [line for line in lines if line.text]
    yield from _matching([line for line in told if not line.quiet and not line.warning], causes)
    yield from _matching([line for line in told if line.warning], causes)
    yield from _matching([line for line in told if line.quiet], [cause for cause in causes if cause.quiet])


def _without_pattern(lines: Sequence[_Line]) -> _Line | None:
    errors = [
        line for line in lines if line.text and (line.error or (not line.level and _ERROR_LINE.search(line.text)))
    ]
    candidates = [*_final_exceptions(lines), *errors]
    telling = [line for line in candidates if not _ELSEWHERE.search(line.text) and not _ENDINGS.match(line.text)]
    return next(iter(telling or candidates), None)


def _excerpt(lines: Sequence[_Line], number: int) -> str:
    near = [line.text for line in lines if abs(line.number - number) <= 3 and line.text.strip()]
    return "\n".join(text[:_EXCERPT_WIDTH] for text in near)


def _deadly(lines: Sequence[_Line], causes: Sequence[Cause]) -> Iterator[tuple[Cause | None, _Line]]:
    known = _by_pattern(lines, [cause for cause in causes if cause.fatal])
    first = next(known, None)
    if first is not None:
        yield from chain([first], known)
        return
    line = _without_pattern(lines)
    if line is not None:
        yield None, line


def _found(cause: Cause | None, line: _Line, lines: Sequence[_Line]) -> FoundCause:
    return FoundCause(
        cause=cause,
        line=line.text.strip()[: 2 * _EXCERPT_WIDTH],
        number=line.number,
        excerpt=_excerpt(lines, line.number),
    )


def thinned(log: Sequence[tuple[int, str]]) -> Sequence[tuple[int, str]]:
    """Return a long log without most of what it says over and over: requests, retries, crash loops."""
    if len(log) <= _MANY_LINES:
        return log
    kept: set[int] = set()
    shapes = [_FIGURES.sub("0", text[:200]) for _number, text in log]
    for order in (range(len(log)), range(len(log) - 1, -1, -1)):
        seen: dict[str, int] = {}
        for index in order:
            count = seen[shapes[index]] = seen.get(shapes[index], 0) + 1
            if count <= _ALIKE:
                kept.add(index)
    return [log[index] for index in sorted(kept)]


def find_causes(log: Sequence[tuple[int, str]], causes: Sequence[Cause]) -> list[FoundCause]:
    """Return all that went wrong in a log, from its numbered lines: what it died of first, what it suffers from last.

    The first one is that of `find_cause`; causes that are not fatal follow at the end, also where nothing died.
    """
    lines = [_parse(number, raw) for number, raw in thinned(log)]
    harms = _by_pattern(lines, [cause for cause in causes if not cause.fatal])
    found: dict[str, FoundCause] = {}
    for cause, line in chain(_deadly(lines, causes), harms):
        found.setdefault(cause.id if cause else "", _found(cause, line, lines))
    exact = [item for item in found.values() if item.cause is None or not item.cause.vague]
    return exact or list(found.values())


def find_cause(log_text: str, causes: Sequence[Cause]) -> FoundCause | None:
    """Return why a server died, from its whole log, or None when nothing in it looks like a failure.

    A known pattern wins, the one that stands first in `causes`, wherever its line is; errors go before warnings.
    Without one it is the exception that ends the first traceback (then the first error line) that does not itself
    point elsewhere ("see root cause above").
    """
    lines = [_parse(number, raw) for number, raw in thinned(list(enumerate(log_text.split("\n"), 1)))]
    first = next(_deadly(lines, causes), None)
    return None if first is None else _found(*first, lines)
