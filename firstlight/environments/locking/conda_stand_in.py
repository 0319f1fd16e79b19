"""Stands in for the `conda` program where conda-lock drives it: solves with py-rattler, and installs nothing.

Run by path as `conda_stand_in.py create --prefix P --dry-run --json … --channel C SPEC…`, as conda-lock 4 calls conda,
or `info --json`. FIRSTLIGHT_LOCK_CHANNELS, a JSON object, says where a channel is read and which canonical address the
lock gets: {"conda-forge": {"read": "file:///…", "canonical": "https://conda.anaconda.org/conda-forge"}}.
Source: conda_lock 4.0.3, conda_solver.py and invoke_conda.py. Knows nothing of firstlight.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

_VALUED = {"--prefix", "-p", "--channel", "-c", "--file"}
_FAKE = "conda-lock-fake-repodata"  # virtual packages as a channel, for a conda that cannot be told them: rattler can


def _words(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Return the channels and the specs of a command line."""
    channels, specs, at = [], [], 0
    while at < len(arguments):
        word = arguments[at]
        name, _, value = word.partition("=")
        if name in _VALUED:
            if not (word.startswith("--") and "=" in word):
                at += 1
                value = arguments[at]
            if name in {"--channel", "-c"}:
                channels.append(value)
        elif not word.startswith("-"):
            specs.append(word)
        at += 1
    return [channel for channel in channels if _FAKE not in channel and channel != "nodefaults"], specs


def _virtual() -> list[Any]:
    from rattler import GenericVirtualPackage, PackageName, Version
    from rattler.package import BuildString

    found = [("__unix", "0")]
    for name in ("GLIBC", "LINUX", "CUDA", "ARCHSPEC"):
        value = os.environ.get(f"CONDA_OVERRIDE_{name}")
        if value:
            found.append((f"__{name.lower()}", value))
    return [
        GenericVirtualPackage(PackageName(name), Version("1" if name == "__archspec" else value), BuildString("0"))
        for name, value in found
    ]


async def _solve(channels: list[str], specs: list[str]) -> list[Any]:
    from rattler import Channel, Gateway, Subdir, solve

    places = json.loads(os.environ.get("FIRSTLIGHT_LOCK_CHANNELS", "{}"))
    read = [Channel(places.get(channel.rpartition("/")[2], {}).get("read", channel)) for channel in channels]
    records: list[Any] = await solve(
        read,
        specs,
        gateway=Gateway(cache_dir=Path(os.environ["FIRSTLIGHT_LOCK_CACHE"])),
        platforms=[Subdir(os.environ["CONDA_SUBDIR"]), Subdir("noarch")],
        virtual_packages=_virtual(),
    )
    return records


def _told(record: Any, places: dict[str, dict[str, str]]) -> dict[str, Any]:
    url = record.url
    for place in places.values():
        if url.startswith(place["read"].rstrip("/") + "/"):
            url = place["canonical"] + url[len(place["read"].rstrip("/")) :]
    return {
        "name": record.name.normalized,
        "version": str(record.version),
        "build": str(record.build),
        "build_string": str(record.build),
        "build_number": record.build_number,
        "channel": url.rpartition("/")[0].rpartition("/")[0],
        "depends": list(record.depends),
        "fn": record.file_name,
        "md5": record.md5.hex() if record.md5 else None,
        "sha256": record.sha256.hex() if record.sha256 else None,
        "subdir": record.subdir,
        "url": url,
    }


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


def main() -> int:
    """Answer as conda does."""
    verb, *rest = sys.argv[1:] or ["info"]
    if verb == "info":
        _say(json.dumps({"conda_version": "26.7.1", "pkgs_dirs": [], "envs_dirs": [], "platform": "linux-64"}))
        return 0
    if verb == "--version":
        _say("conda 26.7.1")
        return 0
    if verb != "create":
        _say(json.dumps({"success": False, "message": f"this stand-in cannot {verb}"}))
        return 1
    channels, specs = _words(rest)
    places = json.loads(os.environ.get("FIRSTLIGHT_LOCK_CHANNELS", "{}"))
    try:
        records = [_told(record, places) for record in asyncio.run(_solve(channels, specs))]
    except Exception as error:  # noqa: BLE001 - whatever rattler raises is told in conda's way
        _say(json.dumps({"success": False, "message": str(error), "error": str(error)}))
        return 1
    _say(json.dumps({"success": True, "actions": {"FETCH": records, "LINK": records}}))
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # py-rattler 0.28 may crash when the interpreter ends
