"""Registries that Ollama pulls from: the manifest of a model, and where each of its blobs is.

They speak a part of the distribution protocol of container registries: GET /v2/<namespace>/<model>/manifests/<tag> and
/v2/<namespace>/<model>/blobs/<digest>, which answers 307 with the signed address of another host. Hugging Face (hf.co)
and ModelScope (modelscope.cn) answer the same on their own hosts. Source: Ollama's server/images.go and download.go.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from firstlight.engines.ollama.blobs import Layer, is_digest
from firstlight.engines.ollama.names import DEFAULT_HOST, DEFAULT_NAMESPACE, ModelName
from firstlight.engines.ollama.store import MANIFEST_TYPE, Manifest
from firstlight.errors import FirstlightError, NetworkFailed, UsageError, VerificationFailed
from firstlight.events import Step
from firstlight.fetching.trouble import NO_TLS
from firstlight.fetching.types import Source
from firstlight.models.asking import HubFailure, ask
from firstlight.models.tokens import Headers, password_headers, without_password

if TYPE_CHECKING:
    from firstlight.models.asking import Answer

_HUGGINGFACE = ("hf.co", "huggingface.co")


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """A place that answers the protocol: its address without /v2, how people are told of it, and who runs it."""

    url: str
    name: str
    headers: Headers = ()
    """A password for it, which is sent to it alone and never shown."""
    origin: bool
    """The host that the model's name says; else a mirror that the user gave."""

    def of(self, model: ModelName, what: str) -> str:
        """Return the address of a manifest or a blob of a model."""
        return f"{self.url}/v2/{model.namespace}/{model.model}/{what}"


class Published(msgspec.Struct, frozen=True, kw_only=True):
    """A model as a registry publishes it: the manifest, byte for byte and read."""

    data: bytes
    manifest: Manifest
    registry: Registry

    @property
    def blobs(self) -> list[Layer]:
        """Every blob once."""
        return list({layer.digest: layer for layer in self.manifest.blobs}.values())


def registries(model: ModelName, mirrors: Sequence[str], *, insecure: bool) -> list[Registry]:
    """Return where a model is asked for: the host of its name, then the mirrors.

    Raises:
        UsageError: a mirror is no address.
    """
    found = [Registry(url=f"{'http' if insecure else 'https'}://{model.host}", name=model.host, origin=True)]
    for mirror in mirrors:
        parts = urlsplit(mirror)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(
                f'--mirror does not take "{mirror.rpartition("@")[2]}"', fix="--mirror https://registry.example.org"
            )
        base = without_password(mirror).rstrip("/").removesuffix("/v2")
        name = urlsplit(base).netloc
        found.append(Registry(url=base, name=name, headers=password_headers(mirror), origin=False))
    return found


def published(model: ModelName, places: Sequence[Registry], step: Step) -> Published:
    """Return a model's manifest from the first place that has it.

    Raises:
        UsageError: there is no such model.
        FirstlightError: it is not given to everyone.
        NetworkFailed: no place answers.
        VerificationFailed: what came is no manifest.
    """
    silent: list[str] = []
    refused: FirstlightError | None = None
    for place in places:
        try:
            answer = ask(place.of(model, f"manifests/{model.tag}"), headers=place.headers, accept=MANIFEST_TYPE)
            if answer.status == 200:
                found = Published(data=answer.body, manifest=_manifest(answer, place), registry=place)
                if not place.origin:
                    step.warn(f"which files {model} has is said by the mirror {place.name} alone")
                return found
            refused = refused or _refusal(model, place, answer)
        except HubFailure as failure:
            silent.append(f"{place.name}: {failure.reason}")
    if refused is not None:
        if silent:
            refused.why = "; ".join([*([refused.why] if refused.why else []), *silent])
        raise refused
    fix = f"check the network, or name a mirror: firstlight ollama.pull {model} --mirror https://HOST"
    if any(NO_TLS in each for each in silent):
        fix = f"if it speaks plain HTTP: firstlight ollama.pull {model} --insecure"
    raise NetworkFailed(f"no registry told what {model} is made of", why="; ".join(silent), fix=fix)


def blob_sources(model: ModelName, places: Sequence[Registry], layer: Layer) -> tuple[Source, ...]:
    """Return where a blob is; its hash is known, so that every place may give it."""
    return tuple(
        Source(
            url=place.of(model, f"blobs/{layer.digest}"),
            name=place.name,
            kind="origin" if place.origin else "user",
            headers=place.headers,
        )
        for place in places
    )


def _manifest(answer: Answer, place: Registry) -> Manifest:
    try:
        manifest = msgspec.json.decode(answer.body, type=Manifest)
    except msgspec.DecodeError as error:
        raise _no_manifest(place, str(error)) from error
    wrong = [layer.digest for layer in manifest.blobs if not is_digest(layer.digest) or layer.size < 0]
    if wrong or not manifest.layers:
        raise _no_manifest(place, f"it names {wrong[0][:80]!r}, which is no digest" if wrong else "it names no files")
    return manifest


def _no_manifest(place: Registry, why: str) -> VerificationFailed:
    return VerificationFailed(
        f"what {place.name} sent is no manifest of a model", why=why, fix="check that the name is that of a model"
    )


def _refusal(model: ModelName, place: Registry, answer: Answer) -> FirstlightError:
    said = answer.words() or f"it answers HTTP {answer.status}"
    if answer.status in {401, 403}:
        return FirstlightError(
            f"{place.name} does not give {model} to everyone",
            why=f"{said}; a private or gated model is pulled by Ollama's own client, which signs with its key",
            fix=f"ollama pull {model}",
        )
    if answer.status in {400, 404}:
        return UsageError(f"{place.name} has no model {model}", why=said, fix=f"see what there is: {_page(model)}")
    return FirstlightError(f"{place.name} does not give {model}", why=said, fix=f"see its page: {_page(model)}")


def _page(model: ModelName) -> str:
    """Return the web page that lists a model's tags."""
    if model.host == DEFAULT_HOST:
        owner = "library" if model.namespace == DEFAULT_NAMESPACE else model.namespace
        return f"https://ollama.com/{owner}/{model.model}/tags"
    if model.host in _HUGGINGFACE:
        return f"https://huggingface.co/{model.namespace}/{model.model}/tree/main"
    if model.host.endswith("modelscope.cn"):
        return f"https://modelscope.cn/models/{model.namespace}/{model.model}/files"
    return f"https://{model.host}/{model.namespace}/{model.model}"
