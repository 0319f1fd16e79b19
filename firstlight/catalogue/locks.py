"""Where the locks of builds lie: envs/<engine>/<build>/, and which of a build's Pythons have one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from firstlight.catalogue.types import Build
from firstlight.resources import data_folder

_SUBDIRS = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}


def subdir_of(arch: str) -> str:
    """Return conda's name of Linux on an architecture: `linux-64`."""
    return _SUBDIRS[arch]


def lock_folder(engine: str, build: str, envs: Path | None = None) -> Path:
    """Return the folder of a build's locks."""
    return (envs or data_folder("envs")) / engine / build


def lock_path(folder: Path, build: Build, python: str, end: Literal["lock", "pins"] = "lock") -> Path:
    """Return the file of a build's lock for a Python; the best one's name says none.

    Args:
        folder: the build's folder.
        build: the build.
        python: the minor version.
        end: `lock` for the hashed wheels, `pins` for what is held by its version alone.
    """
    return folder / _name(build, python, end)


def _name(build: Build, python: str, end: str) -> str:
    other = "" if python == build.pythons[0] else f"-python{python}"
    return f"requirements.{subdir_of(build.arch)}{other}.{end}"


def locked_pythons(build: Build) -> list[str]:
    """Return the Pythons that a build has locks for: its best; a CPU build, which meets every system's own, all."""
    return build.pythons if build.torch_cuda is None else build.pythons[:1]


def locks_of(folder: Path, build: Build) -> dict[str, Literal["locked", "pinned"]]:
    """Return, by Python, what the locks of a build hold: every file by its hash, or some by their version alone."""
    try:
        names = set(os.listdir(folder))  # noqa: PTH208 - names are enough, and there are many builds
    except OSError:
        return {}
    return {
        python: "pinned" if _name(build, python, "pins") in names else "locked"
        for python in locked_pythons(build)
        if _name(build, python, "lock") in names
    }
