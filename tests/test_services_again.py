"""A service that is asked for again: left alone where nothing changed, replaced in the right order where something did.

The engine is a small fake of Ollama in a release of the true layout; the supervisor keeps it running for real.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import Ended, firstlight
from support.release_server import release_server
from test_services_supervisor import did

from firstlight.home import Home
from firstlight.models.synthetic_gguf import write_synthetic_gguf
from firstlight.serving.ports import free_port, port_holder
from firstlight.serving.services.records import all_services, load
from firstlight.serving.services.spec import ServiceSpec
from firstlight.serving.services.supervisor import SupervisorManager

RELEASE = "0.32.12"
"""One that the catalogue knows, and the sums of which are public nowhere: any archive may stand for it."""
UP = ("up", "--engine", "ollama", "--service", "--json")


class Place:
    """A home in which the engine is set up, and what runs in it."""

    def __init__(self, folder: Path, mirrors: Path) -> None:
        self.folder, self.home = folder, Home(folder / "home")
        self.variables = {"FIRSTLIGHT_MIRRORS": str(mirrors), "OLLAMA_HOST": "127.0.0.1:9", "HOME": str(folder)}

    def run(self, *words: str) -> Ended:
        return firstlight(*words, home=self.home.root, variables=self.variables)

    def up(self, *words: str) -> Ended:
        return self.run(*UP, *words)

    def spec(self, name: str = "ollama") -> ServiceSpec:
        record = load(self.home, name)
        assert record is not None
        return record.spec

    def pid(self, name: str = "ollama") -> int | None:
        return SupervisorManager(self.home).status(self.spec(name)).pid

    def model(self, name: str) -> str:
        file = write_synthetic_gguf(self.folder / f"{name}.gguf")
        file.write_bytes(file.read_bytes() + name.encode())
        return str(file)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """A home whose engine is set up from a server of the test's own; what runs in it is ended."""
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    with release_server(tmp_path / "releases") as server:
        server.add(RELEASE)
        mirrors = tmp_path / "mirrors.toml"
        mirrors.write_text(f'[release.ollama]\nmirrors = ["{server.url}"]\nonly = true\n')
        made = Place(tmp_path, mirrors)
        ended = made.run("setup.ollama", "--release", RELEASE, "--cuda", "cpu", "--json")
        assert ended.code == 0, ended.err
        try:
            yield made
        finally:
            for record in all_services(made.home):
                did(SupervisorManager(made.home).remove, record.spec)


def test_up_on_its_own_running_service_leaves_it_alone_and_proves_it(place: Place) -> None:
    port = str(free_port())
    first = place.up("--model", place.model("one"), "--port", port)
    assert first.code == 0, first.err
    pid, spec = place.pid(), place.spec()
    for words in (("--port", port, "--model", place.model("one")), ()):
        again = place.up(*words)
        assert again.code == 0, again.err
        receipt = again.document
        assert receipt["endpoint"] == f"http://127.0.0.1:{port}/v1"
        assert receipt["proof"]["tokens"] > 0
        assert "runs already, exactly as it is asked for" in again.err
        assert (place.pid(), place.spec()) == (pid, spec)
    shown = place.up("--dry-run")
    assert shown.code == 0, shown.err
    assert (shown.document["plan"]["launch"]["port"], place.pid()) == (int(port), pid)


def test_up_with_another_model_replaces_its_own_service(place: Place) -> None:
    port = str(free_port())
    assert place.up("--model", place.model("one"), "--port", port).code == 0
    pid = place.pid()
    again = place.up("--model", place.model("two"))
    assert again.code == 0, again.err
    assert "keeps: port" in again.err
    assert again.document["model_id"].startswith("two")
    assert place.spec().port == int(port)
    assert place.pid() != pid
    holder = port_holder(int(port))
    assert holder is not None
    assert holder.pid == place.pid()


def test_up_on_the_port_of_another_service_of_ours_takes_its_place(place: Place) -> None:
    port = str(free_port())
    older = ("service.install", "ollama", "--name", "older", "--port", port, "--model", place.model("one"), "--json")
    assert place.run(*older).code == 0
    again = place.up("--model", place.model("one"), "--port", port)
    assert again.code == 0, again.err
    assert [each.spec.name for each in all_services(place.home)] == ["ollama"]


def test_a_second_installation_with_the_same_words_changes_nothing(place: Place) -> None:
    words = ("service.install", "ollama", "--port", str(free_port()), "--model", place.model("one"))
    assert place.run(*words, "--json").document["kept"] is False
    pid = place.pid()
    again = place.run(*words)
    assert (again.code, "ran already, unchanged" in again.out) == (0, True), again.err
    assert place.pid() == pid
    description = place.spec().folder / "launch.json"
    description.write_text(json.dumps(json.loads(description.read_text()) | {"user": None, "argv": ["/bin/false"]}))
    assert place.run(*words, "--json").document["kept"] is False
    assert place.pid() != pid


def test_a_port_that_somebody_else_holds_is_still_refused(place: Place) -> None:
    port = free_port()
    assert place.up("--model", place.model("one"), "--port", str(port)).code == 0
    pid = place.pid()
    with socket.socket() as foreign:
        foreign.bind(("127.0.0.1", 0))
        foreign.listen(1)
        taken = foreign.getsockname()[1]
        for words in (("service.install", "ollama", "--model", place.model("one")), UP):
            refused = place.run(*words, "--port", str(taken))
            assert (refused.code, f"port {taken} is taken" in refused.err) == (1, True), refused.err
        holder = port_holder(taken)
        assert holder is not None
        assert holder.pid == os.getpid()
    assert place.pid() == pid
