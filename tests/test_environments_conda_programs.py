"""Where py-rattler does not run, the conda of the machine makes the prefix."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.conda_program import write_program
from support.local_channel import FULL, MINOR, session_channel
from support.loopback_index import serve

from firstlight.environments import conda_list, conda_programs
from firstlight.environments.conda import create_prefix, register_prefix
from firstlight.environments.conda_programs import find_program
from firstlight.errors import FirstlightError, NetworkFailed
from firstlight.events import Note, Step, StepProgress

SPECS = (f"python {MINOR}.*", "pip")
NO_RATTLER = "raise ImportError('libc.so.6: version `GLIBC_2.28 not found')\n"
CRASH = "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n"


@pytest.fixture(scope="session")
def channel(tmp_path_factory):
    return session_channel(tmp_path_factory.getbasetemp())


@pytest.fixture(autouse=True)
def _bare(tmp_path, monkeypatch):
    """A machine without any conda, whose user's list of environments lies elsewhere."""
    (tmp_path / "user").mkdir()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("PATH", os.defpath)
    for name in ("MAMBA_EXE", "CONDA_EXE", "CONDA_PREFIX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(conda_programs.conda_facts, "read", lambda _system: None)
    monkeypatch.setattr(conda_list.pwd, "getpwuid", lambda _uid: SimpleNamespace(pw_dir=str(tmp_path / "user")))


class Place:
    """A folder where the import of rattler fails, a prefix with our manifest in it, and what was reported."""

    def __init__(self, folder: Path, monkeypatch, rattler: str) -> None:
        (folder / "broken").mkdir()
        (folder / "broken" / "rattler.py").write_text(rattler)
        monkeypatch.setenv("PYTHONPATH", str(folder / "broken"))
        self.folder, self.prefix = folder, folder / "Präfix"
        self.prefix.mkdir()
        (self.prefix / "manifest.json").write_text("{}")
        self.events: list[object] = []

    def create(self, *channels, specs=SPECS, stall=30.0):
        step = Step(self.events.append, "conda", "conda")
        cache, log = self.folder / "cache", self.folder / "log"
        return create_prefix(self.prefix, specs, channels, cache, step=step, log=log, stall=stall)

    @property
    def warnings(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note) and event.level == "warn"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    return Place(tmp_path, monkeypatch, NO_RATTLER)


def on_path(folder, monkeypatch, name, **options):
    program = write_program(folder / "programs", name, **options)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return program


@pytest.mark.parametrize("name", ["micromamba", "conda"])
def test_the_program_of_the_machine_makes_a_true_prefix(place, channel, monkeypatch, tmp_path, name):
    program = on_path(tmp_path, monkeypatch, name)
    packages = {package.name: package for package in place.create(str(channel))}
    assert (packages["python"].version, packages["python"].channel) == (FULL, channel.as_uri())
    assert packages["python"].sha256
    assert packages["python"].size
    words = [place.prefix / "bin" / "python", "-c", "import pip, sys; print(sys.prefix)"]
    assert subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip() == str(place.prefix)
    assert (place.prefix / "manifest.json").read_text() == "{}"
    assert "# update specs:" in (place.prefix / "conda-meta" / "history").read_text()
    (warning,) = place.warnings
    assert f"{program}, {name} " in warning
    assert "GLIBC_2.28 not found" in warning
    told = [event for event in place.events if isinstance(event, StepProgress)]
    assert told[-1].done == 1000 * len(packages)
    assert any(event.detail.startswith(f"{name} ") for event in told)
    assert register_prefix(place.prefix) is not None  # the program did so itself: it is put on our record


def test_a_crash_of_py_rattler_is_told_and_stood_in_for(channel, monkeypatch, tmp_path):
    place = Place(tmp_path, monkeypatch, CRASH)
    on_path(tmp_path, monkeypatch, "micromamba")
    assert {package.name for package in place.create(str(channel))} == {"python", "pip"}
    assert f"status {-signal.SIGSEGV}" in place.warnings[0]


def test_the_next_mirror_stands_in_for_one_that_fails(place, channel, monkeypatch, tmp_path):
    on_path(tmp_path, monkeypatch, "micromamba", fault="silent")
    with serve() as server:
        server.folders = {"/one/conda-forge": channel, "/two/conda-forge": channel}
        packages = place.create(f"{server.url}/one/conda-forge", f"{server.url}/two/conda-forge")
        assert {package.url.partition("/conda-forge/")[0] for package in packages} == {f"{server.url}/two"}
        assert place.warnings[1].startswith(f"{server.url}/one/conda-forge: ")
        assert "Timeout was reached" in place.warnings[1]
        with pytest.raises(NetworkFailed, match="no conda channel delivered") as caught:
            place.create(f"{server.url}/one/conda-forge", specs=("python", "pip"))
    assert "Timeout was reached" in caught.value.why
    assert [entry.name for entry in place.prefix.iterdir()] == ["manifest.json"]


def test_a_program_that_says_nothing_is_given_up(place, channel, monkeypatch, tmp_path):
    monkeypatch.setattr("firstlight.environments.conda._SOLVING", 1.0)
    on_path(tmp_path, monkeypatch, "micromamba", fault="stuck")
    with serve() as server:
        server.folders = {"/one/conda-forge": channel}
        with pytest.raises(NetworkFailed) as caught:
            place.create(f"{server.url}/one/conda-forge", stall=1.0)
    assert "micromamba said nothing and fetched nothing for 1 s" in caught.value.why


def test_what_the_program_cannot_solve_is_explained(place, channel, monkeypatch, tmp_path):
    on_path(tmp_path, monkeypatch, "conda")
    with pytest.raises(FirstlightError, match="no set of conda packages fits: nowhere 3") as caught:
        place.create(str(channel), specs=("nowhere 3.*",))
    assert "No candidates were found for nowhere 3" in caught.value.why


def test_without_any_program_the_cure_is_named(place, channel):
    with pytest.raises(
        FirstlightError, match="py-rattler, which makes conda environments, does not run here"
    ) as caught:
        place.create(str(channel))
    assert "GLIBC_2.28 not found" in caught.value.why
    assert "--environment venv" in caught.value.fix


def test_the_quickest_that_starts_is_found(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    for name in ("conda", "mamba"):
        write_program(folder, name)
    (folder / "micromamba").write_text("#!/bin/sh\nexit 127\n")
    (folder / "micromamba").chmod(0o755)
    found = find_program({"PATH": str(folder)})
    assert (found.kind, found.path.name, found.version) == ("mamba", "mamba", "2.1.1")
    named = find_program({"PATH": str(folder), "CONDA_EXE": str(folder / "conda")})
    assert (named.kind, named.version) == ("conda", "24.9.2")
    assert find_program({"PATH": str(tmp_path)}) is None
    installed = SimpleNamespace(executable=str(folder / "conda"))
    monkeypatch.setattr(conda_programs.conda_facts, "read", lambda _system: installed)
    assert find_program({"PATH": str(tmp_path)}).kind == "conda"
