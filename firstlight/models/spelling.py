"""Configuration files in the spelling that transformers 4 and 5 both read.

What transformers 5 writes, 4.x cannot load: it stops at `Tokenizer class TokenizersBackend does not exist` (seen with
4.47.1 and 4.49.0), takes `dtype` and `rope_parameters` for unknown keys, and does not look for chat_template.jinja. The
older spelling is read by all of them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from firstlight.files import write_atomic

_OWN_TO_FIVE = ("backend", "is_local", "local_files_only")


def spell_for_all(folder: Path) -> None:
    """Rewrite config.json and tokenizer_config.json of a model's folder in the older spelling."""
    _rewrite(folder / "config.json", _config)
    template = folder / "chat_template.jinja"
    text = template.read_text() if template.is_file() else None
    _rewrite(folder / "tokenizer_config.json", lambda document: _tokenizer_config(document, text))


def _rewrite(path: Path, change: Any) -> None:
    if not path.is_file():
        return
    document = json.loads(path.read_bytes())
    write_atomic(path, json.dumps(change(document), indent=2, ensure_ascii=False) + "\n")


def _config(document: dict[str, Any]) -> dict[str, Any]:
    new = dict(document)
    if "dtype" in new and "torch_dtype" not in new:
        new["torch_dtype"] = new.pop("dtype")
    rope = new.get("rope_parameters")
    # Some models keep one set for each kind of layer; the older spelling has no word for that.
    if isinstance(rope, dict) and "rope_theta" in rope:
        del new["rope_parameters"]
        new["rope_theta"] = rope["rope_theta"]
        if rope.get("rope_type", "default") != "default":
            new["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    return new


def _tokenizer_config(document: dict[str, Any], template: str | None) -> dict[str, Any]:
    new = {key: value for key, value in document.items() if key not in _OWN_TO_FIVE}
    if new.get("tokenizer_class") == "TokenizersBackend":
        new["tokenizer_class"] = "PreTrainedTokenizerFast"
        # The generic class of 4.x adds token_type_ids otherwise, and language models refuse those.
        new.setdefault("model_input_names", ["input_ids", "attention_mask"])
    if isinstance(new.get("extra_special_tokens"), list):
        new["additional_special_tokens"] = new.pop("extra_special_tokens")
    if template is not None:
        new.setdefault("chat_template", template)
    return new
