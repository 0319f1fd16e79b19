"""From a wish to a lock: uv resolves the pip layer against the registry, and every wheel that fits is written down."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli

from firstlight.environments.distributions import canonical
from firstlight.environments.locking.lockfile import LockedWheel, PipLock
from firstlight.environments.locking.wish import LockWish
from firstlight.environments.pipconfig import PipSettings, redact, uv_arguments
from firstlight.environments.uv_program import find_uv
from firstlight.errors import FirstlightError

_CUDA = re.compile(r"nvidia-|cuda-|triton$|torch$")
"""Distributions that belong to one CUDA line, and come along with torch."""
_VIA = re.compile(r"#\s+(?:via\s+)?([A-Za-z0-9][A-Za-z0-9._-]*)\b")
_SECONDS = 600.0


def resolve(
    wish: LockWish, settings: PipSettings, known: Mapping[str, str], *, today: str, index: str | None = None
) -> PipLock:
    """Resolve a wish and return its lock.

    Args:
        wish: what is asked for.
        settings: the user's pip configuration, which names the registry.
        known: file name of a wheel outside of the registry → its SHA-256.
        today: ISO 8601; written into the lock.
        index: replaces the user's own index.

    Raises:
        FirstlightError: it does not resolve; uv's own words tell why.
    """
    with tempfile.TemporaryDirectory(prefix="firstlight-lock-") as name:
        document, via = _compile(wish, settings, Path(name), index)
    packages = {canonical(package["name"]): package for package in document.get("packages", [])}
    outside = {canonical(name): version for name, version in wish.outside}
    gone = _beside(outside, via, packages)
    wheels: list[LockedWheel] = []
    pinned: list[LockedWheel] = []
    for name, package in packages.items():
        if name in outside:
            version = outside[name]
            sums = _sums(known, name, version, wish)
            (wheels if sums else pinned).append(LockedWheel(name=name, version=version, sha256=sums))
        elif name in gone:
            if not wish.cuda_free and name == "triton":
                pinned.append(LockedWheel(name=name, version=package["version"]))
        else:
            wheels.append(LockedWheel(name=name, version=package["version"], sha256=_hashes(package, wish)))
    return PipLock(
        build=wish.build,
        python=wish.python,
        platform=wish.platform,
        wish=wish.digest,
        resolved=today,
        newest=wish.newest,
        wheels=tuple(sorted(wheels)),
        pinned=tuple(sorted(pinned)),
        open="torch" in outside and not wish.cuda_free,
    )


def _hashes(package: Mapping[str, Any], wish: LockWish) -> tuple[str, ...]:
    """Return the sums of a package's wheels; uv lists those that fit the platform."""
    sums = {wheel.get("hashes", {}).get("sha256", "") for wheel in package.get("wheels", [])}
    if not sums or "" in sums:
        raise FirstlightError(
            f"{package['name']} {package['version']} cannot be locked for {wish.build}",
            why="the index does not tell the SHA-256 of its wheels",
            fix="name another index: --index URL",
        )
    return tuple(sorted(sums))


def _beside(outside: Mapping[str, str], via: Mapping[str, set[str]], packages: Iterable[str]) -> set[str]:
    """Return what only a torch of the registry brings along: another torch has its own CUDA libraries, or none."""
    if "torch" not in outside:
        return set()
    gone = set(outside)
    while True:
        further = {
            name for name in packages if name not in gone and _CUDA.match(name) and via.get(name) and via[name] <= gone
        }
        if not further:
            return gone - set(outside)
        gone |= further


def _sums(known: Mapping[str, str], name: str, version: str, wish: LockWish) -> tuple[str, ...]:
    """Return the sums that are known of a distribution's wheels for a Python and an architecture."""
    arch, tag = wish.platform.partition("-")[0], f"cp{wish.python.replace('.', '')}"
    start = f"{name.replace('-', '_')}-{version}-"
    fits = re.compile(rf"{re.escape(start)}(?:{tag}-{tag}|cp3\d+-abi3|py3-none)-.*{arch}\.whl")
    return tuple(sorted({value for file, value in known.items() if fits.fullmatch(file)}))


def _compile(
    wish: LockWish, settings: PipSettings, folder: Path, index: str | None
) -> tuple[dict[str, Any], dict[str, set[str]]]:
    words, variables = uv_arguments(settings)
    if index is not None:
        variables["UV_DEFAULT_INDEX"] = index
    command = [str(find_uv()), "pip", "compile", "--quiet", "--no-build", "--no-header", *words]
    command += ["--python-version", wish.python, "--python-platform", wish.platform]
    command += ["--exclude-newer", wish.newest] if wish.newest else []
    for option in ("constraints", "excludes", "overrides"):
        lines = getattr(wish, option)
        if lines:
            (folder / option).write_text("".join(f"{line}\n" for line in lines))
            command += [f"--{option}", str(folder / option)]
    wanted = folder / "wanted.in"
    wanted.write_text("".join(f"{line}\n" for line in wish.requirements))
    lock = folder / "pylock.toml"
    _run([*command, "--format", "pylock.toml", "--output-file", str(lock), str(wanted)], wish, variables)
    told = _run([*command, "--no-strip-extras", str(wanted)], wish, variables)
    return tomli.loads(lock.read_text(encoding="utf-8")), _reasons(told)


def _run(command: list[str], wish: LockWish, variables: Mapping[str, str]) -> str:
    # The interpreter that runs this serves for any version: nothing is built, and none is to be fetched.
    own = {**os.environ, "UV_NO_CONFIG": "1", "UV_PYTHON": sys.executable, "UV_PYTHON_DOWNLOADS": "never", **variables}
    done = subprocess.run(command, text=True, capture_output=True, check=False, env=own, timeout=_SECONDS)
    if done.returncode != 0:
        raise FirstlightError(
            f"the wish of {wish.build} does not resolve",
            why=redact(done.stderr.strip()[-2000:]),
            fix="change its requirements or pins in the catalogue",
        )
    return done.stdout


def _reasons(text: str) -> dict[str, set[str]]:
    """Return, by name, which distributions ask for it, from uv's annotations (`# via …`)."""
    found: dict[str, set[str]] = {}
    name = ""
    for line in text.splitlines():
        if line and not line.startswith((" ", "#")):
            name = canonical(re.split(r"[=\[ ]", line)[0])
            found[name] = set()
        elif line.strip().startswith("#") and name:
            match = _VIA.search(line.replace("via", "", 1) if "# via" in line else line)
            if match and not line.strip().startswith("# via -r"):
                found[name].add(canonical(match[1]))
    return found
