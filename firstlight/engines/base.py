"""What every engine can tell: how its server is started on a model, and what to expect of it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import msgspec

from firstlight.catalogue.types import Build
from firstlight.environments.generation_store import GenerationStore
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.preview import Preview
from firstlight.environments.spec import Generation
from firstlight.events import Step
from firstlight.home import Home
from firstlight.machine.facts import Machine
from firstlight.models.provide import ServedModel
from firstlight.planning.plan import Launch, Plan
from firstlight.planning.request import Request
from firstlight.process import Command

HUB_CACHE = "huggingface/hub"
"""In the folder of caches; transformers serve answers 500 where it is not there."""
_CPU_START = 300.0
"""Seconds that a start may take on two busy cores: 160 were measured, most of it Python imports."""
_LOADING_RATE = 50_000_000
"""Bytes of weights per second that a slow network disk still gives."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine is told when its environment is to be brought about.

    `hold` are descriptors that programs keep open. `afresh` builds anew even where one of the same wish stands. `here`
    says whether it is for this machine, so that its programs can be run.
    """

    plan: Plan
    build: Build
    machine: Machine
    request: Request
    home: Home
    settings: PipSettings
    log: Path
    hold: tuple[int, ...] = ()
    afresh: bool = False
    here: bool = True


class ServingRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be served, from which environment, and where. `flags` are the user's own, passed on unchanged."""

    prefix: Path
    """The environment's folder, or that of an unpacked release."""
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
    caches: Path | None = None
    """Where its caches lie, made by whoever runs it (a service); None: in the home."""

    @property
    def cache_folder(self) -> Path:
        """Where its caches lie."""
        return self.caches or self.home.root / "cache"

    @property
    def python(self) -> Path:
        """The environment's interpreter, where it is one of Python."""
        return self.prefix / "bin" / "python"


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """How a server is started and reached. `model_id` is the model name that requests must carry."""

    command: Command
    model_id: str
    health_path: str
    ready_timeout: float
    writable: tuple[Path, ...] = ()
    """Folders beside its caches that it writes into: a store of models."""


class Engine(Protocol):
    """An inference engine with an OpenAI-compatible server of its own."""

    name: str
    layouts: tuple[str, ...]
    """The layouts of models that its server reads, best first: `safetensors`, `gguf`, or one of its own."""

    def store(self, home: Home) -> GenerationStore:
        """Return where its environments lie."""
        ...

    def environment(self, work: Work, step: Step) -> Generation:
        """Return the environment of a plan's build: one that is there already, or built beside the current one.

        Called while the engine's lock is held; nothing is switched.
        """
        ...

    def foresee(self, work: Work) -> Preview:
        """Return what `environment` would write and run; nothing where it is there already."""
        ...

    def describe_adopted(self, prefix: Path, home: Home, now: str) -> Generation:
        """Return the generation that would stand for an environment that is there already; nothing is written.

        Raises:
            UsageError: there is none that works.
        """
        ...

    def adopt(self, prefix: Path, home: Home) -> Generation:
        """Take an environment that is there already: a manifest of ours points to it, nothing is written into it."""
        ...

    def own_model(self, text: str, home: Home) -> ServedModel | None:
        """Return the model that the engine itself keeps under this name; None: it keeps none of that name.

        Raises:
            FirstlightError: it keeps one, which is not whole.
        """
        ...

    def fetches(self, text: str) -> bool:
        """Tell whether only the engine itself knows where a model of this name comes from."""
        ...

    def fetch_model(self, text: str, home: Home, step: Step) -> ServedModel:
        """Fetch such a model and return it."""
        ...

    def taking(self, model: ServedModel) -> str | None:
        """Return in words what must be done with a model before the server can read it; None: nothing."""
        ...

    def take(self, model: ServedModel, generation: Generation, work: Work, step: Step) -> ServedModel:
        """Do that, and return the model as the server reads it.

        Raises:
            FirstlightError: it cannot be made readable.
        """
        ...

    def check_flags(self, flags: tuple[str, ...]) -> None:
        """Refuse, before anything is done, words for the server that it can never take.

        Raises:
            UsageError: one of them is none.
        """
        ...

    def serving(self, request: ServingRequest) -> Serving:
        """Return how its server is started for a request."""
        ...

    def load(self, base_url: str, serving: Serving, launch: Launch) -> str | None:
        """Have a running server load the model, where it did not at its start; returns the device that it took.

        None: the server tells none, the plan's is taken as true.

        Raises:
            FirstlightError: it cannot load it, or took another device than the plan says.
        """
        ...


def clean_environment(request: ServingRequest) -> dict[str, str | None]:
    """Return the variables that every engine gets: nothing of the user's Python, caches in the home, no phoning home.

    The model is a local folder, so that the hub libraries are told to stay offline.
    """
    caches = request.cache_folder
    hub = caches / "huggingface"
    if request.caches is None:
        (caches / HUB_CACHE).mkdir(parents=True, exist_ok=True)
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
