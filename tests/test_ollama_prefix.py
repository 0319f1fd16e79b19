"""`ollama.install --prefix`: links that lead to the current version, and what somebody else had put there.

The program in the archives is a small fake (see `support/fake_ollama.py`).
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time

import pytest
from support.command import firstlight
from support.fake_ollama import unpack
from support.ollama_installs import CURRENT, OLDER, OWN, install, says
from support.release_server import ARCH, release_server


@pytest.fixture
def server(tmp_path):
    with release_server(tmp_path / "releases") as made:
        yield made


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def prefixed(home, server, prefix, release, *words):
    return install(home, server, release, "--prefix", str(prefix), *words)


def test_a_prefix_leads_to_the_current_version_by_links_that_can_be_moved(server, home, tmp_path):
    prefix = tmp_path / "usr local"
    first = prefixed(home, server, prefix, OLDER, "--json")
    assert first.code == 0, first.err
    assert says(prefix / "bin" / "ollama") == OLDER
    assert (prefix / "lib" / "ollama" / "libggml-base.so").is_file()
    assert {str(prefix / "bin/ollama"), str(prefix / "lib/ollama")} <= set(first.document["outside"])
    second = prefixed(home, server, prefix, CURRENT)
    assert second.code == 0, second.err
    assert f"firstlight ollama.rollback --prefix '{prefix}'" in second.out
    assert says(prefix / "bin" / "ollama") == CURRENT
    assert (prefix / "bin" / "ollama").resolve().parent.parent / "lib" / "ollama" == (
        prefix / "lib" / "ollama"
    ).resolve()
    moved = prefix.rename(tmp_path / "moved")
    assert says(moved / "bin" / "ollama") == CURRENT
    assert firstlight("ollama.rollback", "--prefix", str(moved), home=home).code == 0
    assert says(moved / "bin" / "ollama") == OLDER
    gone = firstlight("ollama.uninstall", "--prefix", str(moved), home=home)
    assert gone.code == 0, gone.err
    assert not moved.exists()


def snapshot(folder):
    return {
        str(path.relative_to(folder)): str(path.readlink())
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@contextlib.contextmanager
def watched(program):
    """Look all the time whether the program is there with its libraries beside it; yields what was missing."""
    missing, looked, done = [], [], threading.Event()

    def whole(real):
        return real.is_file() and (real.parent.parent / "lib" / "ollama").is_dir()

    def look():
        while not done.is_set():
            real = program.resolve()
            looked.append(real)
            time.sleep(0.001)
            if not whole(real) and program.resolve() == real:  # else it was switched between the two looks
                missing.append(real)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield missing
    finally:
        done.set()
        thread.join()
    assert looked


def test_there_is_no_moment_without_a_whole_version(server, home, tmp_path):
    prefix = tmp_path / "local"
    unpack(prefix, "0.5.13", ARCH)
    with watched(prefix / "bin" / "ollama") as missing:
        assert prefixed(home, server, prefix, OLDER, "--yes").code == 0
        assert prefixed(home, server, prefix, CURRENT).code == 0
        for _ in range(2):
            assert firstlight("ollama.rollback", "--prefix", str(prefix), home=home).code == 0
    assert missing == []


def test_a_foreign_copy_is_refused_then_moved_aside_whole_and_given_back(server, home, tmp_path):
    prefix = tmp_path / "local"
    unpack(prefix, "0.5.13", ARCH)
    before = snapshot(prefix)
    refused = prefixed(home, server, prefix, CURRENT)
    again = f"firstlight ollama.install --release {CURRENT}"
    assert (refused.code, again in refused.err, "--yes" in refused.err) == (1, True, True), refused.err
    assert snapshot(prefix) == before
    taken = prefixed(home, server, prefix, CURRENT, "--yes")
    assert taken.code == 0, taken.err
    assert f"moved aside    {prefix}/bin/ollama and {prefix}/lib/ollama" in taken.out
    assert f"firstlight ollama.rollback --prefix {prefix}" in taken.out
    assert says(prefix / "bin" / "ollama") == CURRENT
    assert not (prefix / "lib" / "ollama" / "cuda_v11").exists()
    back = firstlight("ollama.rollback", "--prefix", str(prefix), home=home)
    assert (back.code, "0.5.13, the copy that was here before" in back.out) == (0, True), back.err
    assert says(prefix / "bin" / "ollama") == "0.5.13"
    assert (prefix / "lib" / "ollama" / "cuda_v11").is_dir()
    assert firstlight("ollama.rollback", "--prefix", str(prefix), home=home).code == 0
    assert says(prefix / "bin" / "ollama") == CURRENT
    gone = firstlight("ollama.uninstall", "--prefix", str(prefix), home=home)
    assert gone.code == 0, gone.err
    assert "stays as it is" not in gone.out
    assert snapshot(prefix) == before
    assert not (prefix / "lib" / "firstlight").exists()


def test_a_prefix_that_cannot_be_written_says_which_rights_are_missing(home, server, tmp_path):
    shut = tmp_path / "file"
    shut.write_text("")
    ended = prefixed(home, server, shut, CURRENT)
    assert (ended.code, "is no folder" in ended.err) == (2, True), ended.err
    system = firstlight("ollama.install", "--prefix", "/proc/1", "--release", CURRENT, home=home, variables=OWN)
    assert system.code == 1, system.err
    assert "may not write to /proc/1" in system.err
    assert "sudo firstlight ollama.install --prefix /proc/1" in system.err


def test_other_copies_are_told_and_left(server, home, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    program = unpack(elsewhere, "0.6.2", ARCH)
    ended = install(home, server, CURRENT, PATH=f"{program.parent}:/usr/bin:/bin")
    assert ended.code == 0, ended.err
    assert f"{program} (libraries: {elsewhere}/lib/ollama)" in ended.out
    assert says(program) == "0.6.2"
