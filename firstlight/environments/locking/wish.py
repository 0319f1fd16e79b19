"""What a lock is made from: everything in the catalogue that decides about the wheels of a build."""

from __future__ import annotations

import hashlib
import re

import msgspec

from firstlight.catalogue.types import Build
from firstlight.environments.platforms import platform_for

CHANNEL = "conda-forge"


class LockWish(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, in words that every index understands.

    `outside` are the distributions, with their versions, that come from somewhere else than the registry: torch and its
    companions of a CUDA line, the engine's own wheel. To resolve, the registry's releases of the same numbers stand in
    for them: their metadata differs in the CUDA libraries alone, and those are left to the first install.
    """

    build: str
    python: str
    platform: str
    requirements: tuple[str, ...]
    constraints: tuple[str, ...]
    excludes: tuple[str, ...]
    overrides: tuple[str, ...]
    outside: tuple[tuple[str, str], ...] = ()
    newest: str | None = None
    cuda_free: bool = False
    """Whether its torch brings no CUDA libraries (a CPU build)."""

    @property
    def digest(self) -> str:
        """The SHA-256 of all that decides."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


def wish_of(engine: str, build: Build, python: str) -> LockWish:
    """Return the wish that a build's lock for a Python is made from, for the oldest glibc that the build takes."""
    companions = {name: version for name, version in build.companions.items() if name not in build.excludes}
    requirements, constraints, overrides = [*build.requirements], [*build.pins], [*build.overrides]
    outside: dict[str, str] = {}
    if build.wheel is not None:
        requirements.append(f"{engine}=={build.release}")
        outside[engine] = version_in(build.wheel.url) or build.release
    if build.torch is not None:
        requirements.append(f"torch=={build.torch}")
        overrides.append(f"torch=={build.torch}")
        constraints += [f"{name}=={version.partition('+')[0]}" for name, version in companions.items()]
    if build.torch is not None and build.torch_local is not None:
        local = build.torch_local
        outside["torch"] = f"{build.torch}+{local}"
        outside |= {name: one if "+" in one else f"{one}+{local}" for name, one in companions.items()}
    return LockWish(
        build=build.id,
        python=python,
        platform=platform_for(build.arch, build.libc),
        requirements=tuple(requirements),
        constraints=tuple(constraints),
        excludes=tuple(build.excludes),
        overrides=tuple(overrides),
        outside=tuple(sorted(outside.items())),
        newest=build.newest,
        cuda_free=build.torch_cuda is None,
    )


def version_in(url: str) -> str | None:
    """Return the version that a wheel's address names, its local part included."""
    match = re.match(r"[A-Za-z0-9_.]+?-([^-]+)-", url.rpartition("/")[2].replace("%2B", "+").replace("%2b", "+"))
    return match[1] if match else None


def environment_yml(build: Build, wish: LockWish, subdirs: tuple[str, ...]) -> str:
    """Return the wish as a conda environment file, which conda, mamba and conda-lock read."""
    outside = dict(wish.outside)
    pip = [f"{name}=={version}" for name, version in wish.outside]
    pip += [line for line in (*wish.requirements, *wish.constraints) if re.split(r"[=<>!~\[ ]", line)[0] not in outside]
    lines = [
        f"# What {build.id} wishes for; what it gets, file by file, stands in the locks beside this file.",
        f"name: {build.id}",
        "channels:",
        f"  - {CHANNEL}",
        "  - nodefaults",
        "platforms:",
        *(f"  - {subdir}" for subdir in subdirs),
        "dependencies:",
        f"  - python {wish.python}.*",
        "  - pip",
        "  - pip:",
        *(f"      - {_quoted(line)}" for line in pip),
    ]
    return "\n".join([*lines, ""])


def _quoted(line: str) -> str:
    return f'"{line}"' if re.search(r"[:#\[\]{}&*!|>'%@`]", line) else line
