"""What a folder on this machine holds: a model that an engine can serve, or the reason why it is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from firstlight.errors import FirstlightError, UsageError
from firstlight.models.weights import (
    GGUF_MARK,
    LFS_MARK,
    WeightFile,
    adapter_error,
    beginning,
    broken_off,
    fetch_again,
    find_weights,
    listing,
    pointer_error,
    serve_gguf,
)

_A_MODEL = "a model is a folder with config.json, a tokenizer and weights (*.safetensors), or one *.gguf file"


class ModelFolder(msgspec.Struct, frozen=True, kw_only=True):
    """A model that lies on this machine. `weight_bytes` is the size of all its weight files."""

    path: Path
    architectures: list[str]
    model_type: str | None
    max_position_embeddings: int | None
    dtype: str | None
    vocab_size: int | None
    weights: list[WeightFile]
    weight_bytes: int
    has_chat_template: bool
    quantization: str | None
    """The method that the weights are quantised with, such as `awq`."""


def inspect_folder(path: Path) -> ModelFolder:
    """Return what the model in `path` is, after making sure that all its weights are there and whole.

    Only headers and sizes are read, also of large models.

    Raises:
        UsageError: it is no model folder (absent, a file, an adapter, GGUF only, a hub's cache, ...).
        FirstlightError: it is one, but damaged or incomplete; each bad file is named.
    """
    _require_folder(path)
    config = _read_config(path)
    weights = find_weights(path)
    return _describe(path, config, weights)


# ── is it one? ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _require_folder(path: Path) -> None:
    if path.is_symlink() and not path.exists():
        raise UsageError(f"{path} points to nothing", why=f"its target {path.readlink()} is gone", fix=f"ls -l {path}")
    if not path.exists():
        near = next((parent for parent in path.parents if parent.exists()), Path("/"))
        raise UsageError(
            f"there is no folder {path}",
            why=f"{near} is the last part of it that exists; {_A_MODEL}",
            fix="name a model of a hub: firstlight up --model OWNER/NAME",
        )
    if path.is_file():
        raise UsageError(f"{path} is a file, not a model folder", why=_about_file(path), fix=_fix_for_file(path))
    try:
        if not any(path.iterdir()):
            raise UsageError(
                f"{path} is empty",
                why="no model was ever put there, or its download never began",
                fix="firstlight model.fetch ID",
            )
    except PermissionError as error:
        raise FirstlightError(
            f"{path} cannot be read", why="permission denied", fix=f"sudo chmod -R a+rX {path}"
        ) from error


def _about_file(path: Path) -> str:
    mark = beginning(path, 64)
    if mark.startswith(GGUF_MARK):
        return "it is a GGUF file, which this engine does not read as it is"
    if mark.startswith(LFS_MARK):
        return "it is a Git-LFS pointer: the real file was never downloaded"
    return _A_MODEL


def _fix_for_file(path: Path) -> str:
    if path.suffix == ".gguf" or beginning(path, 4) == GGUF_MARK:
        return serve_gguf(path)
    if (path.parent / "config.json").is_file():
        return f"name the folder: {path.parent}"
    return "name such a folder, or a model of a hub: firstlight up --model OWNER/NAME"


def _read_config(path: Path) -> dict[str, Any]:
    config = path / "config.json"
    if not config.is_file():
        raise _no_config(path)
    try:
        document = json.loads(config.read_bytes())
    except (ValueError, UnicodeDecodeError) as error:
        if beginning(config, len(LFS_MARK)) == LFS_MARK:
            raise pointer_error(path, ["config.json"]) from error
        raise FirstlightError(f"{config} is not JSON", why=str(error), fix=fetch_again(path)) from error
    if not isinstance(document, dict):
        raise FirstlightError(f"{config} describes no model", why="it holds no JSON object", fix=fetch_again(path))
    return document


def _no_config(path: Path) -> UsageError:
    """Say what a folder without config.json looks like, and what to name instead."""
    what = f"{path} holds no model (there is no config.json)"
    snapshot = _cached_snapshot(path)
    if snapshot is not None:
        return UsageError(
            f"{path} is a hub's cache, not the model itself",
            why="the model lies in its snapshots/ folder",
            fix=str(snapshot),
        )
    if (path / "adapter_config.json").is_file():
        return adapter_error(path)
    ggufs = sorted(file.name for file in path.glob("*.gguf"))
    if ggufs:
        why = f"it holds GGUF: {', '.join(ggufs[:5])}"
        return UsageError(what, why=why, fix=serve_gguf(path / ggufs[0]))
    if (path / "params.json").is_file() and any(path.glob("consolidated*")):
        why = "it is the original checkpoint of its makers; engines want the Hugging Face layout"
        return UsageError(what, why=why, fix="fetch the same model from a hub: firstlight model.fetch OWNER/NAME")
    if (path / "model_index.json").is_file():
        return UsageError(
            what, why="it is a diffusion pipeline (model_index.json), not a language model", fix="name a text model"
        )
    inner = sorted(child for child in path.iterdir() if (child / "config.json").is_file())
    if inner:
        return UsageError(what, why=f"the folder {inner[0].name} in it does", fix=str(inner[0]))
    why = "its download was broken off" if broken_off(path) else f"it holds {listing(path)}"
    return UsageError(what, why=why, fix="firstlight model.fetch ID")


def _cached_snapshot(path: Path) -> Path | None:
    """Return the model folder inside a hub's cache folder: the snapshot that refs/main names, else the newest."""
    snapshots = path if path.name == "snapshots" else path / "snapshots"
    if not snapshots.is_dir():
        caches = sorted(path.glob("models--*/snapshots"))
        if len(caches) != 1:
            return None
        snapshots = caches[0]
    for reference in ("main", "master"):
        file = snapshots.parent / "refs" / reference
        if file.is_file() and (snapshots / file.read_text().strip()).is_dir():
            return snapshots / file.read_text().strip()
    folders = [folder for folder in snapshots.iterdir() if folder.is_dir()]
    return max(folders, key=lambda folder: folder.stat().st_mtime, default=None)


# ── what is it? ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _describe(path: Path, config: dict[str, Any], weights: list[WeightFile]) -> ModelFolder:
    text = config.get("text_config")  # models that also see or hear keep the language model's values there
    inner = text if isinstance(text, dict) else {}

    def value(*keys: str) -> Any:
        return next((source[key] for source in (config, inner) for key in keys if source.get(key) is not None), None)

    quantization = value("quantization_config")
    architectures = config.get("architectures")
    return ModelFolder(
        path=path,
        architectures=[str(name) for name in architectures] if isinstance(architectures, list) else [],
        model_type=_text(value("model_type")),
        max_position_embeddings=_number(value("max_position_embeddings")),
        dtype=_text(value("dtype", "torch_dtype")),  # the key was renamed in transformers 4.56
        vocab_size=_number(value("vocab_size")),
        weights=weights,
        weight_bytes=sum(weight.size for weight in weights),
        has_chat_template=_has_chat_template(path),
        quantization=_text(quantization.get("quant_method")) if isinstance(quantization, dict) else None,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _has_chat_template(path: Path) -> bool:
    if (path / "chat_template.jinja").is_file() or (path / "chat_template.json").is_file():
        return True
    try:
        document = json.loads((path / "tokenizer_config.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and bool(document.get("chat_template"))
