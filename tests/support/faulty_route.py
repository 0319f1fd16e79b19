"""The addresses of the faulty server: what each one serves, how it misbehaves, and what it saw."""

from __future__ import annotations

import email.utils
import gzip
import hashlib
import mmap
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from support.faults import Faults

BASE_TIME = 1_700_000_000


class Content:
    """The bytes of a file, from memory or from the disk, with what identifies them."""

    def __init__(self, source: bytes | Path, version: int = 0) -> None:
        self.path = source if isinstance(source, Path) else None
        if isinstance(source, Path):
            with source.open("rb") as file:
                self.view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            mark = f"{source.stat().st_size}-{source.stat().st_mtime_ns}"
        else:
            self.view = memoryview(source)
            mark = hashlib.sha256(source).hexdigest()[:32]
        self.size = len(self.view)
        self.etag = f'"{mark}"'
        self.modified = email.utils.formatdate(BASE_TIME + 3600 * version, usegmt=True)

    @cached_property
    def packed(self) -> bytes:
        """All of it, compressed."""
        return gzip.compress(self.view, 1, mtime=0)


@dataclass
class Seen:
    """One request as it came, and the status of the answer (0: none)."""

    method: str
    path: str
    headers: dict[str, str]
    status: int = 0
    given: int = 0

    @property
    def range(self) -> tuple[int, int | None] | None:
        """The first and the last byte asked for."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("range", ""))
        return (int(match[1]), int(match[2]) if match[2] else None) if match else None


@dataclass
class Route:
    """One address: its content, its faults, the requests that came and the bytes of bodies that went out."""

    path: str
    url: str
    content: Content
    faults: Faults = field(default_factory=Faults)
    next: Content | None = None
    """What it serves after `changes_after`, or once `change` is called."""
    seen: list[Seen] = field(default_factory=list)
    given: int = 0
    most_at_once: int = 0
    answering: int = 0
    dead: bool = False
    lock: threading.Condition = field(default_factory=threading.Condition)
    watches: list[tuple[int, Callable[[], None]]] = field(default_factory=list)
    holds: list[tuple[int, Hold]] = field(default_factory=list)
    used: dict[str, int] = field(default_factory=dict)
    free_at: float = 0.0
    """When the line that all connections share is free again."""

    def requests(self, method: str | None = None) -> int:
        """How many requests came."""
        return sum(1 for seen in self.seen if method in {None, seen.method})

    def ranges(self) -> list[tuple[int, int | None]]:
        """The ranges that were asked for by GET, without the probe of the first byte."""
        asked = [seen.range for seen in self.seen if seen.method == "GET"]
        return [pair for pair in asked if pair is not None and pair != (0, 0)]

    def at(self, given: int, action: Callable[[], None]) -> None:
        """Call `action` once, from the server's thread, when so many bytes have gone out from now on."""
        with self.lock:
            self.watches.append((self.given + given, action))

    def hold(self, given: int) -> Hold:
        """Stop every answer when so many bytes more have gone out, until the hold is let go."""
        hold = Hold()
        with self.lock:
            self.holds.append((self.given + given, hold))
        return hold

    def stand_still(self) -> None:
        """Wait where a hold is reached."""
        for given, hold in list(self.holds):
            if given <= self.given:
                hold.wait()

    def change(self) -> None:
        """Serve `next` from now on."""
        with self.lock:
            if self.next is not None:
                if self.faults.quiet:
                    self.next.etag, self.next.modified = self.content.etag, self.content.modified
                self.content, self.next = self.next, None

    def take(self, name: str, most: int) -> bool:
        """Use up one of `most` (negative: endless)."""
        with self.lock:
            self.used[name] = self.used.get(name, 0) + 1
            return most < 0 or self.used[name] <= most

    def turn(self, number: int) -> float:
        """Take so many bytes of the line that all connections share; return the seconds to wait first."""
        rate = self.faults.total_bytes_per_second
        if not rate:
            return 0.0
        with self.lock:
            now = time.monotonic()
            start = max(self.free_at, now)
            self.free_at = start + number / rate
            return start - now

    def count(self, number: int) -> None:
        """Note bytes that went out and run what waits for them."""
        faults = self.faults
        with self.lock:
            self.given += number
            due = [action for given, action in self.watches if given <= self.given]
            self.watches = [watch for watch in self.watches if watch[0] > self.given]
        for action in due:
            action()
        if faults.dies_after is not None and self.given >= faults.dies_after:
            self.dead = True
        if faults.changes_after is not None and self.given >= faults.changes_after:
            self.change()


class Hold:
    """An answer that stands still: `reached` says that it does, `go` lets it go on."""

    def __init__(self) -> None:
        self.reached, self.go = threading.Event(), threading.Event()

    def wait(self) -> None:
        """Stand still."""
        self.reached.set()
        self.go.wait(300)


class Gone(Exception):  # noqa: N818 - what happened, no error of ours
    """The connection is to be dropped without another word."""
