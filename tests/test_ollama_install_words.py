"""The words of `ollama.install`: those that cannot be, and what a dry run says.

The program in the archives is a small fake (see `support/fake_ollama.py`).
"""

from __future__ import annotations

import socket
import sys

import pytest
from support.command import firstlight
from support.fake_ollama import asset_name
from support.ollama_installs import CURRENT, OWN, install
from support.release_server import ARCH, release_server

from firstlight.engines.ollama.copies import Prefix
from firstlight.engines.ollama.releases import known_sum
from firstlight.engines.ollama.rewording import speaking_of
from firstlight.errors import FirstlightError
from firstlight.serving.ports import free_port


@pytest.fixture
def server(tmp_path):
    with release_server(tmp_path / "releases") as made:
        yield made


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


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
        (["--service", "--host", "0.0.0.0"], 2, "would be open to everyone who reaches 0.0.0.0"),
        (["--service", "--host", "0.0.0.0", "--port", "0"], 2, '--port does not take "0"'),
        (["--service", "--port", "eight"], 2, '--port does not take "eight"'),
        (["--port", "8000"], 2, "belong to a service"),
        (["--host", "127.0.0.1"], 2, "belong to a service"),
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


def test_the_words_of_a_service_reach_its_files(server, home):
    port = free_port()
    words = ["--service", "--host", "0.0.0.0", "--allow-open", "--port", str(port)]
    ended = install(home, server, CURRENT, "--dry-run", "--json", *words)
    assert ended.code == 0, ended.err
    assert any(f"0.0.0.0:{port}" in (file.get("content") or "") for file in ended.document["files"])


def test_a_port_that_is_taken_is_refused_before_anything_is_fetched(server, home):
    made = server.add(CURRENT)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        ended = install(home, server, CURRENT, "--service", "--port", str(port))
    assert (ended.code, f"port {port} is taken" in ended.err) == (1, True), ended.err
    assert (made.route.requests(), home.exists()) == (0, False)


@pytest.mark.parametrize(("sum_of", "integrity"), [("the catalogue", "locked"), ("another file", "pinned")])
def test_a_sum_that_overrules_the_catalogues_makes_no_locked_build(home, sum_of, integrity):
    asset = asset_name(CURRENT, ARCH)
    digest = known_sum(CURRENT, asset) if sum_of == "the catalogue" else "0" * 64
    words = ["--release", CURRENT, "--sha256", digest, "--dry-run", "--json"]
    ended = firstlight("ollama.install", *words, home=home, variables=OWN)
    assert ended.code == 0, ended.err
    assert ended.document["plan"]["build"]["integrity"] == integrity


@pytest.mark.parametrize(("release", "named"), [("0.99.0", True), ("latest", True), ("0.0.1", False), ("new", False)])
def test_a_set_up_of_a_release_that_is_not_known_names_the_install_that_takes_it(home, release, named):
    ended = firstlight("setup.ollama", "--release", release, home=home, variables=OWN)
    assert ended.code == 2, ended.err
    assert (f"firstlight ollama.install --release {release} " in ended.err) is named


DISKS = """
import os, sys
import msgspec
import firstlight.machine.reading as reading
from firstlight.machine.facts import Disk
usual = reading.read_machine
disks = [Disk(mount=mount, fs="ext4", total=10**12, free=int(free), writable=True)
         for mount, free in (pair.split("=") for pair in os.environ["DISKS"].split(","))]
reading.read_machine = lambda **words: msgspec.structs.replace(usual(**words), disks=disks)
from firstlight.cli import main
main(["firstlight", *sys.argv[1:]])
"""


@pytest.mark.parametrize("full", ["home", "prefix"])
def test_room_is_asked_of_the_disk_of_the_prefix(home, tmp_path, full):
    program, prefix = tmp_path / "disks.py", tmp_path / "volume" / "tools"
    program.write_text(DISKS)
    rooms = {"home": (10**6, 10**12), "prefix": (10**12, 10**6)}[full]
    variables = {**OWN, "DISKS": f"/={rooms[0]},{tmp_path / 'volume'}={rooms[1]}"}
    words = ["--release", CURRENT, "--prefix", str(prefix), "--dry-run", "--json"]
    ended = firstlight("ollama.install", *words, home=home, variables=variables, program=[sys.executable, str(program)])
    if full == "home":
        assert (ended.code, ended.document["plan"]["home"]) == (0, str(prefix / "lib" / "firstlight")), ended.err
        return
    assert ended.code == 3, ended.err
    assert f"{tmp_path / 'volume'} has " in ended.err
    assert "firstlight ollama.install --prefix" in ended.document["error"]["fix"]
    assert "FIRSTLIGHT_HOME" not in ended.err + ended.out


@pytest.mark.parametrize(
    ("home", "folder"),
    [
        ("/mnt/x/firstlight", "/mnt/x/ollama"),
        ("'/mnt/my disk/firstlight'", "'/mnt/my disk/ollama'"),
        ("/srv/other", "/srv/other"),
    ],
)
def test_where_room_is_the_prefix_is_named_also_where_its_path_is_quoted(tmp_path, home, folder):
    with pytest.raises(FirstlightError) as caught, speaking_of(Prefix(root=tmp_path)):
        raise FirstlightError("full", fix=f"use it: export FIRSTLIGHT_HOME={home}\nor make room")
    assert caught.value.fix == f"use it: firstlight ollama.install --prefix {folder}\nor make room"
