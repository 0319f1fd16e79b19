"""`ollama.install`, its rollback and uninstall, from a server: the right archive comes whole to the right place.

The program in the archives is a small fake (see `support/fake_ollama.py`).
"""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from support.command import REPOSITORY, firstlight
from support.fake_ollama import asset_name, build_archive, layout, unpack
from support.faults import Faults
from support.ollama_installs import CURRENT, OLDER, OWN, current, install, packed, says
from support.release_server import ARCH, release_server, sha256


@pytest.fixture
def server(tmp_path):
    with release_server(tmp_path / "releases") as made:
        yield made


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.mark.parametrize("release", [CURRENT, OLDER, "0.5.7"])
def test_a_release_is_fetched_unpacked_and_made_current(server, home, release):
    ended = install(home, server, release, "--json")
    assert ended.code == 0, ended.err
    receipt, version = ended.document, home / "ollama" / release
    assert receipt["schema"] == "firstlight.receipt/1"
    (fetched,) = receipt["fetched"]
    file = server.folder / f"v{release}" / asset_name(release, ARCH)
    assert (fetched["name"], fetched["sha256"], fetched["size"]) == (file.name, sha256(file), file.stat().st_size)
    assert fetched["source"] == server.url.removeprefix("http://")
    assert receipt["environment"]["prefix"] == str(version)
    assert receipt["outside"] == []
    assert f"the sum of {file.name} is known from --sha256" in receipt["notes"]
    assert receipt["plan"]["build"]["integrity"] == "pinned"
    assert json.loads(Path(receipt["path"]).read_text())["what"] == "ollama.install"
    assert says(home / "ollama" / "current" / "bin" / "ollama") == release
    for member in layout(release, ARCH):
        place = version / member.name
        assert (place.is_symlink(), place.exists()) == (member.kind == "link", True), member.name
    assert not list((home / "downloads").glob("**/*.t*"))


def test_versions_lie_side_by_side_and_rollback_goes_back(server, home):
    install(home, server, OLDER)
    second = install(home, server, CURRENT)
    assert "back to it: firstlight ollama.rollback" in second.out
    assert current(home) == CURRENT
    back = firstlight("ollama.rollback", home=home)
    assert (back.code, current(home)) == (0, OLDER), back.err
    assert says(home / "ollama" / "current" / "bin" / "ollama") == OLDER


def test_the_same_release_again_costs_no_byte(server, home):
    install(home, server, CURRENT)
    route = server.server.routes[f"/v{CURRENT}/{asset_name(CURRENT, ARCH)}"]
    asked = route.requests()
    again = install(home, server, CURRENT, "--json")
    assert (again.code, route.requests()) == (0, asked)
    assert again.document["environment"]["reused"] is True
    afresh = install(home, server, CURRENT, "--repair", "--json")
    assert afresh.document["environment"]["generation"] == f"{CURRENT}-2"
    assert current(home) == f"{CURRENT}-2"


def test_uninstall_removes_one_version_or_all_and_keeps_the_models(server, home):
    install(home, server, OLDER)
    install(home, server, CURRENT)
    models = home / "models" / "ollama" / "manifests"
    models.mkdir(parents=True)
    one = firstlight("ollama.uninstall", "--release", f"v{OLDER}", home=home)
    assert (one.code, (home / "ollama" / OLDER).exists(), current(home)) == (0, False, CURRENT), one.err
    every = firstlight("ollama.uninstall", "--json", home=home)
    assert (every.code, current(home), models.is_dir()) == (0, None, True), every.err
    assert any("models" in line and "stay" in line for line in every.document["undone"])
    none = firstlight("ollama.uninstall", home=home)
    assert (none.code, "setup.list" in none.err) == (2, True)
    assert firstlight("ollama.uninstall", "--models", home=home).code == 0
    assert not models.exists()


def test_a_wrong_sum_switches_nothing_and_names_who_sent_it(server, home):
    install(home, server, OLDER)
    server.add(CURRENT)
    wrong = install(home, server, CURRENT, "--sha256", "0" * 64, "--json", known=False)
    assert wrong.code == 5, wrong.err
    assert wrong.document["error"]["kind"] == "VerificationFailed"
    assert server.url.removeprefix("http://") in wrong.err
    assert f"firstlight ollama.install --release {CURRENT} --mirror" in wrong.document["error"]["fix"]
    assert (current(home), (home / "ollama" / CURRENT).exists()) == (OLDER, False)


def test_a_program_that_does_not_run_is_never_switched_to(server, home, tmp_path):
    install(home, server, CURRENT)
    program = unpack(tmp_path / "tree", OLDER, ARCH)
    program.write_text("#!/bin/sh\necho illegal instruction >&2\nexit 132\n")
    broken = packed(tmp_path / "tree", tmp_path / "broken" / asset_name(OLDER, ARCH))
    server.serve(OLDER, broken)
    ended = install(home, server, OLDER, "--sha256", sha256(broken), known=False)
    assert (ended.code, "illegal instruction" in ended.err) == (5, True), ended.err
    assert (current(home), (home / "ollama" / OLDER).exists()) == (CURRENT, False)


