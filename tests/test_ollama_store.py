"""Ollama's store by files: names, blobs, manifests, imports; held against the small fake server where it has to agree.

The fake (see `support/ollama_program.py`) keeps the store as Ollama does; no model runs behind it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import struct
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from support.command import firstlight
from support.fake_ollama import unpack

from firstlight.engines.ollama.api import Api, address
from firstlight.engines.ollama.importing import Extras, import_gguf
from firstlight.engines.ollama.names import ModelName, parse_name
from firstlight.engines.ollama.store import (
    Layer,
    blob_path,
    find_model,
    list_models,
    models_folder,
    put_blob,
    read_manifest,
    remove_model,
    take_blob,
    write_manifest,
)
from firstlight.engines.ollama.templates import family_of
from firstlight.errors import FirstlightError, UsageError
from firstlight.events import Note, Step, silent
from firstlight.home import Home
from firstlight.models.gguf import read_gguf
from firstlight.models.synthetic_gguf import write_synthetic_gguf
from firstlight.serving.ports import free_port

STEP = Step(silent, "import", "import")


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A whole GGUF file: the synthetic proof model."""
    return write_synthetic_gguf(tmp_path_factory.mktemp("weights") / "tiny-Q4_K_M.gguf")


@pytest.fixture
def model(weights, tmp_path):
    """The same file, this test's own."""
    return Path(shutil.copy(weights, tmp_path / "tiny.gguf"))


@pytest.fixture
def store(tmp_path):
    return tmp_path / "models"


@pytest.fixture
def other(weights, tmp_path):
    """A GGUF file with other bytes that is whole too."""
    path = tmp_path / "other.gguf"
    path.write_bytes(weights.read_bytes() + b"more")
    return path


@contextlib.contextmanager
def running(folder, store, release="0.35.1", **variables):
    """Run the fake server on a store; gives its interface and what it recorded."""
    program, port = folder / f"ollama-{release}" / "bin" / "ollama", free_port()
    if not program.exists():
        unpack(program.parent.parent, release)
    record = folder / f"record-{port}.jsonl"
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "HOME": str(folder),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(store),
        "FAKE_OLLAMA_RECORD": str(record),
        **variables,
    }
    server = subprocess.Popen([program, "serve"], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    api = Api(f"http://127.0.0.1:{port}")
    try:
        _wait_for(api, server)
        yield Running(api, program, environment, record)
    finally:
        server.terminate()
        server.wait(30)


def _wait_for(api, server):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        assert server.poll() is None, "the fake server died"
        with contextlib.suppress(FirstlightError):
            api.version()
            return
        time.sleep(0.02)
    pytest.fail("the fake server does not answer")


class Running:
    def __init__(self, api, program, environment, record):
        self.api, self.program, self.environment, self.record = api, program, environment, record

    def command(self, *words):
        """What Ollama's own command line says."""
        return subprocess.run(
            [self.program, *words], env=self.environment, capture_output=True, text=True, check=True
        ).stdout

    def asked(self, method):
        """The paths that were asked with a method."""
        told = [json.loads(line) for line in self.record.read_text().splitlines()]
        return [each["path"] for each in told if each["kind"] == "request" and each["method"] == method]

    def ask(self, name):
        """The answer of a model, or the server's error."""
        body = json.dumps({"model": name, "messages": [{"role": "user", "content": "?"}], "max_tokens": 3}).encode()
        request = urllib.request.Request(f"{self.api.base_url}/v1/chat/completions", data=body)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read())["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            return json.loads(error.read())["error"]["message"]


def named(text):
    return parse_name(text)


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "manifest", "shown"),
    [
        ("llama3.2", "registry.ollama.ai/library/llama3.2/latest", "llama3.2:latest"),
        ("llama3.2:1b", "registry.ollama.ai/library/llama3.2/1b", "llama3.2:1b"),
        ("owner/model", "registry.ollama.ai/owner/model/latest", "owner/model:latest"),
        ("hf.co/U/R.x:Q4_K_M", "hf.co/U/R.x/Q4_K_M", "hf.co/U/R.x:Q4_K_M"),
        ("127.0.0.1:15005/library/m", "127.0.0.1:15005/library/m/latest", "127.0.0.1:15005/library/m:latest"),
        ("https://ollama.example/o/m:t", "ollama.example/o/m/t", "ollama.example/o/m:t"),
        ("registry.ollama.ai/library/m:latest", "registry.ollama.ai/library/m/latest", "m:latest"),
    ],
)
def test_names_get_ollamas_defaults_and_are_shown_as_it_shows_them(text, manifest, shown):
    name = parse_name(text)
    assert (name.manifest, str(name)) == (manifest, shown)
    assert parse_name(str(name)) == name


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("my model", "my-model"),
        ("Ümlaut model", "mlaut-model"),
        ("a/b/c/d", None),
        ("", None),
        ("..", None),
        ("../../etc/passwd", None),
        ("a..b", "a.b"),
        ("-x", "x"),
        ("own.er/m", None),
        ("m:", "m"),
        ("m:a b", "m:a-b"),
        ("x" * 81, "x" * 80),
    ],
)
def test_a_name_that_ollama_refuses_is_refused_with_a_near_one(text, near):
    with pytest.raises(UsageError) as caught:
        parse_name(text)
    if near is not None:
        assert f'did you mean "{near}"' in caught.value.what
        parse_name(near)


