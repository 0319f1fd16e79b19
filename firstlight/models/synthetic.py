"""The synthetic proof model: a whole Qwen2-type model of 1.4 million parameters, made here, with no network, no torch.

It proves that an engine loads weights, tokenises, runs every kind of layer and samples. It says nothing sensible, but
three things hold for any prompt, and are built into the weights rather than hoped for:

* it never ends early: `max_tokens` tokens come back with `finish_reason` `length`;
* every token is made of ASCII letters, so that no engine holds back half a character while streaming;
* the head size is 128, the one that every attention kernel and KV-cache format supports.

How: channel 0 of the residual stream carries a constant (the value bias of attention, passed on by one weight of the
output projection); nothing else writes to it, and no layer reads it. The embedding rows of all tokens that must not be
said have a negative number in channel 0. The embeddings are tied, so the logit of such a token gets (large positive)
times (negative), whatever the prompt is.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import shutil
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

from firstlight.files import remove_tree

NAME = "synthetic"
"""The folder's name, and the name that it is served under."""

HIDDEN = 256
_HEAD = 128
HEADS = 2
INTERMEDIATE = 512
LAYERS = 2
CONTEXT = 2048
_SEED = 20240229

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_WORDS = ("th", "the", "in", "an", "and", "er", "on", "is", "to", "of")
"""Merges beyond single bytes, enough to make the tokenizer a real byte-pair one."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

_SILENCED = -8.0
"""Channel 0 of the embedding of a token that is never said; measured: its logit is at least 30 below the best one."""
_CARRIED = 32.0
"""What each layer adds to channel 0; its sum stays positive also after a silenced token of the prompt."""
_GAIN = 12.0
"""Weight of the inner norms, against the constant's share in them; else every token would look the same."""

_SMALL, _LARGE = 0x3C, 0x3D
"""High bytes of positive bfloat16 numbers in [2^-7, 2^-5) and [2^-5, 2^-3)."""


def write_synthetic_model(folder: Path) -> Path:
    """Write the synthetic model into `folder` and return it; the same bytes every time, in about 0.1 seconds.

    The folder appears at once and whole. One that is there already is kept when every byte of it is right, and else
    replaced. The file formats are those that transformers 4.47 up to 5.x read.

    Raises:
        OSError: the folder cannot be written or the disk is full.
    """
    files = _contents()
    if _holds(folder, files):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        temporary.chmod(0o755)
        with _one_at_a_time(folder.parent):
            if not _holds(folder, files):  # else another process was faster, with the same bytes
                remove_tree(folder)
                temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Hold the lock on a folder for a moment; where its file system knows none (NFS), nobody is kept out."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _holds(folder: Path, files: dict[str, bytes]) -> bool:
    try:
        return all((folder / name).read_bytes() == data for name, data in files.items())
    except OSError:
        return False


