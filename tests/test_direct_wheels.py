"""Wheels from outside the registry come by our own downloads: held to their hash, kept, told by their source."""

from __future__ import annotations

import hashlib
import sys

import pytest
from support.loopback_index import make_wheel, serve

from firstlight.environments.direct_wheels import fetch_direct
from firstlight.environments.owning import DirectWheel, Owned
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.venvs import create_venv
from firstlight.environments.wheels import WheelSet, freeze, install_wheels
from firstlight.errors import NetworkFailed, VerificationFailed
from firstlight.events import Note, Step, silent

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
FILE, WHEEL = make_wheel("engine", "1.0+cu1", files={"engine/data.bin": bytes(300_000)})
SUM = hashlib.sha256(WHEEL).hexdigest()


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def index():
    with serve() as server:
        for place in ("one", "two"):
            server.files[f"/{place}/{FILE}"] = WHEEL
        server.files["/whl/cu1/engine/"] = f'<a href="/one/{FILE.replace("+", "%2B")}#sha256={SUM}">x</a>'.encode()
        yield server


def fetched(wheels, folder, events=None):
    step = Step((events if events is not None else []).append, "wheels", "wheels")
    return fetch_direct(wheels, PipSettings(), folder, python=MINOR, step=step)


def direct(index, *places, sha256=SUM):
    urls = tuple(f"{index.url}/{place}/{FILE.replace('+', '%2B')}" for place in places)
    return WheelSet(requirements=(), direct=(DirectWheel(urls=urls, sha256=sha256),))


def test_it_is_fetched_once_and_installed_from_this_machine_with_its_true_source(index, tmp_path):
    got = fetched(direct(index, "one"), tmp_path / "files")
    (wheel,) = got.wheels.direct
    assert wheel.urls[0].startswith("file://")
    assert wheel.sha256 == SUM
    step, log = Step(silent, "venv", "venv"), tmp_path / "log"
    python = create_venv(tmp_path / "prefix", sys.executable, cache=tmp_path / "cache", step=step, log=log)
    settings = PipSettings(index_url=index.simple)
    installed = got.told(install_wheels(python, got.wheels, settings, tmp_path / "cache", step=step, log=log))
    assert [(one.name, one.version) for one in freeze(python)] == [("engine", "1.0+cu1")]
    assert [(one.source, one.sha256, one.size) for one in installed] == [
        (f"{index.url}/one/{FILE.replace('+', '%2B')}", SUM, len(WHEEL))
    ]
    index.requests.clear()
    fetched(direct(index, "one"), tmp_path / "files")
    assert [request for request in index.requests if request.startswith("GET /one/")] == []


def test_a_mirror_stands_in_for_one_that_is_gone(index, tmp_path):
    del index.files[f"/one/{FILE}"]
    got = fetched(direct(index, "one", "two"), tmp_path / "files")
    assert got.wheels.direct[0].sha256 == SUM


def test_a_lying_mirror_is_found(index, tmp_path):
    index.files[f"/one/{FILE}"] = WHEEL[:-1] + bytes([WHEEL[-1] ^ 1])
    got = fetched(direct(index, "one", "two"), tmp_path / "files")
    assert got.wheels.direct[0].sha256 == SUM


def test_what_is_not_what_was_promised_is_refused(index, tmp_path):
    with pytest.raises(VerificationFailed) as caught:
        fetched(direct(index, "one", sha256="0" * 64), tmp_path / "files")
    assert FILE in f"{caught.value.what} {caught.value.why}"
    assert list((tmp_path / "files").rglob("*.whl")) == []


def test_nobody_has_it(index, tmp_path):
    with pytest.raises(NetworkFailed):
        fetched(direct(index, "nowhere"), tmp_path / "files")


def test_without_a_known_sum_it_is_said_and_the_sum_that_came_is_held(index, tmp_path):
    events = []
    got = fetched(direct(index, "one", sha256=None), tmp_path / "files", events)
    assert got.wheels.direct[0].sha256 == got.came["engine"].sha256 == SUM
    assert any(event.level == "warn" for event in events if isinstance(event, Note))


def test_the_sum_of_the_lock_holds_it(index, tmp_path):
    locked = direct(index, "one", sha256=None)
    wheels = WheelSet(requirements=(), direct=locked.direct, locked=(f"engine==1.0+cu1 --hash=sha256:{'0' * 64}",))
    with pytest.raises(VerificationFailed):
        fetched(wheels, tmp_path / "files")


def test_what_an_owner_has_comes_from_its_index(index, tmp_path):
    owner = Owned(name="engine", version="1.0+cu1", places=(f"index:{index.url}/whl/cu1",))
    got = fetched(WheelSet(requirements=(), owned=(owner,)), tmp_path / "files")
    assert got.wheels.owned == ()
    assert [wheel.sha256 for wheel in got.wheels.direct] == [SUM]
    assert got.came["engine"].source == f"{index.url}/one/{FILE.replace('+', '%2B')}"


@pytest.mark.parametrize("place", ["index:http://me:secret@127.0.0.1:9/whl", "index:http://127.0.0.1:9/whl"])
def test_what_no_listing_shows_and_what_needs_signing_in_is_left_to_uv(place, tmp_path):
    wheels = WheelSet(requirements=(), owned=(Owned(name="engine", version="1.0+cu1", places=(place,)),))
    assert fetched(wheels, tmp_path / "files").wheels == wheels


def test_a_file_of_this_machine_is_left_where_it_is(tmp_path):
    (tmp_path / FILE).write_bytes(WHEEL)
    wheels = WheelSet(requirements=(), direct=(DirectWheel(urls=((tmp_path / FILE).as_uri(),), sha256=SUM),))
    assert fetched(wheels, tmp_path / "files").wheels == wheels
    assert not (tmp_path / "files").exists()


def test_a_companion_that_nobody_asks_for_is_not_fetched(index, tmp_path):
    owner = Owned(name="engine", version="1.0+cu1", places=(f"index:{index.url}/whl/cu1",), asked=False)
    wheels = WheelSet(requirements=(), owned=(owner,))
    assert fetched(wheels, tmp_path / "files").wheels == wheels
    assert index.requests == []
