"""NVIDIA's Jetson boards: which JetPack a machine has, and whether its driver stack is the board's own."""

from __future__ import annotations

from firstlight.catalogue.types import JetPack, Platforms
from firstlight.machine.facts import Machine
from firstlight.planning.versions import major, numbers


def is_tegra(machine: Machine, platforms: Platforms) -> bool:
    """Tell whether a machine is a Jetson board: by its kernel, its product name, or the capability of its GPU."""
    host = machine.host
    if "tegra" in (host.kernel or "") or "jetson" in (host.product or "").lower():
        return True
    return any(gpu.vendor == "nvidia" and gpu.compute_capability in platforms.tegra for gpu in machine.gpus or [])


def jetpack_of(machine: Machine, platforms: Platforms) -> JetPack | None:
    """Return the JetPack of a Jetson board: by its kernel, else by the CUDA of its driver; None: none, or unknown.

    The kernel comes first because a newer CUDA can be put on a JetPack (CUDA for Tegra, Upgradable Package).
    """
    if not is_tegra(machine, platforms):
        return None
    kernel = machine.host.kernel or ""
    if "tegra" in kernel:
        for known in platforms.jetpack:
            if numbers(kernel)[:2] == numbers(known.kernel):
                return known
    cuda = machine.nvidia.cuda if machine.nvidia is not None else None
    return next((known for known in platforms.jetpack if cuda and major(known.cuda) == major(cuda)), None)


def own_driver_stack(machine: Machine, platforms: Platforms) -> bool:
    """Tell whether the NVIDIA driver is a Jetson board's own, whose number is no desktop driver's."""
    jetpack = jetpack_of(machine, platforms)
    return jetpack is not None and jetpack.own_driver
