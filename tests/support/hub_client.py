"""What tests of fetching share: uv as this machine's pip is set up, hubs on 127.0.0.1, and reporters that remember."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from firstlight.environments.pipconfig import read_pip_settings, uv_arguments
from firstlight.events import Step
from firstlight.fetching.state import load
from firstlight.fetching.types import Policy
from firstlight.home import Home
from firstlight.models.fetch import FetchedModel, fetch_model
from firstlight.models.hubs import Hub, Hubs, load_hubs
from firstlight.models.reference import parse_reference
from firstlight.models.uv_tool import UvTool


def uv_tool(cache: Path) -> UvTool:
    """Return uv with the user's pip configuration."""
    from uv import find_uv_bin

    arguments, environment = uv_arguments(read_pip_settings())
    return UvTool(
        uv=Path(os.fsdecode(find_uv_bin())),
        arguments=tuple(arguments),
        environment=environment,
        cache=cache,
        python=sys.executable,
    )


def hub(name: str, url: str, source: str = "huggingface", *, official: bool = True) -> Hub:
    """Return one hub; its probe asks for a model that need not be there."""
    probe = "/api/models/any/model" if source == "huggingface" else "/api/v1/models/any/model"
    return Hub(name=name, source=source, url=url, official=official, probe=probe)


def hubs(*each: Hub) -> Hubs:
    """Return these hubs in place of the real ones."""
    return msgspec.structs.replace(load_hubs(), hub=list(each))


def patience(**more: float) -> Policy:
    """Return a policy with short pauses: what is bound to fail fails soon; a busy machine is not taken for silence."""
    return Policy(**{"stall_seconds": 20.0, "retry_wait": 0.02, "retry_wait_max": 0.1, "attempts": 12, **more})  # type: ignore[arg-type]


def same(folder: Path, files: dict[str, bytes]) -> bool:
    """Tell whether a folder holds these files."""
    return all((folder / name).read_bytes() == data for name, data in files.items())


def saved_bytes(folder: Path) -> int:
    """Return how many bytes the states of broken-off downloads under a folder tell of: what a killed process leaves."""
    states = [load(path) for path in folder.rglob("*.partial.json")]
    return sum(end - start for state in states if state is not None for start, end, _owner in state.runs)


def wait_for(what: Callable[[], bool], seconds: float = 300.0) -> bool:
    """Wait until something is so; False when it does not come about."""
    deadline = time.monotonic() + seconds
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Remembered:
    """A reporter that keeps the events."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def step(self) -> Step:
        return Step(self.events.append, "model", "model")

    def text(self) -> str:
        return "\n".join(getattr(event, "text", "") for event in self.events)


class Fetching:
    """One home, and fetching into it."""

    def __init__(self, folder: Path, cache: Path) -> None:
        self.home = Home(folder / "home")
        self.log = folder / "fetch.log"
        self.uv = uv_tool(cache)
        self.said = Remembered()

    def __call__(self, words: str, served: Hubs | None = None, **more: Any) -> FetchedModel:
        """Return the model that `words` name."""
        step, policy = self.said.step(), more.pop("policy", None) or patience()
        reference = parse_reference(words)
        return fetch_model(
            reference, self.home, uv=self.uv, step=step, log=self.log, hubs=served, policy=policy, **more
        )

    def holds(self, source: str, name: str) -> bool:
        """Tell whether the home has a model of this name."""
        return (self.home.models / source / name).exists()
