"""Runs the `firstlight` program as a person would: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]


class Ended:
    """How a run ended: exit code, standard output and error, and its JSON document."""

    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def document(self) -> dict[str, Any]:
        """The one JSON document on standard output."""
        parsed: dict[str, Any] = json.loads(self.out)
        return parsed


def firstlight(
    *words: str,
    home: Path | None = None,
    variables: dict[str, str] | None = None,
    program: list[str] | None = None,
    folder: Path | None = None,
    timeout: float = 900,
) -> Ended:
    """Run `firstlight WORDS` without a terminal and return how it ended."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("FIRSTLIGHT_")}
    if home is not None:
        environment["FIRSTLIGHT_HOME"] = str(home)
    environment |= variables or {}
    return Ended(
        subprocess.run(
            [*(program or [sys.executable, "-m", "firstlight"]), *words],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    )
