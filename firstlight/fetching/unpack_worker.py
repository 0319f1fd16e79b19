"""The process that unpacks a file while it grows: orders come through a pipe, what happened goes out as JSON lines.

A process of its own, so that the download's hashing and this share two cores; run with `-m` by `unpacker.py`. An order
is a line of JSON: which attempt (`epoch`), the file, how many of its bytes are there (`frontier`), whether that is all
(`end`). A new epoch begins again. The pipe's end means that whoever gave the orders is gone, or has given up: what was
written is removed. Nobody but this process writes into the folder, whose descriptor, and lock, it inherits.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import select
import signal
import sys
import time
from typing import Any

from firstlight.fetching.decompressing import Packed, Plain, stream_of
from firstlight.fetching.extracting import NoRoom, Tree, clear
from firstlight.fetching.recognising import HEAD, recognise_bytes
from firstlight.fetching.tar_headers import Damaged, Refused
from firstlight.fetching.tar_rules import RATIO_FROM, Judge, parts_of
from firstlight.fetching.tar_stream import TarStream

_READ = 1 << 18
_EVERY = 0.2  # seconds between two words about the progress


def tell(event: str, **values: Any) -> None:
    """Write one line for the parent."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
        sys.stdout.flush()


class Orders:
    """The newest order; `look` takes what has come, and waits where there is nothing else to do."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self.newest: dict[str, Any] | None = None
        self.gone = False

    def look(self, *, wait: bool) -> None:
        """Take every order that is there."""
        while not self.gone and select.select([self._descriptor], [], [], None if wait else 0)[0]:
            data = os.read(self._descriptor, 1 << 16)
            self.gone = not data
            *lines, self._rest = (self._rest + data).split(b"\n")
            if lines:
                self.newest = json.loads(lines[-1])
                return


class Attempt:
    """One pass over the file; `step` unpacks a little more of what is there."""

    def __init__(self, order: dict[str, Any], top: int, options: dict[str, Any]) -> None:
        self.epoch: int = order["epoch"]
        self.done = False
        self._options = options
        self._told = 0.0
        self._said = 0
        self._file = os.open(order["path"], os.O_RDONLY | os.O_CLOEXEC)
        self._read = 0
        self._plain = 0
        self._tree = Tree(top)
        self._bare = False
        self._stream: Plain | Packed | None = None
        self._compression = "none"
        judge = Judge(
            unpacked=options["unpacked"],
            members=options["members"],
            include=options["include"],
            exclude=options["exclude"],
        )
        self._tar = TarStream(judge, self._tree)

    def step(self, frontier: int, *, end: bool) -> bool:
        """Unpack a little more; returns whether there was anything to do."""
        if self._stream is None and not self._begin(frontier, end=end):
            return False
        data = os.pread(self._file, min(_READ, frontier - self._read), self._read)
        if data:
            self._read += len(data)
            self._take(data)
            self._tell(frontier, pause=_EVERY)
            return True
        self._tell(frontier, pause=0.0)  # whoever waits for what is there must not wait for what is not
        if self._read < frontier:
            raise Damaged(f"it has {self._read} bytes instead of {frontier}", truncated=True)
        if end:
            self._finish()
        return False

    def _begin(self, frontier: int, *, end: bool) -> bool:
        """Recognise the file as soon as enough of it is there."""
        if frontier < HEAD and not end:
            return False
        found = recognise_bytes(os.pread(self._file, min(HEAD, frontier), 0), whole=end and frontier <= HEAD)
        program = self._options["program"]
        if found.kind == "elf" and program:
            self._bare = True
            self._tree.begin(parts_of(program), 0, executable=True)
        elif found.kind != "tar":
            tell("unrecognised", epoch=self.epoch, kind=found.kind, compression=found.compression, detail=found.detail)
            raise Stopped
        self._compression = found.compression
        self._stream = stream_of(found.compression)
        return True

    def _take(self, data: bytes) -> None:
        if self._stream is None:
            return
        for piece in self._stream.feed(data):
            self._plain += len(piece)
            if self._plain > RATIO_FROM and self._plain > self._options["ratio"] * self._read:
                ratio = self._plain // self._read
                raise Refused("the whole archive", f"is {ratio} times as large as its file: a decompression bomb")
            if self._bare:
                if self._options["unpacked"] is not None and self._plain > self._options["unpacked"]:
                    raise Refused(
                        "the program", f"has more than the {self._options['unpacked']} bytes that were expected"
                    )
                self._tree.write(memoryview(piece))
            else:
                self._tar.feed(piece)

    def _finish(self) -> None:
        if self._stream is not None:
            self._stream.close()
        if self._bare:
            self._tree.end()
        else:
            self._tar.close()
        self.done = True
        tell(
            "done",
            epoch=self.epoch,
            kind="elf" if self._bare else "tar",
            compression=self._compression,
            files=self._tree.files,
            bytes=self._tree.bytes,
            left_out=self._tar.left_out,
            size=self._read,
        )

    def _tell(self, frontier: int, *, pause: float) -> None:
        now = time.monotonic()
        if now - self._told > pause and self._read > self._said:
            self._told, self._said = now, self._read
            tell("progress", epoch=self.epoch, read=self._read, frontier=frontier, written=self._tree.bytes)

    def close(self) -> None:
        """Let go of what is open."""
        self._tree.close()
        os.close(self._file)


class Ended(BaseException):
    """A signal asked for the end."""


class Stopped(Exception):  # noqa: N818 - reads as the sentence that it stands for
    """The reason was told already."""


def _told_failure(error: Exception, epoch: int) -> None:
    if isinstance(error, Refused):
        tell("refused", epoch=epoch, member=error.member, why=error.why)
    elif isinstance(error, Damaged):
        tell("damaged", epoch=epoch, why=error.why, truncated=error.truncated)
    elif isinstance(error, NoRoom):
        tell("no_room", epoch=epoch, needed=error.needed)
    elif isinstance(error, OSError):
        full = error.errno in {errno.ENOSPC, errno.EDQUOT}
        tell("no_room" if full else "failed", epoch=epoch, needed=0, why=error.strerror or str(error))
    elif not isinstance(error, Stopped):
        tell("failed", epoch=epoch, why=f"{type(error).__name__}: {error}")


class Worker:
    """Follows the orders until one attempt is done or nobody gives orders any more."""

    def __init__(self, orders: Orders, top: int, options: dict[str, Any]) -> None:
        self._orders = orders
        self._top = top
        self._options = options
        self._attempt: Attempt | None = None
        self._epoch = -1
        self._fresh = False  # whether the epoch's attempt has yet to begin; one that has failed is not begun again

    def run(self) -> bool:
        """Return True when the folder holds the whole archive, False when it holds nothing."""
        busy = False
        while True:
            self._orders.look(wait=not busy)
            if self._orders.gone:
                self.drop()
                return False
            order = self._orders.newest
            if order is None:
                continue
            try:
                busy = self._follow(order)
            except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told and the folder left empty
                self.drop()
                _told_failure(error, self._epoch)
                busy = False
            if self._attempt is not None and self._attempt.done:
                self._attempt.close()
                return True

    def _follow(self, order: dict[str, Any]) -> bool:
        if order["epoch"] != self._epoch:
            self.drop()
            self._epoch, self._fresh = order["epoch"], True
        if self._fresh and order["path"]:
            self._fresh = False
            self._attempt = Attempt(order, self._top, self._options)
        return self._attempt is not None and self._attempt.step(order["frontier"], end=order["end"])

    def drop(self) -> None:
        """Remove everything that was written; a signal in the middle may make it begin again."""
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.close()
        clear(self._top)


def main() -> int:
    """Do what the orders say; 0 when the archive is unpacked."""
    orders, top = int(sys.argv[1]), int(sys.argv[2])
    worker = Worker(Orders(orders), top, json.loads(sys.argv[3]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    try:
        return 0 if worker.run() else 1
    except Ended:
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        worker.drop()
        tell("stopped", epoch=-1)
        return 1


def _end(_number: int, _frame: object) -> None:
    raise Ended


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)
