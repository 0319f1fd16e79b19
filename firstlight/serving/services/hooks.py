"""What starts services again on a machine without systemd: the start hook of the place that rents it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

import msgspec

from firstlight.catalogue.loading import read_toml
from firstlight.home import Home
from firstlight.resources import data_folder


class Host(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of place: any of its variables or files tells it; one with neither matches everywhere."""

    id: str
    name: str
    variables: list[str] = []
    files: list[str] = []
    keeps: str | None = None
    """The folder that stays when the machine goes."""
    steps: list[str]
    sources: dict[str, str]


class _Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    host: list[Host]


class Hook(msgspec.Struct, frozen=True, kw_only=True):
    """What a person pastes where: the line, and the words around it."""

    host: str
    """The place's name."""
    line: str
    steps: list[str]
    warning: str | None = None
    """What is lost all the same."""


def find_host(variables: Mapping[str, str] | None = None, root: Path = Path("/")) -> Host:
    """Return the place that this machine is at, by its variables and files; the first that matches."""
    present = os.environ if variables is None else variables
    hosts = read_toml(data_folder("envs") / "hosts.toml", _Page).host
    for host in hosts:
        signs = host.variables or host.files
        files = any((root / file.lstrip("/")).exists() for file in host.files)
        if not signs or files or any(present.get(name) for name in host.variables):
            return host
    return hosts[-1]


def launcher(home: Home) -> Path:
    """Return the tool's own start in the home: it stays when the root disk goes."""
    return home.root / "bin" / "firstlight"


def start_hook(home: Home, variables: Mapping[str, str] | None = None, root: Path = Path("/")) -> Hook:
    """Return the start hook for this machine. What it runs needs no network and waits for no engine."""
    host = find_host(variables, root)
    line = f"{shlex.quote(str(launcher(home)))} restore"
    steps = [step.replace("{line}", line).replace("{script}", shlex.quote(line)) for step in host.steps]
    return Hook(host=host.name, line=line, steps=steps, warning=_loss(home, host))


def _loss(home: Home, host: Host) -> str | None:
    if host.keeps is None or home.root.resolve().is_relative_to(host.keeps):
        return None
    return (
        f"only {host.keeps} stays on {host.name}, and firstlight's home is {home.root}: it goes with the root disk; "
        f"set it up there: export FIRSTLIGHT_HOME={host.keeps}/firstlight"
    )


def told(home: Home) -> list[str]:
    """Return what a person is told of reboots where systemd does not run: the truth first, then what to paste."""
    hook = start_hook(home)
    lines = [f"Nothing starts services by itself when {hook.host} starts again. {hook.steps[0]}", *hook.steps[1:]]
    return [*lines, *([hook.warning] if hook.warning else [])]
