"""Locks that do not hold, as a person meets them: `setup` and `lock.check` of a catalogue whose locks were edited."""

from __future__ import annotations

import pytest
from support.loopback_index import make_wheel, serve
from support.own_catalogue import BUILD, ENGINE, OwnCatalogue

from firstlight.environments.locking.lockfile import LockedWheel

ZEROS = "0" * 64


@pytest.fixture
def own(tmp_path):
    return OwnCatalogue(tmp_path / "own")


@pytest.fixture
def index():
    with serve() as server:
        server.sums = {"aaa": server.add("aaa", "1.0"), "bbb": server.add("bbb", "2.0")}
        yield server


def locked(index):
    return [
        LockedWheel(name="aaa", version="1.0", sha256=(index.sums["aaa"],)),
        LockedWheel(name="bbb", version="2.0", sha256=(index.sums["bbb"],)),
    ]


def line_of(path, beginning):
    """Return how a message names the line of a file that begins so."""
    (number,) = [at for at, line in enumerate(path.read_text().splitlines(), 1) if line.startswith(beginning)]
    return f"line {number}"


def refused(own, index, tmp_path, *named, code):
    """Set up, and hold the refusal against what it must name; nothing became the engine's environment."""
    ended = own.setup(index.simple, tmp_path / "home")
    assert ended.code == code, ended.err
    said = ended.err[ended.err.index("error: ") :]
    for name in named:
        assert name in said
    assert "--unlocked" in said
    assert "Traceback" not in ended.err
    assert not (tmp_path / "home" / "environments" / ENGINE / "current").is_symlink()
    return said


def test_an_edited_version_is_refused_with_file_line_and_package_before_anything_is_fetched(own, index, tmp_path):
    own.write_lock(*locked(index))
    own.lock.write_text(own.lock.read_text().replace("bbb==2.0", "bbb==2.1"))
    where = line_of(own.lock, "bbb==")
    said = refused(own, index, tmp_path, str(own.lock), where, "bbb: it is not what was locked", code=5)
    assert "aaa" not in said
    assert index.requests == []


def test_a_file_that_is_no_text_is_refused_before_anything_is_fetched(own, index, tmp_path):
    own.write_lock(*locked(index))
    pins = own.lock.with_suffix(".pins")
    pins.write_bytes(bytes(range(256)))
    refused(own, index, tmp_path, str(pins), "no text", code=5)
    assert index.requests == []


def test_a_lock_older_than_its_wish_is_refused_with_its_file(own, index, tmp_path):
    own.write_lock(*locked(index))
    own.add_to_build('pins = ["accelerate<2"]')
    refused(own, index, tmp_path, str(own.lock), "older than its wish", BUILD, code=5)
    assert index.requests == []


def test_other_bytes_under_the_same_name_are_refused_by_their_name(own, index, tmp_path):
    own.write_lock(*locked(index))
    name, evil = make_wheel("bbb", "2.0", files={"bbb/evil.py": b"steal()"})
    index.wheels["bbb"][name] = evil
    refused(own, index, tmp_path, "bbb", own.lock.name, code=5)


def test_a_package_that_has_vanished_from_the_index_is_named(own, index, tmp_path):
    own.write_lock(*locked(index), LockedWheel(name="gone", version="3.0", sha256=(ZEROS,)))
    refused(own, index, tmp_path, "gone==3.0", own.lock.name, code=1)


def test_check_tells_file_line_and_package_and_ends_with_1(own, index, tmp_path):
    own.write_lock(*locked(index))
    own.lock.write_text(own.lock.read_text() + f"zzz==1.0 --hash=sha256:{ZEROS}\n")
    conda = own.lock.with_name("conda-lock.yml")
    conda.write_text(conda.read_text().replace("- name: ca-certificates", "- name: ca-certificates: twice", 1))
    line = line_of(conda, "- name: ca-certificates: twice")
    ended = own.run("lock.check", "--build", BUILD, home=tmp_path / "home")
    assert ended.code == 1
    assert "Traceback" not in ended.err
    told, put_in = ended.out.split("\n\n"), f"{line_of(own.lock, 'zzz==')}: zzz: it was put in by hand"
    assert any(str(own.lock) in each and put_in in each for each in told)
    assert any(str(conda) in each and line in each for each in told)
