"""NVIDIA drivers and the CUDA that they run: the floor of a build, and whether the driver was made for its CUDA.

A driver's number says most where it is a Linux desktop or server driver's. Windows' numbers (WSL), those of Jetson
boards and bare branches say less; there the CUDA that the driver runs is compared.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from firstlight.catalogue.types import Build, CudaLine, Platforms
from firstlight.machine.facts import Machine
from firstlight.planning.platforms import jetpack_of
from firstlight.planning.versions import at_least, branch_only, major, numbers


class Driver(msgspec.Struct, frozen=True, kw_only=True):
    """What is known about a machine's driver, reduced to what may be compared."""

    number: str | None = None
    """A Linux driver's full number."""
    branch: str | None = None
    """Its branch alone; Windows' branches lie between Linux's and compare alike."""
    cuda: str | None = None
    """The newest CUDA that it runs."""
    own: bool = False
    """A Jetson board's own: it runs no CUDA newer than its own, and there is no minor-version compatibility."""
    words: str = "an unknown driver"


def driver_of(machine: Machine, platforms: Platforms) -> Driver:
    """Return what is known about the driver of a machine that has one."""
    nvidia, jetpack = machine.nvidia, jetpack_of(machine, platforms)
    if nvidia is None:
        return Driver()
    cuda = nvidia.cuda if numbers(nvidia.cuda or "") else None
    number = nvidia.driver if numbers(nvidia.driver or "") else None
    if jetpack is not None and jetpack.own_driver:
        runs = cuda or jetpack.cuda
        return Driver(cuda=runs, own=True, words=f"JetPack {jetpack.release}, which runs CUDA {runs}")
    if machine.host.wsl:
        known = f"Windows driver {number}" if number else "Windows' driver"
        words = f"{known}, which runs CUDA {cuda}" if cuda else known
        return Driver(branch=number if cuda is None else None, cuda=cuda, words=words)
    if number is None:
        return Driver(cuda=cuda, words=f"one that runs CUDA {cuda}" if cuda else "an unknown driver")
    if branch_only(number):
        return Driver(branch=number, cuda=cuda, words=number)
    return Driver(number=number, cuda=cuda, words=number)


def cuda_needed(build: Build, lines: Mapping[str, CudaLine]) -> str | None:
    """Return the lowest CUDA that a driver must run for a build: its major version, raised by its driver floor."""
    made = [cuda for cuda in (build.cuda, build.torch_cuda) if cuda]
    if not made or build.driver is None:
        return None
    needed = [f"{max(map(major, made))}.0"]
    needed += [line.version for line in lines.values() if major(line.native_driver) <= major(build.driver)]
    return max(needed, key=numbers)


def runs(driver: Driver, build: Build, lines: Mapping[str, CudaLine]) -> bool | None:
    """Tell whether a driver meets a build's floor; None: unknown, or no more than its branch is known to do."""
    if build.driver is None:
        return True
    if driver.own:
        return native(driver, build)
    if driver.number is not None:
        return at_least(driver.number, build.driver)
    if driver.branch is not None and major(driver.branch) != major(build.driver):
        return major(driver.branch) > major(build.driver)
    if driver.cuda is not None:
        needed = cuda_needed(build, lines)
        return needed is None or at_least(driver.cuda, needed)
    return None


def native(driver: Driver, build: Build) -> bool | None:
    """Tell whether a driver runs a build's CUDA without minor-version compatibility, PTX included; None: unknown."""
    if driver.number is not None:
        return build.native_driver is None or at_least(driver.number, build.native_driver)
    if driver.cuda is not None:
        made = max((cuda for cuda in (build.cuda, build.torch_cuda) if cuda), key=numbers, default=None)
        return made is None or at_least(driver.cuda, made)
    if driver.branch is not None and build.native_driver is not None:
        if major(driver.branch) != major(build.native_driver):
            return major(driver.branch) > major(build.native_driver)
        return None
    return True if build.native_driver is None else None
