"""A checkout with the real launcher and a program of a few lines: made in seconds and without any index."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "firstlight"
version = "0.0.1"
"""

# Prints what reached it, as one JSON document.
PROGRAM = """
import json, os, sys

def main():
    names = ("PYTHONPATH", "PYTHONHOME", "PYTHONNOUSERSITE")
    print(json.dumps({"arguments": sys.argv[1:], "folder": os.getcwd(), "prefix": sys.prefix,
                      "environment": {name: os.environ.get(name) for name in names}}))
"""

# A build backend by PEP 660 that needs nothing, counts its calls, and waits where a test wants to interrupt it.
BACKEND = """
import os, pathlib, time, zipfile

PROGRAMS = "[console_scripts]\\nfirstlight = firstlight.cli:main\\nlint-imports = rules:main\\n"

def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    here = pathlib.Path.cwd()
    with open(os.environ["BUILD_CALLS"], "a") as calls:
        calls.write("built\\n")
    while os.path.exists(os.environ["BUILD_CALLS"] + ".hold"):
        time.sleep(0.05)
    name = "firstlight-0.0.1"
    files = {
        "firstlight.pth": f"{here}\\n",
        f"{name}.dist-info/METADATA": "Metadata-Version: 2.1\\nName: firstlight\\nVersion: 0.0.1\\n",
        f"{name}.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\n",
        f"{name}.dist-info/entry_points.txt": PROGRAMS,
    }
    files[f"{name}.dist-info/RECORD"] = "".join(f"{file},,\\n" for file in [*files, f"{name}.dist-info/RECORD"])
    wheel = f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, wheel), "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return wheel
"""


class TinyCheckout:
    """One checkout under `folder`, started with a clean environment and no index but the one a test names."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "check öut"
        self.home = folder / "home"
        self.calls = folder / "calls"
        self.hold = folder / "calls.hold"
        self.script = self.root / "scripts" / "firstlight"
        self.venv = self.root / ".venv"
        self.home.mkdir(parents=True)
        (self.root / "firstlight").mkdir(parents=True)
        shutil.copytree(REPOSITORY / "scripts", self.root / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(REPOSITORY / ".ci", self.root / ".ci")
        (self.root / "pyproject.toml").write_text(PYPROJECT)
        (self.root / "backend.py").write_text(BACKEND)
        (self.root / "firstlight" / "__init__.py").write_text("")
        (self.root / "firstlight" / "cli.py").write_text(PROGRAM)

    def environment(self, **more: str) -> dict[str, str]:
        """Return what a start sees: `FIRSTLIGHT_PYTHON` is the Python below the one that runs the tests."""
        clean = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
            "PIP_RETRIES": "0",
            "FIRSTLIGHT_PYTHON": python_below(),
            "FIRSTLIGHT_SYSTEM_PACKAGES": "no",
            "BUILD_CALLS": str(self.calls),
        }
        return {**clean, **more}

    def start(
        self, *arguments: str, shell: tuple[str, ...] = ("sh",), script: Path | None = None, folder: Path | None = None,
        **more: str,
    ) -> subprocess.CompletedProcess[str]:  # fmt: skip
        """Return the finished run of `scripts/firstlight ARGUMENTS`."""
        command = [*shell, str(script or self.script), *arguments]
        return subprocess.run(
            command,
            env=self.environment(**more),
            cwd=folder or self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Return a start still running, the leader of its own process group."""
        return subprocess.Popen(
            ["sh", str(self.script), *arguments],
            env=self.environment(),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def builds(self) -> int:
        """Return how often firstlight was installed."""
        return len(self.calls.read_text().splitlines()) if self.calls.exists() else 0


def python_below() -> str:
    """Return the interpreter that this environment was made from."""
    return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())


def path_without_python(folder: Path) -> str:
    """Return a PATH with this machine's programs less every Python, conda and uv."""
    folder.mkdir()
    for place in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
        for program in Path(place).iterdir():
            link = folder / program.name
            if not program.name.startswith(("python", "pypy", "conda", "uv")) and not link.exists():
                link.unlink(missing_ok=True)
                link.symlink_to(program)
    return str(folder)
