"""The machine as the probes see it: a root folder, environment variables, a deadline, and the list of what failed."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from firstlight.machine.facts import ProbeFailure

T = TypeVar("T")
U = TypeVar("U")

READ_LIMIT = 4 << 20
"""No fact stands beyond this many bytes of a file; the kernel's files have no length to ask for."""


class System:
    """Where the probes look.

    Paths of the system (`/proc`, `/etc`, …) lie under `root`, so that a tree on disk can stand for another machine.
    Paths that come from environment variables are taken as they are.

    Args:
        root: `/` for the machine itself.
        environment: the variables that count; PATH, HOME and LD_LIBRARY_PATH among them.
        deadline: seconds until unanswered probes are given up.
    """

    def __init__(self, root: Path, environment: Mapping[str, str], deadline: float) -> None:
        self.root = root
        self.environment = environment
        self.ends = time.monotonic() + deadline
        self._failures: list[ProbeFailure] = []

    @property
    def live(self) -> bool:
        """Whether this is the running machine, which also answers system calls."""
        return str(self.root) == "/"

    @property
    def home(self) -> Path | None:
        """The user's home folder, by HOME."""
        home = self.environment.get("HOME")
        return Path(home) if home else None

    @property
    def failures(self) -> list[ProbeFailure]:
        """What failed so far."""
        return list(self._failures)

    def path(self, absolute: str) -> Path:
        """Return where an absolute path of the system lies on disk."""
        return self.root / absolute.lstrip("/")

    def bytes_of(self, absolute: str) -> bytes | None:
        """Return the first bytes of a file, None where it cannot be read."""
        try:
            with self.path(absolute).open("rb") as stream:
                return stream.read(READ_LIMIT)
        except OSError:
            return None

    def text_of(self, absolute: str) -> str | None:
        """Return a file's text without the white space and NULs around it, None where it cannot be read."""
        data = self.bytes_of(absolute)
        return None if data is None else data.decode("utf-8", "replace").strip("\0 \t\r\n")

    def exists(self, absolute: str) -> bool:
        """Tell whether a file or folder is there."""
        return exists(self.path(absolute))

    def entries(self, absolute: str) -> list[Path]:
        """Return what a folder holds, sorted; empty where it cannot be read."""
        try:
            return sorted(self.path(absolute).iterdir())
        except OSError:
            return []

    def search_path(self) -> Iterator[Path]:
        """Give the folders of PATH once each, without Windows' own under WSL (each look there takes milliseconds)."""
        seen = set()
        for word in self.environment.get("PATH", "").split(os.pathsep):
            drive = word.split("/")[1:3]
            windows = len(drive) == 2 and drive[0] == "mnt" and len(drive[1]) == 1
            if word.startswith("/") and word not in seen and not windows:
                seen.add(word)
                yield Path(word)

    def which(self, program: str) -> Path | None:
        """Return the executable that PATH finds, or None."""
        for folder in self.search_path():
            candidate = folder / program
            if os.access(candidate, os.X_OK) and is_file(candidate):
                return candidate
        return None

    def additions(self, **changes: str | None) -> dict[str, str | None]:
        """Return what makes a child of this process see exactly these variables, with `changes` laid over them."""
        gone: dict[str, str | None] = {name: None for name in os.environ if name not in self.environment}
        return {**gone, **self.environment, **changes}

    def remaining(self, at_most: float) -> float:
        """Return the seconds that are left, never more than `at_most`."""
        return max(0.0, min(at_most, self.ends - time.monotonic()))

    def failed(self, probe: str, reason: str) -> None:
        """Keep why a fact is null."""
        self._failures.append(ProbeFailure(probe=probe, reason=reason))

    def attempt(self, probe: str, read: Callable[[], T], unknown: U) -> T | U:
        """Return what `read` gives back; when it raises, `unknown`, and the reason is kept."""
        try:
            return read()
        except Exception as error:  # noqa: BLE001 - one broken probe must never take the others with it
            self.failed(probe, reason_of(error))
            return unknown


class Background(Generic[T]):
    """Work in a daemon thread, so that a call that never comes back holds up nobody."""

    def __init__(self, name: str, work: Callable[[], T]) -> None:
        self._work = work
        self._done = threading.Event()
        self._outcome: list[T] = []
        self.error: BaseException | None = None
        try:
            threading.Thread(target=self._run, name=name, daemon=True).start()
        except RuntimeError:  # no thread to be had (a tight pids limit): do it here
            self._run()

    def _run(self) -> None:
        try:
            self._outcome.append(self._work())
        except BaseException as error:  # noqa: BLE001 - handed to whoever asks for the outcome
            self.error = error
        finally:
            self._done.set()

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds`; tell whether the work ended."""
        return self._done.wait(max(0.0, seconds))

    def outcome(self, unknown: U) -> T | U:
        """Return what the work gave back, `unknown` while it runs or when it raised."""
        return self._outcome[0] if self._outcome else unknown


class Probe(Generic[T]):
    """One probe, started at once; `value` waits for it until the deadline of all."""

    def __init__(self, system: System, name: str, read: Callable[[System], T], unknown: T) -> None:
        self._system = system
        self._name = name
        self._unknown = unknown
        self._started = time.monotonic()
        self._work = Background(f"probe-{name}", lambda: read(system))

    def value(self) -> T:
        """Return the fact, or the unknown value with the reason kept."""
        ended = self._work.wait(self._system.ends - time.monotonic())
        if not ended:
            self._system.failed(self._name, f"no answer within {time.monotonic() - self._started:.1f} s")
        elif self._work.error is not None:
            self._system.failed(self._name, reason_of(self._work.error))
        return self._work.outcome(self._unknown)


def reason_of(error: BaseException) -> str:
    """Return an exception in one line."""
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def exists(path: Path) -> bool:
    """Tell whether a path is there; what may not be looked at counts as absent."""
    with contextlib.suppress(OSError):
        return path.exists()
    return False


def is_file(path: Path) -> bool:
    """Tell whether a path is a file; what may not be looked at is none."""
    with contextlib.suppress(OSError):
        return path.is_file()
    return False


def printable(path: Path | str) -> str:
    """Return a path as text that JSON can hold, also where its bytes are no UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")
