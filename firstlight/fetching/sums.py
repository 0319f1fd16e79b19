"""The sums of a file's bytes, and whether they are what was promised."""

from __future__ import annotations

import hashlib

from firstlight.fetching.types import Wanted


def promised(wanted: Wanted) -> str | None:
    """Return what the file's sum must be; None where nobody knows one."""
    if wanted.sha256:
        return wanted.sha256.lower()
    return f"git:{wanted.git_sha1.lower()}" if wanted.git_sha1 else None


class Sums:
    """SHA-256, and git's own sum of a blob where only that was promised (SHA-1 over a header with the size)."""

    def __init__(self, wanted: Wanted, size: int | None) -> None:
        self._promised = promised(wanted)
        self._sha256 = hashlib.sha256()
        git = self._promised is not None and self._promised.startswith("git:")
        self._git = hashlib.sha1(b"blob %d\0" % (size or 0), usedforsecurity=False) if git else None

    def update(self, data: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._sha256.update(data)
        if self._git is not None:
            self._git.update(data)

    @property
    def sha256(self) -> str:
        """The SHA-256 so far."""
        return self._sha256.hexdigest()

    @property
    def right(self) -> bool:
        """Tell whether it is the promised sum; without a promise nothing is."""
        return self._promised in {self.sha256, f"git:{self._git.hexdigest()}" if self._git else ""}
