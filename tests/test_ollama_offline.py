"""`ollama.install --offline`: an archive that is here already, told by its content, with no network at all.

The program in the archives is a small fake (see `support/fake_ollama.py`).
"""

from __future__ import annotations

import gzip
import io
import sys
import zipfile

import pytest
from support.command import firstlight
from support.fake_ollama import asset_name, build_archive, unpack
from support.faults import HTML
from support.ollama_installs import CURRENT, OLDER, OWN, UNKNOWN, current, offline, own_catalogue, packed
from support.release_server import ARCH, OTHER, sha256


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def catalogue(tmp_path):
    return own_catalogue(tmp_path)


def test_a_local_archive_is_installed_under_any_name_and_told_when_its_sum_is_known_nowhere(home, tmp_path):
    made = build_archive(tmp_path, UNKNOWN, ARCH)
    renamed = made.rename(tmp_path / "download (1).bin")
    strict = offline(home, renamed, "--require-known")
    assert (strict.code, current(home)) == (5, None), strict.err
    ended = offline(home, renamed, "--json")
    assert ended.code == 0, ended.err
    assert "is known nowhere" in ended.err
    assert current(home) == UNKNOWN
    assert ended.document["fetched"][0]["source"] == str(renamed)
    assert renamed.is_file()


def test_a_known_sum_tells_release_and_asset(home, tmp_path, catalogue):
    program, change = catalogue
    made = build_archive(tmp_path, OLDER, ARCH)
    known = "41fb93ff8be35e4d2d22bafd1c42b487efb15b766076d976766bd1ee4db3f8e2"
    known = known if ARCH == "amd64" else "35898a3e6e6b3aa373e6ba381336bcfd5305f115a4c45dc8738cf96e25e0a557"
    change("ollama/builds.toml", (known, sha256(made)))
    renamed = made.rename(tmp_path / "x.zip")
    words = ["ollama.install", "--offline", str(renamed), "--require-known"]
    ended = firstlight(*words, home=home, variables=OWN, program=program)
    assert (ended.code, current(home)) == (0, OLDER), ended.err
    another = firstlight(*words, "--release", CURRENT, home=home, variables=OWN, program=program)
    assert another.code in {3, 5}
    assert OLDER in another.err


def test_a_local_archive_whose_sum_is_not_that_of_its_release_is_refused(home, tmp_path):
    made = build_archive(tmp_path, CURRENT, ARCH)
    ended = offline(home, made, "--release", CURRENT)
    assert (ended.code, current(home)) == (5, None), ended.err
    assert f"--sha256 {sha256(made)}" in ended.err
    assert offline(home, made, "--release", CURRENT, "--sha256", sha256(made)).code == 0


def zipped():
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("bin/ollama", "x")
    return whole.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda _made: HTML, "web page"),
        (lambda _made: b"", "empty"),
        (lambda made: made[: len(made) // 2], "end"),
        (lambda made: made[:40], "end"),
        (lambda _made: b"\x7fELF\x02\x01\x01" + bytes(200), "program"),
        (lambda _made: zipped(), "zip"),
        (lambda _made: gzip.compress(b"no tar archive at all" * 100), "tar archive"),
        (lambda made: made[:2000] + bytes(3000) + made[5000:], ""),
    ],
    ids=["web page", "empty", "half", "head", "program", "zip", "other gzip", "damaged"],
)
def test_what_is_no_whole_archive_is_told_for_what_it_is(home, tmp_path, content, said):
    made = build_archive(tmp_path, OLDER, ARCH).read_bytes()
    file = tmp_path / "given" / f"ollama-linux-{ARCH}.tgz"
    file.parent.mkdir()
    file.write_bytes(content(made))
    ended = offline(home, file)
    assert ended.code == 5, ended.err
    assert said in ended.err
    assert str(file) in ended.err
    assert "fix:" in ended.err
    assert "Traceback" not in ended.err
    assert current(home) is None
    assert not list((home / "ollama").glob("[0-9]*"))


