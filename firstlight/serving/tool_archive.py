"""The tool as one archive that a bare machine can start from: the same bytes, and so the same hash, everywhere."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import msgspec

import firstlight
from firstlight.errors import FirstlightError
from firstlight.resources import data_folder

_PACKAGE = Path(firstlight.__file__).parent
_LOOSE = ("pyproject.toml", "README.md")
_LAUNCHER = ("firstlight", "lib")
"""Of scripts/: the rest is for maintainers."""


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """An archive of the tool: a tar compressed with xz, with the layout of a checkout."""

    data: bytes
    sha256: str


def pack_tool() -> Archive:
    """Return the running tool as an archive.

    Raises:
        FirstlightError: it was installed without its launcher.
    """
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, file in sorted(members()):
            tar.addfile(_entry(name, file), io.BytesIO(file.read_bytes()))
    data = lzma.compress(stream.getvalue(), preset=9)
    return Archive(data=data, sha256=sha256(data).hexdigest())


def _entry(name: str, file: Path) -> tarfile.TarInfo:
    """Return a member that tells nothing of this machine: no owner, no time."""
    entry = tarfile.TarInfo(f"firstlight/{name}")
    entry.size = file.stat().st_size
    entry.mode = 0o755 if os.access(file, os.X_OK) and name.startswith("scripts/") else 0o644
    entry.mtime = 1
    return entry


def members() -> Iterator[tuple[str, Path]]:
    """Give the files of the tool with their places in a checkout: program, catalogue, templates, launcher.

    Raises:
        FirstlightError: it was installed without some of them.
    """
    try:
        yield from _present()
    except FileNotFoundError as error:
        raise FirstlightError(
            "this firstlight cannot be copied", why=str(error), fix="run it from a checkout, or install its wheel anew"
        ) from error


def _present() -> Iterator[tuple[str, Path]]:
    for folder in ("envs", "templates"):
        yield from _below(data_folder(folder), folder)
    yield from _below(_PACKAGE, "firstlight")
    scripts = data_folder("scripts")
    for name in _LAUNCHER:
        path = scripts / name
        if path.is_dir():
            yield from _below(path, f"scripts/{name}")
        else:
            yield f"scripts/{name}", path
    for name in _LOOSE:
        file = scripts.parent / name
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing")
        yield name, file


def _below(root: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in {"__pycache__", "_data"} and not name.startswith(".")]
        for name in names:
            file = Path(folder) / name
            if file.suffix != ".pyc" and file.is_file():
                yield f"{prefix}/{file.relative_to(root)}", file
