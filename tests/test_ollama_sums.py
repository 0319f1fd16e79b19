"""Whose word for the sum of an archive is believed by `ollama.install`, and releases that the catalogue does not know.

The program in the archives is a small fake (see `support/fake_ollama.py`).
"""

from __future__ import annotations

import pytest
from support.command import REPOSITORY, firstlight
from support.faults import HTML, Faults
from support.ollama_installs import CURRENT, OWN, UNKNOWN, current, install, own_catalogue
from support.release_server import release_server

from firstlight.catalogue.loading import load_catalogue
from firstlight.engines.ollama.releases import parse_sums, with_release


@pytest.fixture
def server(tmp_path):
    with release_server(tmp_path / "releases") as made:
        yield made


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def unknown(home, *servers, words=()):
    options = ["--release", UNKNOWN, "--only-mirrors", *words]
    for server in servers:
        options += ["--mirror", server.url]
    return firstlight("ollama.install", *options, home=home, variables=OWN)


def test_a_newer_release_than_all_that_are_known_is_named_by_the_newest_rule_and_told(server, home):
    server.add(UNKNOWN, sums=False)
    ended = unknown(home, server)
    assert ended.code == 0, ended.err
    assert f"WARNING: release {UNKNOWN} is not in the catalogue" in ended.err
    assert "is known nowhere" in ended.err
    assert current(home) == UNKNOWN


def test_the_proof_of_a_release_that_is_not_known_does_not_say_that_its_files_are_held_by_hashes(server, home):
    assert install(home, server, UNKNOWN, known=False).code == 0
    proven = firstlight("setup.prove", "ollama", "--json", home=home, variables=OWN)
    assert proven.code == 0, proven.err
    build = proven.document["plan"]["build"]
    assert (build["release"], build["integrity"]) == (UNKNOWN, "pinned")
    assert any(UNKNOWN in line for line in proven.document["plan"]["because"])


def test_two_hosts_that_agree_are_believed(server, home, tmp_path):
    server.add(UNKNOWN)
    with release_server(tmp_path / "releases", "127.0.0.2") as second:
        second.add(UNKNOWN)
        ended = unknown(home, server, second, words=["--require-known"])
    assert ended.code == 0, ended.err
    assert "known nowhere" not in ended.err


def test_one_mirrors_word_for_its_own_file_is_not_enough(server, home):
    server.add(UNKNOWN)
    strict = unknown(home, server, words=["--require-known"])
    assert (strict.code, current(home)) == (5, None), strict.err
    loose = unknown(home, server)
    assert (loose.code, "damage is seen, a lie is not" in loose.err) == (0, True), loose.err


def test_a_file_that_is_not_what_its_own_mirror_lists_is_refused(server, home):
    made = server.add(UNKNOWN)
    damaged = bytearray(made.file.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    server.server.add(f"/v{UNKNOWN}/{made.file.name}", bytes(damaged))
    ended = unknown(home, server)
    assert (ended.code, current(home)) == (5, None), ended.err


@pytest.fixture
def catalogue(tmp_path):
    return own_catalogue(tmp_path)


def test_the_catalogue_gives_the_sum_and_the_origin_the_bytes(server, home, catalogue):
    program, change = catalogue
    made = server.add(CURRENT, sums=False)
    entry = next(
        line
        for line in (REPOSITORY / "envs/ollama/builds.toml").read_text().splitlines()
        if f'"{made.file.name}", sha256' in line
    )
    known = entry.partition('sha256 = "')[2][:64]
    change("ollama/builds.toml", (known, made.sha256))
    origin = f"{server.url}/v{{release}}/{{asset}}"
    change("ollama/archives.toml", ("https://github.com/ollama/ollama/releases/download/v{release}/{asset}", origin))
    ended = firstlight("ollama.install", "--json", home=home, variables=OWN, program=program)
    assert ended.code == 0, ended.err
    assert ended.document["fetched"][0]["sha256"] == made.sha256
    assert ended.document["plan"]["build"]["integrity"] == "locked"
    assert "WARNING" not in ended.err
    change("ollama/builds.toml", (made.sha256, "e" * 64))
    nowhere = {**OWN, "MODELSCOPE_DOMAIN": server.url}
    wrong = firstlight("ollama.install", "--repair", home=home, variables=nowhere, program=program)
    assert wrong.code in {4, 5}, wrong.err
    assert "wrong" in wrong.err
    assert current(home) == CURRENT


def test_the_origins_own_list_of_sums_is_believed(server, home, catalogue):
    program, change = catalogue
    server.add(UNKNOWN)
    origin = f"{server.url}/v{{release}}/{{asset}}"
    change("ollama/archives.toml", ("https://github.com/ollama/ollama/releases/download/v{release}/{asset}", origin))
    words = ["--release", UNKNOWN, "--require-known"]
    ended = firstlight("ollama.install", *words, home=home, variables=OWN, program=program)
    assert ended.code == 0, ended.err
    assert "comes from 127.0.0.1" in ended.err


def test_latest_asks_the_project_and_falls_back_to_the_newest_that_is_known(server, home, catalogue):
    program, change = catalogue
    made = server.add(UNKNOWN)
    server.server.add("/latest", b"", Faults(redirect=f"{server.url}/tag/v{UNKNOWN}"))
    server.server.add(f"/tag/v{UNKNOWN}", HTML)
    change("ollama/archives.toml", ("https://github.com/ollama/ollama/releases/latest", f"{server.url}/latest"))
    words = ["--release", "latest", "--mirror", server.url, "--only-mirrors", "--sha256", made.sha256]
    ended = firstlight("ollama.install", *words, home=home, variables=OWN, program=program)
    assert (ended.code, current(home)) == (0, UNKNOWN), ended.err
    del server.server.routes["/latest"]
    silent = firstlight("ollama.install", *words, "--dry-run", home=home, variables=OWN, program=program)
    assert (silent.code, f"ollama: ollama-{CURRENT}" in silent.out) == (0, True), silent.err


def test_lists_of_sums_are_read_in_any_order_and_spelling():
    text = f"""
{"A" * 64}  ./ollama-linux-amd64.tgz
{"b" * 64} *ollama-linux-arm64.tgz
not a line of sums
{"c" * 63}  ./short.tgz
{"d" * 64}  ./Ollama Setup.exe
"""
    assert parse_sums(text) == {
        "ollama-linux-amd64.tgz": "a" * 64,
        "ollama-linux-arm64.tgz": "b" * 64,
        "Ollama Setup.exe": "d" * 64,
    }
    assert parse_sums("<html>Not Found</html>") == {}


@pytest.mark.parametrize(
    ("release", "like", "known"),
    [
        ("0.35.1", None, True),
        ("0.6.2", None, True),
        ("0.35.2", "0.35.1", False),
        ("1.0.0-rc1", "0.35.1", False),
        ("0.11.99", "0.13.5", False),
        ("0.1.1", None, False),
    ],
)
def test_a_release_that_is_not_known_has_the_figures_of_those_next_to_it(release, like, known):
    usual = load_catalogue()
    catalogue, was_known = with_release(usual, release)
    added = catalogue.engines["ollama"].build[len(usual.engines["ollama"].build) :]
    assert was_known is known
    assert bool(added) is (like is not None)
    model = {build.id: build for build in usual.engines["ollama"].build}
    for build in added:
        twin = model[build.id.replace(release, like or "", 1)]
        assert (build.release, build.runner, build.driver) == (release, twin.runner, twin.driver)
        assert [asset.name for asset in build.assets] == [asset.name for asset in twin.assets]
        assert all(asset.sha256 is None for asset in build.assets)
