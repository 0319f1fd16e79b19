"""Unpacking while downloading: a process of its own follows the growing file, and the folder appears when all is right.

What is written lies in a staging folder beside the place where it will be; it is locked while somebody works on it, and
what a killed run has left there is cleared by the next one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import Any, Literal

import msgspec

import firstlight
from firstlight.errors import FirstlightError, VerificationFailed
from firstlight.events import Step
from firstlight.fetching.decompressing import Compression
from firstlight.fetching.recognising import Recognised, no_archive
from firstlight.fetching.staging import STAGING, claim
from firstlight.machine.space import gigabytes, no_room
from firstlight.process import Child, Command

_PATIENCE = 10.0  # seconds for the worker to clear what it wrote
_LAST_WORDS = 30  # seconds at most that what it said may still be on its way once it has ended
_BEAT = 0.1


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds for an archive that nobody vouches for."""

    unpacked: int | None = None
    """Bytes; None: the free space alone bounds."""
    members: int = 100_000
    ratio: int = 300
    """Unpacked to packed bytes, looked at from 256 MiB on."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which members are written, by shell patterns on names such as `lib/x/file`; `*` matches `/` too."""

    include: tuple[str, ...] = ()
    """None: all."""
    exclude: tuple[str, ...] = ()


class Unpacked(msgspec.Struct, frozen=True, kw_only=True):
    """What was unpacked, and where it lies."""

    folder: Path
    kind: Literal["tar", "elf"]
    compression: Compression
    files: int
    bytes: int
    left_out: int = 0
    """Members that the selection left out."""
    size: int = 0
    """Bytes of the archive."""
    sha256: str | None = None
    """Of the archive, where it was computed."""


EVERYTHING = Selection()
BOUNDS = Limits()


