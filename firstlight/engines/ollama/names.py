"""Names of models as Ollama writes them: [host/][namespace/]model[:tag]."""

from __future__ import annotations

import re

import msgspec

from firstlight.errors import UsageError

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"
_LONGEST = {"host": 350}
_LONGEST_PART = 80
_CHARACTERS = {
    "host": (re.compile(r"\w[\w.:-]*", re.ASCII), "letters, digits, '_', '-', '.' and ':'"),
    "namespace": (re.compile(r"\w[\w-]*", re.ASCII), "letters, digits, '_' and '-'"),
    "model": (re.compile(r"\w[\w.-]*", re.ASCII), "letters, digits, '_', '-' and '.'"),
    "tag": (re.compile(r"\w[\w.-]*", re.ASCII), "letters, digits, '_', '-' and '.'"),
}


class ModelName(msgspec.Struct, frozen=True, kw_only=True):
    """A model's whole name."""

    host: str = DEFAULT_HOST
    namespace: str = DEFAULT_NAMESPACE
    model: str
    tag: str = DEFAULT_TAG

    @property
    def manifest(self) -> str:
        """Where its manifest lies under a folder of manifests."""
        return f"{self.host}/{self.namespace}/{self.model}/{self.tag}"

    def __str__(self) -> str:
        """Return the name as `ollama list` shows it: without the default host and namespace, always with the tag."""
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        owner = "" if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}/"
        return f"{owner}{self.model}:{self.tag}"

    def same(self, other: ModelName) -> bool:
        """Tell whether Ollama takes both for one model: upper and lower case are the same to it."""
        return self.manifest.lower() == other.manifest.lower()


def parse_name(text: str, *, hint: bool = True) -> ModelName:
    """Return the model that `text` names, with Ollama's defaults for what it leaves out.

    Rules: types/model/name.go of Ollama. A tag stands after the last colon that no slash follows, so that a host may
    have a port.

    Raises:
        UsageError: a part is missing, too long, or has characters that Ollama refuses.
    """
    word = text.strip()
    for scheme in ("https://", "http://", "ollama://"):
        word = word.removeprefix(scheme)
    rest, colon, tag = word.rpartition(":")
    if not colon or "/" in tag:
        rest, tag = word, DEFAULT_TAG
    parts = rest.split("/")
    if len(parts) > 3:
        raise _refused(text, "it has too many parts; at most HOST/NAMESPACE/MODEL:TAG", hint=hint)
    host, namespace, model = [*[DEFAULT_HOST, DEFAULT_NAMESPACE][: 3 - len(parts)], *parts]
    for kind, part in (("host", host), ("namespace", namespace), ("model", model), ("tag", tag)):
        _check(kind, part, text, hint=hint)
    return ModelName(host=host, namespace=namespace, model=model, tag=tag)


def _check(kind: str, part: str, whole: str, *, hint: bool) -> None:
    pattern, words = _CHARACTERS[kind]
    if not part:
        raise _refused(whole, f"its {kind} is empty", hint=hint)
    if len(part) > _LONGEST.get(kind, _LONGEST_PART):
        raise _refused(whole, f"its {kind} is longer than {_LONGEST.get(kind, _LONGEST_PART)} characters", hint=hint)
    if not pattern.fullmatch(part) or ".." in part:
        raise _refused(whole, f'its {kind} "{part}" may hold {words}, and begins with a letter or digit', hint=hint)


def _refused(text: str, why: str, *, hint: bool) -> UsageError:
    near = usable(text) if hint else ""
    return UsageError(
        f'"{text}" is no name that Ollama takes' + (f', did you mean "{near}"?' if near else ""),
        why=why,
        fix="such as llama3.2, llama3.2:1b, owner/model:tag",
    )


def usable(text: str) -> str:
    """Return the nearest name that Ollama takes for a model; empty where nothing is left of it."""
    word = re.sub(r"[^\w.:/-]+", "-", text.strip(), flags=re.ASCII)
    word = re.sub(r"\.{2,}", ".", word)
    parts = [part[:_LONGEST_PART].strip("-.") for part in re.split(r"([/:])", word)]
    near = "".join(parts).strip("/:") if any(parts) else ""
    try:
        return near if near and parse_name(near, hint=False) else ""
    except UsageError:
        return ""