def test_upper_and_lower_case_name_one_model(model, store):
    import_gguf(model, named("Tiny:Q8"), store, step=STEP)
    again = import_gguf(model, named("tiny:q8"), store, step=STEP)
    assert again.reused
    assert [str(each.name) for each in list_models(store)] == ["Tiny:Q8"]


@pytest.mark.parametrize(
    ("told", "reached"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        (":8080", "http://127.0.0.1:8080"),
        ("box:1234", "http://box:1234"),
        ("http://box", "http://box:80"),
        ("https://box/path", "https://box:443"),
        ("'10.0.0.7:1'", "http://10.0.0.7:1"),
        ("[::1]:1234", "http://[::1]:1234"),
        ("box:nonsense", "http://box:11434"),
    ],
)
def test_the_servers_address_is_read_as_ollama_reads_it(told, reached):
    assert address(told) == reached


# ── the header of a GGUF file ────────────────────────────────────────────────────────────────────────────────────────


def test_the_header_tells_what_a_model_is(weights):
    header = read_gguf(weights)
    assert (header.architecture, header.quantization, header.context_length) == ("qwen2", "F16", 2048)
    assert (header.size, header.announced) == (weights.stat().st_size,) * 2
    assert "<|im_start|>" in (header.chat_template or "")
    assert header.parameters == 1_382_400
    assert header.part is None


@pytest.mark.parametrize("keep", [4, 5, 12, 24, 40, 100, 999, 5000, 100_000, -1])
def test_a_file_that_is_cut_off_anywhere_is_told_as_damaged(weights, tmp_path, keep):
    file = tmp_path / "cut.gguf"
    file.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(FirstlightError, match=r"is damaged|is cut off") as caught:
        read_gguf(file)
    assert not isinstance(caught.value, UsageError)
    assert caught.value.fix == "fetch it again"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git-LFS pointer"),
        (b"PK\3\4aaaaaaaaaaaa", "begins with"),
    ],
)
def test_what_is_no_gguf_file_is_told_as_what_it_is(tmp_path, content, words):
    file = tmp_path / "x.gguf"
    file.write_bytes(content)
    with pytest.raises(UsageError, match="is no GGUF file") as caught:
        read_gguf(file)
    assert words in (caught.value.why or "")


@pytest.mark.parametrize(
    "rest",
    [
        struct.pack("<IQQ", 1, 0, 0),
        struct.pack("<IQQ", 3, 1 << 60, 0),
        struct.pack("<IQQ", 3, 0, 1 << 60),
        struct.pack("<IQQQ", 3, 0, 1, 1 << 62),
        struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 9, 1 << 40),
        struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<I", 99),
        struct.pack("<IQQ", 3, 0, 0),
    ],
)
def test_a_header_that_lies_costs_no_memory_and_no_time(tmp_path, rest):
    file = tmp_path / "liar.gguf"
    file.write_bytes(b"GGUF" + rest)
    with pytest.raises(FirstlightError, match="is damaged"):
        read_gguf(file)


# ── imports by files ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_import_links_and_the_server_lists_it_and_answers(model, store, tmp_path):
    done = import_gguf(model, named("tiny:f16"), store, step=STEP)
    assert (done.how, done.through, done.family, done.quantization) == ("hard link", "files", "qwen2", "F16")
    assert blob_path(store, done.digest).samefile(model)
    with running(tmp_path, store) as server:
        assert server.api.tags() == ["tiny:f16"]
        listed = server.command("list").splitlines()[1].split("\t")
        (ours,) = list_models(store)
        assert (listed[0], listed[1]) == (str(ours.name), ours.id)
        assert server.ask("tiny:f16") == "Paris is the "
        assert server.ask("tiny:other").startswith('model "tiny:other" not found')