def _contents() -> dict[str, bytes]:
    vocabulary = proof_vocabulary()
    documents = {
        "config.json": _config(vocabulary),
        "generation_config.json": _generation_config(vocabulary),
        "tokenizer.json": _tokenizer(vocabulary),
        "tokenizer_config.json": _tokenizer_config(vocabulary),
    }
    files = {
        name: (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode() for name, value in documents.items()
    }
    files["model.safetensors"] = _safetensors(proof_tensors(vocabulary))
    return files


# ── tokenizer ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _byte_characters() -> list[str]:
    """Return the character that stands for each byte in byte-level BPE.

    Printable Latin-1 stands for itself, the rest is moved to U+0100 and up, in order (GPT-2's `bytes_to_unicode`).
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(moved)) for byte in range(256)]


def proof_vocabulary() -> dict[str, int]:
    """Return the tokens with their numbers: every byte, a few words, the special ones."""
    tokens = [*_byte_characters(), *_WORDS, *SPECIALS]
    return {token: index for index, token in enumerate(tokens)}


def _said(token: str) -> bool:
    """Tell whether the model may say the token: letters, and words of them."""
    return token.isascii() and token.isalpha()


def proof_merges() -> list[str]:
    """Return the merge rules in their order, as `left right`: the spelling that every tokenizers release reads."""
    return [f"{word[:-1]} {word[-1]}" for word in _WORDS]


def _tokenizer(vocabulary: dict[str, int]) -> dict[str, object]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": vocabulary[token], "content": token, **flags} for token in SPECIALS],
        "normalizer": None,
        "pre_tokenizer": {**byte_level, "use_regex": True},
        "post_processor": byte_level,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: index for token, index in vocabulary.items() if token not in SPECIALS},
            "merges": proof_merges(),
        },
    }


def _tokenizer_config(vocabulary: dict[str, int]) -> dict[str, object]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(vocabulary[token]): {"content": token, **flags} for token in SPECIALS},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        # Without this the generic tokenizer class of transformers 4 adds token_type_ids, which the model refuses.
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": CONTEXT,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


# ── configuration ────────────────────────────────────────────────────────────────────────────────────────────────────


def _config(vocabulary: dict[str, int]) -> dict[str, object]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "attention_dropout": 0.0,
        "bos_token_id": vocabulary["<|endoftext|>"],
        "eos_token_id": vocabulary["<|im_end|>"],
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": CONTEXT,
        "max_window_layers": LAYERS,
        "model_type": "qwen2",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-06,
        "rope_theta": 10000.0,
        "sliding_window": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": len(vocabulary),
    }


def _generation_config(vocabulary: dict[str, int]) -> dict[str, object]:
    end, text_end = vocabulary["<|im_end|>"], vocabulary["<|endoftext|>"]
    return {"bos_token_id": text_end, "do_sample": False, "eos_token_id": [end, text_end], "pad_token_id": text_end}


# ── weights ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Tensor:
    """A bfloat16 tensor of rows x columns (a vector has one row) as raw little-endian bytes."""

    def __init__(self, shape: tuple[int, ...], data: bytearray) -> None:
        self.shape = shape
        self.data = data
        self.columns = shape[-1]

    def put(self, row: int, column: int, value: float) -> None:
        """Set one number; it must be one that bfloat16 holds exactly."""
        at = 2 * (row * self.columns + column)
        self.data[at : at + 2] = struct.pack("<f", value)[2:]

    def clear_row(self, row: int) -> None:
        """Set a whole row to zero."""
        at = 2 * row * self.columns
        self.data[at : at + 2 * self.columns] = bytes(2 * self.columns)

    def clear_column(self, column: int) -> None:
        """Set a whole column to zero."""
        self.data[2 * column :: 2 * self.columns] = bytes(len(self.data[2 * column :: 2 * self.columns]))
        self.data[2 * column + 1 :: 2 * self.columns] = bytes(len(self.data[2 * column + 1 :: 2 * self.columns]))


def _noise(source: random.Random, high: int, *shape: int) -> Tensor:
    """Return random numbers of both signs whose bfloat16 high byte is `high` (or that with the sign bit)."""
    count = 1
    for size in shape:
        count *= size
    signs = bytes(high | (byte & 0x80) for byte in range(256))
    data = bytearray(2 * count)
    data[0::2] = source.randbytes(count)
    data[1::2] = source.randbytes(count).translate(signs)
    return Tensor(shape, data)


def _filled(value: float, *shape: int) -> Tensor:
    count = 1
    for size in shape:
        count *= size
    return Tensor(shape, bytearray(struct.pack("<f", value)[2:] * count))


def proof_tensors(vocabulary: dict[str, int]) -> dict[str, Tensor]:
    """Return the weights by their names in safetensors files."""
    source = random.Random(_SEED)  # noqa: S311 - weights, no secret; the same on every machine
    embedding = _noise(source, _LARGE, len(vocabulary), HIDDEN)
    embedding.clear_column(0)
    for token, index in vocabulary.items():
        if not _said(token):
            embedding.put(index, 0, _SILENCED)
    tensors = {"model.embed_tokens.weight": embedding, "model.norm.weight": _filled(1.0, HIDDEN)}
    for layer in range(LAYERS):
        for name, tensor in _layer(source).items():
            tensors[f"model.layers.{layer}.{name}"] = tensor
    return tensors


def _layer(source: random.Random) -> dict[str, Tensor]:
    heads = HEADS * _HEAD
    tensors = {
        "input_layernorm.weight": _filled(1.0, HIDDEN),
        "post_attention_layernorm.weight": _filled(_GAIN, HIDDEN),
    }
    for norm in tensors.values():
        norm.put(0, 0, 0.0)  # the layers must not see channel 0
    for name in ("q", "k", "v"):
        tensors[f"self_attn.{name}_proj.weight"] = _noise(source, _SMALL, heads, HIDDEN)
        tensors[f"self_attn.{name}_proj.bias"] = _filled(0.0, heads)
    tensors["self_attn.o_proj.weight"] = _noise(source, _SMALL, HIDDEN, heads)
    tensors["mlp.gate_proj.weight"] = _noise(source, _LARGE, INTERMEDIATE, HIDDEN)
    tensors["mlp.up_proj.weight"] = _noise(source, _LARGE, INTERMEDIATE, HIDDEN)
    tensors["mlp.down_proj.weight"] = _noise(source, _LARGE, HIDDEN, INTERMEDIATE)
    # The carried constant: attention weights sum to one, so value 0 of head 0 is its bias at every position.
    tensors["self_attn.v_proj.weight"].clear_row(0)
    tensors["self_attn.v_proj.bias"].put(0, 0, _CARRIED)
    output = tensors["self_attn.o_proj.weight"]
    output.clear_row(0)
    output.clear_column(0)
    output.put(0, 0, 1.0)
    tensors["mlp.down_proj.weight"].clear_row(0)
    return tensors


def _safetensors(tensors: dict[str, Tensor]) -> bytes:
    """Return the tensors as a safetensors file: header length, JSON header padded to 8 bytes, data.

    Written by hand (github.com/huggingface/safetensors, README, "Format"): the library's `serialize` takes other
    arguments in every second release, and needs torch or numpy for its stable interface.
    """
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in sorted(tensors.items()):
        end = offset + len(tensor.data)
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join(
        [struct.pack("<Q", len(text)), text, *(bytes(tensor.data) for _, tensor in sorted(tensors.items()))]
    )
