"""The conda layer of a lock: conda-lock itself, driven through a stand-in for the conda program, writes it."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from firstlight.environments.locking import conda_stand_in
from firstlight.environments.locking.wish import CHANNEL
from firstlight.errors import FirstlightError
from firstlight.resources import data_folder

CANONICAL = f"https://conda.anaconda.org/{CHANNEL}"
RECORDS = "records.json"
_GLIBC = {"linux-64": "2.17", "linux-aarch64": "2.17"}
_SECONDS = 600.0


class Records(msgspec.Struct, frozen=True):
    """envs/conda/records.json: subdir → file name → the record as repodata.json has it."""

    channel: str
    what: str
    packages: dict[str, dict[str, dict[str, Any]]]


def load_records(envs: Path | None = None) -> Records:
    """Return the records of conda packages that travel with firstlight."""
    return msgspec.json.decode(((envs or data_folder("envs")) / "conda" / RECORDS).read_bytes(), type=Records)


def write_channel(folder: Path, records: Records) -> None:
    """Make a folder a channel that lists the records, without their files."""
    for subdir in {*records.packages, "noarch"}:
        files = records.packages.get(subdir, {})
        packages = {name: {**record, "subdir": subdir} for name, record in files.items()}
        document = {
            "info": {"subdir": subdir},
            "packages": {name: record for name, record in packages.items() if name.endswith(".tar.bz2")},
            "packages.conda": {name: record for name, record in packages.items() if name.endswith(".conda")},
            "repodata_version": 1,
        }
        (folder / subdir).mkdir(parents=True, exist_ok=True)
        (folder / subdir / "repodata.json").write_bytes(msgspec.json.encode(document))


def conda_lock(python: str, subdirs: Sequence[str], read: str) -> str:
    """Return a conda-lock.yml (format 1) with Python and what it needs.

    Args:
        python: the minor version.
        subdirs: conda's platforms.
        read: the address of the channel to read; the lock names the canonical one.

    Raises:
        FirstlightError: conda-lock is not installed, or it finds no set of packages.
    """
    if importlib.util.find_spec("conda_lock") is None:
        raise FirstlightError(
            "conda-lock is not installed here",
            why="maintainers' commands need it; nobody else does",
            fix=f"{sys.executable} -m pip install 'firstlight[lock]'",
        )
    with tempfile.TemporaryDirectory(prefix="firstlight-lock-") as name:
        folder = Path(name)
        _write_inputs(folder, python, subdirs)
        command = [sys.executable, "-m", "conda_lock", "lock", "--conda", str(folder / "conda")]
        command += ["--file", str(folder / "environment.yml"), "--lockfile", str(folder / "conda-lock.yml")]
        command += ["--virtual-package-spec", str(folder / "virtual.yml"), "--no-mamba"]
        command += ["--pypi_to_conda_lookup_file", (folder / "mapping.json").as_uri()]
        places = {CHANNEL: {"read": read, "canonical": CANONICAL}}
        own = {
            **os.environ,
            "FIRSTLIGHT_LOCK_CHANNELS": json.dumps(places),
            "FIRSTLIGHT_LOCK_CACHE": str(folder / "cache"),
            "HOME": name,
        }
        done = subprocess.run(
            command, env=own, cwd=folder, text=True, capture_output=True, check=False, timeout=_SECONDS
        )
        if done.returncode != 0:
            raise FirstlightError(
                f"conda-lock finds no packages for Python {python} on {', '.join(subdirs)}",
                why=(done.stderr or done.stdout).strip()[-1500:],
                fix="look at envs/conda/records.json, or name another channel: --channel URL",
            )
        return _neutral((folder / "conda-lock.yml").read_text(encoding="utf-8"))


def _write_inputs(folder: Path, python: str, subdirs: Sequence[str]) -> None:
    program = folder / "conda"
    words = shlex.join([sys.executable, "-I", str(conda_stand_in.__file__)])
    program.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    program.chmod(0o755)
    lines = ["channels:", f"  - {CHANNEL}", "  - nodefaults", "platforms:", *(f"  - {subdir}" for subdir in subdirs)]
    lines += ["dependencies:", f"  - python {python}.*", "  - pip", ""]
    (folder / "environment.yml").write_text("\n".join(lines))
    virtual = {
        "subdirs": {
            subdir: {"packages": {"__glibc": _GLIBC[subdir], "__linux": "3.10", "__unix": "0"}} for subdir in subdirs
        }
    }
    (folder / "virtual.yml").write_text(json.dumps(virtual))  # JSON is YAML
    # Its own mapping is fetched from GitHub, without which it crashes; names that this one lacks stand for themselves.
    entry = {"conda_name": "pip", "import_name": "pip", "pypi_name": "pip", "mapping_source": "firstlight"}
    (folder / "mapping.json").write_text(json.dumps({"pip": entry}))


def _neutral(text: str) -> str:
    """Return the lock without conda-lock's head, whose commands are not ours; the rest is as it wrote it."""
    body = text[text.index("version: 1") :] if "version: 1" in text else text
    body = re.sub(r"(?m)^(\s*- )?.*/environment\.yml$", lambda match: f"{match[1] or '  - '}environment.yml", body)
    return "# Python and its libraries, written by conda-lock; `firstlight lock.update` makes it again.\n" + body
