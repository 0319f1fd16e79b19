"""A stand-in for `conda` and `micromamba`: strict about its words, and what it makes is a true prefix.

Run as a program it takes the words of `install`, and lets py-rattler, in the Python that runs the tests, do the work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def write_program(folder: Path, name: str = "micromamba", *, fault: str = "") -> Path:
    """Write the program into a folder; `fault` is `silent` or `stuck`, and applies to channels under /one/."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / name
    program.write_text(
        f'#!/bin/sh\nPYTHONPATH= FAULT={fault} exec {sys.executable} -B {Path(__file__).resolve()} {name} "$@"\n'
    )
    program.chmod(0o755)
    return program


def _wrong(text: str) -> int:
    print(f"critical libmamba {text}")
    return 1


def main(name: str, *words: str) -> int:
    """Do as the real one does."""
    if words == ("--version",):
        print(f"{name} 24.9.2" if name == "conda" else "2.1.1")
        return 0
    prefix, channels, specs = Path(), [], []
    rest = list(words[1:])
    while rest:
        word = rest.pop(0)
        if word == "--prefix":
            prefix = Path(rest.pop(0))
        elif word == "--channel":
            channels.append(rest.pop(0))
        elif not word.startswith("-"):
            specs.append(word)
        elif word not in {"--yes", "--quiet", "--override-channels"}:
            return _wrong(f"unknown option {word}")
    if words[0] != "install" or not (prefix / "conda-meta" / "history").exists():
        return _wrong(f"no environment at {prefix}")
    print(f"looking for {' '.join(specs)}", flush=True)
    if "/one/" in channels[0] and os.environ["FAULT"] == "silent":
        return _wrong("Download error (28) Timeout was reached")
    if "/one/" in channels[0] and os.environ["FAULT"] == "stuck":
        time.sleep(60)
    return _install(prefix, channels, [spec.replace("=", " ", 1) for spec in specs])


def _install(prefix: Path, channels: list[str], specs: list[str]) -> int:
    cache = Path(os.environ["CONDA_PKGS_DIRS"])
    request = {"prefix": str(prefix), "specs": specs, "channels": channels, "cache": str(cache.parent / "rattler")}
    worker = [sys.executable, "-m", "firstlight.environments.conda_worker", json.dumps(request)]
    done = subprocess.run(worker, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    told = json.loads(done.stdout.splitlines()[-1])
    if told["event"] == "error":
        return _wrong(f"Could not solve for environment specs\n{told['message']}")
    cache.mkdir(parents=True, exist_ok=True)
    for package in told["packages"]:
        (cache / package["file"]).write_bytes(b"x" * 1000)
        print(f"+ {package['name']}", flush=True)
    listing = Path(os.environ["HOME"]) / ".conda" / "environments.txt"
    listing.parent.mkdir(exist_ok=True)
    with listing.open("a") as stream:
        stream.write(f"{prefix}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
