"""What the tests of Ollama's store share: a small fake server on a store, and files that are whole models.

The fake (see `ollama_program`) keeps the store as Ollama does; no model runs behind it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from support.fake_ollama import unpack

from firstlight.engines.ollama.api import Api
from firstlight.errors import FirstlightError
from firstlight.events import Step, silent
from firstlight.serving.ports import free_port

STEP = Step(silent, "import", "import")
QUIET = {"OLLAMA_HOST": "127.0.0.1:9"}
"""No server answers there."""
_ATTEMPTS = 5
_PATIENCE = 120.0
"""Seconds; only a server that hangs takes as long."""


@contextlib.contextmanager
def running(folder: Path, store: Path, release: str = "0.35.1", **variables: str) -> Iterator[Running]:
    """Run the fake server on a store; gives its interface and what it recorded."""
    program = folder / f"ollama-{release}" / "bin" / "ollama"
    if not program.exists():
        unpack(program.parent.parent, release)
    server, made = _started(program, folder, store, variables)
    try:
        yield made
    finally:
        server.terminate()
        server.wait(_PATIENCE)


def _started(
    program: Path, folder: Path, store: Path, variables: dict[str, str]
) -> tuple[subprocess.Popen[bytes], Running]:
    """Start the server on a free port; on another one where somebody else was quicker to take it."""
    for _attempt in range(_ATTEMPTS):
        port = free_port()
        record = folder / f"record-{port}.jsonl"
        environment = {
            **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
            "HOME": str(folder),
            "OLLAMA_HOST": f"127.0.0.1:{port}",
            "OLLAMA_MODELS": str(store),
            "FAKE_OLLAMA_RECORD": str(record),
            **variables,
        }
        quiet = subprocess.DEVNULL
        server = subprocess.Popen([program, "serve"], env=environment, stdout=quiet, stderr=quiet)
        api = Api(f"http://127.0.0.1:{port}")
        if _answers(api, server):
            return server, Running(api, program, environment, record)
        server.kill()
        server.wait(_PATIENCE)
    raise AssertionError("the fake server does not answer")


def _answers(api: Api, server: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(FirstlightError):
            api.version()
            return True
        time.sleep(0.02)
    return False


class Running:
    """A server that answers."""

    def __init__(self, api: Api, program: Path, environment: dict[str, str], record: Path) -> None:
        self.api, self.program, self.environment, self.record = api, program, environment, record

    def command(self, *words: str) -> str:
        """Return what Ollama's own command line says."""
        return subprocess.run(
            [self.program, *words], env=self.environment, capture_output=True, text=True, check=True
        ).stdout

    def asked(self, method: str) -> list[str]:
        """Return the paths that were asked with a method."""
        told = [json.loads(line) for line in self.record.read_text().splitlines()]
        return [each["path"] for each in told if each["kind"] == "request" and each["method"] == method]

    def ask(self, name: str) -> str:
        """Return the answer of a model, or the server's error."""
        body = json.dumps({"model": name, "messages": [{"role": "user", "content": "?"}], "max_tokens": 3}).encode()
        request = urllib.request.Request(f"{self.api.base_url}/v1/chat/completions", data=body)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return str(json.loads(answer.read())["choices"][0]["message"]["content"])
        except urllib.error.HTTPError as error:
            return str(json.loads(error.read())["error"]["message"])
