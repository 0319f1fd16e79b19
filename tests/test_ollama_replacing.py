"""What runs from a version of Ollama when another one takes its place; and an install where there is nothing at all.

The program in the archives is a small fake with the true layout around it (see `support/fake_ollama.py`).
"""

from __future__ import annotations

import io
import json
import shutil
import socket
import tarfile
import urllib.request
from pathlib import Path

import pytest
from support.bare_root import USER, USER_ID, BareRoot, minimal_debian
from support.command import REPOSITORY, firstlight
from support.fake_ollama import _compressed, asset_name, build_archive, unpack
from support.release_server import ARCH, sha256

from firstlight.events import silent, step
from firstlight.home import Home
from firstlight.process import Command
from firstlight.serving.records import Details
from firstlight.serving.running import detach, list_running, stop_running, wait_detached
from firstlight.serving.server import ServerSpec

OLD, NEW = "0.13.5", "0.35.1"
UNKNOWN = "0.99.0"  # the catalogue has no sum of it


def install(home, file, *words):
    sums = ["--sha256", sha256(file), "--release", file.parent.name]
    return firstlight("ollama.install", "--offline", str(file), *sums, *words, home=home)


def archive(folder, release, **more):
    return build_archive(folder / release, release, ARCH, **more)


@pytest.fixture
def serving(tmp_path):
    """A home whose old version serves, detached; yields it and what the server answers as its version."""
    root = tmp_path / "home"
    done = install(root, archive(tmp_path, OLD))
    assert done.code == 0, done.err
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home, version = Home(root), root / "ollama" / OLD
    variables = {
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "HOME": str(tmp_path),
        "OLLAMA_MODELS": str(root / "models" / "ollama"),
    }
    spec = ServerSpec(
        name="ollama",
        command=Command((str(version / "bin" / "ollama"), "serve"), {**variables, "MARK": f"{version}/lib"}),
        port=port,
        health_path="/v1/models",
        log=tmp_path / "log",
        engine="ollama",
        model_id="m",
    )
    with step(silent, "start", "start") as current:
        wait_detached(spec, detach(spec, home, Details(environment=OLD)), home, current)

    def version_told():
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/version", timeout=30) as answer:
            return json.loads(answer.read())["version"]

    yield root, version_told
    for record in list_running(home):
        stop_running(home, record.name)


def test_a_detached_server_is_restarted_from_the_new_version_and_from_the_old_one_again(serving, tmp_path):
    root, told = serving
    assert told() == OLD
    done = install(root, archive(tmp_path, NEW), "--json")
    assert done.code == 0, done.err
    assert told() == NEW
    (record,) = list_running(Home(root))
    assert (record.details.environment, record.model) == (NEW, "m")
    variables = Path(f"/proc/{record.pid}/environ").read_bytes().split(b"\0")
    assert f"MARK={root}/ollama/{NEW}/lib".encode() in variables
    assert firstlight("ollama.uninstall", home=root).code == 1
    back = firstlight("ollama.rollback", "--json", home=root)
    assert (back.code, back.document["restarted"], told()) == (0, ["ollama"], OLD), back.err


def test_a_server_that_does_not_come_up_from_the_new_version_runs_from_the_old_one_again(serving, tmp_path):
    root, told = serving
    done = install(root, archive(tmp_path, NEW, behaviour={"FAKE_OLLAMA_CRASH": "start"}))
    assert done.code == 5, done.err
    assert f"ollama does not start from {NEW}; {OLD} is current again" in done.err
    assert told() == OLD
    assert str((root / "ollama" / "current").readlink()) == OLD


def archive_for_a_shell(folder, release):
    """An archive of the true layout whose program is a line of shell: there is no Python where it is unpacked."""
    program = unpack(folder / "tree", release, ARCH)
    program.write_text(f'#!/bin/sh\necho "Warning: client version is {release}"\n')
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for part in ("bin", "lib"):
            tar.add(folder / "tree" / part, part)
    file = folder / asset_name(release, ARCH)
    file.write_bytes(_compressed(plain.getvalue(), file.name))
    return file


@pytest.mark.root
def test_a_user_without_root_installs_offline_in_a_bare_container_without_a_network(tmp_path):
    bare = BareRoot(minimal_debian(), tmp_path / "layer")
    try:
        made = archive_for_a_shell(tmp_path, UNKNOWN)
        downloads = f"/home/{USER}/Downloads"
        bare.put(f"{downloads}/x", "")
        shutil.copy(made, bare.path(f"{downloads}/{made.name}"))
        assert bare.run("sh", "-c", "command -v zstd || command -v curl || command -v ollama").returncode != 0
        bare.put_checkout(REPOSITORY, "/srv/firstlight", owner=USER_ID)
        ready = bare.run("/srv/firstlight/scripts/firstlight", "machine", "--json")
        assert ready.returncode == 0, ready.stderr
        words = ["ollama.install", "--offline", "tgz", "--prefix", f"/home/{USER}/.local", "--yes", "--json"]
        alone = ["unshare", "--net", "setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--clear-groups"]
        ran = bare.run(*alone, "/srv/firstlight/scripts/firstlight", *words, HOME=f"/home/{USER}", USER=USER)
        assert ran.returncode == 0, ran.stderr
        receipt = json.loads(ran.stdout)
        assert receipt["fetched"][0]["source"] == f"{downloads}/{made.name}"
        said = bare.run(f"/home/{USER}/.local/bin/ollama", "-v", user=USER_ID)
        assert UNKNOWN in said.stdout + said.stderr
    finally:
        shutil.rmtree(tmp_path / "layer", ignore_errors=True)
