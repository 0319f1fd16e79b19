"""Old versions of Ollama: the current one and the one before stay, and so does what anything still leads to.

The program in the archives is a small fake (see `support/fake_ollama.py`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest
from support.command import firstlight
from support.fake_ollama import build_archive, unpack
from support.ollama_installs import OWN, current, offline, says
from support.release_server import ARCH, sha256
from support.service_specs import spec

from firstlight.environments.archives import ArchiveStore
from firstlight.events import Note, StepFinished
from firstlight.home import Home
from firstlight.serving.services.records import RECORD, Record, save
from firstlight.staying.old_versions import tidy

FIRST, SECOND, THIRD = "0.11.11", "0.12.0", "0.13.5"


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    return {release: build_archive(folder / release, release, ARCH) for release in (FIRST, SECOND, THIRD)}


def install(home, archives, release, *words, **variables):
    file = archives[release]
    done = offline(home, file, "--sha256", sha256(file), "--release", release, *words, **variables)
    assert done.code == 0, done.err
    return done


def versions(store):
    return sorted(entry.name for entry in store.iterdir() if entry.is_dir() and not entry.is_symlink())


def test_the_version_before_the_one_before_goes_and_that_is_said(home, archives):
    install(home, archives, FIRST)
    second = install(home, archives, SECOND)
    assert "tidy" not in second.err
    planned = install(home, archives, THIRD, "--dry-run")
    assert f"would remove, where nothing uses them: {FIRST}\n" in planned.out
    assert versions(home / "ollama") == [FIRST, SECOND]
    third = install(home, archives, THIRD, "--json")
    assert versions(home / "ollama") == [SECOND, THIRD]
    (tidied,) = [step for step in third.document["steps"] if step["id"] == "tidy"]
    assert tidied["detail"].startswith(f"{FIRST}: ")
    assert firstlight("ollama.rollback", home=home).code == 0
    assert says(home / "ollama" / "current" / "bin" / "ollama") == SECOND


def test_a_set_up_removes_them_too(home, archives):
    install(home, archives, FIRST)
    install(home, archives, SECOND)
    shutil.copytree(home / "ollama" / FIRST, home / "ollama" / "0.10.0", symlinks=True)
    done = firstlight("setup.ollama", "--release", FIRST, "--json", home=home, variables=OWN)
    assert done.code == 0, done.err
    assert (current(home), versions(home / "ollama")) == (FIRST, [FIRST, SECOND])
    assert done.document["plan"]["build"]["integrity"] == "pinned"  # it came by another sum than the catalogue's


def test_a_version_that_a_process_runs_from_stays_until_it_has_ended(home, archives):
    install(home, archives, FIRST)
    program = home / "ollama" / FIRST / "bin" / "waiting"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.stdin.read()\n")
    program.chmod(0o755)
    with subprocess.Popen([program], stdin=subprocess.PIPE) as running:
        install(home, archives, SECOND)
        third = install(home, archives, THIRD)
        assert f"the old version {FIRST} of ollama stays: process {running.pid} runs from it" in third.err
        assert versions(home / "ollama") == [FIRST, SECOND, THIRD]
        refused = firstlight("ollama.uninstall", "--release", FIRST, home=home)
        assert (refused.code, f"kill {running.pid}" in refused.err) == (1, True), refused.err
        running.stdin.close()
    again = install(home, archives, THIRD)
    assert (f"{FIRST}: " in again.err, versions(home / "ollama")) == (True, [SECOND, THIRD])


@pytest.mark.parametrize("how", ["link", "unit"])
def test_a_version_that_a_link_or_a_unit_of_somebody_leads_to_stays(home, archives, tmp_path, how):
    install(home, archives, FIRST)
    version, user = home / "ollama" / FIRST, tmp_path / "user"
    shelf = tmp_path / "bin"
    shelf.mkdir()
    if how == "link":
        (shelf / "ollama").symlink_to(version / "bin" / "ollama")
    else:
        unit = user / ".config" / "systemd" / "user" / "mine.service"
        unit.parent.mkdir(parents=True)
        unit.write_text(f"[Service]\nExecStart={version}/bin/ollama serve\n")
    variables = {"PATH": f"{shelf}:/usr/bin:/bin", "HOME": str(user)}
    install(home, archives, SECOND, **variables)
    third = install(home, archives, THIRD, **variables)
    named = "leads to it" if how == "link" else "mine.service names it"
    assert (named in third.err, version.is_dir()) == (True, True), third.err


def test_a_version_of_a_service_stays_and_uninstall_names_the_service(home, archives):
    install(home, archives, FIRST)
    folder = home / "services" / "ollama"
    service = spec(name="ollama", engine="ollama", scope="supervisor", folder=folder, generation=FIRST, devices=())
    save(Record(spec=service, installed="2026-01-01T00:00:00Z"))
    refused = firstlight("ollama.uninstall", home=home)
    assert (refused.code, "firstlight service.remove ollama" in refused.err) == (1, True), refused.err
    store, told = beside(home, SECOND, THIRD), []
    tidy(Home(home), store, told.append)
    assert versions(store.folder) == [FIRST, SECOND, THIRD]
    assert ["the service ollama runs from it" in each.text for each in told if isinstance(each, Note)] == [True]
    (folder / RECORD).unlink()
    tidy(Home(home), store, told.append)
    assert versions(store.folder) == [SECOND, THIRD]


def beside(home, *releases):
    """Lay copies of the only version beside it, and switch to one after the other."""
    store = ArchiveStore(Home(home), "ollama")
    (only,) = store.list()
    for release in releases:
        shutil.copytree(only.prefix, store.folder / release, symlinks=True)
        store.switch(next(item for item in store.list() if item.id == release))
    return store


def test_nothing_is_removed_where_nothing_is_current_or_another_firstlight_works(home, archives, monkeypatch):
    install(home, archives, FIRST)
    store, told = beside(home, SECOND, THIRD), []
    current_one = store.current()
    (store.folder / "current").unlink()
    tidy(Home(home), store, told.append)
    assert versions(store.folder) == [FIRST, SECOND, THIRD]
    store.switch(current_one)
    monkeypatch.setattr("firstlight.staying.old_versions._PATIENCE", 0.0)
    with store.lock():
        tidy(Home(home), store, told.append)
    assert (versions(store.folder), told) == ([FIRST, SECOND, THIRD], [])
    tidy(Home(home), store, told.append)
    assert versions(store.folder) == [SECOND, THIRD]
    assert [each.outcome for each in told if isinstance(each, StepFinished)] == ["done"]


def test_in_a_prefix_the_rule_is_the_same_and_a_copy_that_was_moved_aside_stays(home, archives, tmp_path):
    prefix = tmp_path / "local"
    unpack(prefix, "0.5.13", ARCH)
    for release in (FIRST, SECOND, THIRD):
        install(home, archives, release, "--prefix", str(prefix), "--yes")
    kept = versions(prefix / "lib" / "firstlight" / "ollama")
    assert (kept[:2], [name.partition("-")[0] for name in kept[2:]]) == ([SECOND, THIRD], ["adopted"])
    assert firstlight("ollama.uninstall", "--prefix", str(prefix), home=home).code == 0
    assert says(prefix / "bin" / "ollama") == "0.5.13"