def test_an_archive_without_its_libraries_is_never_switched_to(server, home, tmp_path):
    lone = tmp_path / "lone" / asset_name(OLDER, ARCH)
    lone.parent.mkdir()
    program = unpack(tmp_path / "tree", OLDER, ARCH)
    with tarfile.open(lone, "w:gz") as tar:
        tar.add(program, "bin/ollama")
    server.serve(OLDER, lone)
    ended = install(home, server, OLDER, "--sha256", sha256(lone), known=False)
    assert (ended.code, "lib/ollama" in ended.err, current(home)) == (5, True, None), ended.err


def test_an_archive_that_calls_itself_otherwise_is_told(server, home, tmp_path):
    other = build_archive(tmp_path / "rc", "0.13.4", ARCH)
    server.serve(OLDER, other)
    ended = install(home, server, OLDER, "--sha256", sha256(other), known=False)
    assert ended.code == 0, ended.err
    assert f"WARNING: the archive of {OLDER} holds a program that calls itself 0.13.4" in ended.err


def test_a_source_that_dies_midway_is_replaced_by_another_one(server, home, tmp_path):
    made = server.add(CURRENT, filler=4 << 20, faults=Faults(dies_after=1 << 20))
    with release_server(tmp_path / "releases", "127.0.0.2") as second:
        second.add(CURRENT)
        words = ["--release", CURRENT, "--only-mirrors", "--sha256", made.sha256, "--json"]
        words += ["--mirror", server.url, "--mirror", second.url]
        ended = firstlight("ollama.install", *words, home=home, variables=OWN)
    assert ended.code == 0, ended.err
    assert second.url.removeprefix("http://") in ended.document["fetched"][0]["source"]


def test_when_no_source_has_it_each_is_named_and_the_exit_code_is_4(server, home):
    words = ["--release", CURRENT, "--only-mirrors", "--mirror", server.url, "--mirror", "/nowhere"]
    ended = firstlight("ollama.install", *words, "--json", home=home, variables=OWN)
    assert ended.code == 4, ended.err
    assert all(name in ended.err for name in (server.url.removeprefix("http://"), "/nowhere"))
    assert ended.document["error"]["kind"] == "NetworkFailed"
    assert all(word in ended.document["error"]["fix"] for word in ("mirror.probe --of ollama", "--offline FILE"))


def test_a_folder_is_a_mirror_too(home, tmp_path):
    made = build_archive(tmp_path / "usb" / f"v{CURRENT}", CURRENT, ARCH)
    words = ["--release", CURRENT, "--only-mirrors", "--mirror", str(tmp_path / "usb"), "--sha256", sha256(made)]
    ended = firstlight("ollama.install", *words, home=home, variables=OWN)
    assert (ended.code, current(home), made.is_file()) == (0, CURRENT, True), ended.err


# sums that the catalogue does not have


def test_the_build_follows_the_machine(server, home):
    facts = REPOSITORY / "tests" / "machines" / "a100-driver470-ubuntu2004.json"
    made = server.add("0.9.2", arch="amd64")
    words = ["--machine", str(facts), "--mirror", server.url, "--only-mirrors", "--sha256", made.sha256, "--json"]
    ended = firstlight("ollama.install", *words, "--dry-run", home=home, variables=OWN)
    assert ended.code == 0, ended.err
    assert ended.document["plan"]["build"]["id"] == "ollama-0.9.2-cuda-v11-x86_64"


def test_with_json_progress_is_one_document_a_line_on_standard_error(server, home):
    ended = install(home, server, CURRENT, "--json")
    events = [json.loads(line) for line in ended.err.splitlines()]
    assert {event["schema"] for event in events} == {"firstlight.event/1"}
    kinds = [(event["event"], event.get("step")) for event in events]
    assert ("started", "release") in kinds
    assert ("finished", "switch") in kinds
    moved = [event for event in events if event["event"] == "progress" and event["step"] == "release"]
    assert moved
    assert {"done", "total", "unit", "rate", "seconds_left", "detail"} <= set(moved[-1])
    assert moved[-1]["done"] == moved[-1]["total"]


def test_a_jetson_board_gets_its_second_archive_into_the_same_version(server, home):
    facts = REPOSITORY / "tests" / "machines" / "made" / "orin-jetpack6.json"
    main = server.add(OLDER, arch="arm64")
    server.add(OLDER, arch="arm64", variant="jetpack6")
    words = ["--machine", str(facts), "--release", OLDER, "--mirror", server.url, "--only-mirrors", "--json"]
    ended = firstlight("ollama.install", *words, "--sha256", main.sha256, home=home, variables=OWN)
    assert ended.code == 0, ended.err
    assert [file["name"] for file in ended.document["fetched"]] == [
        f"ollama-linux-arm64{part}.tgz" for part in ("", "-jetpack6")
    ]
    version = home / "ollama" / OLDER / "lib" / "ollama"
    assert (version / "cuda_jetpack6" / "libggml-cuda.so").is_file()
    assert (version / "cuda_v12" / "libggml-cuda.so").is_file()
