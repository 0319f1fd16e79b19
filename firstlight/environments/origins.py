"""Where installed wheels came from: URL, hash and size, as uv knows them from what it has just fetched."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from firstlight.environments.distributions import InstalledPackage, canonical, site_packages
from firstlight.environments.owning import Owned, project_file
from firstlight.environments.pipconfig import local_folder, redact
from firstlight.environments.uv_program import UvResult, run_uv
from firstlight.events import Step, silent

_HASHLESS = re.compile(r"Failed to download `(\S+)` to compute missing\s+hashes")
_ATTEMPTS = 12


class Sources(msgspec.Struct, frozen=True):
    """How uv finds wheels: arguments, variables, and all sources for messages, without credentials."""

    arguments: list[str]
    variables: dict[str, str]
    names: list[str]
    owners: list[str] = []
    """Places that own some of the distributions, or hold wheels that are fetched by their address."""
    owned: tuple[Owned, ...] = ()
    """What is asked for of owners."""


def with_origins(
    packages: list[InstalledPackage], python: Path, sources: Sources, cache: Path, hold: tuple[int, ...]
) -> list[InstalledPackage]:
    """Return the packages with source, hash and size filled in from uv's cache: a twentieth of a second, no network.

    Wheels from local folders (uv leaves uv_cache.json in their metadata) get no hash: hashing gigabytes takes time.
    """
    root = site_packages(python)
    by_path = {canonical(file.parent.name.partition("-")[0]) for file in root.glob("*.dist-info/uv_cache.json")}
    placed = [
        msgspec.structs.replace(package, source=package.source or _local_wheel(package, sources))
        if canonical(package.name) in by_path
        else package
        for package in packages
    ]
    known = _locked([package for package in placed if package.source is None], python, sources, cache, hold)
    return [known.get(canonical(package.name), package) for package in placed]


def _local_wheel(package: InstalledPackage, sources: Sources) -> str | None:
    stem = f"{package.name.replace('-', '_')}-{package.version}-"
    for source in (*sources.owners, *sources.names):
        folder = local_folder(source)
        for file in folder.glob(f"{stem}*.whl") if folder is not None and folder.is_dir() else ():
            return file.as_uri()
    return None


def _locked(
    packages: list[InstalledPackage], python: Path, sources: Sources, cache: Path, hold: tuple[int, ...]
) -> dict[str, InstalledPackage]:
    """Ask uv, offline, for the lock (PEP 751) of exactly these packages.

    A wheel whose index tells no hash stops it: then its URL, which uv names, is all there is; the rest is asked again.
    """
    rest = {canonical(package.name): package for package in packages}
    found: dict[str, InstalledPackage] = {}
    with tempfile.TemporaryDirectory(prefix="lock-", dir=cache) as folder:
        for _attempt in range(_ATTEMPTS):
            if not rest:
                break
            wish, lock = Path(folder) / "installed.txt", Path(folder) / "pylock.toml"
            wish.write_text("".join(f"{p.name}=={p.version}\n" for p in rest.values()), encoding="utf-8")
            wishes = [wish, *_owners(sources, rest, Path(folder))]
            result = _compile(python, wishes, lock, sources, cache, hold)
            if result.returncode == 0:
                found.update(_read_lock(lock))
                break
            hashless = _HASHLESS.search(" ".join(line.strip() for line in result.messages))
            name = _distribution(hashless[1]) if hashless else None
            if hashless is None or name not in rest:
                break
            found[name] = msgspec.structs.replace(rest.pop(name), source=redact(hashless[1]))
    return found


def _owners(sources: Sources, rest: Mapping[str, InstalledPackage], folder: Path) -> list[Path]:
    """Write the project file that tells uv who owns what is asked about; none where nothing of it is owned."""
    owned = [item for item in sources.owned if canonical(item.name) in rest]
    if not owned:
        return []
    file = folder / "pyproject.toml"
    file.write_text(project_file(owned, (), without_owners="--no-index" in sources.arguments), encoding="utf-8")
    return [file]


def _compile(
    python: Path, wishes: list[Path], lock: Path, sources: Sources, cache: Path, hold: tuple[int, ...]
) -> UvResult:
    words = ["pip", "compile", "--offline", "--no-deps", "--quiet", "--python", str(python), "--format", "pylock.toml"]
    return run_uv(
        [*words, "--output-file", str(lock), *map(str, wishes), *sources.arguments],
        environment=sources.variables,
        cache=cache,
        step=Step(silent, "lock", "where the wheels came from"),
        hold=hold,
    )


def _distribution(url: str) -> str:
    return canonical(unquote(urlsplit(url).path).rpartition("/")[2].partition("-")[0])


def _read_lock(lock: Path) -> dict[str, InstalledPackage]:
    import tomli

    try:
        document: Mapping[str, Any] = tomli.loads(lock.read_text(encoding="utf-8"))
    except (OSError, tomli.TOMLDecodeError):
        return {}
    found = {}
    for entry in document.get("packages", []):
        files = entry.get("wheels") or ([entry["sdist"]] if "sdist" in entry else [])
        if files and entry.get("version"):
            file = files[0]
            found[canonical(entry["name"])] = InstalledPackage(
                name=entry["name"],
                version=entry["version"],
                source=redact(file.get("url") or file.get("path") or "") or None,
                sha256=file.get("hashes", {}).get("sha256"),
                size=file.get("size"),
            )
    return found
