"""Asks uv whether an entry's requirements resolve, and what they come to."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import tomli
from packaging.utils import canonicalize_name
from proposing.web import Web

from firstlight.catalogue.types import Build
from firstlight.environments.pipconfig import PipSettings, local_folder, redact, uv_arguments
from firstlight.environments.platforms import platform_for
from firstlight.environments.uv_program import find_uv
from firstlight.errors import FirstlightError

_NCCL = re.compile(r"nvidia-nccl-cu\d+")


class Resolution(NamedTuple):
    """What the requirements of an entry come to."""

    packages: dict[str, str]
    """Distribution → version."""
    download: int
    """Bytes of their wheels; those of unknown size are not in it."""
    unsized: tuple[str, ...]

    def remarks(self, build: Build) -> list[str]:
        """Return what a person should look at."""
        told = []
        nccl = sorted(name for name in self.packages if _NCCL.fullmatch(name))
        if len(nccl) > 1:
            told.append(f"excludes: {', '.join(nccl)} write the same file, the last one wins")
        if "pynvml" in self.packages:
            told.append("excludes: pynvml comes along, beside nvidia-ml-py")
        pinned = {canonicalize_name(re.split(r"[=<>!~\[]", line)[0]) for line in (*build.pins, *build.requirements)}
        if "transformers" in self.packages and "transformers" not in pinned:
            told.append(f"pins: it resolves to transformers=={self.packages['transformers']}")
        if self.unsized:
            told.append(f"sizes.download: without {', '.join(self.unsized)}, whose sizes the index does not tell")
        return told


class Places(NamedTuple):
    """Where wheels come from."""

    web: Web
    own_index: str | None
    """Replaces the user's own index."""
    torch_index: str
    """The parent of PyTorch's indexes."""
    settings: PipSettings


def resolve(build: Build, libc: str | None, places: Places) -> Resolution:
    """Return what a build's requirements come to for its best Python on a machine with this glibc, from wheels alone.

    Raises:
        FirstlightError: they do not resolve; uv's own words tell why.
    """
    words, variables = uv_arguments(places.settings)
    if places.own_index is not None:
        variables["UV_DEFAULT_INDEX"] = places.own_index
    if build.torch_local is not None:
        words += ["--index", f"{places.torch_index}/{build.torch_local}"]
        words += [] if "--index-strategy" in words else ["--index-strategy", "unsafe-best-match"]
    wanted = list(build.requirements)
    if build.torch is not None:
        wanted.append(f"torch=={build.torch_version}" if build.torch_local else f"torch==={build.torch}")
    if build.wheel is not None:
        wanted.append(f"{build.id.partition('-')[0]} @ {build.wheel.url}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lock = folder / "pylock.toml"
        files = _wish_files(folder, build)
        command = [str(find_uv()), "pip", "compile", "--quiet", "--no-build", "--format", "pylock.toml"]
        command += ["--python-version", build.pythons[0], "--python-platform", platform_for(build.arch, libc)]
        command += ["--output-file", str(lock), *files, *words, "-"]
        done = subprocess.run(
            command, input="\n".join(wanted), text=True, capture_output=True, check=False, env=_environment(variables)
        )
        if done.returncode != 0:
            why = redact(done.stderr.strip())
            raise FirstlightError(f"the requirements of {build.id} do not resolve", why=why, fix="see the words above")
        return _read(lock, places.web)


def _wish_files(folder: Path, build: Build) -> list[str]:
    words = []
    for option, lines in (("constraints", build.pins), ("excludes", build.excludes), ("overrides", build.overrides)):
        if lines:
            (folder / f"{option}.txt").write_text("\n".join(lines) + "\n")
            words += [f"--{option}", str(folder / f"{option}.txt")]
    return words


def _environment(variables: dict[str, str]) -> dict[str, str]:
    # The interpreter that runs this serves for any version: nothing is built, and none is to be fetched.
    return {**os.environ, "UV_NO_CONFIG": "1", "UV_PYTHON": sys.executable, "UV_PYTHON_DOWNLOADS": "never", **variables}


def _read(lock: Path, web: Web) -> Resolution:
    document = tomli.loads(lock.read_text(encoding="utf-8"))
    packages: dict[str, str] = {}
    sizes: list[int] = []
    unsized: list[str] = []
    for package in document.get("packages", []):
        packages[package["name"]] = package.get("version", "")
        # uv lists the wheels that fit the platform, best first.
        size = _size((package.get("wheels") or [package.get("archive") or {}])[0], web)
        if size is None:
            unsized.append(package["name"])
        else:
            sizes.append(size)
    return Resolution(packages, sum(sizes), tuple(unsized))


def _size(wheel: dict[str, Any], web: Web) -> int | None:
    """Return the bytes of a wheel: what the index tells, else what lies there."""
    place = wheel.get("url") or wheel.get("path")
    if wheel.get("size") is not None or place is None:
        return wheel.get("size")
    try:
        folder = local_folder(place) or (None if "://" in place else Path(place))
        return folder.stat().st_size if folder is not None else web.total(place)
    except (FirstlightError, OSError):
        return None
