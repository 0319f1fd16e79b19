"""Settles where bytes can come from: conda channels, the package index, torch, and engines' own wheels."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from firstlight.catalogue.types import Build, Mirrors, MirrorSet
from firstlight.environments.asking import Unreachable
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.platforms import spelled
from firstlight.environments.sources import (
    ChannelProbe,
    TorchProbe,
    probe_channels,
    probe_indexes,
    probe_torch,
    torch_places,
)
from firstlight.environments.uv_program import uv_configuration
from firstlight.environments.wheel_sources import WheelProbe, file_name, probe_wheel, wheel_url
from firstlight.errors import NetworkFailed
from firstlight.events import Step
from firstlight.planning.request import Request, Supply

_LONG = 1.0  # seconds: an index that answers within them is never called slow
_FASTER = 3  # so many times faster must a mirror be to be taken instead
_INDEX_KEYS = ("index", "index-url", "default-index", "no-index")


class Finder:
    """Asks where bytes can come from, each question once, and says what a build lacks.

    Args:
        mirrors: the places that are known.
        request: what was asked for.
        settings: the user's pip configuration.
        arch: the processor that wheels are for.
        step: takes notes.
    """

    def __init__(self, mirrors: Mirrors, request: Request, settings: PipSettings, arch: str | None, step: Step) -> None:
        self.mirrors, self.settings, self.step = mirrors, settings, step
        self.request = request
        self.arch = spelled(arch or "x86_64")
        self.unreachable = Unreachable()
        self.torch: dict[str, list[TorchProbe]] = {}
        self.wheels: dict[str, list[WheelProbe]] = {}

    def settle(self, build: Build, python: str) -> Request:
        """Return the request with channels and package index settled, and what a build needs, all asked at once.

        Raises:
            NetworkFailed: a channel that was asked for by name, or every channel with `--environment conda`, is silent.
        """
        with ThreadPoolExecutor(max_workers=3) as pool:
            channels = pool.submit(_channels, self.mirrors, self.request, self.step)
            index = pool.submit(_package_index, self.mirrors.pypi, self.request, self.settings, self.step)
            needs = pool.submit(self._ask, build, python)
            supply = Supply(channels=channels.result(), index=index.result())
            needs.result()
        self.request = msgspec.structs.replace(self.request, supply=supply)
        return self.heard(build, python)

    def heard(self, build: Build, python: str) -> Request:
        """Return the request with what was heard about a build's torch and wheel; what was not asked yet is asked.

        A build is called silent only when the plan that chose it, and its Python, knew the answers already.
        """
        known = self._known(build, python)
        self._ask(build, python)
        before = self.request.supply
        torch = {
            version: {probe.source: probe.pythons for probe in probes if probe.pythons}
            for version, probes in self.torch.items()
        }
        wheels = {name: [probe.url for probe in probes if probe.url] for name, probes in self.wheels.items()}
        lack = self.lack(build, python) if known else ""
        silent = {**before.silent, build.id: lack} if lack else before.silent
        supply = msgspec.structs.replace(before, torch=torch or None, wheels=wheels, silent=silent)
        self.request = msgspec.structs.replace(self.request, supply=supply)
        return self.request

    def _known(self, build: Build, python: str) -> bool:
        torch = build.torch_local is None or build.torch_version in self.torch
        return torch and (build.wheel is None or file_name(wheel_url(build.wheel, python)) in self.wheels)

    def lack(self, build: Build, python: str) -> str:
        """Return what of a build no place has, with every place that was asked and its reason; empty: nothing."""
        probes = self.torch.get(build.torch_version or "", []) if build.torch_local else []
        if probes and build.registry_torch is None and not any(python in probe.pythons for probe in probes):
            told = [_told(probe.source.partition(":")[2], probe.reason or _others(probe)) for probe in probes]
            return f"no torch {build.torch_version} for Python {python} to be had ({'; '.join(told)})"
        name = file_name(wheel_url(build.wheel, python)) if build.wheel else ""
        wheels = self.wheels.get(name, [])
        if wheels and not any(probe.url for probe in wheels):
            return f"no {name} to be had ({'; '.join(_told(probe.place, probe.reason) for probe in wheels)})"
        return ""

    def _ask(self, build: Build, python: str) -> None:
        """Ask about a build's torch and its own wheel at once, where that was not asked before."""
        with ThreadPoolExecutor(max_workers=2) as pool:
            torch = pool.submit(self._ask_torch, build)
            self._ask_wheel(build, python)
            torch.result()

    def _ask_torch(self, build: Build) -> None:
        version, local = build.torch_version, build.torch_local
        if version is None or local is None or version in self.torch:
            return
        mirrors = self.mirrors.torch
        places = torch_places(local, mirrors.all, mirrors.flat, self.request.find_links, self.settings)
        self.torch[version] = probe_torch(
            version, places, arch=self.arch, settings=self.settings, unreachable=self.unreachable
        )

    def _ask_wheel(self, build: Build, python: str) -> None:
        if build.wheel is None:
            return
        name = file_name(wheel_url(build.wheel, python))
        if name not in self.wheels:
            links, known = self.request.find_links, self.unreachable
            self.wheels[name] = probe_wheel(
                build.wheel, python, self.mirrors.github, links, self.settings, unreachable=known
            )


def _told(place: str, reason: str) -> str:
    return f"{place}: {reason}"


def _others(probe: TorchProbe) -> str:
    return f"has it for Python {', '.join(probe.pythons)}"


def _channels(mirrors: Mirrors, request: Request, step: Step) -> list[str]:
    if request.environment == "venv":
        return []
    asked = list(request.channels) or mirrors.conda.all
    probes = probe_channels(asked)
    answering = [probe.url for probe in probes if probe.ok]
    if not answering:
        if request.channels or request.environment == "conda":
            raise NetworkFailed(
                "no conda channel answers", why=_reasons(probes), fix="name one that does with --channel URL"
            )
        first = next((probe for probe in probes if probe.url == asked[0]), probes[0])
        step.warn(
            "no conda channel answers: a virtual environment on this machine's Python is made instead "
            f"({len(probes)} asked; {_reasons([first])})"
        )
    return answering


def _reasons(probes: list[ChannelProbe]) -> str:
    return "; ".join(_told(probe.url, probe.reason) for probe in probes)


def _package_index(pypi: MirrorSet, request: Request, settings: PipSettings, step: Step) -> str | None:
    """Return a mirror in place of the canonical package index, where that is silent or slow; never of a user's own."""
    if request.indexes or settings.index_url or settings.no_index or own_index(os.environ):
        return None
    official, *mirrors = probe_indexes(pypi.all, settings)
    best = min((probe for probe in mirrors if probe.ok), key=lambda probe: probe.seconds, default=None)
    if best is None or (official.ok and official.seconds < max(_LONG, _FASTER * best.seconds)):
        return None
    why = f"takes {official.seconds:.1f} s to answer" if official.ok else official.reason
    step.warn(f"{official.url}: {why}; wheels come from its mirror {best.url} (another one: --index URL)")
    return best.url


def own_index(variables: Mapping[str, str]) -> bool:
    """Tell whether uv's own configuration (variables, uv.toml) names a package index."""
    if any(variables.get(name) for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_NO_INDEX")):
        return True
    file = variables.get("UV_CONFIG_FILE") or uv_configuration().get("UV_CONFIG_FILE")
    if not file:
        return False
    import tomli

    try:
        told = tomli.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return any(key in table for table in (told, told.get("pip", {})) for key in _INDEX_KEYS)
