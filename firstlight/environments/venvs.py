"""Virtual environments on a Python of this machine, by uv."""

from __future__ import annotations

import os
from pathlib import Path

from firstlight.environments.uv_errors import causes
from firstlight.environments.uv_program import run_uv
from firstlight.errors import FirstlightError
from firstlight.events import Step


def create_venv(
    prefix: Path, python: Path | str, *, cache: Path, step: Step, log: Path, hold: tuple[int, ...] = ()
) -> Path:
    """Create a virtual environment without pip or setuptools; returns its `bin/python`.

    No Python is downloaded, unless the user has set UV_PYTHON_INSTALL_MIRROR.

    Args:
        prefix: where; files that are not an environment's may be there already.
        python: the interpreter's path, or a minor version such as `3.12` to be found on this machine.
        cache: uv's cache.
        step: takes the progress.
        log: file that uv's messages are appended to.
        hold: descriptors that uv keeps open.

    Raises:
        FirstlightError: that Python is not there, or does not work.
    """
    prefix.mkdir(parents=True, exist_ok=True)
    words = ["venv", "--python", str(python), "--no-project", "--allow-existing"]
    if not os.environ.get("UV_PYTHON_INSTALL_MIRROR"):
        words.append("--no-python-downloads")
    result = run_uv([*words, str(prefix.absolute())], environment={}, cache=cache, step=step, log=log, hold=hold)
    if result.returncode != 0:
        raise FirstlightError(
            f"no virtual environment could be made with Python {python}",
            why="; ".join(causes(result.messages)) or " ".join(result.messages[-2:]),
            fix="install that Python, or use conda packages, which bring their own: --environment conda",
            evidence="\n".join(result.messages[-20:]),
        )
    return prefix / "bin" / "python"
