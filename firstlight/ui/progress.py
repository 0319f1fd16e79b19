"""Progress with rate and time left: live bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from firstlight.events import Event, Note, Reporter, StepFinished, StepProgress, StepStarted
from firstlight.fetching.words import duration, rate, size
from firstlight.planning.redacting import without_credentials
from firstlight.ui.terminal import as_typed, is_terminal, speaks_unicode, styled, write

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_LINE_EVERY = 5.0
"""Seconds between two plain lines of one step."""


def amount(event: StepProgress, seconds: float) -> str:
    """Return how far a step is, in words: done, total, share, rate, time left."""
    if event.unit == "items":
        return f"{event.done} of {event.total}" if event.total else f"{event.done}" if event.done else ""
    speed = event.done / seconds if seconds > 0 else 0.0
    if not event.total:
        return f"{size(event.done)}, {rate(speed)}" if event.done else ""
    left = (event.total - event.done) / speed if speed > 0 else None
    share = min(100, 100 * event.done // event.total)
    text = f"{size(event.done)} of {size(event.total)} ({share} %), {rate(speed)}"
    return f"{text}, {duration(left)} left" if left is not None and left >= 0 else text


class PlainProgress:
    """Lines on a stream that is no terminal: when a step starts, every few seconds, and when it ends."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._began: dict[str, float] = {}
        self._said: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Take an event."""
        with self._lock:
            line = self._line(event)
            if line:
                write(self._stream, line)

    def _line(self, event: Event) -> str | None:
        now = time.monotonic()
        if isinstance(event, StepStarted):
            self._began[event.id] = self._said[event.id] = now
            return f"[{event.id}] {event.what}"
        if isinstance(event, StepProgress):
            if now - self._said.get(event.id, 0.0) < _LINE_EVERY:
                return None
            self._said[event.id] = now
            words = [amount(event, now - self._began.get(event.id, now)), event.detail]
            text = "; ".join(word for word in words if word)
            return f"[{event.id}] {text or 'still at it'} ({duration(now - self._began.get(event.id, now))})"
        if isinstance(event, StepFinished):
            return f"[{event.id}] {ending(event)}"
        return as_typed(f"{'WARNING: ' if event.level == 'warn' else ''}{event.text}")


def ending(event: StepFinished) -> str:
    """Return how a step ended, in words."""
    word = {"done": "done", "reused": "already there", "failed": "failed"}[event.outcome]
    moved = f", {size(event.bytes)} at {rate(event.bytes / event.seconds)}" if event.bytes and event.seconds else ""
    detail = f" ({event.detail})" if event.detail else ""
    return f"{word} in {duration(event.seconds)}{moved}{detail}"


_MARKS = {"done": ("✓", "green"), "reused": ("=", "cyan"), "failed": ("✗", "red")}
_PLAIN_MARKS = {"done": ("+", "green"), "reused": ("=", "cyan"), "failed": ("x", "red")}


class LiveProgress:
    """Bars that move on a terminal; what ended stands above them as a line."""

    def __init__(self, stream: TextIO, bars: Progress) -> None:
        self._stream = stream
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, StepStarted):
            self._began[event.id] = time.monotonic()
            self._tasks[event.id] = self._bars.add_task(event.what, total=None, words="")
        elif isinstance(event, StepProgress) and event.id in self._tasks:
            words = [amount(event, time.monotonic() - self._began[event.id]), event.detail]
            self._bars.update(
                self._tasks[event.id],
                total=event.total,
                completed=event.done,
                words="; ".join(word for word in words if word),
            )
        elif isinstance(event, StepFinished):
            task = self._tasks.pop(event.id, None)
            if task is not None:
                self._bars.remove_task(task)
            mark, style = _MARKS[event.outcome] if speaks_unicode(self._stream) else _PLAIN_MARKS[event.outcome]
            self._above(f"{styled(mark, style, self._stream)} {event.what}: {ending(event)}")
        elif isinstance(event, Note):
            loud = event.level == "warn"
            self._above(styled(f"! {as_typed(event.text)}", "yellow", self._stream) if loud else f"  {event.text}")

    def _above(self, text: str) -> None:
        from rich.text import Text

        self._bars.console.print(Text.from_ansi(text), soft_wrap=True)


EVENT_SCHEMA = "firstlight.event/1"
_EVENT_EVERY = 0.5
"""Seconds between two JSON lines of one step's progress."""


class EventLines:
    """One JSON document a line (schema firstlight.event/1), for programs that watch: `--json`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._began: dict[str, float] = {}
        self._said: dict[str, float] = {}
        self._whole: set[str] = set()

    def __call__(self, event: Event) -> None:
        """Take an event."""
        with self._lock:
            told = self._told(event)
            if told is not None:
                document = {"schema": EVENT_SCHEMA, **told}
                write(self._stream, without_credentials(json.dumps(document, ensure_ascii=False)))

    def _told(self, event: Event) -> dict[str, str | float | int | None] | None:
        now = time.monotonic()
        if isinstance(event, StepStarted):
            self._began[event.id] = now
            self._whole.discard(event.id)
            self._said.pop(event.id, None)
            return {"event": "started", "step": event.id, "what": event.what, "at": event.at}
        if isinstance(event, StepProgress):
            if not self._due(event, now):
                return None
            return self._moved(event, now)
        if isinstance(event, StepFinished):
            ended = {"event": "finished", "step": event.id, "what": event.what, "outcome": event.outcome}
            return {**ended, "seconds": round(event.seconds, 3), "bytes": event.bytes, "detail": event.detail}
        return {"event": "note", "level": event.level, "text": event.text}

    def _due(self, event: StepProgress, now: float) -> bool:
        """Tell whether a step's progress is worth a line: now and then, and once when all is there."""
        whole = event.total is not None and event.done >= event.total and event.id not in self._whole
        if not whole and now - self._said.get(event.id, -_EVENT_EVERY) < _EVENT_EVERY:
            return False
        self._said[event.id] = now
        if whole:
            self._whole.add(event.id)
        return True

    def _moved(self, event: StepProgress, now: float) -> dict[str, str | float | int | None]:
        took = now - self._began.get(event.id, now)
        speed = event.done / took if took > 0 else 0.0
        left = (event.total - event.done) / speed if event.total and speed > 0 else None
        return {
            "event": "progress",
            "step": event.id,
            "done": event.done,
            "total": event.total,
            "unit": event.unit,
            "rate": round(speed, 1),
            "seconds_left": None if left is None else round(max(0.0, left), 1),
            "detail": event.detail,
        }


@contextmanager
def progress(stream: TextIO | None = None, *, events: bool = False) -> Iterator[Reporter]:
    """Yield the reporter that fits a stream (standard error by default); with `events` one JSON line per event."""
    target = stream or sys.stderr
    if events:
        yield EventLines(target)
        return
    if not is_terminal(target):
        yield PlainProgress(target)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    bars = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[words]}", style="dim", markup=False),
        console=Console(file=target, highlight=False),
        transient=True,
    )
    with bars:
        yield LiveProgress(target, bars)
