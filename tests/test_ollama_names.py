"""Names of models as Ollama reads them, its server's address, and the headers of GGUF files."""

from __future__ import annotations

import struct

import pytest
from support.ollama_stores import STEP

from firstlight.engines.ollama.api import address
from firstlight.engines.ollama.importing import import_gguf
from firstlight.engines.ollama.names import parse_name
from firstlight.engines.ollama.store import (
    list_models,
)
from firstlight.errors import FirstlightError, UsageError
from firstlight.models.gguf import read_gguf

pytest_plugins = ["support.ollama_models"]


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
    import_gguf(model, parse_name("Tiny:Q8"), store, step=STEP)
    again = import_gguf(model, parse_name("tiny:q8"), store, step=STEP)
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
