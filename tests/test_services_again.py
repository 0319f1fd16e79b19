"""A service that is asked for again: left alone where nothing changed, replaced in the right order where something did.

The engine is a small fake of Ollama in a release of the true layout; the supervisor keeps it running for real.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.command import Ended, firstlight
from support.release_server import release_server
from test_services_supervisor import did, service

from firstlight.events import silent
from firstlight.home import Home
from firstlight.models.synthetic_gguf import write_synthetic_gguf
from firstlight.serving.ports import free_port, port_holder
from firstlight.serving.services.ownership import keep_stopped, replaced_by
from firstlight.serving.services.records import Record, Replaced, all_services, load, save
from firstlight.serving.services.rendering import render_unit
from firstlight.serving.services.spec import ServiceSpec
from firstlight.serving.services.supervisor import SupervisorManager
from firstlight.serving.services.systemd import SystemdManager
from firstlight.serving.services.users import SERVICE_USER
from firstlight.staying.again import seen_again
from firstlight.staying.removing import remove_service
from firstlight.staying.whom import wished_user
from firstlight.staying.wish import Wish, require_supported

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

    def begin(self, *words: str) -> subprocess.Popen[bytes]:
        """Start a command, to be killed."""
        told = os.environ | self.variables | {"FIRSTLIGHT_HOME": str(self.home.root)}
        command = [sys.executable, "-m", "firstlight", *words]
        return subprocess.Popen(command, env=told, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

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


def test_what_a_killed_replacement_had_stopped_is_removed_by_the_next_run(place: Place) -> None:
    port = free_port()
    older = ("service.install", "ollama", "--name", "older", "--port", str(port), "--model", place.model("one"))
    assert place.run(*older, "--json").code == 0
    words = ("service.install", "ollama", "--port", str(port), "--model", place.model("two"), "--json")
    with place.begin(*words) as running:
        record, deadline = place.home.services / "ollama" / "service.json", time.monotonic() + 120
        while not record.exists() and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        running.send_signal(signal.SIGKILL)
    again = place.run(*words)
    assert again.code == 0, again.err
    assert [each.spec.name for each in all_services(place.home)] == ["ollama"]
    known = load(place.home, "ollama")
    assert known is not None
    assert known.displaced == []
    holder = port_holder(port)
    assert holder is not None
    assert holder.pid == place.pid()


def test_a_user_that_was_chosen_stays_the_services_user(tmp_path: Path) -> None:
    home = Home(tmp_path)
    for scope, user, kept in (
        ("supervisor", "games", "games"),
        ("system", "games", "games"),
        ("system", SERVICE_USER, None),
        ("user", None, None),
    ):
        spec = service(home, name="chat", scope=scope, user=user)
        spec.folder.mkdir(parents=True, exist_ok=True)
        save(Record(spec=spec, installed="2026-11-23T00:00:00Z"))
        assert wished_user(spec) == kept
    spec = service(home, name="chat", user="games", hardening="basic")
    save(Record(spec=spec, installed="2026-11-23T00:00:00Z"))
    again = seen_again(Wish(engine="vllm", name="chat"), home, port=spec.port, host=None)
    assert (again.wish.user, "user games" in again.kept) == ("games", True)


def test_a_strict_service_asked_for_again_where_systemd_runs_no_more_can_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("staying.again", "serving.services.systemctl", "serving.services.scopes"):
        monkeypatch.setattr(f"firstlight.{module}.runs", lambda: False, raising=False)
    home = Home(tmp_path)
    spec = service(home, name="chat", scope="system", hardening="strict")
    spec.folder.mkdir(parents=True)
    save(Record(spec=spec, installed="2026-11-23T00:00:00Z"))
    again = seen_again(Wish(engine="vllm", name="chat"), home, port=spec.port, host=None)
    assert (again.wish.scope, again.wish.hardening) == ("auto", "basic")
    require_supported("supervisor", again.wish)


def test_removing_a_service_takes_away_what_a_killed_move_left_under_the_other_scope(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("firstlight.serving.services.systemd.runs", lambda: False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    home = Home(tmp_path / "home")
    spec = service(home, name="chat")
    left = msgspec.structs.replace(spec, scope="user")
    unit = SystemdManager("user").unit_path(left)
    unit.parent.mkdir(parents=True)
    unit.write_text(render_unit(left, version=252))
    spec.folder.mkdir(parents=True)
    record = Record(spec=spec, installed="2026-11-23T00:00:00Z", leaving=[left])
    save(record)
    undone = remove_service(home, record, silent)
    assert f"removed {unit}" in undone
    assert not unit.exists()


def test_an_official_unit_is_given_back_stopped_where_the_service_goes_on_under_another_scope(tmp_path: Path) -> None:
    spec = service(Home(tmp_path), name="chat", scope="system")
    spec.folder.mkdir(parents=True)
    keep_stopped(spec)
    assert replaced_by(spec) is None
    kept = Replaced(path=tmp_path / "unit", backup=spec.folder / "replaced.service", enabled=True, active=True)
    (spec.folder / "replaced.json").write_bytes(msgspec.json.encode(kept, enc_hook=str))
    keep_stopped(spec)
    found = replaced_by(spec)
    assert found == msgspec.structs.replace(kept, enabled=False, active=False)
