"""Ollama as an engine of the house: set up, proven, served, gone back from, with archives of the true layout.

The program in the archives is a small fake: it speaks Ollama's HTTP surface and answers canned words, so that what is
shown here is the way to the first token and every turn off it, not that a model runs. One test at the end lets a real
llama.cpp read the model that the proof uses.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import msgspec
import pytest
from support.command import firstlight
from support.fake_ollama import unpack
from support.loopback_registry import loopback_registry, publish
from support.release_server import release_server

from firstlight import engines
from firstlight.catalogue.loading import find_build, known_build, load_catalogue
from firstlight.engines.base import Serving, ServingRequest
from firstlight.engines.ollama import pulling
from firstlight.environments.pipconfig import read_pip_settings, uv_arguments
from firstlight.environments.wheels import find_uv
from firstlight.errors import FirstlightError, UsageError, VerificationFailed
from firstlight.home import Home
from firstlight.machine.facts import load
from firstlight.models.synthetic import write_synthetic_model
from firstlight.models.synthetic_gguf import write_synthetic_gguf
from firstlight.planning.plan import Launch
from firstlight.process import Command, merged_environment
from firstlight.serving.ports import free_port, port_holder
from firstlight.serving.server import RunningServer, ServerSpec
from firstlight.tasks.doing import pick_engine

MACHINES = Path(__file__).parent / "machines"
NEW, OLD, BROKEN = "0.32.12", "0.32.8", "0.32.11"
"""Releases that the catalogue knows, and the sums of which are public nowhere: any archive may stand for them."""
BUILD = f"ollama-0.35.1-cpu-{platform.machine()}"


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """A server that has three releases; the program of one cannot start."""
    with release_server(tmp_path_factory.mktemp("releases")) as server:
        for release in (NEW, OLD):
            server.add(release)
        server.add(BROKEN, behaviour={"FAKE_OLLAMA_CRASH": "start"})
        yield server


@pytest.fixture
def place(mirror, tmp_path):
    """A home whose releases come from that server alone."""
    home = tmp_path / "höme"
    own = tmp_path / "mirrors.toml"
    own.write_text(f'[release.ollama]\nmirrors = ["{mirror.url}"]\nonly = true\n')
    return Place(home, {"FIRSTLIGHT_MIRRORS": str(own), "OLLAMA_HOST": "127.0.0.1:9"})


class Place:
    def __init__(self, home, variables):
        self.home, self.variables = home, variables

    def run(self, *words, **more):
        variables = {**self.variables, **{f"FAKE_OLLAMA_{name}": value for name, value in more.items()}}
        return firstlight(*words, home=self.home, variables=variables)

    def setup(self, release, *words):
        return self.run("setup.ollama", "--release", release, "--cuda", "cpu", "--json", *words)

    @property
    def current(self):
        link = self.home / "ollama" / "current"
        return link.readlink().name if link.is_symlink() else None


def outcomes(receipt):
    return {step["id"]: step["outcome"] for step in receipt["steps"]}


# ── set up, again, back, away ────────────────────────────────────────────────────────────────────────────────────────


def test_setup_ends_with_a_first_token_like_the_other_engines(place, mirror):
    ended = place.setup(NEW)
    assert ended.code == 0, ended.err
    receipt = ended.document
    assert list(outcomes(receipt)) == ["plan", "environment", "model", "convert", "start", "first token", "switch"]
    assert (receipt["proof"]["tokens"], receipt["proof"]["device"]) == (12, "cpu")
    assert receipt["proof"]["model"] == receipt["model_id"] == "proof-model:f16"
    version = receipt["environment"]
    assert (version["generation"], version["kind"], version["reused"]) == (NEW, "archive", False)
    archive = next(each for each in receipt["fetched"] if each["name"].startswith("ollama-linux"))
    assert archive["source"] == mirror.url.removeprefix("http://")
    assert (receipt["bytes"] > 0, receipt["outside"]) == (True, [])
    assert place.current == NEW
    listed = place.run("setup.list", "--json").document["generations"]
    assert [(each["engine"], each["id"], each["state"], each["current"]) for each in listed] == [
        ("ollama", NEW, "proven", True)
    ]


def test_again_back_and_away(place):
    place.setup(OLD)
    first = place.setup(NEW)
    assert (first.code, place.current) == (0, NEW), first.err
    again = place.setup(NEW)
    assert again.code == 0, again.err
    told = outcomes(again.document)
    assert {told[name] for name in ("environment", "convert", "switch")} == {"reused"}
    assert again.document["bytes"] == 0
    back = place.run("setup.rollback", "ollama")
    assert (back.code, place.current) == (0, OLD), back.err
    proven = place.run("setup.prove", "ollama", "--json")
    assert (proven.code, proven.document["environment"]["generation"]) == (0, OLD), proven.err
    repaired = place.run("setup.repair", "ollama", "--json")
    assert repaired.code == 0, repaired.err
    assert (repaired.document["environment"]["generation"], place.current) == (f"{OLD}-2", f"{OLD}-2")
    away = place.run("setup.remove", "ollama")
    assert away.code == 0, away.err
    assert [path.name for path in (place.home / "ollama").iterdir()] == [".lock"]
    assert (place.home / "models" / "ollama" / "manifests").is_dir()


def test_a_release_that_cannot_start_is_never_switched_to(place):
    place.setup(OLD)
    ended = place.setup(BROKEN)
    assert ended.code == 5, ended.err
    assert ended.document["error"]["kind"] == "VerificationFailed"
    assert "illegal instruction" in ended.err
    assert place.current == OLD
    assert place.run("setup.prove", "ollama").code == 0


def test_the_true_cause_is_read_from_ollamas_log(place):
    place.setup(NEW)
    ended = place.run("setup.prove", "ollama", "--json", CRASH="load")
    assert ended.code == 5, ended.err
    assert "lib/ollama folder" in ended.document["error"]["why"]


def test_without_a_proof_it_is_said(place):
    ended = place.setup(NEW, "--no-proof")
    assert (ended.code, place.current) == (0, NEW), ended.err
    assert (ended.document["proof"], "not proven" in ended.err) == (None, True)


def test_a_dry_run_names_every_file_and_writes_none(place):
    ended = place.setup(NEW, "--dry-run")
    assert ended.code == 0, ended.err
    paths = [file["path"] for file in ended.document["files"]]
    for part in (f"ollama/{NEW}/bin/ollama", "ollama/current", f"downloads/ollama/{NEW}/ollama-linux-", "receipts/"):
        assert any(part in path for path in paths), part
    assert not place.home.exists()


# ── a copy that is there already ─────────────────────────────────────────────────────────────────────────────────────


def test_a_copy_elsewhere_is_adopted_and_never_written_into(place, tmp_path):
    copy = tmp_path / "usr local"
    unpack(copy, "0.31.2")
    before = {path: path.lstat().st_mtime_ns for path in copy.rglob("*")}
    ended = place.run("setup.ollama", "--adopt", str(copy), "--json")
    assert ended.code == 0, ended.err
    assert (ended.document["environment"]["kind"], ended.document["proof"]["tokens"]) == ("adopted", 12)
    again = place.run(
        "up", "--engine", "ollama", "--model", str(_gguf(tmp_path)), "--once", "--json", "--port", _port()
    )
    assert again.code == 0, again.err
    assert again.document["environment"]["prefix"] == str(copy)
    assert place.run("setup.remove", "ollama").code == 0
    assert {path: path.lstat().st_mtime_ns for path in copy.rglob("*")} == before


def _gguf(folder, more=b"one"):
    """A whole GGUF file with other bytes than the proof model."""
    file = write_synthetic_gguf(folder / "Tiny-Model-F16.gguf")
    file.write_bytes(file.read_bytes() + more)
    return file


def _port():
    return str(free_port())


@pytest.mark.parametrize("kind", ["empty", "not running", "ours"])
def test_a_prefix_that_cannot_be_adopted_is_told_before_anything_is_done(place, tmp_path, kind):
    prefix = tmp_path / "prefix"
    if kind == "ours":
        place.setup(OLD, "--no-proof")
        prefix = place.home / "ollama" / OLD
    elif kind == "not running":
        unpack(prefix)
        (prefix / "bin" / "ollama").write_text("#!/bin/sh\necho no >&2\nexit 3\n")
    ended = place.run("setup.ollama", "--adopt", str(prefix), "--json")
    assert (ended.code, str(prefix) in ended.document["error"]["message"]) == (2, True), ended.err


# ── models ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_up_takes_a_gguf_file_in_by_a_link_and_keeps_the_release_in_use(place, tmp_path):
    place.setup(OLD)
    file = _gguf(tmp_path)
    ended = place.run("up", "--engine", "ollama", "--model", str(file), "--once", "--json", "--port", _port())
    assert ended.code == 0, ended.err
    receipt = ended.document
    assert (receipt["environment"]["generation"], receipt["model_id"]) == (OLD, "Tiny-Model:f16")
    assert file.stat().st_nlink == 2
    assert receipt["plan"]["build"]["release"] == OLD


def test_two_models_of_one_name_stay_apart(place, tmp_path):
    place.setup(OLD, "--no-proof")
    first, second = _gguf(tmp_path / "one"), _gguf(tmp_path / "two", b"other bytes")
    names = []
    for file in (first, second, first):
        ended = place.run("up", "--engine", "ollama", "--model", str(file), "--once", "--json", "--port", _port())
        assert ended.code == 0, ended.err
        names.append(ended.document["model_id"])
    assert names[0] == names[2] == "Tiny-Model:f16"
    assert names[1].startswith("Tiny-Model:f16-")


def test_a_model_of_the_store_is_served_by_its_name(place, tmp_path):
    place.setup(OLD, "--no-proof")
    taken = place.run("ollama.import", str(_gguf(tmp_path)), "--name", "mine:v1")
    assert taken.code == 0, taken.err
    ended = place.run("setup.prove", "ollama", "--model", "mine:v1", "--json")
    assert ended.code == 0, ended.err
    assert (ended.document["model_id"], "convert" in outcomes(ended.document)) == ("mine:v1", False)
    blobs = place.home / "models" / "ollama" / "blobs"
    next(path for path in blobs.iterdir() if path.stat().st_size > 1_000_000).unlink()
    damaged = place.run("setup.prove", "ollama", "--model", "mine:v1")
    assert (damaged.code, "is gone" in damaged.err, "ollama.pull mine:v1" in damaged.err) == (1, True, True)


def test_a_model_that_only_a_registry_knows_is_pulled_for_it(tmp_path, monkeypatch):
    """`up --engine ollama --model llama3.2:1b` needs no pull before it; the registry here speaks plain HTTP."""
    monkeypatch.setattr(pulling, "pull", functools.partial(pulling.pull, insecure=True))
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    engine, home = engines.find("ollama"), Home(tmp_path / "home")
    home.prepare()
    with loopback_registry({"own/m:7b": publish(_gguf(tmp_path).read_bytes())}) as registry:
        name = f"{registry.url.removeprefix('http://')}/own/m:7b"
        assert engine.own_model(name, home) is None
        assert engine.fetches(name)
        model = engine.fetch_model(name, home, _step())
    assert (model.name, engine.taking(model)) == (name, None)
    found = engine.own_model(name, home)
    assert found is not None
    assert found.path == home.models / "ollama"
    assert not any(map(engine.fetches, ["owner/name", "hf:owner/name", "./folder", "pypi:package"]))


def test_a_proof_leaves_nothing_in_the_users_own_store(place, tmp_path):
    place.variables["OLLAMA_MODELS"] = str(tmp_path / "own store")
    ended = place.setup(NEW)
    assert (ended.code, (tmp_path / "own store").exists()) == (0, False), ended.err
    words = ["up", "--engine", "ollama", "--model", str(_gguf(tmp_path)), "--once", "--json", "--port", _port()]
    talked = place.run(*words)
    assert talked.code == 0, talked.err
    assert (tmp_path / "own store" / "manifests").is_dir()


def test_safetensors_are_refused_before_anything_is_fetched(place, tmp_path, mirror):
    folder = write_synthetic_model(tmp_path / "model")
    asked = mirror.server.routes[f"/v{NEW}/sha256sum.txt"].requests()
    ended = place.setup(NEW, "--model", str(folder))
    assert (ended.code, "reads GGUF" in ended.err) == (2, True), ended.err
    assert mirror.server.routes[f"/v{NEW}/sha256sum.txt"].requests() == asked
    assert not place.home.exists()


def test_up_chooses_an_engine_that_reads_the_model(tmp_path):
    old = load(MACHINES / "p100-driver535.json")
    laptop = load(MACHINES / "no-gpu-laptop.json")
    safetensors = str(write_synthetic_model(tmp_path / "model"))
    assert pick_engine(laptop, None) == "transformers"
    assert pick_engine(laptop, None, safetensors) == "transformers"
    assert pick_engine(laptop, None, "llama3.2:1b") == "ollama"
    assert pick_engine(laptop, None, "Qwen2.5-0.5B-Instruct") == "transformers"  # which then tells that the owner lacks
    for facts in (old, laptop):
        chosen = pick_engine(facts, None, safetensors)
        assert "safetensors" in engines.find(chosen).layouts
    assert pick_engine(old, "ollama", safetensors) == "ollama"


# ── left running ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_detached_it_takes_imports_at_once_and_is_listed(place, tmp_path):
    place.setup(OLD, "--no-proof")
    port = _port()
    model = ["--model", str(_gguf(tmp_path / "one"))]
    ended = place.run("up", "--engine", "ollama", *model, "--detach", "--port", port)
    assert ended.code == 0, ended.err
    try:
        second = _gguf(tmp_path / "two", b"more")
        taken = place.run("ollama.import", str(second), "--name", "second", "--json")
        assert taken.document["through"] == f"http://127.0.0.1:{port}", taken.err
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=60) as answer:
            served = {each["id"] for each in json.loads(answer.read())["data"]}
        assert served == {"Tiny-Model:f16", "second:latest", "proof-model:f16"}
        listed = place.run("ollama.list", "--json").document
        assert {each["name"]: each["processor"] for each in listed["models"]} == {
            "Tiny-Model:f16": "100% CPU",
            "second:latest": None,
            "proof-model:f16": None,
        }
        refused = place.run("setup.remove", "ollama")
        assert (refused.code, "runs from this environment" in refused.err) == (1, True)
    finally:
        down = place.run("down", "ollama")
    assert down.out == "ollama stopped\n"
    assert port_holder(int(port)) is None


# ── how its server is started ────────────────────────────────────────────────────────────────────────────────────────


def request(folder, **more):
    launch = Launch(port=11434, device="cuda", **more.pop("launch", {}))
    build = find_build(load_catalogue().engines["ollama"], more.pop("build", BUILD))
    values = {"host": "127.0.0.1", "port": 8123, "flags": (), **more}
    return ServingRequest(
        prefix=folder / "0.35.1",
        build=build,
        launch=launch,
        model=folder / "models",
        model_bytes=1_000_000_000,
        name="tiny:f16",
        home=Home(folder / "home"),
        **values,
    )


def test_all_is_told_by_variables(tmp_path, monkeypatch):
    for name in ("OLLAMA_MODELS", "OLLAMA_NOPRUNE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    wish = request(tmp_path, launch={"visible_devices": "GPU-1"})
    serving = engines.find("ollama").serving(wish)
    assert serving.command.argv == (str(tmp_path / "0.35.1" / "bin" / "ollama"), "serve")
    assert (serving.model_id, serving.health_path) == ("tiny:f16", "/api/version")
    variables = merged_environment(serving.command.environment)
    assert variables["OLLAMA_HOST"] == "127.0.0.1:8123"
    assert variables["OLLAMA_MODELS"] == str(tmp_path / "home" / "models" / "ollama")
    assert variables["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert variables["OLLAMA_NOPRUNE"] == "1"
    assert Path(variables["HOME"]).is_dir()
    assert ("HTTP_PROXY" in variables, variables["HTTPS_PROXY"]) == (False, "http://proxy:3128")


def test_on_the_cpu_no_gpu_is_shown_and_the_users_store_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "own"))
    wish = request(tmp_path, host="::1")
    wish = msgspec.structs.replace(wish, launch=Launch(port=1, device="cpu"))
    variables = engines.find("ollama").serving(wish).command.environment
    assert variables["CUDA_VISIBLE_DEVICES"] == "-1"
    assert variables["OLLAMA_HOST"] == "[::1]:8123"
    assert variables["OLLAMA_MODELS"] == str(tmp_path / "own")


def test_words_after_the_dashes_are_its_settings(tmp_path):
    flags = ("OLLAMA_CONTEXT_LENGTH=8192", "OLLAMA_KEEP_ALIVE=-1")
    variables = engines.find("ollama").serving(request(tmp_path, flags=flags)).command.environment
    assert (variables["OLLAMA_CONTEXT_LENGTH"], variables["OLLAMA_KEEP_ALIVE"]) == ("8192", "-1")


@pytest.mark.parametrize("word", ["--num-ctx", "8192", "PATH=/tmp", "OLLAMA_HOST=0.0.0.0", "OLLAMA_MODELS=/x"])
def test_what_is_no_setting_of_its_is_refused_with_a_way_on(tmp_path, word):
    with pytest.raises(UsageError) as caught:
        engines.find("ollama").serving(request(tmp_path, flags=(word,)))
    assert any(part in (caught.value.fix or "") for part in ("OLLAMA_CONTEXT_LENGTH=8192", "--port", "export"))


def test_a_flag_is_refused_before_anything_is_fetched(place):
    ended = place.run("up", "--engine", "ollama", "--once", "--", "--num-ctx", "8192")
    assert (ended.code, "-- OLLAMA_CONTEXT_LENGTH=8192" in ended.err) == (2, True), ended.err
    assert not place.home.exists()


def test_a_build_of_a_release_that_another_entry_covers_is_found():
    page = load_catalogue().engines["ollama"]
    build = find_build(page, f"ollama-{OLD}-cpu-x86_64")
    assert (build.release, [asset.sha256 for asset in build.assets]) == (OLD, [None])
    assert known_build(page, "ollama-0.0.1-cpu-x86_64") is None


@pytest.mark.parametrize(("gpu", "device"), [(True, "cuda"), (False, "cpu")])
def test_a_model_that_lies_on_the_cpu_beside_a_gpu_is_no_proof(tmp_path, gpu, device):
    """Ollama falls back to the CPU without a word, and answers all the same."""
    program = unpack(tmp_path / "0.35.1")
    engine, home = engines.find("ollama"), Home(tmp_path / "home")
    home.prepare()
    taken = firstlight(
        "ollama.import", str(_gguf(tmp_path)), "--name", "tiny:f16",
        home=home.root, variables={"OLLAMA_HOST": "127.0.0.1:9"},
    )  # fmt: skip
    assert taken.code == 0, taken.err
    serving = engine.serving(request(tmp_path, port=free_port()))
    environment = {**serving.command.environment, "FAKE_OLLAMA_GPU": "1" if gpu else ""}
    port = int((serving.command.environment["OLLAMA_HOST"] or "").rpartition(":")[2])
    spec = ServerSpec(
        name="ollama", command=Command((str(program), "serve"), environment), host="127.0.0.1", port=port,
        health_path=serving.health_path, log=tmp_path / "log", ready_timeout=600.0, engine="ollama",
        model_id="tiny:f16",
    )  # fmt: skip
    with RunningServer.start(spec) as server:
        server.wait_ready(_step())
        on_gpu = Launch(port=port, device="cuda")
        if gpu:
            assert engine.load(spec.base_url, serving, on_gpu) == device
        else:
            with pytest.raises(VerificationFailed, match="on the CPU, though"):
                engine.load(spec.base_url, serving, on_gpu)
            assert engine.load(spec.base_url, serving, Launch(port=port, device="cpu")) == device


def _step():
    from firstlight.events import Step, silent

    return Step(silent, "start", "start")


def test_where_nothing_answers_the_error_says_what_to_do():
    serving = Serving(command=Command(()), model_id="x", health_path="/", ready_timeout=5.0)
    with pytest.raises(FirstlightError, match="no Ollama answers") as caught:
        engines.find("ollama").load(f"http://127.0.0.1:{free_port()}", serving, Launch(port=1))
    assert caught.value.fix


# ── a real llama.cpp ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.engine
def test_a_real_llama_cpp_answers_from_the_proof_model(place, tmp_path):
    """The fake server hands the question to llama.cpp (xllamacpp from the package registry), on the very blob."""
    words, variables = uv_arguments(read_pip_settings())
    python, uv = tmp_path / "llama" / "bin" / "python", str(find_uv())
    for line in (
        ["venv", "--python", sys.executable, str(tmp_path / "llama")],
        ["pip", "install", "--python", str(python), *words, "xllamacpp==2026.10.11549"],
    ):
        subprocess.run([uv, *line], check=True, capture_output=True, env=os.environ | variables)
    copy = tmp_path / "copy"
    unpack(copy)
    ended = place.run("setup.ollama", "--adopt", str(copy), "--json", XLLAMACPP=str(python))
    assert ended.code == 0, ended.err
    proof = ended.document["proof"]
    assert (proof["tokens"], proof["finish_reason"]) == (12, "length")
    assert proof["text"].isascii()
    assert proof["text"].isalpha()
    again = place.run("setup.prove", "ollama", "--json", XLLAMACPP=str(python))
    assert again.document["proof"]["text"] == proof["text"]
    shutil.rmtree(tmp_path / "llama")