class Unpacker:
    """Unpacks a file while it grows; what the download tells it returns at once, only `finish` and `abort` wait.

    Args:
        folder: where the content will lie; it must not exist when it is published.
        name: what people know the archive by.
        step: takes the progress while `finish` waits.
        limits: bounds for what is unpacked.
        selection: which members are written.
        program: where a bare program goes (`bin/NAME`); None: only archives are taken.
        hold: descriptors that the process keeps open (a lock that must outlive us).

    Raises:
        FirstlightError: another firstlight unpacks into the same folder, or it cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        name: str,
        step: Step,
        limits: Limits = BOUNDS,
        selection: Selection = EVERYTHING,
        program: str | None = None,
        hold: tuple[int, ...] = (),
    ) -> None:
        self.folder = folder
        self.staging = folder.with_name(f"{STAGING}{folder.name}")
        self.unpacked: Unpacked | None = None
        self._name = name
        self._step = step
        self._options = {**msgspec.to_builtins(limits), **msgspec.to_builtins(selection), "program": program}
        self._hold = hold
        self._top = claim(self.staging)
        self._epoch = 0
        self._partial: Path | None = None
        self._frontier = 0
        self._advances = 0
        self._unsent = b""
        self._heard: dict[str, Any] | None = None  # how the newest attempt ended
        self._progress: dict[str, Any] = {}
        self._changed = threading.Condition()
        self._child: Child | None = None
        self._orders = -1
        try:
            self._start()
        except BaseException:
            self.abort()
            raise

    def __enter__(self) -> Unpacker:  # noqa: PYI034 - typing has Self from 3.11 on
        return self

    def __exit__(self, *_exception: object) -> None:
        self.abort()

    def _start(self) -> None:
        """Start the worker, which inherits the staging folder with its lock."""
        theirs, ours = os.pipe()
        try:
            os.set_blocking(ours, False)
            root = str(Path(firstlight.__file__).resolve().parent.parent)
            paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
            words = [str(theirs), str(self._top), json.dumps(self._options)]
            command = Command(
                (sys.executable, "-m", "firstlight.fetching.unpack_worker", *words),
                {"PYTHONPATH": os.pathsep.join(paths)},
                Path(root),
            )
            self._orders = ours
            self._child = Child(command, on_line=self._listen, hold=(theirs, self._top, *self._hold), leash=True)
        finally:
            os.close(theirs)

    def _listen(self, line: str) -> None:
        try:
            told = json.loads(line)
        except ValueError:
            return  # an interpreter's own words
        if not isinstance(told, dict) or "event" not in told:
            return
        with self._changed:
            if told["epoch"] != self._epoch and told["event"] != "stopped":
                return  # about bytes that were taken back
            if told["event"] == "progress":
                self._progress = told
            else:
                self._heard = told
                self._changed.notify_all()

    def advance(self, partial: Path, frontier: int) -> None:
        """Take that the first `frontier` bytes of the file are there and in order; never waits."""
        self._partial, self._frontier = partial, frontier
        self._advances += 1
        self._tell(end=False)

    def restart(self) -> None:
        """Take that what was handed over may be wrong: everything is unpacked anew."""
        with self._changed:
            self._epoch += 1
            self._heard, self._progress = None, {}
        self._partial, self._frontier = None, 0
        self._tell(end=False)

    def _tell(self, *, end: bool) -> bool:
        """Give the newest order; where the pipe is full it is left to the next one. Returns whether it went out."""
        if self._orders == -1:
            return False
        path = str(self._partial.absolute()) if self._partial is not None else ""  # the worker stands elsewhere
        order = {"epoch": self._epoch, "path": path, "frontier": self._frontier, "end": end}
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            if self._unsent:
                self._unsent = self._unsent[os.write(self._orders, self._unsent) :]
            if not self._unsent:
                line = json.dumps(order).encode() + b"\n"
                self._unsent = line[os.write(self._orders, line) :]
                return not self._unsent
        return False

    def finish(self) -> None:
        """Wait until everything is written; `unpacked` then says what.

        Raises:
            VerificationFailed: the archive is refused, damaged or cut off, or no archive at all.
            FirstlightError: no room, or the worker was killed again and again. Nothing is left behind.
        """
        try:
            told = self._outcome()
            self._let_go()
        except BaseException:
            self.abort()
            raise
        self.unpacked = msgspec.convert({**told, "folder": self.staging}, Unpacked, strict=False)

    def _outcome(self) -> dict[str, Any]:
        """Return what was unpacked; a worker that was killed (memory ran out?) gets one successor."""
        for attempt in range(2):
            if attempt:
                self._let_go()
                self._start()
            told = self._ending()
            if told is not None and told["event"] == "done":
                return told
            if told is not None:
                raise self._explained(told)
        raise self._killed()

    def _ending(self) -> dict[str, Any] | None:
        """Return how the worker's attempt ended, None where the worker ended without a word."""
        child, sent, before = self._child, False, self._step.bytes
        while child is not None:
            sent = sent or self._tell(end=True)
            with self._changed:
                if self._heard is None and child.poll() is None:
                    self._changed.wait(_BEAT)
                ended = self._heard
                progress = self._progress
            if ended is None and child.poll() is not None:
                for _second in range(_LAST_WORDS):
                    child.wait(1.0)
                return self._heard
            if ended is not None:
                return ended
            if progress:
                written = f"unpacking: {gigabytes(progress['written'])} written"
                done = self._frontier if self._advances > 1 else progress["read"]  # what was told never shrinks
                self._step.progress(done, self._frontier, detail=written)
                self._step.bytes = before  # these bytes came over no network here
        return None

    def _killed(self) -> FirstlightError:
        child = self._child
        status = child.wait(1.0) if child is not None else None
        why = f"signal {-status}" if status is not None and status < 0 else f"status {status}"
        told = child.output[-300:] if child is not None else ""
        return FirstlightError(
            f"the process that unpacks {self._name} was ended twice ({why})",
            why=told.strip().splitlines()[-1] if told.strip() else "the system ends processes when memory runs out",
            fix="see what the system says, then run the same command again: dmesg | tail",
        )

    def _explained(self, told: dict[str, Any]) -> FirstlightError:
        event, why, again = told["event"], told.get("why", ""), "fetch it again"
        if event == "unrecognised":
            return no_archive(
                self._name, msgspec.convert({key: told[key] for key in ("kind", "compression", "detail")}, Recognised)
            )
        if event == "refused":
            return VerificationFailed(
                f"{self._name} was refused: {told['member']} {why}",
                why="no sound release holds such a thing; nothing of the archive was kept",
                fix="look at its members without unpacking: tar -tvf FILE",
            )
        if event == "damaged" and told["truncated"]:
            return VerificationFailed(
                f"{self._name} is cut off", why=why, fix=f"{again}, and compare its size with the publisher's"
            )
        if event == "damaged":
            return VerificationFailed(f"{self._name} is damaged", why=why, fix=again)
        if event == "stopped":
            return FirstlightError(f"the unpacking of {self._name} was stopped", fix="run the same command again")
        if event == "no_room":
            return no_room(self.staging, f"the content of {self._name}", told["needed"] or None)
        return FirstlightError(f"{self._name} could not be unpacked", why=why, fix=f"look at {self.folder.parent}")

    def publish(self) -> Unpacked:
        """Give the folder its name and return what it holds.

        Raises:
            FirstlightError: nothing was unpacked, or something stands there already.
        """
        if self.unpacked is None or self._top == -1:
            raise FirstlightError(f"{self._name} is not unpacked", fix="run the same command again")
        if self.folder.exists() or self.folder.is_symlink():
            raise FirstlightError(
                f"{self.folder} is there already", why="nothing is ever unpacked over it", fix=f"ls -la {self.folder}"
            )
        self.staging.rename(self.folder)
        os.close(self._top)
        self._top = -1
        self.unpacked = msgspec.structs.replace(self.unpacked, folder=self.folder)
        return self.unpacked

    def _let_go(self) -> None:
        """Close the orders and wait for the worker, which clears the folder unless it is done."""
        if self._orders != -1:
            os.close(self._orders)
            self._orders = -1
        self._unsent = b""
        if self._child is not None:
            if self._child.wait(_PATIENCE) is None:
                self._child.stop(grace=1.0)
            self._child = None

    def abort(self) -> None:
        """Give up: the worker ends and what it wrote is removed; after `publish` there is nothing to do."""
        self._let_go()
        if self._top != -1:
            shutil.rmtree(self.staging, ignore_errors=True)
            os.close(self._top)
            self._top = -1
