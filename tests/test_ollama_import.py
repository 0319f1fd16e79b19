"""`ollama.import` by files: linked and not copied, in Ollama's layout, with its template.

The server is a small fake (see `support/ollama_program.py`): it keeps the store as Ollama does, and no model runs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import struct
from pathlib import Path

import pytest
from support.ollama_stores import STEP, running

from firstlight.engines.ollama.importing import Extras, import_gguf
from firstlight.engines.ollama.names import parse_name
from firstlight.engines.ollama.store import (
    blob_path,
    list_models,
    models_folder,
    read_manifest,
)
from firstlight.engines.ollama.templates import family_of
from firstlight.errors import FirstlightError, UsageError
from firstlight.events import Note, Step
from firstlight.home import Home

pytest_plugins = ["support.ollama_models"]


def test_an_import_links_and_the_server_lists_it_and_answers(model, store, tmp_path):
    done = import_gguf(model, parse_name("tiny:f16"), store, step=STEP)
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
        done = import_gguf(model, parse_name("o/tiny"), store, step=STEP, extras=Extras(system="be brief", context=512))
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
        done = import_gguf(model, parse_name("tiny"), store, step=Step(said.append, "import", "import"))
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
    done = import_gguf(model, parse_name("tiny"), store, step=Step(said.append, "import", "import"))
    path = blob_path(store, done.digest)
    assert (done.how, path.read_bytes()) == ("copy", model.read_bytes())
    assert (path.stat().st_mode & 0o777, path.samefile(model)) == (0o644, False)
    assert any("was copied" in each.text for each in said if isinstance(each, Note))


def test_a_disk_that_takes_no_link_for_another_reason_is_an_error(model, store, monkeypatch):
    def full(*_words, **_more):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)
    with pytest.raises(FirstlightError, match="cannot be written") as caught:
        import_gguf(model, parse_name("tiny"), store, step=STEP)
    assert caught.value.why == "No space left on device"
    assert [path for path in store.rglob("*") if path.is_file()] == []


def test_another_model_of_the_name_is_replaced_only_when_that_was_said(model, other, store):
    first = import_gguf(model, parse_name("tiny"), store, step=STEP, extras=Extras(system="old"))
    with pytest.raises(FirstlightError, match="there is a model tiny:latest already") as caught:
        import_gguf(other, parse_name("tiny"), store, step=STEP)
    assert "--yes" in (caught.value.fix or "")
    assert read_manifest(store, parse_name("tiny")).layers[0].digest == first.digest
    second = import_gguf(other, parse_name("tiny"), store, step=STEP, replace=True)
    assert read_manifest(store, parse_name("tiny")).layers[0].digest == second.digest
    assert not blob_path(store, first.digest).exists()
    assert model.exists()
    assert len(list((store / "blobs").iterdir())) == 4


def test_the_same_import_again_changes_nothing(model, store):
    import_gguf(model, parse_name("tiny"), store, step=STEP, extras=Extras(template="{{ .Prompt }}"))
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file()}
    again = import_gguf(model, parse_name("tiny"), store, step=STEP, extras=Extras(template="{{ .Prompt }}"))
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
        import_gguf(file, parse_name("x"), store, step=STEP)
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
    import_gguf(model, parse_name("tiny"), store, step=STEP, extras=Extras(template="{{ .Prompt }}"))
    layers = read_manifest(store, parse_name("tiny")).layers
    assert [blob_path(store, layer.digest).read_bytes() for layer in layers[1:]] == [b"{{ .Prompt }}"]


def test_a_store_that_cannot_be_written_is_parse_name(model, tmp_path):
    store = tmp_path / "models"
    store.write_text("a file")
    with pytest.raises(FirstlightError, match="cannot be written") as caught:
        import_gguf(model, parse_name("x"), store, step=STEP)
    assert "namei" in (caught.value.fix or "")


def test_the_users_own_store_is_taken_where_it_is_set(tmp_path, monkeypatch):
    home = Home(tmp_path / "home")
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    assert models_folder(home) == home.models / "ollama"
    monkeypatch.setenv("OLLAMA_MODELS", f" '{tmp_path / 'own'}' ")
    assert models_folder(home) == tmp_path / "own"
