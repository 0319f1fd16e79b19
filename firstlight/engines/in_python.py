"""What the engines have in common that live in a Python environment and read safetensors."""

from __future__ import annotations

from pathlib import Path

from firstlight.engines.base import Serving, Work
from firstlight.environments.adopting import describe_adopted
from firstlight.environments.generations import Generation, Store
from firstlight.environments.preview import Preview, preview
from firstlight.environments.spec import EnvironmentSpec
from firstlight.environments.specify import specification
from firstlight.errors import UsageError
from firstlight.events import Step
from firstlight.home import Home
from firstlight.models.provide import ServedModel, ready_to_serve
from firstlight.planning.plan import Launch


class InPython:
    """An engine whose build is a wish for a conda or virtual environment."""

    name: str
    layouts: tuple[str, ...] = ("safetensors",)

    def store(self, home: Home) -> Store:
        """Return where its environments lie."""
        return Store(home, self.name)

    def environment(self, work: Work, step: Step) -> Generation:
        """Return the environment of a plan's build; see `Engine.environment`."""
        store, spec = self.store(work.home), _specification(work)
        present = None if work.afresh else store.find(spec.key)
        if present is not None:
            step.reused(present.id)
            return present
        return store.build(spec, step=step, log=work.log, hold=work.hold, settings=work.settings)

    def foresee(self, work: Work) -> Preview:
        """Return what `environment` would write and run."""
        return preview(self.store(work.home), _specification(work), work.settings)

    def describe_adopted(self, prefix: Path, home: Home, now: str) -> Generation:  # noqa: ARG002 - the protocol's
        """Return the generation that would stand for an environment that is there already."""
        return describe_adopted(prefix, self.name, now)

    def adopt(self, prefix: Path, home: Home) -> Generation:
        """Take an environment that is there already."""
        return self.store(home).adopt(prefix)

    def own_model(self, text: str, home: Home) -> ServedModel | None:  # noqa: ARG002 - the protocol's
        """Return None: these engines keep no models of their own."""
        return None

    def fetches(self, text: str) -> bool:  # noqa: ARG002 - the protocol's
        """Return False: their models come from where all models come from."""
        return False

    def fetch_model(self, text: str, home: Home, step: Step) -> ServedModel:  # noqa: ARG002 - the protocol's
        """Refuse: nothing is fetched in a way of their own."""
        raise UsageError(f'"{text}" names no model', fix="name a folder (./model) or a model of a hub (owner/name)")

    def taking(self, model: ServedModel) -> str | None:
        """Return in words what must be done with a model before the server can read it."""
        return None if model.layout in self.layouts else "GGUF to safetensors, which this engine reads"

    def take(self, model: ServedModel, generation: Generation, work: Work, step: Step) -> ServedModel:
        """Return a GGUF model as safetensors, converted by the environment itself."""
        return ready_to_serve(model, work.home, generation.python_path, step=step, log=work.log, hold=work.hold)

    def check_flags(self, flags: tuple[str, ...]) -> None:
        """Refuse nothing: their own command lines judge their flags."""

    def load(self, base_url: str, serving: Serving, launch: Launch) -> str | None:  # noqa: ARG002 - the protocol's
        """Return None: the model is loaded before the server answers, and on no other device than it was told."""
        return None


def _specification(work: Work) -> EnvironmentSpec:
    return specification(work.plan, work.build, work.machine, work.request)