def test_an_archive_for_another_architecture_is_refused(home, tmp_path):
    elf = bytearray(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + bytes(2) + bytes(100))
    elf[18:20] = {"amd64": 62, "arm64": 183}[OTHER].to_bytes(2, "little")
    tree = tmp_path / "tree"
    unpack(tree, OLDER, OTHER)
    (tree / "bin" / "ollama").write_bytes(elf)
    file = packed(tree, tmp_path / f"ollama-linux-{OTHER}.tgz")
    ended = offline(home, file, "--release", OLDER, "--sha256", sha256(file))
    assert (ended.code, current(home)) == (3, None), ended.err
    assert "this archive is for" in ended.err


def test_the_bare_word_finds_the_archive_here_then_in_the_home_then_among_the_downloads(home, tmp_path):
    here, user = tmp_path / "here", tmp_path / "user"
    places = {"here": here, "home": home / "downloads", "user": user / "Downloads", "xdg": tmp_path / "xdg"}
    releases = {"here": "0.13.5", "home": "0.13.4", "user": "0.13.2", "xdg": "0.13.3"}
    here.mkdir()
    for name, place in places.items():
        build_archive(place, releases[name], ARCH)
    (here / f"ollama-linux-{ARCH}-rocm.tgz").write_bytes(b"x")
    (here / f"ollama-linux-{OTHER}.tgz").write_bytes(b"x")
    for name in ("here", "home", "xdg", "user"):
        file = places[name] / asset_name(releases[name], ARCH)
        words = ["--dry-run", "--release", releases[name], "--sha256", sha256(file)]
        variables = {"HOME": str(user), "XDG_DOWNLOAD_DIR": str(places["xdg"])}
        ended = offline(home, "tgz", *words, folder=here, **variables)
        assert (ended.code, f"would unpack:\n  {file}" in ended.out) == (0, True), ended.out + ended.err
        file.unlink()
    nothing = offline(home, "tgz", folder=here, HOME=str(user))
    assert (nothing.code, "Downloads" in nothing.err) == (2, True), nothing.err


def test_of_several_archives_in_a_folder_the_newest_release_is_taken_and_said(home, tmp_path):
    for release in ("0.99.9", "0.99.10", "0.98.1"):
        made = build_archive(tmp_path / "made", release, ARCH)
        made.rename(tmp_path / f"ollama-linux-{ARCH}-v{release}.tar.zst")
    ended = offline(home, "tgz", folder=tmp_path)
    assert (ended.code, current(home)) == (0, "0.99.10"), ended.err
    assert f"ollama-linux-{ARCH}-v0.99.10.tar.zst" in ended.err


SOCKETLESS = """
import socket, sys
class Refused(socket.socket):
    def __init__(self, *words, **named):
        raise AssertionError("a socket was opened")
socket.socket = Refused
from firstlight.cli import main
main(["firstlight", *sys.argv[1:]])
"""


def test_offline_opens_no_socket(home, tmp_path):
    made = build_archive(tmp_path, UNKNOWN, ARCH)
    program = tmp_path / "socketless.py"
    program.write_text(SOCKETLESS)
    words = ["ollama.install", "--offline", str(made), "--yes"]
    ended = firstlight(*words, home=home, variables=OWN, program=[sys.executable, str(program)])
    assert (ended.code, current(home)) == (0, UNKNOWN), ended.err


@pytest.mark.parametrize(
    ("words", "said"), [(["--sha256", "0" * 64], "another SHA-256"), (["--require-known"], "known nowhere")]
)
def test_a_program_is_not_run_before_the_sum_that_was_asked_for_holds(home, tmp_path, words, said):
    """Which release an unknown archive is, its program tells: one that must not be trusted is not asked."""
    ran = tmp_path / "ran"
    tree = unpack(tmp_path / "tree", UNKNOWN, ARCH).parent.parent
    (tree / "bin" / "ollama").write_text(f"#!/bin/sh\ntouch '{ran}'\necho 'ollama version is {UNKNOWN}'\n")
    file = packed(tree, tmp_path / "made" / "ollama-linux.tgz")
    refused = offline(home, file, *words)
    assert (refused.code, said in refused.err, ran.exists()) == (5, True, False), refused.err
    assert offline(home, file).code == 0
    assert ran.exists()
