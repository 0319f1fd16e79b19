"""Hashes of pieces, where somebody knows them: each piece is checked when it is whole."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence

from firstlight.fetching.ledger import Ledger
from firstlight.fetching.types import PieceHashes

_BLOCK = 1 << 20


class Pieces:
    """Which pieces have been checked; without hashes everything passes."""

    def __init__(self, given: PieceHashes | None) -> None:
        self.given = given if given is not None and given.size > 0 and given.sha256 else None
        self._good: set[int] = set()
        self._lock = threading.Lock()

    @property
    def grid(self) -> int:
        """Bytes of a piece; 1 where there are none."""
        return self.given.size if self.given else 1

    def check(self, descriptor: int, ledger: Ledger, start: int, end: int) -> Sequence[tuple[int, int]]:
        """Check every whole piece that touches [start, end) and return those that are wrong."""
        if self.given is None:
            return []
        wrong = []
        for number in range(start // self.given.size, -(-end // self.given.size)):
            first, last = number * self.given.size, min((number + 1) * self.given.size, ledger.size)
            with self._lock:
                if number in self._good or number >= len(self.given.sha256):
                    continue
            if ledger.frontier(first) < last:
                continue
            if _sum(descriptor, first, last) == self.given.sha256[number].lower():
                with self._lock:
                    self._good.add(number)
            else:
                wrong.append((first, last))
        return wrong

    def is_good(self, at: int) -> bool:
        """Tell whether the piece that holds a byte has been checked and holds."""
        with self._lock:
            return self.given is not None and at // self.given.size in self._good

    def verified(self, at: int, reach: int, size: int) -> int:
        """Return how far the bytes [at, reach) have been checked."""
        if self.given is None:
            return reach
        with self._lock:
            number = at // self.given.size
            while number * self.given.size < reach and number in self._good:
                number += 1
        return max(at, min(reach, number * self.given.size, size)) if number < len(self.given.sha256) else reach

    def forget(self, start: int, end: int) -> None:
        """Take back what was said of the pieces that touch [start, end)."""
        if self.given is not None:
            with self._lock:
                self._good -= set(range(start // self.given.size, -(-end // self.given.size)))

    def forget_all(self) -> None:
        """Take back everything."""
        with self._lock:
            self._good.clear()


def _sum(descriptor: int, start: int, end: int) -> str:
    found = hashlib.sha256()
    while start < end:
        block = os.pread(descriptor, min(_BLOCK, end - start), start)
        if not block:
            break
        found.update(block)
        start += len(block)
    return found.hexdigest()