def test_the_layout_and_the_modes_are_ollamas_own_whatever_the_umask_is(model, store):
    before = os.umask(0o077)
    try:
        done = import_gguf(model, named("o/tiny"), store, step=STEP, extras=Extras(system="be brief", context=512))
    finally:
        os.umask(before)
    manifest = store / "manifests" / "registry.ollama.ai" / "o" / "tiny" / "latest"
    document = json.loads(manifest.read_bytes())
    kinds = [layer["mediaType"].rpartition(".")[2] for layer in document["layers"]]
    assert (document["schemaVersion"], kinds) == (2, ["model", "template", "system", "params"])
    template, *texts = [blob_path(store, layer["digest"]).read_bytes() for layer in document["layers"][1:]]
    assert texts == [b"be brief", b'{"stop":["<|im_start|>","<|im_end|>"],"num_ctx":512}']
    assert template.startswith(b"{{- range .Messages }}<|im_start|>{{ .Role }}\n")
    config = json.loads(blob_path(store, document["config"]["digest"]).read_bytes())
    assert (config["model_format"], config["model_family"], config["model_type"]) == ("gguf", "qwen2", "1.38M")
    assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in document["layers"]]
    folders = {path.stat().st_mode & 0o777 for path in [store, *store.rglob("*")] if path.is_dir()}
    files = {path.stat().st_mode & 0o777 for path in store.rglob("*") if path.is_file() and not path.samefile(model)}
    assert (folders, files) == ({0o755}, {0o644})
    for path in (store / "blobs").iterdir():
        assert path.name == f"sha256-{hashlib.sha256(path.read_bytes()).hexdigest()}"
    assert done.store == str(store)


def test_on_another_filesystem_a_link_stands_for_the_file(model, tmp_path):
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is no other filesystem here")
    store, said = elsewhere / f"firstlight-{os.getpid()}" / "models", []
    try:
        done = import_gguf(model, named("tiny"), store, step=Step(said.append, "import", "import"))
        assert done.how == "symlink"
        assert blob_path(store, done.digest).resolve() == model
        assert any("must stay there" in each.text for each in said if isinstance(each, Note))
        assert list_models(store)[0].problem is None
        model.unlink()
        assert "which is gone" in (list_models(store)[0].problem or "")
    finally:
        shutil.rmtree(store.parent)


def test_where_the_filesystem_knows_no_links_the_file_is_copied_and_that_is_said(model, store, monkeypatch):
    def refuse(*_words, **_more):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(Path, "symlink_to", refuse)
    said = []
    done = import_gguf(model, named("tiny"), store, step=Step(said.append, "import", "import"))
    path = blob_path(store, done.digest)
    assert (done.how, path.read_bytes()) == ("copy", model.read_bytes())
    assert (path.stat().st_mode & 0o777, path.samefile(model)) == (0o644, False)
    assert any("was copied" in each.text for each in said if isinstance(each, Note))


