"""One build held against one machine and one request: what every rule looks at."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import msgspec

from firstlight.catalogue.names import engine_names, installable_names
from firstlight.catalogue.types import Build, Catalogue, EngineEntry
from firstlight.machine.facts import Machine
from firstlight.planning.devices import Devices
from firstlight.planning.plan import Refusal
from firstlight.planning.request import Request


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One build held against one machine and one request."""

    build: Build
    entry: EngineEntry
    catalogue: Catalogue
    machine: Machine
    request: Request
    devices: Devices
    environment: str
    home: str
    disk_needed: int
    driver_remedy: str | None = None
    """What to do first, where the driver and its CUDA contradict each other."""
    assumed: list[str]
    """Collects what was unknown and taken as met."""


Rule = Callable[[Case], Refusal | None]


def refuse(case: Case, rule: str, reason: str, remedy: str | None = None) -> Refusal:
    """Return a refusal of the case's build."""
    return Refusal(build=case.build.id, rule=rule, reason=reason, remedy=remedy)


def command(engine: str, words: str) -> str:
    """Return the command that sets an engine up with these options, or plans for it where that is all there is."""
    return f"firstlight {'plan ' if engine in _planned_only() else 'setup.'}{engine} {words}"


@cache
def _planned_only() -> frozenset[str]:
    return frozenset(engine_names()) - frozenset(installable_names())


def gigabytes(size: int) -> str:
    """Return a size in words: `2.1 GB` (10^9 bytes) or `61 MB`."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
