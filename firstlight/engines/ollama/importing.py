"""A GGUF file as a model of Ollama: linked into its store, never copied; by files, or through a running server."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from firstlight.engines.ollama.api import Api, Refusal
from firstlight.engines.ollama.blobs import How, Layer, has_blob, put_blob, take_blob
from firstlight.engines.ollama.names import ModelName
from firstlight.engines.ollama.store import (
    CONFIG_TYPE,
    MODEL_TYPE,
    PARAMS_TYPE,
    SYSTEM_TYPE,
    TEMPLATE_TYPE,
    Manifest,
    drop_unneeded,
    find_model,
    write_manifest,
)
from firstlight.engines.ollama.templates import family_of
from firstlight.errors import FirstlightError, UsageError
from firstlight.events import Step
from firstlight.models.gguf import GgufHeader, read_gguf

_BLOCK = 4 << 20


class Extras(msgspec.Struct, frozen=True, kw_only=True):
    """What a model may have beside its weights: a Go template, what ends answers, a system prompt, a context length."""

    template: str | None = None
    system: str | None = None
    context: int | None = None
    stops: tuple[str, ...] = ()

    @property
    def parameters(self) -> dict[str, int | tuple[str, ...]]:
        """Its options, by Ollama's names."""
        told: dict[str, int | tuple[str, ...]] = {"stop": self.stops} if self.stops else {}
        return told if self.context is None else {**told, "num_ctx": self.context}


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What an import did. `through` is `files` or the address of the server that it went through."""

    schema: str = "firstlight.import/1"
    name: str
    file: str
    store: str
    digest: str
    size: int
    family: str
    parameters: str
    quantization: str
    how: How
    through: str
    reused: bool = False
    """Whether the very same model stood under this name already."""


def import_gguf(
    file: Path,
    name: ModelName,
    folder: Path,
    *,
    step: Step,
    sha256: str | None = None,
    extras: Extras | None = None,
    running: tuple[Api, ...] = (),
    replace: bool = False,
) -> Imported:
    """Make a GGUF file a model of a store and return what was done; the file itself stays as it is.

    Blobs go first and the manifest last, at once after them: Ollama deletes at its start what no manifest names.

    Args:
        file: the model.
        name: what it will be called.
        folder: the store.
        step: takes progress in bytes.
        sha256: the file's hash, where it is known.
        extras: what else it gets.
        running: servers that answer; the first that uses this store makes the model.
        replace: whether another model of this name may be replaced.

    Raises:
        UsageError: it is no GGUF file, or one part of several.
        FirstlightError: it is damaged, another model has the name, or the store cannot be written.
    """
    extras = extras or Extras()
    header = require_whole_model(file)
    digest = f"sha256:{sha256 or _hashed(file, step)}"
    weights = Layer(media_type=MODEL_TYPE, digest=digest, size=header.size)
    done = Imported(
        name=str(name),
        file=str(file),
        store=str(folder),
        digest=digest,
        size=header.size,
        family=header.architecture,
        parameters=in_words(header.parameters),
        quantization=header.quantization,
        how="present",
        through="files",
    )
    present = find_model(folder, name)
    by_files = _with_template(extras, header)
    if present is not None and _is_that(present.manifest, weights, (extras, by_files), folder):
        step.reused(str(name))
        return msgspec.structs.replace(done, reused=True)
    if present is not None and not replace:
        raise FirstlightError(
            f"there is a model {present.name} already",
            why=f"it has other weights or settings ({present.size:,} bytes, id {present.id or 'unknown'})",
            fix=f"replace it with --yes, or choose another name: --name {name.model}-2",
        )
    how = take_blob(folder, file, digest)
    if how == "symlink":
        step.note(f"a link to {file} stands in the store, which is on another filesystem: the file must stay there")
    if how == "copy":
        step.warn(f"{file} was copied: the filesystem of {folder} knows no links")
    server = next((each for each in running if each.has_blob(digest)), None)
    if running and server is None:
        step.note(f"the server at {running[0].base_url} keeps its models elsewhere: only {folder} gets the model")
    through = _through_server(server, name, weights, extras) if server is not None else None
    if through is None:
        if by_files.template is None:
            step.note(
                "its own prompt template is of no known family: if its answers are odd, give one (--template FILE)"
            )
        _by_files(folder, name, weights, header, by_files)
        if present is not None:
            drop_unneeded(folder, present.digests)
    return msgspec.structs.replace(done, how=how, through=through or "files")


def require_whole_model(file: Path) -> GgufHeader:
    """Return the header of a GGUF file that is one whole model.

    Raises:
        UsageError: it is none, a part of one, an adapter or what turns pictures into tokens.
        FirstlightError: it is damaged.
    """
    header = read_gguf(file)
    if header.part is not None:
        raise UsageError(
            f"{file} is part {header.part[0]} of {header.part[1]} of a model",
            why="Ollama takes a model as one file",
            fix=f"join its parts, with llama.cpp: llama-gguf-split --merge {file} JOINED.gguf",
        )
    if header.kind != "model":
        raise UsageError(
            f"{file} is no model by itself",
            why=f"it says of itself that it is of type {header.kind}",
            fix="name the model's own *.gguf file",
        )
    return header


def _hashed(file: Path, step: Step) -> str:
    digest, done, size = hashlib.sha256(), 0, file.stat().st_size
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
            done += len(block)
            step.progress(100 * done // max(size, 1), 100, "items", f"hashing {file.name}")
    return digest.hexdigest()


def _texts(extras: Extras) -> list[tuple[str, bytes]]:
    wished: list[tuple[str, bytes | None]] = [
        (TEMPLATE_TYPE, extras.template.encode() if extras.template else None),
        (SYSTEM_TYPE, extras.system.encode() if extras.system else None),
        (PARAMS_TYPE, msgspec.json.encode(extras.parameters) if extras.parameters else None),
    ]
    return [(kind, data) for kind, data in wished if data is not None]


def _with_template(extras: Extras, header: GgufHeader) -> Extras:
    """Return the settings of a model that no server makes: what one would find out itself is added."""
    family = family_of(header.chat_template) if extras.template is None else None
    return extras if family is None else msgspec.structs.replace(extras, template=family.template, stops=family.stops)


def _is_that(manifest: Manifest | None, weights: Layer, either: tuple[Extras, ...], folder: Path) -> bool:
    """Tell whether a model has these very weights and one of these settings, and all of it is there."""
    if manifest is None or not all(has_blob(folder, layer) for layer in manifest.blobs):
        return False
    has = {layer.media_type: layer.digest for layer in manifest.layers}
    wished = [
        {kind: f"sha256:{hashlib.sha256(data).hexdigest()}" for kind, data in _texts(extras)} for extras in either
    ]
    if has.get(MODEL_TYPE) != weights.digest:
        return False
    return any(all(has.get(kind) == digest for kind, digest in each.items()) for each in wished)


def _by_files(folder: Path, name: ModelName, weights: Layer, header: GgufHeader, extras: Extras) -> None:
    layers = [weights, *(put_blob(folder, data, kind) for kind, data in _texts(extras))]
    config = {
        "model_format": "gguf",
        "model_family": header.architecture,
        "model_families": [header.architecture],
        "model_type": in_words(header.parameters),
        "file_type": header.quantization,
        # What every release writes, whatever it runs on.
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer.digest for layer in layers]},
    }
    manifest = Manifest(config=put_blob(folder, msgspec.json.encode(config), CONFIG_TYPE), layers=layers)
    write_manifest(folder, name, msgspec.json.encode(manifest))


def _through_server(server: Api, name: ModelName, weights: Layer, extras: Extras) -> str | None:
    """Have a running server make the model; None: it is of a release that cannot, so that files must do."""
    wish = {"model": str(name), "files": {"model.gguf": weights.digest}}
    wish |= {"template": extras.template} if extras.template else {}
    wish |= {"system": extras.system} if extras.system else {}
    wish |= {"parameters": extras.parameters} if extras.parameters else {}
    try:
        server.create(wish)
    except Refusal as refusal:
        if refusal.status == 400 and "modelfile" in refusal.what:
            return None  # releases before 0.5.5 know only Modelfiles
        raise
    return server.base_url


def in_words(number: int) -> str:
    """Return a number of parameters as Ollama shows it: `268.10M`, `7.6B`."""
    if number >= 10**9:
        return f"{number / 1e9:.1f}B"
    if number >= 10**6:
        return f"{number / 1e6:.2f}M"
    return f"{number / 1e3:.2f}K" if number >= 1000 else str(number)
