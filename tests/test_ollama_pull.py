"""`ollama.pull` against a registry on 127.0.0.1: what it writes, what it asks for again, and what it says.

No Ollama runs here: the layout of the store is held against what Ollama documents and what its own tool was seen to
write, the pull against the requests that the registry saw.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support.command import firstlight
from support.fetching_lab import asked_again, kept_runs
from support.hub_client import Remembered, patience, saved_bytes, wait_for
from support.loopback_hub import Faults
from support.loopback_registry import digest_of, loopback_registry, publish

from firstlight.engines.ollama.names import parse_name
from firstlight.engines.ollama.pulling import pull
from firstlight.engines.ollama.store import blob_path, list_models
from firstlight.errors import FirstlightError, NetworkFailed, UsageError, VerificationFailed
from firstlight.home import Home

SIZE = 12 << 20
WEIGHTS = b"GGUF" + random.Random(4).randbytes(SIZE - 4)
TEMPLATE = b"{{ .Prompt }}"
PARAMS = b'{"stop":["<|end|>"]}'


@pytest.fixture(autouse=True)
def own_store(monkeypatch):
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,127.0.0.2")


class Pulling:
    """One home, and pulling into it from the registry that a test names."""

    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home")
        self.store = self.home.models / "ollama"
        self.said = Remembered()

    def __call__(self, registry, name, **more):
        words = {"insecure": True, "policy": patience(), **more}
        return pull(f"{registry.url.removeprefix('http://')}/{name}", self.home, step=self.said.step(), **words)


@pytest.fixture
def pulling(tmp_path):
    return Pulling(tmp_path)


def ranges(registry, since=0):
    """The Range headers of the requests for the weights from one request on."""
    weights = digest_of(WEIGHTS).removeprefix("sha256:")
    return [seen.range for seen in registry.seen[since:] if seen.method == "GET" and weights in seen.path]


def names(folder):
    """The files under a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_pull_leaves_the_store_as_ollama_writes_it(pulling):
    files = publish(WEIGHTS, TEMPLATE, PARAMS)
    with loopback_registry({"library/m:latest": files}) as registry:
        pulled = pulling(registry, "library/m")
        host = registry.url.removeprefix("http://")
    manifest = pulling.store / "manifests" / host / "library" / "m" / "latest"
    assert manifest.read_bytes() == files["manifest"]
    blobs = {path.name: path for path in (pulling.store / "blobs").iterdir()}
    assert set(blobs) == {digest.replace(":", "-") for digest in files if digest != "manifest"}
    assert all(hashlib.sha256(path.read_bytes()).hexdigest() == name[7:] for name, path in blobs.items())
    assert {path.stat().st_mode & 0o777 for path in (*blobs.values(), manifest)} == {0o644}
    assert {path.stat().st_mode & 0o777 for path in (pulling.store / "blobs", manifest.parent)} == {0o755}
    assert pulled.id == hashlib.sha256(files["manifest"]).hexdigest()[:12]
    listed = list_models(pulling.store)
    assert [(str(model.name), model.id, model.problem) for model in listed] == [
        (f"{host}/library/m:latest", pulled.id, None)
    ]
    assert (pulled.size, pulled.fetched >= pulled.size, pulled.up_to_date) == (listed[0].size, True, False)
    assert not [name for name in names(pulling.home.downloads) if not name.endswith(".lock")]


def test_what_is_up_to_date_is_not_fetched_again_and_what_two_models_share_is_fetched_once(pulling):
    first, second = publish(WEIGHTS, TEMPLATE, PARAMS), publish(WEIGHTS, b"{{ .System }}")
    with loopback_registry({"library/m:latest": first, "library/m:new": second}) as registry:
        pulling(registry, "library/m")
        given, asked = registry.given, len(registry.seen)
        again = pulling(registry, "library/m")
        assert again.up_to_date
        assert len(registry.seen) == asked + 1  # the manifest
        other = pulling(registry, "library/m:new")
        assert registry.given == given
    assert digest_of(WEIGHTS) in other.reused
    assert len(list_models(pulling.store)) == 2


