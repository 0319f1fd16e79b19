"""What is installed in an environment, read from its metadata without running its Python."""

from __future__ import annotations

import base64
import contextlib
import csv
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from firstlight.errors import FirstlightError
from firstlight.files import write_atomic

_FIELD = re.compile(rb"^(Name|Version):[ \t]*(.+?)[ \t]*\r?$", re.MULTILINE)


class InstalledPackage(msgspec.Struct, frozen=True, kw_only=True):
    """An installed distribution, and where its bytes came from, as far as that is known."""

    name: str
    version: str
    source: str | None = None
    """URL or file of the wheel, without credentials."""
    sha256: str | None = None
    size: int | None = None
    """Bytes of the wheel."""


def canonical(name: str) -> str:
    """Return a distribution's name as indexes spell it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def prefix_of(python: Path) -> Path:
    """Return the environment that `PREFIX/bin/python` belongs to; links are not followed."""
    return python.absolute().parent.parent


def site_packages(python: Path) -> Path:
    """Return the folder that pure wheels are installed to.

    Raises:
        FirstlightError: there is none: `python` does not belong to an environment.
    """
    folders = sorted((prefix_of(python) / "lib").glob("python3.*/site-packages"))
    if not folders:
        raise FirstlightError(
            f"{prefix_of(python)} is not a Python environment",
            why=f"it has no lib/python3.*/site-packages beside {python}",
            fix="name a folder that holds bin/python, made by conda or venv",
        )
    return folders[-1]


def python_minor(python: Path) -> str:
    """Return the minor version of an environment's Python, such as `3.12`; see `site_packages` for errors."""
    return site_packages(python).parent.name.removeprefix("python")


def _metadata_files(python: Path) -> Iterator[Path]:
    for folder in site_packages(python).iterdir():
        if folder.name.endswith(".dist-info"):
            yield folder / "METADATA"
        elif folder.name.endswith(".egg-info"):
            yield folder / "PKG-INFO" if folder.is_dir() else folder


def freeze(python: Path) -> list[InstalledPackage]:
    """Return the distributions of an environment, by name; broken metadata is passed over.

    Raises:
        FirstlightError: `python` does not belong to an environment.
    """
    found = []
    for file in _metadata_files(python):
        with contextlib.suppress(OSError):
            with file.open("rb") as stream:
                head = stream.read(4096)
            fields = {key: value.decode(errors="replace") for key, value in reversed(_FIELD.findall(head))}
            if b"Name" in fields and b"Version" in fields:
                found.append(InstalledPackage(name=fields[b"Name"], version=fields[b"Version"]))
    return sorted(found, key=lambda package: canonical(package.name))


def add_metadata_shim(python: Path, name: str, version: str) -> Path:
    """Write minimal metadata, so that `importlib.metadata.version(name)` answers; returns its folder.

    Source: the recording-installed-distributions specification (packaging.python.org): METADATA, INSTALLER, RECORD.
    """
    folder = site_packages(python) / f"{name.replace('-', '_')}-{version}.dist-info"
    contents = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "INSTALLER": "firstlight\n",
    }
    record = []
    for file, text in contents.items():
        write_atomic(folder / file, text)
        record.append(f"{folder.name}/{file},sha256={_digest(text.encode())},{len(text.encode())}\n")
    write_atomic(folder / "RECORD", "".join([*record, f"{folder.name}/RECORD,,\n"]))
    return folder


def _digest(payload: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(payload).digest()).rstrip(b"=").decode()


def damaged(python: Path) -> dict[str, list[str]]:
    """Return the files that are missing or differ from their RECORD, by distribution; everything is read.

    Files of environments are hard links to the cache: one that was edited in place is damaged there too. Only what uv
    has installed is looked at: conda writes scripts of its own, which no RECORD knows.
    """
    root = site_packages(python)
    problems: dict[str, list[str]] = {}
    for record in sorted(root.glob("*.dist-info/RECORD")):
        if not _installed_by_uv(record.parent):
            continue
        with contextlib.suppress(OSError, csv.Error), record.open(newline="", encoding="utf-8") as stream:
            for row in csv.reader(stream):
                if len(row) >= 2 and row[1].startswith("sha256=") and not _intact(root / row[0], row[1][7:]):
                    problems.setdefault(record.parent.name.partition("-")[0], []).append(row[0])
    return problems


def _installed_by_uv(metadata: Path) -> bool:
    try:
        return (metadata / "INSTALLER").read_text(encoding="utf-8").strip() == "uv"
    except (OSError, UnicodeDecodeError):
        return False


def _intact(file: Path, expected: str) -> bool:
    try:
        with file.open("rb") as stream:
            digest = hashlib.sha256()
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except OSError:
        return False
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode() == expected
