"""Ollama's store of models: can its user read it, are its manifests whole, are all blobs there and right."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from firstlight.machine.system import System, printable

if TYPE_CHECKING:
    from firstlight.engines.ollama.blobs import Layer

_BLOB = re.compile(r"sha256-[0-9a-f]{64}")
_PARTIAL = re.compile(r"sha256-[0-9a-f]{64}-partial(?:-\d+)?")
_MOST_MANIFESTS = 2000
_CHUNK = 4 << 20
_RESERVE = 1.0
"""Seconds before the deadline at which hashing stops, so that what was found out is told."""


class BadModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that cannot be used, and why."""

    model: str
    why: str
    path: str


class Store(msgspec.Struct, frozen=True, kw_only=True):
    """A folder of models: manifests in one folder, or in two with newer releases, and blobs/sha256-<64 hex>."""

    path: str
    user: str | None = None
    """Who must be able to read it; None: whoever asks."""
    there: bool = False
    closed: tuple[str, ...] = ()
    """Folders that do not let that user through, the topmost first, with their modes."""
    unreadable: str | None = None
    """Why we cannot look into it ourselves."""
    models: int = 0
    broken: tuple[BadModel, ...] = ()
    """Manifests that do not parse."""
    missing: tuple[BadModel, ...] = ()
    """Models of which a file is gone or has another size than its manifest says."""
    wrong: tuple[BadModel, ...] | None = None
    """Files with other bytes than their name says; None: they were not hashed."""
    unhashed: int = 0
    """Files for which there was no time."""
    partial_files: int = 0
    partial_bytes: int = 0


def read_store(system: System, path: Path, user: str | None, *, deep: bool) -> Store:
    """Return how a folder of models is.

    Args:
        system: the machine, for its users.
        path: the folder.
        user: who must be able to read it; None: whoever asks.
        deep: hash every blob.
    """
    from firstlight.engines.ollama.manifests import manifest_files, parse, read_bytes

    seen = Store(path=printable(path), user=user, closed=tuple(_closed(system, path, user)) if user else ())
    try:
        os.listdir(path)  # noqa: PTH208 - only whether we may
    except FileNotFoundError:
        return seen
    except OSError as error:
        return msgspec.structs.replace(seen, there=True, unreadable=error.strerror or str(error))
    manifests = list(islice(manifest_files(path), _MOST_MANIFESTS))
    blobs = _blobs(path / "blobs")
    broken: list[BadModel] = []
    missing: list[BadModel] = []
    owners: dict[str, str] = {}
    for name, file in manifests:
        model = str(name)
        try:
            manifest = parse(path, read_bytes(file))
            if not manifest.layers:
                raise msgspec.ValidationError("it names no files")
        except (msgspec.DecodeError, OSError) as error:
            broken.append(BadModel(model=model, why=str(error) or type(error).__name__, path=printable(file)))
            continue
        for digest in manifest.digests:
            owners.setdefault(digest.replace(":", "-"), model)
        missing += [
            BadModel(model=model, why=why, path=printable(path / "blobs" / layer.digest))
            for layer in manifest.blobs
            if (why := _trouble(layer, blobs))
        ]
    wrong, unhashed = _wrong(system, path / "blobs", sorted(blobs), owners) if deep else (None, 0)
    partial = [size for name, size in blobs.items() if _PARTIAL.fullmatch(name)]
    return msgspec.structs.replace(
        seen,
        there=True,
        models=len(manifests),
        broken=tuple(broken),
        missing=tuple(missing),
        wrong=wrong,
        unhashed=unhashed,
        partial_files=len([name for name in blobs if name.endswith("-partial")]),
        partial_bytes=sum(partial),
    )


def _blobs(folder: Path) -> dict[str, int]:
    """Return the sizes of what lies among the blobs, by name; for a partial file the bytes that it takes up."""
    sizes: dict[str, int] = {}
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return sizes
    for entry in entries:
        try:
            status = entry.stat()  # links are followed: a blob may be one
        except OSError:
            continue
        if stat.S_ISREG(status.st_mode):
            partial = _PARTIAL.fullmatch(entry.name)
            sizes[entry.name] = min(status.st_size, status.st_blocks * 512) if partial else status.st_size
    return sizes


def _trouble(layer: Layer, blobs: dict[str, int]) -> str | None:
    name = layer.digest.replace(":", "-")
    size = blobs.get(name)
    if size is None:
        short = name[:19]
        return f"its file {short}… is only partly there" if f"{name}-partial" in blobs else f"its file {short}… is gone"
    if layer.size >= 0 and size != layer.size:
        return f"its file {name[:19]}… has {size:,} bytes instead of {layer.size:,}"
    return None


def _wrong(system: System, folder: Path, names: list[str], owners: dict[str, str]) -> tuple[tuple[BadModel, ...], int]:
    """Return the blobs whose bytes are not what their names say, and for how many there was no time.

    Ollama itself never looks at them again after a download.
    """
    found: list[BadModel] = []
    blobs = [name for name in names if _BLOB.fullmatch(name)]
    for index, name in enumerate(blobs):
        if system.remaining(2 * _RESERVE) < _RESERVE:
            return tuple(found), len(blobs) - index
        why = _wrong_bytes(system, folder / name)
        if why is not None:
            found.append(BadModel(model=owners.get(name, "no model"), why=why, path=printable(folder / name)))
    return tuple(found), 0


def _wrong_bytes(system: System, file: Path) -> str | None:
    """Return in words how a blob's bytes are not what its name says; None: they are, or there was no time to tell."""
    import hashlib

    digest, wanted = hashlib.sha256(), file.name.partition("-")[2]
    try:
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
                if system.remaining(_RESERVE) < _RESERVE / 2:
                    return None
    except OSError as error:
        return error.strerror or str(error)
    got = digest.hexdigest()
    return None if got == wanted else f"its bytes have the hash {got[:12]}…, its name says {wanted[:12]}…"


def _closed(system: System, path: Path, user: str) -> Iterator[str]:
    """Give the folders on the way to `path` that do not let a user through, and `path` itself where it is closed."""
    ids = _ids(system, user)
    if ids is None or ids[0] == 0:
        return
    uid, groups = ids
    root = system.root
    folders = [folder for folder in [*reversed(path.parents), path] if root in folder.parents]
    for folder in folders:
        try:
            status = folder.stat()
        except OSError:
            return
        wanted = 0o5 if folder == path else 0o1
        if (_bits(status, uid, groups) & wanted) != wanted:
            yield f"{printable(folder)} (mode {stat.S_IMODE(status.st_mode):04o}, owner {status.st_uid})"


def _bits(status: os.stat_result, uid: int, groups: set[int]) -> int:
    if status.st_uid == uid:
        return (status.st_mode >> 6) & 0o7
    if status.st_gid in groups:
        return (status.st_mode >> 3) & 0o7
    return status.st_mode & 0o7


def _ids(system: System, user: str) -> tuple[int, set[int]] | None:
    """Return a user's number and groups by /etc/passwd and /etc/group; None: there is no such user."""
    found: tuple[int, int] | None = None
    for line in (system.text_of("/etc/passwd") or "").splitlines():
        fields = line.split(":")
        if len(fields) > 3 and fields[0] == user and fields[2].isdigit() and fields[3].isdigit():
            found = int(fields[2]), int(fields[3])
    if found is None:
        return None
    groups = {found[1]}
    for line in (system.text_of("/etc/group") or "").splitlines():
        fields = line.split(":")
        if len(fields) > 3 and fields[2].isdigit() and user in fields[3].split(","):
            groups.add(int(fields[2]))
    return found[0], groups
