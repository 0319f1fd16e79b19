"""What a probe is given to look at this machine with, and the probe itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from firstlight.catalogue.types import Catalogue
from firstlight.home import Home, default_root, find_home
from firstlight.machine.facts import Machine
from firstlight.machine.mounts import parse_mountinfo, real_mounts
from firstlight.machine.system import Background, System

if TYPE_CHECKING:
    from firstlight.serving.ports import Listener

T = TypeVar("T")

Speed = Literal["normal", "network", "deep"]
"""`normal` always; `network` only with --network; `deep` (reads gigabytes) only with --deep."""


class Look:
    """This machine as the doctor's probes see it.

    Args:
        system: root folder, environment variables and deadline; the readers of files and programs.
        catalogue: all engines.
        facts: waits for the machine's facts, which are read at the same time.
        network: whether the network may be asked.
        deep: whether big files may be read.
    """

    def __init__(
        self,
        system: System,
        catalogue: Catalogue,
        facts: Callable[[], Machine],
        *,
        network: bool = False,
        deep: bool = False,
    ) -> None:
        self.system = system
        self.catalogue = catalogue
        self.network = network
        self.deep = deep
        self._facts = facts
        self._lock = threading.Lock()
        self._locks: dict[Any, threading.Lock] = {}
        self._kept: dict[Any, Any] = {}

    def machine(self) -> Machine:
        """Return the machine's facts; waits for them (up to the deadline of all)."""
        return self._facts()

    def home_in_use(self) -> Home | None:
        """Return the home that is set or in use on this machine; None: there is none yet."""
        return self.once(_find_home)

    def home(self) -> Home:
        """Return the home in use, else the one that this user would have by default."""
        return self.home_in_use() or Home(default_root(dict(self.system.environment)))

    def once(self, read: Callable[[Look], T]) -> T:
        """Return what `read` returns of this look; it is called once, however many probes ask for it."""
        with self._lock:
            lock = self._locks.setdefault(read, threading.Lock())
        with lock:
            if read not in self._kept:
                self._kept[read] = read(self)
            kept: T = self._kept[read]
            return kept

    def path(self, absolute: str) -> Path:
        """Return where an absolute path of the system lies on disk."""
        return self.system.path(absolute)


MOUNT_SECONDS = 1.0
"""For every mount together to say whether it holds a home: one whose server is gone says nothing."""


def _find_home(look: Look) -> Home | None:
    variables = dict(look.system.environment)
    usual = find_home([], variables)
    if usual is not None:
        return Home(usual)
    mounts = real_mounts(parse_mountinfo(look.system.bytes_of("/proc/self/mountinfo") or b""))
    asked = [Background(f"home-{mount.point}", partial(find_home, [mount.point], variables)) for mount in mounts]
    ends = time.monotonic() + MOUNT_SECONDS
    for work in asked:
        work.wait(ends - time.monotonic())
    return next((Home(found) for work in asked if (found := work.outcome(None)) is not None), None)


def listeners(look: Look) -> list[Listener] | None:
    """Return every TCP socket of this machine that listens, None where the kernel's tables cannot be read.

    The kernel takes milliseconds to write them: `look.once(listeners)`.
    """
    from firstlight.serving.ports import parse_listeners

    tables = [look.system.text_of(table) for table in ("/proc/net/tcp", "/proc/net/tcp6")]
    told = [table for table in tables if table]
    return [listener for table in told for listener in parse_listeners(table)] if told else None


class DoctorProbe(msgspec.Struct, frozen=True, kw_only=True):
    """One probe: it fills the field `name` of the evidence with what `read` returns.

    `read` may raise and may hang: both become a finding of the checks that need the field.
    """

    name: str
    read: Callable[[Look], Any]
    speed: Speed = "normal"
