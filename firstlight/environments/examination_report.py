"""What the worker in a new environment has seen, and what the verdicts on it rest on."""

from __future__ import annotations

from pathlib import Path

import msgspec

from firstlight.catalogue.types import Build, Examination
from firstlight.environments.examined import Check
from firstlight.environments.spec import Generation
from firstlight.machine.facts import Gpu, Machine


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """An environment and what it must be: the build that it is for, the machine, and the GPUs that it shall run on."""

    engine: str
    wish: Examination
    build: Build
    generation: Generation
    machine: Machine
    gpus: list[Gpu] = []
    """None of them where it runs on the CPU."""
    tegra: list[str] = []
    """Compute capabilities of Jetson boards."""
    registry_torch: bool = False
    """Whether a CPU build got the registry's CUDA build of torch."""

    @property
    def adopted(self) -> bool:
        """Whether somebody else made it."""
        return self.generation.kind == "adopted"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.generation.python_path


class Told(msgspec.Struct, frozen=True):
    """One event of the worker; which fields it has depends on the event."""

    event: str
    seconds: float = 0.0
    error: str | None = None
    missing: list[str] = []
    """Modules whose absence led to the error."""
    where: list[str] = []
    name: str = ""
    names: list[str] = []
    path: str = ""
    signal: int = 0
    status: int | None = None
    version: str | None = None
    cuda: str | None = None
    flags: str | None = None
    function: str = ""
    tokens: int = 0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that the worker told, and how it came to its end where that was too early."""

    events: list[Told]
    death: str | None = None
    said: list[str] = []
    """The last lines that the engine's command line printed."""

    def one(self, event: str) -> Told | None:
        """Return the first event of a kind."""
        return next((told for told in self.events if told.event == event), None)

    def every(self, event: str) -> list[Told]:
        """Return the events of a kind, in their order."""
        return [told for told in self.events if told.event == event]

    def unfinished(self, step: str) -> Check | None:
        """Return the check of a step that was not brought to its end: it took the worker with it, or came after."""
        if self.death is None:
            return None
        begun = [told.name for told in self.every("begin")]
        if step in begun[:-1]:
            return None
        if begun and step == begun[-1]:
            return Check(id=step, status="fail", summary=self.death)
        at = f" ({begun[-1]})" if begun else ""
        return Check(id=step, status="skip", summary=f"not looked at: {self.death}{at}")

    @property
    def no_driver(self) -> bool:
        """Whether the machine that the worker ran on has no NVIDIA driver."""
        driver = self.one("driver")
        return driver is None or driver.error is not None


def decode(line: str) -> Told | None:
    """Return the event that a line of the worker's output holds; None: a library's own words."""
    start = line.find('{"event"')
    if start < 0:
        return None
    try:
        return msgspec.json.decode(line[start:], type=Told)
    except msgspec.DecodeError:
        return None
