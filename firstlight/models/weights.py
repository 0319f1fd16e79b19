"""The weight files of a model's folder: which there are, and whether they are whole, by headers and sizes alone."""

from __future__ import annotations

import json
import shlex
import struct
from pathlib import Path

import msgspec

from firstlight.errors import FirstlightError, UsageError
from firstlight.models.hubs import load_hubs
from firstlight.models.store import read_marker

LFS_MARK = b"version https://git-lfs.github.com/spec/"
"""How a Git-LFS pointer file begins (github.com/git-lfs/git-lfs, docs/spec.md)."""

GGUF_MARK = b"GGUF"

_LARGEST_HEADER = 100_000_000
"""The safetensors library refuses longer headers."""

_FORMATS = (("model.safetensors.index.json", "*.safetensors"), ("pytorch_model.bin.index.json", "pytorch_model*.bin"))
"""Index file and pattern of each format, best first. Indexes of a format whose weights are not there may lie about."""

_PARTIAL = ("*.incomplete", "*/*.incomplete", ".cache/huggingface/download/**/*.incomplete")
"""Where hub clients keep what has not come whole, from a model's folder."""


class WeightFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of weights; `size` in bytes."""

    name: str
    size: int


def find_weights(path: Path) -> list[WeightFile]:
    """Return the weight files of a model's folder, each present and as long as its own header says.

    Raises:
        UsageError: it is an adapter.
        FirstlightError: there are none, or some are missing, cut off or Git-LFS pointers; each is named.
    """
    weights = _weights(path)
    for weight in weights:
        _require_whole(path / weight.name)
    return weights


def _weights(path: Path) -> list[WeightFile]:
    for index, pattern in _FORMATS:
        names = sorted(file.name for file in path.glob(pattern))
        if names:
            return _indexed(path, index) if (path / index).is_file() else _sized(path, names)
    for index, _pattern in _FORMATS:
        if (path / index).is_file():
            return _indexed(path, index)  # which says that all are missing, by name
    if (path / "adapter_config.json").is_file():
        raise adapter_error(path)
    ggufs = sorted(file.name for file in path.glob("*.gguf"))
    why = "its download was broken off" if broken_off(path) else f"it holds {listing(path)}"
    raise FirstlightError(
        f"{path} has no weights (no *.safetensors)",
        why=f"it holds only GGUF: {', '.join(ggufs[:5])}" if ggufs else why,
        fix=serve_gguf(path / ggufs[0]) if ggufs else fetch_again(path),
    )


def _indexed(path: Path, index: str) -> list[WeightFile]:
    """Return the shards that a weight index names.

    Raises:
        FirstlightError: the index is damaged, or shards are missing (all of them are listed).
    """
    try:
        shards = sorted(set(json.loads((path / index).read_bytes())["weight_map"].values()))
        names = [shard for shard in shards if isinstance(shard, str) and "/" not in shard]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FirstlightError(
            f"{path / index} cannot be understood", why=f"it has no weight_map ({error})", fix=fetch_again(path)
        ) from error
    return _sized(path, names)


def _sized(path: Path, names: list[str]) -> list[WeightFile]:
    _require_present(path, names)
    return [WeightFile(name=name, size=(path / name).stat().st_size) for name in names]


def _require_present(path: Path, names: list[str]) -> None:
    missing = [name for name in names if not (path / name).exists()]
    if missing:
        dangling = [name for name in missing if (path / name).is_symlink()]
        raise FirstlightError(
            f"{path} lacks {len(missing)} of {len(names)} weight files: {', '.join(missing)}",
            why="links point to files that are gone"
            if dangling
            else "the download was broken off or files were left behind",
            fix=fetch_again(path),
        )
    pointers = [name for name in names if beginning(path / name, len(LFS_MARK)) == LFS_MARK]
    if pointers:
        raise pointer_error(path, pointers)


def pointer_error(path: Path, names: list[str]) -> FirstlightError:
    """Return the error for files that Git LFS never replaced by their content."""
    return FirstlightError(
        f"{path} holds Git-LFS pointers instead of weights: {', '.join(names)}",
        why="the repository was cloned without Git LFS, which stores a few lines of text in place of each large file",
        fix=f"git -C {path} lfs install --local && git -C {path} lfs pull",
    )


def _require_whole(file: Path) -> None:
    """Hold a safetensors file's size against its own header; other formats only must not be empty."""
    size = file.stat().st_size
    if size == 0:
        raise FirstlightError(f"{file} is empty", why="its download was broken off", fix=fetch_again(file.parent))
    if file.suffix != ".safetensors":
        return
    wanted = _safetensors_size(file, size)
    if wanted is None:
        raise FirstlightError(
            f"{file} is no safetensors file", why="its header cannot be read", fix=fetch_again(file.parent)
        )
    if size < wanted:
        raise FirstlightError(
            f"{file} is cut off: {size} of {wanted} bytes are there",
            why="its header announces more bytes than the file has",
            fix=fetch_again(file.parent),
        )


def _safetensors_size(file: Path, size: int) -> int | None:
    """Return the bytes that the header of a safetensors file announces, or None when there is no such header.

    The format: 8 bytes of header length, little-endian, a JSON header, then data (huggingface/safetensors, README).
    """
    start = beginning(file, 8)
    if len(start) < 8:
        return None
    (length,) = struct.unpack("<Q", start)
    if not 2 <= length <= _LARGEST_HEADER:
        return None
    if 8 + length > size:
        return 8 + int(length)
    try:
        header = json.loads(beginning(file, 8 + length)[8:])
        ends = [int(tensor["data_offsets"][1]) for name, tensor in header.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return 8 + int(length) + max(ends, default=0)


def adapter_error(path: Path) -> UsageError:
    """Return the error for a LoRA adapter, with the name of its base model where it says so."""
    try:
        base = json.loads((path / "adapter_config.json").read_bytes()).get("base_model_name_or_path")
    except (ValueError, AttributeError, OSError):
        base = None
    return UsageError(
        f"{path} is a LoRA adapter, not a whole model",
        why="it holds only the difference to its base model" + (f" {base}" if base else ""),
        fix=f"serve the base model{f' {base}' if base else ''}, or merge the adapter into it first",
    )


def broken_off(path: Path) -> bool:
    """Tell whether a download into a folder was broken off; a folder that is none may be a whole disk."""
    return any(next(path.glob(place), None) is not None for place in _PARTIAL)


def listing(path: Path) -> str:
    """Return the first names in a folder, for messages."""
    names = sorted(file.name for file in path.iterdir())
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def beginning(path: Path, count: int) -> bytes:
    """Return the first `count` bytes of a file; nothing where it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(count)
    except OSError:
        return b""


def serve_gguf(file: Path) -> str:
    """Return the command that makes a GGUF file a served model."""
    return load_hubs().hints.gguf.format(file=shlex.quote(str(file)), name=file.stem.lower())


def fetch_again(path: Path) -> str:
    """Return the command that gets a model whole; exact where the folder says what it holds."""
    marker, folder = read_marker(path), shlex.quote(str(path))
    aside = f"mv {folder} {shlex.quote(f'{path}.broken')}"
    if marker is not None:
        prefix = "" if marker.source in {"path", "auto"} else f"{marker.source}:"
        return f"{aside} && firstlight model.fetch {prefix}{marker.id}"
    return f"fetch it again: {aside} && firstlight model.fetch OWNER/NAME"
