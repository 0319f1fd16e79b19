"""The conda layer of a lock: read strictly, fetched by our own downloads, and laid out as a channel of this machine."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from firstlight.environments.conda_packages import CondaPackage
from firstlight.environments.locking.lockfile import CONDA_LOCK, Damage
from firstlight.environments.pipconfig import PipSettings, redact
from firstlight.events import Step
from firstlight.files import write_atomic

CANONICAL = "https://conda.anaconda.org/conda-forge"
_ARCHIVE = re.compile(r"(?P<name>.+)-(?P<version>[^-]+)-(?P<build>[^-]+)\.(?:conda|tar\.bz2)")
_HEX = {"md5": re.compile(r"[0-9a-f]{32}"), "sha256": re.compile(r"[0-9a-f]{64}")}


class LockedConda(msgspec.Struct, frozen=True, kw_only=True):
    """A conda package of a lock: `path` is that under its channel (`linux-64/zstd-1.5.7-….conda`)."""

    path: str
    md5: str
    sha256: str
    depends: tuple[str, ...] = ()

    @property
    def file(self) -> str:
        """The name of its archive."""
        return self.path.rpartition("/")[2]

    @property
    def parts(self) -> tuple[str, str, str]:
        """Its name, version and build."""
        match = _ARCHIVE.fullmatch(self.file)
        return (match["name"], match["version"], match["build"]) if match else (self.file, "", "")


def read_conda_lock(folder: Path, subdir: str) -> tuple[LockedConda, ...]:
    """Return the packages of a build's conda-lock.yml for a platform; none where it has none.

    Raises:
        Damage: it is no lock, or an entry cannot be; the file and the package are named.
    """
    path = folder / CONDA_LOCK
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ()
    except (OSError, UnicodeDecodeError) as error:
        raise _damage(path, str(error)) from error
    document = _parsed(text)
    if isinstance(document, str):
        raise _damage(path, document)
    if not isinstance(document, dict) or document.get("version") != 1 or not isinstance(document.get("package"), list):
        raise _damage(path, "it is no conda-lock file of format 1")
    for number, entry in enumerate(document["package"], 1):
        if not isinstance(entry, dict):
            raise _damage(path, f"package number {number} is no entry: {entry!r:.60}")
    return tuple(_entry(path, entry) for entry in document["package"] if entry.get("platform") == subdir)


def require_conda_lock(folder: Path, subdir: str) -> tuple[LockedConda, ...]:
    """Return the packages of a build's conda-lock.yml for a platform that the build is for.

    Raises:
        Damage: it is missing, it has none for the platform, it is no lock, or an entry cannot be.
    """
    packages = read_conda_lock(folder, subdir)
    if packages:
        return packages
    path = folder / CONDA_LOCK
    raise _damage(path, f"it has no packages for {subdir}" if path.is_file() else "it is missing")


@lru_cache(maxsize=16)
def _parsed(text: str) -> dict[str, Any] | str:
    """Return what a YAML text holds, or why it cannot be read; builds of one Python have the same conda layer."""
    import yaml

    try:
        document: dict[str, Any] = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # a date that is none is a ValueError
        return " ".join(str(error).replace('in "<unicode string>",', "at").split())
    return document


def _entry(path: Path, entry: dict[str, Any]) -> LockedConda:
    name, url, sums = str(entry.get("name")), str(entry.get("url", "")), entry.get("hash") or {}
    needs = entry.get("dependencies") or {}
    if not isinstance(sums, dict) or not isinstance(needs, dict):
        raise _damage(path, f"{name}: its {'dependencies' if isinstance(sums, dict) else 'hashes'} are no table")
    found = {kind: str(sums.get(kind, "")) for kind in _HEX}
    wrong = [kind for kind, form in _HEX.items() if not form.fullmatch(found[kind])]
    if wrong:
        raise _damage(path, f"{name}: it has no valid {' and '.join(wrong)}")
    if not url.startswith(f"{CANONICAL}/") or not _ARCHIVE.fullmatch(url.rpartition("/")[2]):
        raise _damage(path, f"{name}: {redact(url) or 'no address'} is no package of {CANONICAL}")
    locked = LockedConda(
        path=url[len(CANONICAL) + 1 :],
        md5=found["md5"],
        sha256=found["sha256"],
        depends=tuple(f"{one} {spec}".strip() for one, spec in needs.items()),
    )
    if locked.parts[:2] != (name, str(entry.get("version"))):
        raise _damage(path, f"{name}: its address is that of {' '.join(locked.parts[:2])}")
    return locked


def _damage(path: Path, why: str) -> Damage:
    return Damage(f"the lock {path.parent.name} is damaged: {path}", why=why, file=path)


def stock(
    packages: Sequence[LockedConda], channels: Sequence[str], folder: Path, settings: PipSettings, *, step: Step
) -> str:
    """Fetch the packages of a lock, each held against its hash, and return the address of a channel that holds them.

    Args:
        packages: what.
        channels: conda-forge and its mirrors that answer, best first.
        folder: where the archives are kept; what is there already is not fetched again.
        settings: the user's certificate and proxy.
        step: takes the progress, in bytes.

    Raises:
        NetworkFailed: no channel delivers a package; it is named, and what came is kept.
        VerificationFailed: what is delivered is not what the lock promises.
    """
    from firstlight.fetching.fetch import fetch_all
    from firstlight.fetching.types import Source, Transport, Wanted

    places = list(dict.fromkeys([*(channel.rstrip("/") for channel in channels), CANONICAL]))
    items = []
    for package in packages:
        sources = tuple(
            Source(url=f"{place}/{package.path}", name=redact(place), kind="origin" if place == CANONICAL else "host")
            for place in places
        )
        items.append((Wanted(name=package.file, sources=sources, sha256=package.sha256), folder / package.path))
    transport = Transport(
        proxy=settings.proxy,
        cert=settings.cert,
        client_cert=settings.client_cert,
        trusted_hosts=tuple(settings.trusted_hosts),
    )
    fetch_all(items, step=step, transport=transport)
    return _channel_of(packages, folder).absolute().as_uri()


def _channel_of(packages: Sequence[LockedConda], folder: Path) -> Path:
    """Lay a channel of exactly these archives out, and return its folder.

    Each set has a folder of its own, named after its sums: setups that run at the same time must not change the listing
    under each other's solver.
    """
    digest = hashlib.sha256("".join(sorted(package.sha256 for package in packages)).encode()).hexdigest()
    channel = folder / "sets" / digest[:16]
    for subdir in sorted({"noarch", *(package.path.partition("/")[0] for package in packages)}):
        here = {package.file: _record(package, folder) for package in packages if package.path.startswith(f"{subdir}/")}
        (channel / subdir).mkdir(parents=True, exist_ok=True)
        for name in here:
            if not (channel / subdir / name).exists():
                with contextlib.suppress(FileExistsError):
                    (channel / subdir / name).symlink_to(folder.absolute() / subdir / name)
        document = {
            "info": {"subdir": subdir},
            "packages": {name: one for name, one in here.items() if name.endswith(".tar.bz2")},
            "packages.conda": {name: one for name, one in here.items() if name.endswith(".conda")},
            "repodata_version": 1,
        }
        write_atomic(channel / subdir / "repodata.json", json.dumps(document))
    return channel


def _record(package: LockedConda, folder: Path) -> dict[str, Any]:
    name, version, build = package.parts
    number = re.search(r"_(\d+)$", build)
    subdir = package.path.partition("/")[0]
    return {
        "name": name,
        "version": version,
        "build": build,
        "build_number": int(number[1]) if number else 0,
        "subdir": subdir,
        **({"noarch": "python" if any(one.startswith("python ") for one in package.depends) else "generic"}
           if subdir == "noarch" else {}),
        "depends": list(package.depends),
        "md5": package.md5,
        "sha256": package.sha256,
        "size": (folder / package.path).stat().st_size,
    }  # fmt: skip


def specs_of(packages: Sequence[LockedConda]) -> tuple[str, ...]:
    """Return the match specs of exactly these packages."""
    return tuple("{} =={} {}".format(*package.parts) for package in packages)


def from_canonical(packages: Sequence[CondaPackage], channel: str, prefix: Path) -> list[CondaPackage]:
    """Return packages that came from a stocked channel with the addresses that the lock has for them.

    conda's own records in the prefix get them too, so that conda and its tools see where the packages are from.
    """
    for path in sorted((prefix / "conda-meta").glob("*.json")):
        text = path.read_text(encoding="utf-8")
        if channel in text:
            write_atomic(path, text.replace(channel, CANONICAL))
    return [msgspec.structs.replace(one, url=one.url.replace(channel, CANONICAL)) for one in packages]
