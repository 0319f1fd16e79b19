"""Runs in an engine's environment (torch, transformers, gguf); knows nothing of firstlight.

    gguf_worker.py FOLDER FILE.gguf TARGET

Writes the model in FILE.gguf as bfloat16 safetensors with its tokenizer into TARGET; answers in JSON lines.
"""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any


def say(event: str, **values: Any) -> None:
    """Write one event as a JSON line."""
    sys.stdout.write(json.dumps({"event": event, **values}) + "\n")
    sys.stdout.flush()


def _load(transformers: Any, torch: Any, folder: str, name: str) -> Any:
    """Return the model; the argument `dtype` was called `torch_dtype` before transformers 4.56."""
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    key = "dtype" if release >= (4, 56) else "torch_dtype"
    return transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, **{key: torch.bfloat16})


def _make_serialisable(model: Any) -> None:
    """Forget that the weights came from GGUF: they are plain numbers by now, but transformers 5 refuses to save them.

    The message was `The model is quantized with gguf and is not serializable` (transformers 5.23.0).
    """
    model.hf_quantizer = None
    for key in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, key):
            delattr(model.config, key)


def main(folder: str, name: str, target: str) -> int:
    """Convert; 0 when it is done."""
    say("note", text="starting transformers")
    torch = importlib.import_module("torch")
    transformers = importlib.import_module("transformers")
    say("note", text="reading the tokenizer")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
    say("note", text="unpacking the weights to bfloat16")
    model = _load(transformers, torch, folder, name).to(torch.bfloat16)
    say("note", text="writing safetensors")
    _make_serialisable(model)
    model.save_pretrained(target, safe_serialization=True)
    tokenizer.save_pretrained(target)
    say("done", transformers=transformers.__version__)
    return 0


if __name__ == "__main__":
    sys.path.pop(0)  # our own folder: modules beside this file must not stand in for the engine's packages of that name
    sys.exit(main(*sys.argv[1:4]))
