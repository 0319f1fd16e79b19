"""Reads a server's log for the true cause of its death. The last line is seldom it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from firstlight.catalogue.loading import read_toml
from firstlight.catalogue.types import Cause
from firstlight.errors import FirstlightError
from firstlight.resources import data_folder

_LIMIT = 16 * 1024 * 1024
_EXCERPT_WIDTH = 300

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
_PROGRESS = re.compile(
    r"[^\r|]*?\d{1,3}%[^|\r]*\|[^|\r]*\|\s*[\d.,]+\S*/[\d.,?]+\S*\s*\[[^\]\r]*\]"  # bar between two rules
    r"|[^\r|]*?\d{1,3}%[^|\r]*\|\s*\d+/\d+\s*\[[^\]\r]*\]"  # no bar: "50% Completed | 1/2 [00:01<00:01]"
    r"|[^\r|]*?\d+it \[[^\]\r]*it/s\]"
)
_LEVELS = "DEBUG|INFO|WARNING|WARN|ERROR|CRITICAL|FATAL"
_PREFIXES = (
    re.compile(r"^[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d \S+ [^\s\[\]]+\[\d+\]: "),  # journald, syslog
    re.compile(r"^\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?(?: - | )"),
    re.compile(r"^\((?P<tag>[\w.:-]+ pid=\d+)[^)]*\) ?"),  # one of several processes
    re.compile(r"^\[?(?P<tag>rank\d+)\]?: ?"),
    re.compile(rf"^\[?(?P<level>{_LEVELS})\]? \d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)? (?:\[[^\]\s]+:\d+\]|\S+\.py:\d+\]) ?"),
    re.compile(r"^(?P<letter>[IWEF])\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [^\s\]]+:\d+\] ?"),  # glog and torch
    re.compile(rf"^(?P<level>{_LEVELS}):[ \t]+"),
    re.compile(rf"^\[(?P<level>{_LEVELS})\] "),
    re.compile(rf"^[\w.]+ - (?P<level>{_LEVELS}) - (?:\S+:\d+ - )?"),
)
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
    r"|\bfailed to start\.?$",
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


class _Causes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cause: list[Cause] = []


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


def load_causes(engine: str, folder: Path | None = None) -> list[Cause]:
    """Return the causes known of an engine, most specific first; none when it has no causes.toml.

    Raises:
        FirstlightError: the file is wrong: an unknown key, a pattern that is no regular expression, an id used twice.
    """
    path = (folder or data_folder("envs")) / engine / "causes.toml"
    if not path.is_file():
        return []
    causes = read_toml(path, _Causes).cause
    seen: set[str] = set()
    for cause in causes:
        if cause.id in seen:
            raise FirstlightError(f"the cause {cause.id} stands twice in {path}", fix="give one of them another id")
        seen.add(cause.id)
        try:
            re.compile(cause.pattern)
        except re.error as error:
            raise FirstlightError(
                f"the pattern of {cause.id} in {path} is no regular expression",
                why=str(error),
                fix="correct the pattern",
            ) from error
    return causes


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


def _visible(raw: str) -> str:
    """Return what a line shows in the end: no colours, no progress bars, the text after the last carriage return."""
    text = _PROGRESS.sub("", _ANSI.sub("", raw))
    return next((piece for piece in reversed(text.split("\r")) if piece.strip()), "").rstrip()


def _parse(number: int, raw: str) -> _Line:
    text, tag, level = _visible(raw), "", ""
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


def _by_pattern(lines: Sequence[_Line], causes: Iterable[Cause], *, warnings: bool) -> tuple[Cause, _Line] | None:
    wanted = [line for line in lines if line.text and not line.quiet and line.warning is warnings]
    for cause in causes:
        pattern = re.compile(cause.pattern)
        for line in wanted:
            if pattern.search(line.text):
                return cause, line
    return None


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


def find_cause(log_text: str, causes: Sequence[Cause]) -> FoundCause | None:
    """Return why a server died, from its whole log, or None when nothing in it looks like a failure.

    A known pattern wins, the one that stands first in `causes`, wherever its line is; errors go before warnings.
    Without one it is the exception that ends the first traceback (then the first error line) that does not itself
    point elsewhere ("see root cause above").
    """
    lines = [_parse(number, raw) for number, raw in enumerate(log_text.split("\n"), 1)]
    known = _by_pattern(lines, causes, warnings=False) or _by_pattern(lines, causes, warnings=True)
    cause, line = known or (None, _without_pattern(lines))
    if line is None:
        return None
    return FoundCause(
        cause=cause,
        line=line.text.strip()[: 2 * _EXCERPT_WIDTH],
        number=line.number,
        excerpt=_excerpt(lines, line.number),
    )
