"""The model for an engine that reads GGUF alone: written here, chosen among a repository's files, or refused."""

from __future__ import annotations

import hashlib

import pytest
from support.hub_client import Remembered, uv_tool
from support.loopback_hub import loopback_hub

from firstlight.errors import UsageError
from firstlight.home import Home
from firstlight.models.defaults import default_models
from firstlight.models.gguf import read_gguf
from firstlight.models.provide import provide_model, require_model
from firstlight.models.synthetic import write_synthetic_model
from firstlight.models.synthetic_gguf import write_synthetic_gguf

GGUF = ("gguf", "ollama")


@pytest.fixture
def provide(tmp_path, monkeypatch):
    """Provide a model in a home of this test's own."""
    for name in ("HF_TOKEN", "MODELSCOPE_ENDPOINT", "VLLM_USE_MODELSCOPE", "LMDEPLOY_USE_MODELSCOPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    home, uv = Home(tmp_path / "home"), uv_tool(tmp_path / "cache")
    home.prepare()

    def work(text, layouts=GGUF, **more):
        step = Remembered().step()
        options = {"talk": False, "home": home, "uv": uv, "step": step, "log": tmp_path / "log", "hold": ()}
        return provide_model(text, layouts=layouts, **{**options, **more})

    return work


def test_the_proof_model_is_written_as_the_engine_reads_it(provide):
    model = provide(None)
    assert (model.layout, model.name, model.speaks) == ("gguf", "proof-model", False)
    (file,) = model.files
    data = (model.path / file.name).read_bytes()
    assert (file.size, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert read_gguf(model.path / file.name).announced == len(data)
    assert provide(None, layouts=("safetensors",)).layout == "safetensors"


def test_the_gguf_is_written_with_the_same_bytes_every_time_and_mended(tmp_path):
    first = write_synthetic_gguf(tmp_path / "a.gguf")
    second = write_synthetic_gguf(tmp_path / "b.gguf")
    whole, before = first.read_bytes(), first.stat().st_mtime_ns
    assert second.read_bytes() == whole
    write_synthetic_gguf(first)
    assert first.stat().st_mtime_ns == before
    second.write_bytes(whole[:-5])
    assert write_synthetic_gguf(second).read_bytes() == whole


def test_of_a_repository_the_usual_quantisation_is_taken(provide, monkeypatch):
    files = {f"tiny-{kind}.gguf": b"GGUF" + kind.encode() for kind in ("q2_k", "q4_k_m", "q8_0")}
    with loopback_hub({"own/tiny-GGUF": {**files, "LICENSE": b"free"}}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        model = provide("hf:own/tiny-GGUF", talk=True)
    assert [path.name for path in model.path.glob("*.gguf")] == ["tiny-q4_k_m.gguf"]
    assert (model.layout, model.reused) == ("gguf", False)
    again = provide("hf:own/tiny-GGUF", talk=True)
    assert (again.reused, again.path) == (True, model.path)


def test_another_choice_that_is_there_already_is_taken(provide, monkeypatch, tmp_path):
    from support.hub_client import Fetching

    fetching = Fetching(tmp_path, tmp_path / "cache")
    files = {f"tiny-{kind}.gguf": b"GGUF" + kind.encode() for kind in ("q4_k_m", "q8_0")}
    with loopback_hub({"own/tiny-GGUF": files}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        fetching("hf:own/tiny-GGUF", include=("*q8_0*",))
    assert [file.name for file in provide("hf:own/tiny-GGUF").files] == ["tiny-q8_0.gguf"]


def test_where_the_usual_one_is_missing_the_choice_is_told(provide, monkeypatch):
    with loopback_hub({"own/odd-GGUF": {"odd-IQ1_S.gguf": b"GGUF"}}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        with pytest.raises(UsageError, match="no GGUF file of the usual quantisation") as caught:
            provide("hf:own/odd-GGUF")
    assert "odd-IQ1_S.gguf" in (caught.value.why or "")
    assert caught.value.fix == (
        "choose a file: firstlight model.fetch huggingface:own/odd-GGUF --include 'NAME.gguf', then run this again"
    )


def test_a_folder_of_safetensors_is_refused_at_once(tmp_path):
    folder = write_synthetic_model(tmp_path / "model")
    require_model(str(folder))
    with pytest.raises(UsageError, match="this engine reads GGUF") as caught:
        require_model(str(folder), GGUF)
    assert caught.value.fix == f"name a GGUF of it, or let another engine be chosen: firstlight up --model {folder}"


def test_the_default_model_of_the_hubs_comes_as_gguf_too():
    plain, packaged = default_models()
    gguf, same = default_models(only_gguf=True)
    assert (gguf.id, same) == (f"{plain.id}-GGUF", packaged)
