"""For which C library wheels are chosen, where the environment is for another machine than this one."""

from __future__ import annotations

import os
import platform

from firstlight.errors import FirstlightError, UsageError
from firstlight.machine.facts import Host

_KNOWN = (17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40)
"""The y of the `manylinux_2_y` that uv knows (0.9 to 0.13: `uv pip install --help`)."""
_SPELLINGS = {"amd64": "x86_64", "arm64": "aarch64"}


def this_libc() -> str | None:
    """Return the version of this machine's glibc, None where it has another C library."""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return None
    return version if name == "glibc" and version else None


def python_platform(host: Host, floor: str | None = None) -> str | None:
    """Return the platform that uv must choose wheels for; None where that is this very machine's.

    It is the newest that uv knows and that the machine's glibc is not too old for.

    Args:
        host: the machine.
        floor: the glibc that is taken for granted where the machine's is unknown.

    Raises:
        FirstlightError: its glibc is older than any wheel of today asks for.
    """
    wanted = host.libc_version or floor
    if wanted is None or wanted == this_libc():
        return None
    return platform_for(host.arch or platform.machine(), wanted)


def platform_for(arch: str, libc: str | None) -> str:
    """Return uv's name of a platform: the newest that it knows and that a glibc is not too old for.

    Raises:
        FirstlightError: the glibc is older than any wheel of today asks for.
    """
    if libc is None:
        return f"{spelled(arch)}-unknown-linux-gnu"
    minor = int(libc.split(".")[1])
    fitting = [known for known in _KNOWN if known <= minor]
    if not fitting:
        raise FirstlightError(
            f"no wheels are made for glibc {libc}", fix="use a newer distribution on that machine, or a container"
        )
    return f"{spelled(arch)}-manylinux_2_{fitting[-1]}"


def libc_of(target: str | None) -> str | None:
    """Return the glibc that a platform stands for (`2.28`), this machine's where it is None."""
    return this_libc() if target is None else target.rpartition("manylinux_")[2].replace("_", ".")


def arch_of(target: str | None) -> str:
    """Return the processor architecture that a platform stands for, this machine's where it is None."""
    return spelled(platform.machine()) if target is None else target.partition("-")[0]


def spelled(arch: str) -> str:
    """Return an architecture as wheels spell it."""
    return _SPELLINGS.get(arch, arch)


def conda_overrides(target: str | None) -> dict[str, str]:
    """Return the variables that make conda's solvers choose for a platform's glibc instead of this machine's.

    Source: conda's documentation, "Managing virtual packages": CONDA_OVERRIDE_GLIBC.
    """
    return {} if target is None else {"CONDA_OVERRIDE_GLIBC": libc_of(target) or ""}


def require_same_arch(host: Host) -> None:
    """Refuse to build for another processor: its Python could not be run here.

    Raises:
        UsageError: the machine in question has another architecture.
    """
    here, there = spelled(platform.machine()), spelled(host.arch or platform.machine())
    if here != there:
        raise UsageError(
            f"an environment for {there} cannot be built on this machine, which is {here}",
            why="its own Python has to run while it is built",
            fix="run this command on a machine of that architecture; `firstlight plan` decides for any machine",
        )
