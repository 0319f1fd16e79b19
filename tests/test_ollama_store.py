"""What Ollama's store holds: damage told, both folders of manifests, blobs kept and dropped."""

from __future__ import annotations

import hashlib
import json
import os

import msgspec
import pytest
from support.ollama_stores import STEP

from firstlight.engines.ollama.importing import Extras, import_gguf
from firstlight.engines.ollama.manifests import LIST_TYPE, Manifest
from firstlight.engines.ollama.names import ModelName, parse_name
from firstlight.engines.ollama.store import (
    Layer,
    blob_path,
    find_model,
    list_models,
    put_blob,
    read_manifest,
    remove_model,
    take_blob,
    write_manifest,
)
from firstlight.errors import UsageError

pytest_plugins = ["support.ollama_models"]


def test_damage_is_told_model_by_model(model, other, store):
    whole = import_gguf(model, parse_name("whole"), store, step=STEP)
    import_gguf(other, parse_name("hf.co/U/R:Q4"), store, step=STEP)
    gone = import_gguf(_variant(model, b"gone"), parse_name("gone"), store, step=STEP)
    short = import_gguf(_variant(model, b"short"), parse_name("127.0.0.1:5000/library/short"), store, step=STEP)
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
    import_gguf(model, parse_name("tiny"), store, step=STEP)
    old = store / "manifests" / "registry.ollama.ai" / "library" / "tiny" / "latest"
    layer = put_blob(store, old.read_bytes().replace(b"2,", b"2 ,", 1), "manifest")
    link = store / "manifests-v2" / "ollama.com" / "library" / "tiny" / "latest"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(blob_path(store, layer.digest), link.parent))
    (listed,) = list_models(store)
    assert listed.id == layer.digest.removeprefix("sha256:")[:12]
    done = import_gguf(other, parse_name("tiny"), store, step=STEP, replace=True)
    assert not link.is_symlink()
    assert read_manifest(store, parse_name("tiny")).layers[0].digest == done.digest


def listed(store, name, data):
    """Name a manifest as newer releases do: itself a blob, and a link to it."""
    layer = put_blob(store, data, "manifest")
    link = store / "manifests-v2" / "ollama.com" / "library" / name / "latest"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(blob_path(store, layer.digest), link.parent))
    return layer.digest


def test_a_link_that_leads_nowhere_counts_only_where_there_is_no_other_manifest(model, store):
    import_gguf(model, parse_name("tiny"), store, step=STEP)
    for name in ("tiny", "lost"):
        blob_path(store, listed(store, name, name.encode())).unlink()
    told = {str(each.name): each.problem for each in list_models(store)}
    assert told["tiny:latest"] is None
    assert "its manifest cannot be read" in told["lost:latest"]


def runners(store):
    """A list of manifests: one for a program that runs elsewhere, in the list, and ours as a blob."""
    weights, config = put_blob(store, b"weights", "model"), put_blob(store, b"{}", "config")
    ours = put_blob(store, msgspec.json.encode(Manifest(config=config, layers=[weights])), "manifest")
    theirs = put_blob(store, b"tensors", "tensor")
    children = [
        {**msgspec.to_builtins(Manifest(config=config, layers=[theirs])), "runner": "mlx"},
        {"mediaType": "manifest", "digest": ours.digest, "runner": "llamacpp"},
    ]
    data = msgspec.json.encode({"schemaVersion": 2, "mediaType": LIST_TYPE, "manifests": children})
    return listed(store, "both", data), weights, config, ours, theirs


def test_of_a_list_of_manifests_the_one_that_runs_here_counts(store):
    own, weights, config, ours, theirs = runners(store)
    (both,) = list_models(store)
    assert (str(both.name), both.problem) == ("both:latest", None)
    assert both.size == weights.size + config.size + theirs.size
    assert read_manifest(store, parse_name("both")).layers == [weights]
    assert both.digests == {own, weights.digest, config.digest, ours.digest, theirs.digest}
    blob_path(store, ours.digest).unlink()
    assert "of its list is gone" in list_models(store)[0].problem


def test_what_a_list_names_stays_when_another_model_goes_and_goes_with_it(model, store):
    _own, _weights, _config, _ours, theirs = runners(store)
    import_gguf(model, parse_name("tiny"), store, step=STEP)
    tiny = read_manifest(store, parse_name("tiny"))
    write_manifest(store, parse_name("tiny"), msgspec.json.encode(msgspec.structs.replace(tiny, layers=[theirs])))
    remove_model(store, parse_name("tiny"))
    assert list_models(store)[0].problem is None
    assert blob_path(store, theirs.digest).exists()
    assert remove_model(store, parse_name("both"))
    assert not blob_path(store, theirs.digest).exists()


def test_removing_a_model_keeps_what_others_need(model, store):
    import_gguf(model, parse_name("one"), store, step=STEP, extras=Extras(system="one"))
    import_gguf(model, parse_name("two"), store, step=STEP)
    assert remove_model(store, parse_name("one"))
    assert [str(each.name) for each in list_models(store)] == ["two:latest"]
    assert list_models(store)[0].problem is None
    assert remove_model(store, parse_name("two"))
    assert not remove_model(store, parse_name("two"))
    assert [path for path in store.rglob("*") if path.is_file()] == []
    assert model.exists()


def test_beside_an_unreadable_manifest_no_blob_is_removed(model, store):
    import_gguf(model, parse_name("one"), store, step=STEP)
    broken = store / "manifests" / "registry.ollama.ai" / "library" / "broken" / "latest"
    broken.parent.mkdir(parents=True)
    broken.write_text("no json")
    remove_model(store, parse_name("one"))
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
    import_gguf(model, parse_name("a/b"), store, step=STEP)
    made = [path for path in store.rglob("*") if not path.is_file() or not path.samefile(model)]
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(12345, 12346)}
