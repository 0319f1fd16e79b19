"""The API key of `serve.*`: every request needs it, the proof too, and it stands in no process list, record or log."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from support import honest_engine
from support.command import firstlight

from firstlight.catalogue.loading import load_catalogue
from firstlight.engines.base import Serving, ServingRequest
from firstlight.errors import FirstlightError, UsageError
from firstlight.events import silent
from firstlight.home import Home
from firstlight.planning.plan import Launch
from firstlight.process import Command
from firstlight.proof.client import Message, OpenAIClient
from firstlight.proof.proving import Trial, proven
from firstlight.serving.keys import KEY_VARIABLE, key_of_server, keyed, take_key
from firstlight.serving.ports import free_port

KEY = f"a-key-{secrets.token_hex(8)}"
PAGES = load_catalogue().engines


class Honest:
    """The small engine as a module; `support` is found through PYTHONPATH."""

    name = "honest"

    def serving(self, request: ServingRequest) -> Serving:
        words = ("serve", str(request.model), "--host", request.host, "--port", str(request.port))
        tests = str(Path(honest_engine.__file__).parents[1])
        environment: dict[str, str | None] = {"HF_HOME": str(request.model), "PYTHONPATH": tests}
        command = Command((sys.executable, "-m", "support.honest_engine", *words), environment)
        return Serving(command=command, model_id="m", health_path="/health", ready_timeout=120.0)

    def load(self, _base_url: str, _serving: Serving, _launch: Launch) -> str | None:
        return None


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VLLM_API_KEY", KEY_VARIABLE):
        monkeypatch.setenv(name, "")  # remembered, so that what a test takes is gone after it


def trial(folder: Path, engine: str) -> Trial:
    port = free_port()
    page = PAGES[engine]
    return Trial(
        engine=Honest(),  # type: ignore[arg-type]
        entry=page,
        build=page.build[0],
        generation="g",
        prefix=folder,
        launch=Launch(port=port, device="cpu"),
        model=folder,
        model_bytes=1,
        name="m",
        speaks=False,
        host="127.0.0.1",
        port=port,
        home=Home(folder / "home"),
        log=folder / "server.log",
        after="keep",
    )


def written(folder: Path, text: str = f"{KEY}\n") -> Path:
    file = folder / "the key"
    file.write_text(text)
    return file


@pytest.mark.parametrize("engine", [name for name, page in PAGES.items() if page.key_flag or page.key_variable])
def test_a_server_with_a_key_is_proven_with_it_and_shows_it_to_nobody(tmp_path: Path, engine: str) -> None:
    take_key(written(tmp_path), PAGES[engine])
    with proven(trial(tmp_path, engine), silent) as answer:
        assert answer.server is not None
        with answer.server as server:
            base = answer.endpoint.removesuffix("/v1")
            with urllib.request.urlopen(f"{base}/who", timeout=60) as response:
                inside: dict[str, Any] = json.load(response)
            for file in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):  # a process that has ended meanwhile
                    assert KEY.encode() not in file.read_bytes(), file
            assert KEY not in repr(server.spec)
            if PAGES[engine].key_variable:
                with pytest.raises(FirstlightError, match="401"):
                    list(OpenAIClient(base).chat([Message(role="user", content="hi")], "m"))
            else:
                assert inside["argv"][-2:] == [PAGES[engine].key_flag, KEY]
                assert KEY not in inside["environment"].values()
    assert KEY not in (tmp_path / "server.log").read_text()


def test_without_a_key_nothing_changes() -> None:
    command = Command(("python", "-m", "engine"))
    for page in PAGES.values():
        assert key_of_server(page) is None
        assert keyed(command, page) == command


@pytest.mark.parametrize("text", ["", "\n", "two words", "ключ", "a\nb"])
def test_a_file_without_a_key_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="holds no key"):
        take_key(written(tmp_path, text), PAGES["vllm"])


def test_wrong_words_end_with_two(tmp_path: Path) -> None:
    for engine, file, said in (
        ("transformers", written(tmp_path), "knows no key"),
        ("vllm", tmp_path / "none", "No such file"),
    ):
        ended = firstlight(f"serve.{engine}", "--model", "x/y", "--api-key-file", str(file), home=tmp_path / "home")
        assert (ended.code, ended.out) == (2, "")
        assert said in ended.err
        assert KEY not in ended.err
