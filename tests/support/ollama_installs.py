"""What the tests of `ollama.install` share: an install from one server, from a file, and what stands afterwards.

The program in the archives is a small fake, and so are its libraries (see `fake_ollama`): what is shown is that the
right archive comes whole to the right place, not that a model runs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

from support.command import REPOSITORY, Ended, firstlight
from support.fake_ollama import asset_name
from support.release_server import ARCH, ReleaseServer, sha256

CURRENT, OLDER, UNKNOWN = "0.35.1", "0.13.5", "0.99.0"
OWN = {"PATH": "/usr/bin:/bin", "MODELSCOPE_DOMAIN": "http://127.0.0.1:1"}


def install(home: Path, server: ReleaseServer, release: str, *words: str, known: bool = True, **more: str) -> Ended:
    """Install from one server alone; `known`: with the sum of the archive that it has."""
    made = server.add(release) if f"v{release}" not in str(list(server.server.routes)) else None
    file = made.file if made else server.folder / f"v{release}" / asset_name(release, ARCH)
    sums = ["--sha256", sha256(file)] if known else []
    options = ["--release", release, "--mirror", server.url, "--only-mirrors", *sums, *words]
    return firstlight("ollama.install", *options, home=home, variables={**OWN, **more})


def offline(home: Path, file: Path, *words: str, folder: Path | None = None, **variables: str) -> Ended:
    """Install from a local file."""
    return firstlight(
        "ollama.install", "--offline", str(file), *words, home=home, folder=folder, variables={**OWN, **variables}
    )


def says(program: Path) -> str:
    """Return the version that a program tells."""
    ran = subprocess.run([str(program), "-v"], capture_output=True, text=True, check=False, env={"HOME": "/tmp"})
    return (ran.stdout + ran.stderr).split()[-1]


def current(home: Path) -> str | None:
    """Return the version that a home has in use."""
    link = home / "ollama" / "current"
    return str(link.readlink()) if link.is_symlink() else None


def packed(tree: Path, file: Path) -> Path:
    """Return a tree as a release's archive."""
    file.parent.mkdir(exist_ok=True)
    with tarfile.open(file, "w:gz") as tar:
        tar.add(tree / "bin", "bin")
        tar.add(tree / "lib", "lib")
    return file


_PATCHED = """
import sys
from pathlib import Path
import firstlight.resources as resources
usual = resources.data_folder
resources.data_folder = lambda name: Path({envs!r}) if name == "envs" else usual(name)
from firstlight.cli import main
main(["firstlight", *sys.argv[1:]])
"""


def own_catalogue(folder: Path) -> tuple[list[str], Callable[..., None]]:
    """Copy the catalogue; return the program that uses the copy, and how its files are changed."""
    envs, program = folder / "envs", folder / "patched.py"
    shutil.copytree(REPOSITORY / "envs", envs)
    program.write_text(_PATCHED.format(envs=str(envs)))

    def change(file: str, *pairs: tuple[str, str]) -> None:
        path = envs / file
        text = path.read_text()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)

    return [sys.executable, str(program)], change
