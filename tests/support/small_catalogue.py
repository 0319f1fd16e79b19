"""A catalogue of a few made-up builds, so that a rule is shown without figures of real releases."""

from __future__ import annotations

from typing import Any

from firstlight.catalogue.loading import load_catalogue, load_cuda
from firstlight.catalogue.types import Build, Catalogue, EngineEntry, Sizes
from firstlight.machine.facts import Cpu, Disk, Gpu, Host, Machine, Memory, Nvidia, Python
from firstlight.planning.choose import choose
from firstlight.planning.plan import Plan
from firstlight.planning.request import Request

GB = 1_000_000_000
DESKTOP = ["7.0", "8.0", "9.0"]


def build(name: str, release: str = "1.0", cuda: str | None = "12.1", **figures: Any) -> Build:
    """Return a build; its drivers follow from its CUDA as they do in the catalogue."""
    line = load_cuda()[cuda] if cuda else None
    values: dict[str, Any] = {
        "arch": "x86_64",
        "libc": "2.28",
        "pythons": ["3.12"],
        "capabilities": DESKTOP if cuda else None,
        "driver": line.driver if line else None,
        "native_driver": line.native_driver if line else None,
        "sizes": Sizes(download=GB, disk=2 * GB),
        "sources": {},
    }
    return Build(id=name, release=release, cuda=cuda, **{**values, **figures})


def page(*builds: Build, **figures: Any) -> EngineEntry:
    """Return an engine's page with these builds."""
    values: dict[str, Any] = {"engine": "engine", "rank": 1, "summary": "", "cpu": "never", "port": 1}
    return EngineEntry(**{**values, **figures}, build=list(builds))


def catalogue(entry: EngineEntry, *others: EngineEntry) -> Catalogue:
    """Return a catalogue of these pages, on the real tables of CUDA releases and platforms."""
    real = load_catalogue()
    return Catalogue({each.engine: each for each in (entry, *others)}, real.cuda, real.platforms)


def machine(
    *capabilities: str | None, driver: str | None = "580.95.05", cuda: str | None = None, **parts: Any
) -> Machine:
    """Return a machine with a GPU of each capability; `host`, `gpus` and others replace whole parts."""
    values: dict[str, Any] = {
        "host": Host(arch="x86_64", libc="glibc", libc_version="2.35", uid=0, kernel="5.15.0"),
        "cpu": Cpu(cores=8, flags=["avx2"]),
        "memory": Memory(total=64 * GB),
        "disks": [Disk(mount="/", fs="ext4", free=500 * GB, total=900 * GB, writable=True)],
        "nvidia": Nvidia(driver=driver, cuda=cuda),
        "gpus": [Gpu(index=n, name=f"GPU-{n}", compute_capability=cc) for n, cc in enumerate(capabilities)],
        "pythons": [Python(path="/usr/bin/python3", version="3.12.3")],
    }
    return Machine(**{**values, **parts})


def decide(here: Machine, *builds: Build, request: dict[str, Any] | None = None, **figures: Any) -> Plan:
    """Return the plan for a page of these builds."""
    return choose(here, catalogue(page(*builds, **figures)), Request(engine="engine", **(request or {})))


def refusals(plan: Plan) -> dict[str, tuple[str, str]]:
    """Return rule and reason by build."""
    return {item.build: (item.rule, item.reason) for item in plan.refused}