def test_a_disk_that_takes_no_link_for_another_reason_is_an_error(model, store, monkeypatch):
    def full(*_words, **_more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(FirstlightError, match="cannot be written") as caught:
        import_gguf(model, named("tiny"), store, step=STEP)
    assert caught.value.why == "No space left on device"
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_another_model_of_the_name_is_replaced_only_when_that_was_said(model, other, store):
    first = import_gguf(model, named("tiny"), store, step=STEP, extras=Extras(system="old"))
    with pytest.raises(FirstlightError, match="there is a model tiny:latest already") as caught:
        import_gguf(other, named("tiny"), store, step=STEP)
    assert "--yes" in (caught.value.fix or "")
    assert read_manifest(store, named("tiny")).layers[0].digest == first.digest
    second = import_gguf(other, named("tiny"), store, step=STEP, replace=True)
    assert read_manifest(store, named("tiny")).layers[0].digest == second.digest
    assert not blob_path(store, first.digest).exists()
    assert model.exists()
    assert len(list((store / "blobs").iterdir())) == 4


def test_the_same_import_again_changes_nothing(model, store):
    import_gguf(model, named("tiny"), store, step=STEP, extras=Extras(template="{{ .Prompt }}"))
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    again = import_gguf(model, named("tiny"), store, step=STEP, extras=Extras(template="{{ .Prompt }}"))
    assert again.reused
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("change", ["part", "adapter"])
def test_what_is_no_whole_model_is_refused(weights, tmp_path, store, change):
    data = weights.read_bytes()
    if change == "adapter":
        at = data.index(b"general.type") + 12 + 4
        data = data[:at] + struct.pack("<Q", 5) + b"lora!" + data[at + 8 + 5 :]
    else:  # a number that is there is called something else, of the same length
        data = data.replace(b"tokenizer.ggml.bos_token_id", b"tokenizer.ggml.bos_token_xx")
        data = data.replace(struct.pack("<Q", 17) + b"general.file_type", struct.pack("<Q", 17) + b"split.count      ")
        data = data.replace(struct.pack("<Q", 17) + b"split.count      ", struct.pack("<Q", 17) + b"general.file_type")
        entry = struct.pack("<Q", 11) + b"split.count" + struct.pack("<II", 4, 3)
        count = struct.unpack_from("<Q", data, 16)[0]
        data = data[:16] + struct.pack("<Q", count + 1) + entry + data[24:]
        data += bytes(64)
    file = tmp_path / "x.gguf"
    file.write_bytes(data)
    with pytest.raises(UsageError, match=r"part 1 of 3|no model by itself"):
        import_gguf(file, named("x"), store, step=STEP)
    assert not store.exists()


@pytest.mark.parametrize(
    ("own", "begins", "stop"),
    [
        ("{{ '<|im_start|>' }}{{ '<|im_end|>' }}", "{{- range .Messages }}<|im_start|>", "<|im_end|>"),
        ("<|start_header_id|><|eot_id|>", "{{- range .Messages }}<|start_header_id|>", "<|eot_id|>"),
        ("<start_of_turn>model<end_of_turn>", "{{- range .Messages }}<start_of_turn>", "<end_of_turn>"),
        ("<|user|><|assistant|><|end|>", "{{- range .Messages }}<|{{ .Role }}|>", "<|end|>"),
    ],
)
def test_a_model_made_by_files_gets_the_template_of_its_family(own, begins, stop):
    family = family_of(own)
    assert family is not None
    assert family.template.startswith(begins)
    assert stop in family.stops
    assert family.template.count("{{") == family.template.count("}}")
    assert family_of("[INST] something else [/INST]") is None
    assert family_of(None) is None


def test_a_template_that_is_given_is_the_one_that_counts(model, store):
    import_gguf(model, named("tiny"), store, step=STEP, extras=Extras(template="{{ .Prompt }}"))
    layers = read_manifest(store, named("tiny")).layers
    assert [blob_path(store, layer.digest).read_bytes() for layer in layers[1:]] == [b"{{ .Prompt }}"]


def test_a_store_that_cannot_be_written_is_named(model, tmp_path):
    store = tmp_path / "models"
    store.write_text("a file")
    with pytest.raises(FirstlightError, match="cannot be written") as caught:
        import_gguf(model, named("x"), store, step=STEP)
    assert "namei" in (caught.value.fix or "")


def test_the_users_own_store_is_taken_where_it_is_set(tmp_path, monkeypatch):
    home = Home(tmp_path / "home")
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    assert models_folder(home) == home.models / "ollama"
    monkeypatch.setenv("OLLAMA_MODELS", f" '{tmp_path / 'own'}' ")
    assert models_folder(home) == tmp_path / "own"


# ── what the store holds ─────────────────────────────────────────────────────────────────────────────────────────────


def test_damage_is_told_model_by_model(model, other, store):
    whole = import_gguf(model, named("whole"), store, step=STEP)
    import_gguf(other, named("hf.co/U/R:Q4"), store, step=STEP)
    gone = import_gguf(_variant(model, b"gone"), named("gone"), store, step=STEP)
    short = import_gguf(_variant(model, b"short"), named("127.0.0.1:5000/library/short"), store, step=STEP)
    blob_path(store, gone.digest).unlink()
    path = blob_path(store, short.digest)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data[:-1])
    broken = store / "manifests" / "registry.ollama.ai" / "library" / "broken" / "latest"
    broken.parent.mkdir()
    broken.write_text("{")
    told = {str(each.name): each.problem for each in list_models(store)}
    assert told["whole:latest"] is None
    assert told["hf.co/U/R:Q4"] is None
    assert "is gone" in told["gone:latest"]
    assert f"{len(data) - 1:,} bytes instead of {len(data):,}" in told["127.0.0.1:5000/library/short:latest"]
    assert "cannot be read" in told["broken:latest"]
    assert whole.digest != gone.digest != short.digest