@pytest.mark.parametrize("shared", [False, True])
def test_a_new_manifest_replaces_the_old_one_and_what_no_model_needs_goes(pulling, shared):
    old, new = publish(WEIGHTS, TEMPLATE), publish(WEIGHTS[::-1], TEMPLATE)
    with loopback_registry({"library/m:latest": old, "library/m:kept": old}) as registry:
        before = pulling(registry, "library/m")
        if shared:
            pulling(registry, "library/m:kept")
        registry.models["library/m:latest"] = new
        after = pulling(registry, "library/m")
    assert before.id != after.id
    assert {model.id for model in list_models(pulling.store)} == ({before.id, after.id} if shared else {after.id})
    assert [model.problem for model in list_models(pulling.store)] == [None] * (1 + shared)
    assert blob_path(pulling.store, digest_of(WEIGHTS)).exists() is shared


def test_a_blob_of_the_wrong_size_is_fetched_again(pulling):
    files = publish(WEIGHTS, TEMPLATE)
    with loopback_registry({"library/m:latest": files}) as registry:
        pulling(registry, "library/m")
        blob_path(pulling.store, digest_of(TEMPLATE)).write_bytes(b"cut")
        pulled = pulling(registry, "library/m")
    assert not pulled.up_to_date
    assert blob_path(pulling.store, digest_of(TEMPLATE)).read_bytes() == TEMPLATE


def test_signed_addresses_that_expire_are_asked_for_again_and_kept_nowhere(pulling):
    with loopback_registry({"own/m:7b": publish(WEIGHTS)}, Faults(uses=2)) as registry:
        pulling(registry, "own/m:7b")
        assert len(registry.signatures) > 2
    assert blob_path(pulling.store, digest_of(WEIGHTS)).read_bytes() == WEIGHTS
    written = [path for path in pulling.home.root.rglob("*") if path.is_file()]
    assert not [path for path in written if b"X-Signature" in path.read_bytes()]
    assert "X-Signature" not in repr(pulling.said.events)


def test_a_dying_registry_leaves_what_came_and_the_mirror_gives_the_rest(pulling):
    files = publish(WEIGHTS, TEMPLATE)
    with loopback_registry({"own/m:7b": files}, Faults(dies_after=8 << 20)) as dying:
        with pytest.raises(NetworkFailed) as caught:
            pulling(dying, "own/m:7b")
        assert caught.value.why
        assert not list_models(pulling.store)
        assert not (pulling.store / "blobs").exists()  # a partial file there would be deleted by Ollama
        runs = kept_runs(pulling.home.downloads)
        assert runs
        with loopback_registry({"own/m:7b": files}) as mirror:
            pulled = pulling(dying, "own/m:7b", mirrors=(mirror.url,))
            assert not asked_again(runs, ranges(mirror))
    assert pulled.registry == mirror.url.removeprefix("http://")
    assert "is said by the mirror" in pulling.said.text()
    assert blob_path(pulling.store, digest_of(WEIGHTS)).read_bytes() == WEIGHTS


def test_a_lying_mirror_is_found_out(pulling):
    files = publish(WEIGHTS, TEMPLATE)
    with (
        loopback_registry({"own/m:7b": files}) as honest,
        loopback_registry({"own/m:7b": files}, Faults(lie_at=5_000_000)) as liar,
    ):
        pulling(honest, "own/m:7b", mirrors=(liar.url,))
    assert blob_path(pulling.store, digest_of(WEIGHTS)).read_bytes() == WEIGHTS


def test_a_registry_that_always_lies_is_never_believed(pulling):
    with (
        loopback_registry({"own/m:7b": publish(WEIGHTS)}, Faults(lie_at=5_000_000)) as liar,
        pytest.raises(VerificationFailed),
    ):
        pulling(liar, "own/m:7b")
    assert not list_models(pulling.store)
    assert not (pulling.store / "blobs").exists()


