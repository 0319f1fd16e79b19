"""`ollama.install`, its rollback and uninstall, on archives with the true layout.

The program in them is a small fake, and so are its libraries (see `support/fake_ollama.py`): what is shown is that the
right archive comes whole to the right place, not that a model runs.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from pathlib import Path

import pytest
from support.command import REPOSITORY, firstlight
from support.fake_ollama import asset_name, build_archive, layout, unpack
from support.faults import HTML, Faults
from support.release_server import ARCH, OTHER, release_server, sha256

from firstlight.catalogue.loading import load_catalogue
from firstlight.engines.ollama.releases import parse_sums, with_release

CURRENT, OLDER, UNKNOWN = "0.35.1", "0.13.5", "0.99.0"
OWN = {"PATH": "/usr/bin:/bin", "MODELSCOPE_DOMAIN": "http://127.0.0.1:1"}


@pytest.fixture
def server(tmp_path):
    with release_server(tmp_path / "releases") as made:
        yield made


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def install(home, server, release, *words, known=True, **more):
    """Install from one server alone; `known`: with the sum of the archive that it has."""
    made = server.add(release) if f"v{release}" not in str(list(server.server.routes)) else None
    file = made.file if made else server.folder / f"v{release}" / asset_name(release, ARCH)
    sums = ["--sha256", sha256(file)] if known else []
    options = ["--release", release, "--mirror", server.url, "--only-mirrors", *sums, *words]
    return firstlight("ollama.install", *options, home=home, variables={**OWN, **more})


def says(program):
    ran = subprocess.run([str(program), "-v"], capture_output=True, text=True, check=False, env={"HOME": "/tmp"})
    return (ran.stdout + ran.stderr).split()[-1]


def current(home):
    link = home / "ollama" / "current"
    return str(link.readlink()) if link.is_symlink() else None


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


def packed(tree, file):
    """A tree as a release's archive."""
    file.parent.mkdir(exist_ok=True)
    with tarfile.open(file, "w:gz") as tar:
        tar.add(tree / "bin", "bin")
        tar.add(tree / "lib", "lib")
    return file


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


PATCHED = """
import sys
from pathlib import Path
import firstlight.resources as resources
usual = resources.data_folder
resources.data_folder = lambda name: Path({envs!r}) if name == "envs" else usual(name)
from firstlight.cli import main
main(["firstlight", *sys.argv[1:]])
"""


@pytest.fixture
def catalogue(tmp_path):
    """The catalogue with another origin and other sums; returns the program that uses it, and how it is changed."""
    envs = tmp_path / "envs"
    shutil.copytree(REPOSITORY / "envs", envs)
    program = tmp_path / "patched.py"
    program.write_text(PATCHED.format(envs=str(envs)))

    def change(file, *pairs):
        path = envs / file
        text = path.read_text()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        path.write_text(text)

    return [sys.executable, str(program)], change


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


# a local archive


def offline(home, file, *words, folder=None, **variables):
    return firstlight(
        "ollama.install", "--offline", str(file), *words, home=home, folder=folder, variables={**OWN, **variables}
    )


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


# a prefix


def prefixed(home, server, prefix, release, *words):
    return install(home, server, release, "--prefix", str(prefix), *words)


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
    assert (refused.code, "--yes" in refused.err) == (1, True), refused.err
    assert snapshot(prefix) == before
    taken = prefixed(home, server, prefix, CURRENT, "--yes")
    assert taken.code == 0, taken.err
    assert f"moved aside    {prefix}/bin/ollama and {prefix}/lib/ollama" in taken.out
    assert f"firstlight ollama.rollback --prefix {prefix}" in taken.out
    assert says(prefix / "bin" / "ollama") == CURRENT
    assert not (prefix / "lib" / "ollama" / "cuda_v11").exists()
    back = firstlight("ollama.rollback", "--prefix", str(prefix), home=home)
    assert back.code == 0, back.err
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


# words


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--release", "0.35"], 2, '--release does not take "0.35"'),
        (["--release", "0.3.6"], 2, 'has no release "0.3.6"'),
        (["--release", "newest"], 2, "latest"),
        (["--build", "ollama-0.35.1-cpu-x86"], 2, "did you mean"),
        (["--sha256", "abc"], 2, "--sha256 does not take 3 signs"),
        (["--mirror", "files.example"], 2, "no address of a mirror"),
        (["--only-mirrors"], 2, "leaves no source"),
        (["--offline", "/nowhere/x.tgz"], 2, "is no file"),
        (["--offline", "/proc/self"], 2, "/proc/self holds no archive of Ollama"),
        (["--offline", "tgz", "--mirror", "https://a.example"], 2, "--offline uses no mirror"),
        (["--service", "--prefix", "/tmp/p"], 2, "--service runs the version in firstlight's home"),
        (["--prefix", "/"], 2, "root of the system"),
        (["--prefix", ""], 2, "--prefix is empty"),
        (["--releas", "0.35.1"], 2, "--release"),
    ],
)
def test_wrong_words_are_code_2_with_what_to_do(home, words, code, said):
    ended = firstlight("ollama.install", *words, home=home, variables=OWN)
    assert (ended.code, said in ended.err) == (code, True), ended.err
    assert "fix:" in ended.err
    assert not home.exists()


def test_dry_run_writes_nothing_and_names_every_file(server, home, tmp_path):
    ended = install(home, server, CURRENT, "--dry-run", "--json", "--prefix", str(tmp_path / "p"))
    assert ended.code == 0, ended.err
    paths = [file["path"] for file in ended.document["files"]]
    assert ended.document["schema"] == "firstlight.dryrun/1"
    assert {str(tmp_path / "p" / "bin" / "ollama"), str(tmp_path / "p" / "lib" / "ollama")} <= set(paths)
    assert ended.document["plan"]["build"]["release"] == CURRENT
    assert not home.exists()
    assert not (tmp_path / "p").exists()


def test_a_dry_run_with_a_service_names_the_files_of_the_service_too(server, home):
    ended = install(home, server, CURRENT, "--dry-run", "--json", "--service")
    assert ended.code == 0, ended.err
    ours = [file["path"] for file in ended.document["files"] if str(home / "ollama") not in file["path"]]
    assert any("ollama.service" in path or "services/ollama" in path for path in ours), ours
    assert any(words[-1:] == ["serve"] or "systemctl" in words[0] for words in ended.document["commands"])
    assert not home.exists()


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
