"""What a folder holds, and what is said of folders that hold no model or a damaged one."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest

from firstlight.errors import FirstlightError, UsageError
from firstlight.models.local import inspect_folder
from firstlight.models.selection import RemoteFile, choose_files
from firstlight.models.spelling import spell_for_all
from firstlight.models.synthetic import write_synthetic_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 988097824\n"


@pytest.fixture
def model(tmp_path):
    return write_synthetic_model(tmp_path / "model")


def shard(model, count=3):
    """Split the weights as large models are: an index and several files."""
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").unlink()
    names = [f"model-{number:05}-of-{count:05}.safetensors" for number in range(1, count + 1)]
    for name in names:
        (model / name).write_bytes(data)
    weight_map = {f"tensor.{index}": name for index, name in enumerate(names * 2)}
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return names


def refused(path, kind=FirstlightError):
    with pytest.raises(kind) as caught:
        inspect_folder(path)
    assert type(caught.value) is kind
    assert caught.value.why
    assert caught.value.fix
    return caught.value


def test_a_whole_model_is_described(model):
    folder = inspect_folder(model)
    assert folder.architectures == ["Qwen2ForCausalLM"]
    assert (folder.model_type, folder.dtype, folder.max_position_embeddings) == ("qwen2", "bfloat16", 2048)
    assert folder.vocab_size == 269
    assert [weight.name for weight in folder.weights] == ["model.safetensors"]
    assert folder.weight_bytes == (model / "model.safetensors").stat().st_size
    assert folder.has_chat_template
    assert folder.quantization is None


def test_newer_spellings_nested_values_and_quantisation_are_read(model):
    (model / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["SomeForConditionalGeneration"],
                "text_config": {"dtype": "float16", "max_position_embeddings": 4096, "vocab_size": 7},
                "quantization_config": {"quant_method": "awq", "bits": 4},
            }
        )
    )
    (model / "tokenizer_config.json").write_text("{}")
    folder = inspect_folder(model)
    assert (folder.dtype, folder.max_position_embeddings, folder.vocab_size) == ("float16", 4096, 7)
    assert folder.quantization == "awq"
    assert not folder.has_chat_template
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert inspect_folder(model).has_chat_template


def test_a_folder_that_is_not_there_names_what_is(tmp_path):
    error = refused(tmp_path / "no" / "such", UsageError)
    assert f"{tmp_path} is the last part" in error.why
    assert "firstlight up --model OWNER/NAME" in error.fix


def test_a_link_to_nothing(tmp_path):
    (tmp_path / "model").symlink_to(tmp_path / "gone")
    assert "points to nothing" in refused(tmp_path / "model", UsageError).what


def test_a_file_in_place_of_a_folder(model):
    error = refused(model / "config.json", UsageError)
    assert "is a file" in error.what
    assert str(model) in error.fix


def test_a_file_that_is_of_no_model():
    error = refused(Path("/etc/passwd"), UsageError)
    assert "config.json, a tokenizer and weights" in error.why
    assert "firstlight up --model OWNER/NAME" in error.fix
    assert "/etc" not in error.fix


def test_a_gguf_file_in_place_of_a_folder(tmp_path):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"GGUF" + bytes(20))
    error = refused(file, UsageError)
    assert "GGUF" in error.why
    assert str(file) in error.fix


def test_an_empty_folder(tmp_path):
    assert "empty" in refused(tmp_path, UsageError).what


def test_a_folder_with_gguf_files_names_the_command_for_them(tmp_path):
    (tmp_path / "tiny.Q4_0.gguf").write_bytes(b"GGUF" + bytes(20))
    error = refused(tmp_path, UsageError)
    assert "tiny.Q4_0.gguf" in error.why
    assert str(tmp_path / "tiny.Q4_0.gguf") in error.fix


def test_an_adapter_names_its_base_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen3-8B"}')
    (tmp_path / "adapter_model.safetensors").write_bytes(bytes(10))
    error = refused(tmp_path, UsageError)
    assert "LoRA adapter" in error.what
    assert "Qwen/Qwen3-8B" in error.fix


@pytest.mark.parametrize("inside", ["", "snapshots", "above"])
def test_a_hub_cache_names_the_snapshot_to_use(tmp_path, model, inside):
    cache = tmp_path / "hub" / "models--own--tiny"
    for commit in ("aaaa", "bbbb"):
        shutil.copytree(model, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("aaaa")
    named = tmp_path / "hub" if inside == "above" else cache / inside
    error = refused(named, UsageError)
    assert error.fix == str(cache / "snapshots" / "aaaa")
    assert inspect_folder(cache / "snapshots" / "aaaa").model_type == "qwen2"


def test_a_folder_above_the_model_names_the_model(tmp_path, model):
    assert refused(tmp_path, UsageError).fix == str(model)


def test_a_folder_of_something_else_is_listed(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert "notes.txt" in refused(tmp_path, UsageError).why


@pytest.mark.parametrize("place", [".cache", "blobs", ".cache/huggingface/download/onnx"])
def test_a_broken_off_download_is_seen(tmp_path, place):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "abc.incomplete").write_bytes(b"x")
    assert "broken off" in refused(tmp_path, UsageError).why


def test_a_whole_disk_is_refused_without_being_walked_through(tmp_path):
    deep = tmp_path / "a" / "b" / "c"
    deep.mkdir(parents=True)
    (deep / "abc.incomplete").write_bytes(b"x")
    assert "it holds a" in refused(tmp_path, UsageError).why


@pytest.mark.parametrize("text", ["{", "[1, 2]", "", "\xff"])
def test_a_config_that_is_no_json_object(model, text):
    (model / "config.json").write_text(text, encoding="latin-1")
    assert "config.json" in refused(model).what


def test_no_weights(model):
    (model / "model.safetensors").unlink()
    assert "no weights" in refused(model).what


def test_missing_shards_are_all_listed(model):
    names = shard(model)
    assert [weight.name for weight in inspect_folder(model).weights] == names
    (model / names[0]).unlink()
    (model / names[2]).unlink()
    error = refused(model)
    assert "2 of 3" in error.what
    assert names[0] in error.what
    assert names[1] not in error.what
    assert names[2] in error.what


def test_all_shards_missing_are_listed_too(model):
    for name in (names := shard(model)):
        (model / name).unlink()
    error = refused(model)
    assert all(name in error.what for name in names)


def test_the_index_of_a_format_that_was_left_out_does_not_matter(model):
    (model / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model-00001-of-00001.bin"}}')
    assert inspect_folder(model).weights[0].name == "model.safetensors"


def test_pickled_weights_count_where_there_are_no_others(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert [weight.name for weight in inspect_folder(model).weights] == ["pytorch_model.bin"]


def test_links_to_files_that_are_gone(model):
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to("../../blobs/gone")
    assert "links point to files that are gone" in refused(model).why


def test_an_index_that_cannot_be_understood(model):
    shard(model)
    (model / "model.safetensors.index.json").write_text('{"metadata": {}}')
    assert "index.json" in refused(model).what


def test_git_lfs_pointers_are_named(model):
    names = shard(model)
    (model / names[1]).write_text(POINTER)
    error = refused(model)
    assert "Git-LFS" in error.what
    assert names[1] in error.what
    assert names[0] not in error.what
    assert "lfs pull" in error.fix


@pytest.mark.parametrize("left", [0, 4, 100, 20_000, -1])
def test_weights_that_were_cut_off(model, left):
    weights = model / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:left])
    error = refused(model)
    assert "model.safetensors" in error.what
    if left not in {0, 4}:
        assert f"{len(data[:left])} of" in error.what
    if left in {20_000, -1}:
        assert f"of {len(data)} bytes" in error.what


@pytest.mark.parametrize("header", [b"{]", b"[]", b'{"a": {"data_offsets": "x"}}'])
def test_weights_with_a_damaged_header(model, header):
    (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(64))
    assert "no safetensors file" in refused(model).what


# ── which files of a repository are fetched ──────────────────────────────────────────────────────────────────────────


def chosen(*names, include=()):
    return [file.name for file in choose_files([RemoteFile(name=name, size=1) for name in names], include, "own/model")]


def test_one_copy_of_the_weights_and_all_that_is_small():
    assert chosen(
        "config.json",
        "tokenizer.model",
        "vocab.txt",
        "merges.txt",
        "chat_template.jinja",
        "modeling_own.py",
        "LICENSE",
        "README.md",
        "figures/plot.png",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "consolidated.safetensors",
        "original/consolidated.00.pth",
        "original/params.json",
        "pytorch_model.bin",
        "onnx/model.onnx",
        "onnx/config.json",
        "model.Q4_K_M.gguf",
    ) == sorted(
        [
            "config.json",
            "tokenizer.model",
            "vocab.txt",
            "merges.txt",
            "chat_template.jinja",
            "modeling_own.py",
            "LICENSE",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
        ]
    )


def test_pickled_weights_only_where_there_are_no_safetensors():
    assert chosen("config.json", "pytorch_model.bin", "tf_model.h5", "training_args.bin") == [
        "config.json",
        "pytorch_model.bin",
    ]


def test_include_chooses_the_weights():
    names = ("config.json", "a.Q4_K_M.gguf", "a.Q8_0.gguf")
    assert chosen(*names, include=("*Q8*",)) == ["a.Q8_0.gguf", "config.json"]
    with pytest.raises(UsageError, match="no file of own/model matches"):
        chosen(*names, include=("*Q2*",))


def test_a_repository_of_gguf_only_asks_for_a_choice():
    with pytest.raises(UsageError) as caught:
        chosen("README.md", "a.Q8_0.gguf", "a.Q4_K_M.gguf")
    assert "--include 'a.Q4_K_M.gguf'" in caught.value.fix


def test_a_repository_without_weights():
    with pytest.raises(UsageError, match="no weights"):
        chosen("README.md", "data.parquet")


# ── the spelling that all releases read ──────────────────────────────────────────────────────────────────────────────


def test_what_a_newer_release_wrote_is_spelled_for_older_ones(tmp_path):
    (tmp_path / "config.json").write_text(
        '{"dtype": "bfloat16", "rope_parameters": {"rope_theta": 1e6, "rope_type": "llama3", "factor": 8.0}}'
    )
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "TokenizersBackend", "backend": "tokenizers", "extra_special_tokens": ["<x>"]}'
    )
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    spell_for_all(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {
        "torch_dtype": "bfloat16",
        "rope_theta": 1e6,
        "rope_scaling": {"rope_type": "llama3", "factor": 8.0},
    }
    assert json.loads((tmp_path / "tokenizer_config.json").read_text()) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<x>"],
        "model_input_names": ["input_ids", "attention_mask"],
        "chat_template": "{{ messages }}",
    }


def test_what_is_spelled_well_already_stays_as_it_is(model):
    before = json.loads((model / "config.json").read_text()), json.loads((model / "tokenizer_config.json").read_text())
    spell_for_all(model)
    after = json.loads((model / "config.json").read_text()), json.loads((model / "tokenizer_config.json").read_text())
    assert after == before