def test_two_at_once_pull_once(pulling):
    with loopback_registry({"own/m:7b": publish(WEIGHTS)}, Faults(hold_after=4 << 20)) as registry:
        found, patient = [], patience(stall_seconds=60.0)

        def take():
            found.append(pulling(registry, "own/m:7b", policy=patient))

        threads = [threading.Thread(target=take) for _ in range(2)]
        for thread in threads:
            thread.start()
        assert registry.faults.held.wait(60)
        registry.faults.go.set()
        for thread in threads:
            thread.join()
        assert registry.given < 2 * SIZE
    assert sorted(pulled.up_to_date for pulled in found) == [False, True]


def test_a_mirrors_password_is_sent_to_it_alone_and_never_shown(pulling):
    with (
        loopback_registry({}) as origin,
        loopback_registry({"own/m:7b": publish(WEIGHTS)}) as mirror,
    ):
        pulled = pulling(origin, "own/m:7b", mirrors=(mirror.url.replace("http://", "http://me:verysecret@"),))
        sent = {(seen.host.split(":")[0], seen.authorization) for seen in mirror.seen}
        assert {seen.authorization for seen in origin.seen} == {None}
    assert sent == {("127.0.0.1", "Basic bWU6dmVyeXNlY3JldA=="), ("127.0.0.2", None)}
    assert pulled.registry == mirror.url.removeprefix("http://")
    assert "verysecret" not in f"{pulled}{pulling.said.events}"


# ── what cannot be pulled ────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_name_is_told_with_the_page_of_tags(pulling):
    with loopback_registry({}) as registry, pytest.raises(UsageError, match="has no model") as caught:
        pulling(registry, "own/nosuch:7b")
    assert caught.value.why == "manifest unknown"
    assert "own/nosuch" in caught.value.fix


def test_a_private_model_is_left_to_ollamas_own_client(pulling):
    with (
        loopback_registry({"own/m:7b": publish(WEIGHTS)}, Faults(gated=True)) as registry,
        pytest.raises(FirstlightError, match="to everyone") as caught,
    ):
        pulling(registry, "own/m:7b")
    assert caught.value.code == 1
    assert caught.value.fix.startswith("ollama pull ")


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        (b'{"layers": [{"mediaType": "x", "digest": "sha256:../../etc/passwd", "size": 1}]}', "no digest"),
        (b'{"layers": []}', "names no files"),
        (b'{"layers": 5}', "array"),
    ],
)
def test_a_manifest_that_is_none_is_refused(pulling, manifest, why):
    with loopback_registry({"own/m:7b": {"manifest": manifest}}) as registry:
        with pytest.raises(VerificationFailed) as caught:
            pulling(registry, "own/m:7b")
        assert why in caught.value.why
    assert not pulling.store.exists()


def test_a_login_page_in_place_of_a_registry_is_told_as_one(pulling):
    with loopback_registry({}, Faults(not_json=True)) as registry, pytest.raises(NetworkFailed) as caught:
        pulling(registry, "own/m:7b")
    assert "something else answers in its place" in caught.value.why


def test_a_registry_out_of_reach_is_named(pulling):
    with pytest.raises(NetworkFailed) as caught:
        pull("127.0.0.1:1/own/m:7b", pulling.home, step=pulling.said.step(), insecure=True)
    assert "127.0.0.1:1: connection refused" in caught.value.why
    assert "--mirror" in caught.value.fix


def test_a_registry_that_speaks_plain_http_is_told_with_the_word_that_reaches_it(pulling):
    with loopback_registry({"library/m:latest": publish(WEIGHTS)}) as registry, pytest.raises(NetworkFailed) as failed:
        pulling(registry, "library/m", insecure=False)
    assert "no secure connection" in (failed.value.why or "")
    assert "--insecure" in (failed.value.fix or "")


def test_a_model_larger_than_the_disk_is_refused_before_its_first_byte(pulling):
    files = publish(WEIGHTS)
    manifest = json.loads(files["manifest"])
    manifest["layers"][0]["size"] = 10**17
    with loopback_registry({"own/m:7b": {**files, "manifest": json.dumps(manifest).encode()}}) as registry:
        with pytest.raises(FirstlightError, match="no room for the model"):
            pulling(registry, "own/m:7b")
        assert not registry.signatures