def _variant(model, more):
    path = model.with_name(f"{more.decode()}.gguf")
    path.write_bytes(model.read_bytes() + more)
    return path


def test_links_of_newer_releases_go_before_and_are_replaced(model, other, store):
    """Newer releases keep links to blobs in manifests-v2, under another name of the registry."""
    import_gguf(model, named("tiny"), store, step=STEP)
    old = store / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "latest"
    layer = put_blob(store, old.read_bytes().replace(b"2,", b"2 ,", 1), "manifest")
    link = store / "manifests-v2" / "ollama.com" / "library" / "tiny" / "latest"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(blob_path(store, layer.digest), link.parent))
    (listed,) = list_models(store)
    assert listed.id == layer.digest.removeprefix("sha256:")[:12]
    done = import_gguf(other, named("tiny"), store, step=STEP, replace=True)
    assert not link.is_symlink()
    assert read_manifest(store, named("tiny")).layers[0].digest == done.digest


def test_removing_a_model_keeps_what_others_need(model, store):
    import_gguf(model, named("one"), store, step=STEP, extras=Extras(system="one"))
    import_gguf(model, named("two"), store, step=STEP)
    assert remove_model(store, named("one"))
    assert [str(each.name) for each in list_models(store)] == ["two:latest"]
    assert list_models(store)[0].problem is None
    assert remove_model(store, named("two"))
    assert not remove_model(store, named("two"))
    assert [path for path in store.rglob("*") if path.is_file()] == []
    assert model.exists()


def test_beside_an_unreadable_manifest_no_blob_is_removed(model, store):
    import_gguf(model, named("one"), store, step=STEP)
    broken = store / "manifests" / "registry.ollama.ai" / "library" / "broken" / "latest"
    broken.parent.mkdir(parents=True)
    broken.write_text("no json")
    remove_model(store, named("one"))
    assert len(list((store / "blobs").iterdir())) == 4


@pytest.mark.parametrize("digest", ["", "sha256:xyz", "../../etc/passwd", "sha256:" + "a" * 63, "sha256-" + "A" * 64])
def test_a_digest_that_is_none_never_becomes_a_path(store, digest):
    with pytest.raises(UsageError, match="is no digest"):
        blob_path(store, digest)


def test_a_blob_that_is_moved_in_belongs_to_the_store_alone(model, store):
    digest = f"sha256:{hashlib.sha256(model.read_bytes()).hexdigest()}"
    assert take_blob(store, model, digest, move=True) == "move"
    assert not model.exists()
    assert blob_path(store, digest).stat().st_mode & 0o777 == 0o644


def test_a_manifest_is_written_byte_for_byte(store):
    layer = put_blob(store, b"text", "kind")
    data = json.dumps({"layers": [{"mediaType": "kind", "digest": layer.digest, "size": 4}], "extra": 1}, indent=7)
    path = write_manifest(store, ModelName(model="m"), data.encode())
    assert path.read_text() == data
    assert find_model(store, ModelName(model="m")).problem is None
    assert read_manifest(store, ModelName(model="m")).layers == [Layer(media_type="kind", digest=layer.digest, size=4)]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another user")
def test_what_root_imports_belongs_to_the_owner_of_the_store(model, store):
    store.mkdir()
    os.chown(store, 12345, 12346)
    import_gguf(model, named("a/b"), store, step=STEP)
    made = [path for path in store.rglob("*") if not path.is_file() or not path.samefile(model)]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(12345, 12346)}


# ── the server's pruning ─────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("release", ["0.6.2", "0.35.1"])
def test_an_imported_model_outlives_the_pruning_at_the_servers_start(model, store, tmp_path, release):
    import_gguf(model, named("tiny"), store, step=STEP, extras=Extras(template="{{ .Prompt }}"))
    lost = put_blob(store, b"nobody names this one", "kind")
    for path in (store / "blobs").iterdir():
        os.utime(path, (0, 0), follow_symlinks=False)
    with running(tmp_path, store, release) as server:
        assert server.api.tags() == ["tiny:latest"]
        assert server.ask("tiny") == "Paris is the "
    assert not blob_path(store, lost.digest).exists()
    assert list_models(store)[0].problem is None


