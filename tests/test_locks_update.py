"""Making locks again, from an index on this machine: what is written, what is told to have changed, and what fails."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
from support.loopback_index import make_wheel, serve
from support.small_catalogue import build as made_build

from firstlight.catalogue.locks import lock_folder, lock_path
from firstlight.environments.locking import updating
from firstlight.environments.locking.checking import check
from firstlight.environments.locking.lockfile import read_lock
from firstlight.environments.locking.updating import Change, Updated, update
from firstlight.environments.pipconfig import PipSettings
from firstlight.resources import data_folder
from firstlight.ui.locks import show_updates, update_lines

BUILD = made_build("engine-1.0-cpu", cuda=None, requirements=["aaa"], excludes=["unwanted"])


@pytest.fixture(autouse=True)
def _alone(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def index():
    with serve() as server:
        server.sums = {
            "aaa": server.add("aaa", "1.0", requires=("bbb", "unwanted")),
            "bbb": server.add("bbb", "2.0"),
            "unwanted": server.add("unwanted", "1.0"),
        }
        yield server


@pytest.fixture
def envs(tmp_path, monkeypatch):
    """A catalogue's folder without a lock, with a conda layer that needs no solver."""
    folder = tmp_path / "envs"
    (folder / "conda").mkdir(parents=True)
    (folder / "conda" / "records.json").write_bytes((data_folder("envs") / "conda" / "records.json").read_bytes())
    (folder / "wheel-hashes.json").write_text(json.dumps({"what": "", "wheels": {}}))
    layer = lock_folder("vllm", "vllm-0.7.3-cu121") / "conda-lock.yml"
    monkeypatch.setattr(updating, "conda_lock", lambda _python, _subdirs, _read: layer.read_text(encoding="utf-8"))
    return folder


@pytest.fixture
def make(envs, index):
    """Make the locks of builds; returns what was told."""

    def make(*builds, write=True):
        wanted = [("engine", build) for build in builds or (BUILD,)]
        settings = PipSettings(index_url=index.simple)
        return list(update(wanted, settings, envs=envs, channel="file:///none", write=write, say=print))

    return make


def test_a_new_lock_is_whole_and_holds(make, envs, index):
    (made,) = make()
    assert (made.problem, made.integrity, made.wheels) == (None, "locked", 2)
    lock = read_lock(lock_folder("engine", BUILD.id, envs), BUILD, "3.12")
    held = {wheel.name: (wheel.version, wheel.sha256) for wheel in lock.wheels}
    assert held == {"aaa": ("1.0", (index.sums["aaa"],)), "bbb": ("2.0", (index.sums["bbb"],))}
    (checked,) = check([("engine", BUILD)], envs=envs)
    assert checked.faults == []
    assert checked.conda > 20


def test_what_changed_is_told_as_a_table_and_everything_else_stays(make, index):
    make()
    index.add("bbb", "2.1", requires=("ccc",))
    index.add("ccc", "0.1")
    (made,) = make()
    assert made.changes == [
        Change(name="bbb", before="2.0", after="2.1"),
        Change(name="ccc", before=None, after="0.1"),
    ]
    head, *rows = update_lines(made)
    assert head.startswith("engine-1.0-cpu (Python 3.12): locked, 3 wheels")
    assert [row.split() for row in rows] == [["bbb", "2.0", "→", "2.1"], ["ccc", "-", "→", "0.1"]]
    (again,) = make()
    assert update_lines(again)[0].endswith("as before")


def test_a_dry_run_tells_the_same_and_writes_nothing(make, envs, index, capsys):
    make()
    before = {path: path.read_bytes() for path in envs.rglob("*") if path.is_file()}
    index.add("bbb", "2.1")
    made = make(write=False)
    assert made[0].changes == [Change(name="bbb", before="2.0", after="2.1")]
    assert {path: path.read_bytes() for path in envs.rglob("*") if path.is_file()} == before
    assert show_updates(made, written=False, json=False) == 0
    told = capsys.readouterr()
    assert "1 locks made, 1 changed" in told.out
    assert "--dry-run" in told.err


def test_a_build_that_does_not_resolve_keeps_its_lock_and_stops_no_other(make, envs, capsys):
    other = made_build("engine-2.0-cpu", "2.0", cuda=None, requirements=["bbb"])
    broken = made_build("engine-1.0-cpu", cuda=None, requirements=["aaa", "bbb>7"])
    make()
    kept = lock_path(lock_folder("engine", BUILD.id, envs), BUILD, "3.12").read_bytes()
    made = make(broken, other)
    assert [one.build for one in made if one.problem] == [BUILD.id]
    assert "bbb>7" in made[0].problem
    assert lock_path(lock_folder("engine", BUILD.id, envs), BUILD, "3.12").read_bytes() == kept
    assert lock_path(lock_folder("engine", other.id, envs), other, "3.12").is_file()
    assert show_updates(made, written=True, json=False) == 1
    assert "1 could not be made" in capsys.readouterr().out


def test_of_a_dated_build_nothing_newer_is_taken(make, envs, index):
    files = []
    for version, day in (("3.0", "2025-01-01"), ("4.0", "2026-01-01")):
        name, content = make_wheel("dated", version)
        index.files[f"/files2/{name}"] = content
        sums = {"sha256": hashlib.sha256(content).hexdigest()}
        url = f"{index.url}/files2/{name}"
        files.append({"filename": name, "url": url, "hashes": sums, "upload-time": f"{day}T00:00:00Z"})
    document = {"meta": {"api-version": "1.1"}, "name": "dated", "versions": ["3.0", "4.0"], "files": files}
    index.files["/simple/dated/"] = json.dumps(document).encode()
    build = made_build("engine-1.0-cpu", cuda=None, requirements=["dated"], newest="2025-03-15")
    make(build)
    lock = read_lock(lock_folder("engine", build.id, envs), build, "3.12")
    assert [(wheel.name, wheel.version) for wheel in lock.wheels] == [("dated", "3.0")]
    assert lock.newest == "2025-03-15"


def test_an_index_that_is_down_is_told_without_its_password(envs):
    settings = PipSettings(index_url="http://me:secret@127.0.0.1:9/simple")
    made = list(update([("engine", BUILD)], settings, envs=envs, channel="file:///none", say=print))
    assert made[0].problem is not None
    assert "secret" not in made[0].problem
    assert not lock_folder("engine", BUILD.id, envs).exists()


def test_what_is_gone_is_told_and_a_long_list_is_counted():
    changes = [Change(name=f"p{number}", before="1", after=None) for number in range(3)]
    made = Updated(build="b", python="3.12", integrity="locked", wheels=1, changes=changes)
    assert [line.split()[-1] for line in update_lines(made)[1:]] == ["gone"] * 3
    new = Updated(build="b", python="3.12", integrity="locked", changes=[Change(name="p", before=None, after="1")])
    assert update_lines(new)[0].endswith("1 versions are new")
