"""The in-order end of a growing file: what lies before it is hashed, and handed to whoever unpacks it meanwhile."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from firstlight.fetching.sums import Sums
from firstlight.fetching.types import Consumer

_BLOCK = 4 << 20
_LOOK = 0.05  # seconds between two looks for new bytes


class Frontier:
    """Reads the file once, in order, while it arrives; what came out of order is still in the page cache.

    Args:
        partial: the growing file.
        reach: returns the end of the bytes that are there without a gap from a given offset on.
        consumer: told of every step.
        sums: makes the sums of a file that begins again.
    """

    def __init__(
        self, partial: Path, reach: Callable[[int], int], consumer: Consumer | None, sums: Callable[[], Sums]
    ) -> None:
        self._partial = partial
        self._reach = reach
        self.consumer = consumer
        self.new_sums = sums
        self.sums = sums()
        self.at = 0
        self._turn = threading.Lock()
        self._poke = threading.Event()
        self._stopped = False
        self._again = False
        self.reached = 0
        """How far it may be reading just now."""
        self._thread: threading.Thread | None = None
        self.failure: BaseException | None = None

    def start(self) -> None:
        """Go on in a thread of its own."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="hashing", daemon=True)
            self._thread.start()

    def poke(self) -> None:
        """Say that there may be more."""
        self._poke.set()

    def stop(self) -> None:
        """End the thread; what was read stays counted."""
        self._stopped = True
        self._poke.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def catch_up(self) -> None:
        """Read all that is there, here and now."""
        with self._turn:
            self._read()

    def restart(self) -> None:
        """Begin again: what was read may be wrong."""
        self._again = True
        with self._turn:
            self._again = False
            self.reached = 0
            self.sums = self.new_sums()
            if self.at and self.consumer is not None:
                self.consumer.restart()
            self.at = 0

    def _run(self) -> None:
        try:
            while not self._stopped:
                with self._turn:
                    self._read()
                self._poke.wait(_LOOK)
                self._poke.clear()
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits for us
            self.failure = error

    def _read(self) -> None:
        reach = self._reach(self.at)
        if reach <= self.at:
            return
        self.reached = reach
        with self._partial.open("rb", buffering=0) as stream:
            os.lseek(stream.fileno(), self.at, os.SEEK_SET)
            block = memoryview(bytearray(min(_BLOCK, reach - self.at)))
            while self.at < reach and not self._stopped and not self._again:
                count = stream.readinto(block[: min(_BLOCK, reach - self.at)])
                if not count:
                    raise OSError(f"{self._partial.name} became shorter while it was written")
                self.sums.update(block[:count])
                self.at += count
                if self.consumer is not None:
                    self.consumer.advance(self._partial, self.at)
                if self.at >= reach:
                    reach = self.reached = self._reach(self.at)
