"""What tests of fetching share: uv as this machine's pip is set up, hubs on 127.0.0.1, and reporters that remember."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import msgspec

from firstlight.environments.pipconfig import read_pip_settings, uv_arguments
from firstlight.events import Step
from firstlight.models.hub_library import UvTool
from firstlight.models.hubs import Hub, Hubs, load_hubs


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


def hubs(*each: Hub, stall_seconds: float = 60.0, attempts: int = 3) -> Hubs:
    """Return these hubs in place of the real ones; the client libraries stay the real ones."""
    real = load_hubs()
    rules = msgspec.structs.replace(real.download, stall_seconds=stall_seconds, attempts=attempts)
    return msgspec.structs.replace(real, hub=list(each), download=rules)


class Remembered:
    """A reporter that keeps the events."""

    def __init__(self) -> None:
        self.events: list[object] = []

    def step(self) -> Step:
        return Step(self.events.append, "model", "model")

    def text(self) -> str:
        return "\n".join(getattr(event, "text", "") for event in self.events)
