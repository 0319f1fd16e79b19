"""The synthetic proof model as one GGUF file, for engines that read nothing else: same weights, same promises.

Written by hand (github.com/ggml-org/ggml, docs/gguf.md, version 3); see `synthetic` for what it proves.
"""

from __future__ import annotations

import contextlib
import struct
from array import array
from functools import cache
from pathlib import Path

from firstlight.files import write_atomic
from firstlight.models.synthetic import (
    CHAT_TEMPLATE,
    CONTEXT,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    LAYERS,
    NAME,
    SPECIALS,
    Tensor,
    proof_merges,
    proof_tensors,
    proof_vocabulary,
)

_ALIGNMENT = 32
_UINT32, _FLOAT32, _STRING, _ARRAY = 4, 6, 8, 9
_INT32 = 5
_F32, _F16 = 0, 1
_MOSTLY_F16 = 1
_NORMAL_TOKEN, _CONTROL_TOKEN = 1, 3

_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    **{f"self_attn.{letter}_proj.{part}": f"attn_{letter}.{part}" for letter in "qkv" for part in ("weight", "bias")},
}
"""Names inside a layer, as llama.cpp calls them (gguf-py, tensor_mapping.py)."""


def write_synthetic_gguf(file: Path) -> Path:
    """Write the synthetic model as `file` and return it; the same bytes every time, in about 0.3 seconds.

    Raises:
        OSError: the file cannot be written or the disk is full.
    """
    data = _contents()
    with contextlib.suppress(OSError):
        if file.read_bytes() == data:
            return file
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, data)
    return file


def _contents() -> bytes:
    vocabulary = proof_vocabulary()
    tensors = {_name(name): tensor for name, tensor in sorted(proof_tensors(vocabulary).items())}
    entries = _metadata(vocabulary)
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(entries)), *entries]
    data, offset = [], 0
    for name, tensor in tensors.items():
        kind, raw = _converted(tensor)
        # Dimensions are told from the innermost one outwards.
        shape = tensor.shape[::-1]
        head.append(_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset))
        raw += bytes(-len(raw) % _ALIGNMENT)
        data.append(raw)
        offset += len(raw)
    whole = b"".join(head)
    return b"".join([whole, bytes(-len(whole) % _ALIGNMENT), *data])


def _name(name: str) -> str:
    """Return what llama.cpp calls a tensor."""
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    layer, _dot, rest = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{_NAMES[rest]}"


def _converted(tensor: Tensor) -> tuple[int, bytes]:
    """Return a tensor's type and bytes: vectors as 32-bit floats, which llama.cpp asks for, matrices as 16-bit ones.

    16-bit floats, not bfloat16: every GPU and every release reads them. Both hold every number of the model.
    """
    numbers = array("H", bytes(tensor.data))
    if len(tensor.shape) == 1:
        wide = array("I", (number << 16 for number in numbers))
        return _F32, wide.tobytes()
    return _F16, array("H", map(_halves().__getitem__, numbers)).tobytes()


def _half(number: int) -> int:
    """Return a bfloat16 number's bits as those of a 16-bit float; 0 for what that cannot hold."""
    sign, exponent, fraction = number >> 15, (number >> 7) & 0xFF, number & 0x7F
    return sign << 15 | (exponent - 112) << 10 | fraction << 3 if 113 <= exponent <= 142 else 0


@cache
def _halves() -> array[int]:
    return array("H", map(_half, range(1 << 16)))


# ── metadata ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _entry(key: str, kind: int, value: bytes) -> bytes:
    return _text(key) + struct.pack("<I", kind) + value


def _list(key: str, kind: int, values: list[bytes]) -> bytes:
    return _entry(key, _ARRAY, struct.pack("<IQ", kind, len(values)) + b"".join(values))


def _metadata(vocabulary: dict[str, int]) -> list[bytes]:
    numbers = {
        "general.file_type": _MOSTLY_F16,
        "general.alignment": _ALIGNMENT,
        "qwen2.block_count": LAYERS,
        "qwen2.context_length": CONTEXT,
        "qwen2.embedding_length": HIDDEN,
        "qwen2.feed_forward_length": INTERMEDIATE,
        "qwen2.attention.head_count": HEADS,
        "qwen2.attention.head_count_kv": HEADS,
        "tokenizer.ggml.bos_token_id": vocabulary["<|endoftext|>"],
        "tokenizer.ggml.eos_token_id": vocabulary["<|im_end|>"],
        "tokenizer.ggml.padding_token_id": vocabulary["<|endoftext|>"],
    }
    texts = {
        "general.architecture": "qwen2",
        "general.type": "model",
        "general.name": NAME,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
    floats = {"qwen2.rope.freq_base": 10000.0, "qwen2.attention.layer_norm_rms_epsilon": 1e-6}
    kinds = [_CONTROL_TOKEN if token in SPECIALS else _NORMAL_TOKEN for token in vocabulary]
    return [
        *(_entry(key, _STRING, _text(text)) for key, text in texts.items()),
        *(_entry(key, _UINT32, struct.pack("<I", number)) for key, number in numbers.items()),
        *(_entry(key, _FLOAT32, struct.pack("<f", number)) for key, number in floats.items()),
        _list("tokenizer.ggml.tokens", _STRING, [_text(token) for token in vocabulary]),
        _list("tokenizer.ggml.token_type", _INT32, [struct.pack("<i", kind) for kind in kinds]),
        _list("tokenizer.ggml.merges", _STRING, [_text(merge) for merge in proof_merges()]),
    ]