# ── imports through a server ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_running_server_makes_the_model_of_the_linked_file(model, store, tmp_path):
    with running(tmp_path, store) as server:
        extras = Extras(system="be brief", context=256)
        done = import_gguf(model, named("tiny"), store, step=STEP, extras=extras, running=(server.api,))
        assert (done.how, done.through) == ("hard link", server.api.base_url)
        assert server.asked("POST") == ["/api/create"]
        assert server.api.tags() == ["tiny:latest"]
        assert server.ask("tiny") == "Paris is the "
    manifest = read_manifest(store, named("tiny"))
    assert blob_path(store, manifest.layers[0].digest).samefile(model)
    assert [layer.media_type.rpartition(".")[2] for layer in manifest.layers] == ["model", "system", "params"]


def test_a_server_of_a_release_before_files_gets_the_model_by_files(model, store, tmp_path):
    with running(tmp_path, store, "0.5.4") as server:
        done = import_gguf(model, named("tiny"), store, step=STEP, running=(server.api,))
        assert done.through == "files"
        assert server.api.tags() == ["tiny:latest"]


def test_a_server_with_another_store_is_told_and_left_alone(model, store, tmp_path):
    said = []
    with running(tmp_path, tmp_path / "other store") as server:
        step = Step(said.append, "import", "import")
        done = import_gguf(model, named("tiny"), store, step=step, running=(server.api,))
        assert (done.through, server.api.tags()) == ("files", [])
        assert server.asked("POST") == []
    assert any("keeps its models elsewhere" in each.text for each in said if isinstance(each, Note))


# ── the commands ─────────────────────────────────────────────────────────────────────────────────────────────────────

QUIET = {"OLLAMA_HOST": "127.0.0.1:9"}


def test_import_and_list_as_commands(model, tmp_path):
    home = tmp_path / "home"
    ended = firstlight("ollama.import", str(model), "--name", "tiny", "--json", home=home, variables=QUIET)
    assert ended.code == 0, ended.err
    assert (ended.document["schema"], ended.document["how"]) == ("firstlight.import/1", "hard link")
    with running(tmp_path, home / "models" / "ollama") as server:
        server.ask("tiny")
        own = {"OLLAMA_HOST": server.environment["OLLAMA_HOST"]}
        listed = firstlight("ollama.list", "--json", home=home, variables=own).document
        shown = firstlight("ollama.list", home=home, variables=own).out
    (only,) = listed["models"]
    assert (only["name"], only["whole"], only["processor"]) == ("tiny:latest", True, "100% CPU")
    assert listed["server"]["version"] == "0.35.1"
    assert "100% CPU" in shown
    alone = firstlight("ollama.list", home=home, variables=QUIET)
    assert (alone.code, "no server of Ollama answers" in alone.out) == (0, True)


def test_an_import_under_a_taken_name_from_a_script_replaces_it_and_yes_is_not_needed(model, other, tmp_path):
    home = tmp_path / "home"
    firstlight("ollama.import", str(model), "--name", "tiny", home=home, variables=QUIET)
    ended = firstlight("ollama.import", str(other), "--name", "tiny", "--json", home=home, variables=QUIET)
    assert (ended.code, ended.document["reused"]) == (0, False), ended.err
    assert len(list_models(home / "models" / "ollama")) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--name", "my model"], 'did you mean "my-model"'),
        ([], "--name tiny"),
        (["--name", "x", "--context", "many"], "--context"),
        (["--name", "x", "--template", "/nowhere"], "--template"),
    ],
)
def test_wrong_words_end_with_2_and_a_way_on(model, tmp_path, words, says):
    ended = firstlight("ollama.import", str(model), *words, home=tmp_path / "home", variables=QUIET)
    assert (ended.code, says in ended.err) == (2, True), ended.err
    assert not (tmp_path / "home" / "models").exists()


def test_a_file_that_is_no_gguf_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "page.gguf").write_text("<html>not found</html>")
    ended = firstlight("ollama.import", str(tmp_path / "page.gguf"), "--name", "x", home=tmp_path / "home")
    assert (ended.code, "web page" in ended.err) == (2, True), ended.err
    missing = firstlight("ollama.import", str(tmp_path / "absent.gguf"), "--name", "x", home=tmp_path / "home")
    assert (missing.code, "No such file" in missing.err) == (2, True), missing.err
    assert not (tmp_path / "home").exists()


def test_an_empty_store_says_how_to_fill_it(tmp_path):
    ended = firstlight("ollama.list", home=tmp_path / "home", variables=QUIET)
    assert (ended.code, "firstlight ollama.import FILE.gguf" in ended.out) == (0, True), ended.err
