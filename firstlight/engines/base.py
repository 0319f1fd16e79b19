"""What every engine can tell: how its server is started on a model, and what to expect of it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from firstlight.catalogue.types import Build
from firstlight.home import Home
from firstlight.planning.plan import Launch
from firstlight.process import Command

_CPU_START = 300.0
"""Seconds that a start may take on two busy cores: 160 were measured, most of it Python imports."""
_LOADING_RATE = 50_000_000
"""Bytes of weights per second that a slow network disk still gives."""


class ServingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be served, from which environment, and where. `flags` are the user's own, passed on unchanged."""

    python: Path
    build: Build
    """The build that the plan chose; for an adopted environment the one whose launch rules fit this machine."""
    launch: Launch
    model: Path
    model_bytes: int
    name: str
    host: str
    port: int
    home: Home
    flags: tuple[str, ...] = ()


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is started and reached. `model_id` is the model name that requests must carry."""

    command: Command
    model_id: str
    health_path: str
    ready_timeout: float


class Engine(Protocol):
    """An inference engine with an OpenAI-compatible server of its own."""

    name: str

    def serving(self, request: ServingRequest) -> Serving:
        """Return how its server is started for a request."""
        ...


def clean_environment(request: ServingRequest) -> dict[str, str | None]:
    """Return the variables that every engine gets: nothing of the user's Python, caches in the home, no phoning home.

    The model is a local folder, so that the hub libraries are told to stay offline.
    """
    caches = request.home.root / "cache"
    hub = caches / "huggingface"
    (hub / "hub").mkdir(parents=True, exist_ok=True)  # transformers serve answers 500 without it
    binaries = str(request.python.parent)
    environment: dict[str, str | None] = {
        "PYTHONPATH": None,
        "PYTHONHOME": None,
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "VIRTUAL_ENV": None,
        "CONDA_PREFIX": str(request.python.parent.parent),
        "PATH": _path_with(binaries),
        "HF_HOME": str(hub),
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "XDG_CACHE_HOME": str(caches),
    }
    if request.launch.visible_devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = request.launch.visible_devices
    if request.launch.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    environment.update(request.build.environment)
    return environment


def _path_with(first: str) -> str:
    import os

    rest = [part for part in os.environ.get("PATH", os.defpath).split(os.pathsep) if part and part != first]
    return os.pathsep.join([first, *rest])


def ready_timeout(request: ServingRequest) -> float:
    """Return how many seconds the start may take, by the size of the model."""
    return _CPU_START + 2 * request.model_bytes / _LOADING_RATE