@pytest.mark.parametrize("mirror", ["mirror.example.org", "ftp://mirror.example.org", "https://"])
def test_a_mirror_that_is_no_address_is_refused(pulling, mirror):
    with pytest.raises(UsageError, match="--mirror does not take"):
        pull("m", pulling.home, step=pulling.said.step(), mirrors=(mirror,))


@pytest.mark.parametrize(
    ("text", "manifest"),
    [
        ("llama3.2", "registry.ollama.ai/library/llama3.2/latest"),
        ("llama3.2:1b", "registry.ollama.ai/library/llama3.2/1b"),
        ("owner/m:7b", "registry.ollama.ai/owner/m/7b"),
        ("hf.co/own/repo-GGUF:Q4_K_M", "hf.co/own/repo-GGUF/Q4_K_M"),
        ("modelscope.cn/own/repo", "modelscope.cn/own/repo/latest"),
        ("127.0.0.1:5000/library/m", "127.0.0.1:5000/library/m/latest"),
    ],
)
def test_names_say_which_host_is_asked(text, manifest):
    from firstlight.engines.ollama.registry import registries

    name = parse_name(text)
    assert name.manifest == manifest
    place = registries(name, (), insecure=False)[0]
    host, namespace, model, tag = manifest.split("/")
    assert place.of(name, f"manifests/{name.tag}") == f"https://{host}/v2/{namespace}/{model}/manifests/{tag}"


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────────────────


def begin(words, home):
    """Start the program and return it, running."""
    return subprocess.Popen(
        [sys.executable, "-m", "firstlight", *words],
        env={**os.environ, "FIRSTLIGHT_HOME": str(home)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_pull_that_was_killed_goes_on_from_its_bytes(pulling):
    files = publish(WEIGHTS, TEMPLATE, PARAMS)
    with loopback_registry({"library/m:latest": files}, Faults(hold_after=8 << 20)) as registry:
        name = f"{registry.url.removeprefix('http://')}/library/m"
        words = ("ollama.pull", name, "--insecure", "--json")
        child = begin(words, pulling.home.root)
        assert registry.faults.held.wait(60)
        assert wait_for(lambda: saved_bytes(pulling.home.downloads) >= 4 << 20)
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=60)
        assert not list_models(pulling.store)
        assert not (pulling.store / "blobs").exists()
        runs, asked = kept_runs(pulling.home.downloads), len(registry.seen)
        registry.faults.go.set()
        ended = firstlight(*words, home=pulling.home.root)
        assert ended.code == 0, ended.err
        assert not asked_again(runs, ranges(registry, asked))
    assert ended.document["schema"] == "firstlight.pull/1"
    assert ended.document["resumed"] >= 4 << 20
    assert (ended.document["name"], ended.document["up_to_date"]) == (f"{name}:latest", False)
    assert [model.problem for model in list_models(pulling.store)] == [None]
    assert "X-Signature" not in ended.out + ended.err


def test_the_command_puts_a_model_into_the_store_that_ollama_models_names(tmp_path, pulling, monkeypatch):
    store = tmp_path / "elsewhere"
    monkeypatch.setenv("OLLAMA_MODELS", str(store))
    with loopback_registry({"library/m:latest": publish(WEIGHTS)}) as registry:
        name = f"{registry.url.removeprefix('http://')}/library/m"
        ended = firstlight("ollama.pull", name, "--insecure", home=pulling.home.root)
        assert ended.code == 0, ended.err
        assert name in ended.out
        unknown = firstlight("ollama.pull", f"{name}:nosuch", "--insecure", "--json", home=pulling.home.root)
    assert [model.problem for model in list_models(store)] == [None]
    assert unknown.code == 2
    assert unknown.document["error"]["kind"] == "UsageError"
    assert firstlight("ollama.pull", "no model!", home=pulling.home.root).code == 2
