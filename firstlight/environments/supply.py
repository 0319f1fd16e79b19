"""Settles, before the plan, where bytes can come from: conda channels that answer, places that hold a CPU torch."""

from __future__ import annotations

import msgspec

from firstlight.catalogue.types import CpuTorch, EngineEntry, Mirrors
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.sources import ChannelProbe, probe_channels, probe_cpu_torch
from firstlight.errors import NetworkFailed
from firstlight.events import Step
from firstlight.machine.facts import Machine
from firstlight.planning.devices import has_nvidia
from firstlight.planning.request import Request, Supply


def settle(
    machine: Machine, entry: EngineEntry, mirrors: Mirrors, request: Request, settings: PipSettings, step: Step
) -> Request:
    """Return the request with its supply filled in by asking the network, all sources at once.

    Raises:
        NetworkFailed: a channel that was asked for by name, or every channel with `--environment conda`, is silent.
    """
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(max_workers=2) as pool:
        channels = pool.submit(_channels, mirrors, request, step)
        torch = pool.submit(_cpu_torch, machine, entry, mirrors, request, settings)
        supply = Supply(channels=channels.result(), cpu_torch=torch.result())
    return msgspec.structs.replace(request, supply=supply)


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
    return "; ".join(f"{probe.url}: {probe.reason}" for probe in probes)


def _cpu_torch(
    machine: Machine, entry: EngineEntry, mirrors: Mirrors, request: Request, settings: PipSettings
) -> dict[str, list[str]] | None:
    wanted = _torch_in_question(machine, entry, request)
    if wanted is None:
        return None
    indexes = [wanted.index, *(mirror for mirror in mirrors.torch_cpu.all if mirror != wanted.index)]
    folders = [*request.find_links, *settings.find_links]
    found = probe_cpu_torch(wanted.version, indexes, folders, arch=machine.host.arch or "x86_64", settings=settings)
    return dict(sorted(found.items(), key=lambda item: not item[0].startswith("index:")))


def _torch_in_question(machine: Machine, entry: EngineEntry, request: Request) -> CpuTorch | None:
    """Return the CPU torch that the plan may need; None where only CUDA builds are in question."""
    if has_nvidia(machine) and entry.cpu != "always" and request.cuda != "cpu":
        return None
    return next((build.cpu_torch for build in entry.build if build.cpu_torch is not None), None)
