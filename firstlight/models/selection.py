"""Which files of a hub's repository a model needs: one copy of the weights, and what small files belong to it."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import PurePosixPath

import msgspec

from firstlight.errors import UsageError

_SMALL = (
    "*.json",
    "*.jinja",
    "*.txt",
    "*.model",
    "*.tiktoken",
    "*.py",
    "LICENSE*",
    "LICENCE*",
    "NOTICE*",
    "USE_POLICY*",
)
"""Configuration, tokenizer, template, code of models that bring their own, and the licence."""

_OTHER_COPIES = ("onnx", "openvino", "original", "metal", "gguf", "coreml", "tflite", "flax", "tf", ".eval_results")
"""Folders that hold the same model for other programs."""


class RemoteFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a repository; `sha1` is git's hash of it (with its `blob` header), `sha256` that of its content."""

    name: str
    size: int
    sha256: str | None = None
    sha1: str | None = None


def choose_files(files: list[RemoteFile], include: tuple[str, ...], model: str) -> list[RemoteFile]:
    """Return the files to fetch: the small ones, and the weights in the best format that is there.

    Safetensors go before pickled weights (`pytorch_model*.bin`). With `include` the weights are the files that match
    one of its patterns.

    Args:
        files: all files of the repository.
        include: shell patterns chosen by the user, or nothing.
        model: its id, for messages.

    Raises:
        UsageError: nothing matches `include`, or the repository holds no weights that engines read.
    """
    small = [file for file in files if _is_small(file.name)]
    if include:
        weights = [file for file in files if any(fnmatch(file.name, pattern) for pattern in include)]
        if not weights:
            raise UsageError(
                f"no file of {model} matches {' '.join(include)}",
                why=f"it holds {_some([file.name for file in files])}",
                fix="leave --include out, or name one of these",
            )
    else:
        weights = _weights(files, model)
    chosen = {file.name: file for file in [*small, *weights]}
    return [chosen[name] for name in sorted(chosen)]


def _is_small(name: str) -> bool:
    path = PurePosixPath(name)
    if path.parts[0].lower() in _OTHER_COPIES:
        return False
    return any(fnmatch(path.name, pattern) for pattern in _SMALL)


def _weights(files: list[RemoteFile], model: str) -> list[RemoteFile]:
    top = [file for file in files if "/" not in file.name]
    safetensors = [file for file in top if file.name.endswith(".safetensors")]
    # Mistral's own layout lies beside the usual one, with the same weights again.
    usual = [file for file in safetensors if not file.name.startswith("consolidated")]
    if usual or safetensors:
        return usual or safetensors
    pickled = [file for file in top if fnmatch(file.name, "pytorch_model*.bin")]
    if pickled:
        return pickled
    ggufs = sorted(file.name for file in files if file.name.endswith(".gguf"))
    if ggufs:
        raise UsageError(
            f"{model} comes as GGUF only",
            why=f"it holds {_some(ggufs)}",
            fix=f"choose one: firstlight model.fetch {model} --include '{_middle(ggufs)}'",
        )
    raise UsageError(
        f"{model} holds no weights that an engine reads",
        why=f"it holds {_some([file.name for file in files]) or 'no file at all'}",
        fix="choose a model with safetensors files",
    )


def _middle(ggufs: list[str]) -> str:
    """Return the customary choice between size and quality, where it is among the files."""
    return next((name for name in ggufs if "q4_k_m" in name.lower()), ggufs[0])


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
