"""A small client of Ollama's own HTTP interface, as far as it is needed beside the OpenAI-compatible one."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from firstlight.errors import FirstlightError

if TYPE_CHECKING:
    import requests

PORT = 11434
VARIABLE = "OLLAMA_HOST"
_CONNECT = 5.0
_SHORT = 15.0
"""Seconds for a small answer: a machine that is loading a model may stall for a while."""
_LONGEST_ANSWER = 16 << 20


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A model that a server holds in memory: its bytes, and those of them that lie on GPUs."""

    name: str
    size: int = 0
    size_vram: int = 0

    @property
    def processor(self) -> str:
        """Where it runs, in the words of `ollama ps`."""
        if self.size_vram <= 0:
            return "100% CPU"
        share = round(100 * self.size_vram / max(self.size, self.size_vram))
        return "100% GPU" if share >= 100 else f"{100 - share}%/{share}% CPU/GPU"


class _Running(msgspec.Struct, frozen=True):
    models: list[Loaded] | None = None


class Refusal(FirstlightError):  # noqa: N818 - it is what the server answered
    """The server answered with an error; `status` is its HTTP status."""

    status: int = 0


class Api:
    """The interface of one server. Every method raises FirstlightError where it does not answer as Ollama does."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")

    def version(self) -> str:
        """Return the release that the server is of."""
        return str(self._json("GET", "/api/version", timeout=_SHORT).get("version") or "")

    def tags(self) -> list[str]:
        """Return the names of the models that it lists."""
        listed = self._json("GET", "/api/tags", timeout=_SHORT).get("models") or []
        return [str(each.get("name")) for each in listed if isinstance(each, dict)]

    def loaded(self) -> list[Loaded]:
        """Return the models that it holds in memory."""
        document = self._json("GET", "/api/ps", timeout=_SHORT)
        try:
            return msgspec.convert(document, _Running).models or []
        except msgspec.ValidationError as error:
            raise FirstlightError(f"{self.base_url}/api/ps answers as no Ollama does", why=str(error)) from error

    def has_blob(self, digest: str) -> bool:
        """Tell whether a blob of that hash is in its store; a check that also tells whether its store is ours."""
        return self._send("HEAD", f"/api/blobs/{digest}", timeout=_SHORT).status_code == 200

    def create(self, wish: dict[str, Any]) -> None:
        """Make a model of blobs that are there: `model`, `files`, if wished `template`, `system`, `parameters`."""
        self._json("POST", "/api/create", json={**wish, "stream": False}, timeout=None)

    def load(self, model: str, timeout: float) -> None:
        """Have it load a model into memory: a request without a prompt does that and answers nothing."""
        self._json("POST", "/api/generate", json={"model": model, "stream": False}, timeout=timeout)

    def _json(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = self._checked(self._send(method, path, **options))
        try:
            document = msgspec.json.decode(answer.content[:_LONGEST_ANSWER] or b"{}")
        except msgspec.DecodeError as error:
            raise FirstlightError(
                f"{self.base_url}{path} answers as no Ollama does",
                why=f"its answer is no JSON: {answer.text[:100]!r}",
                fix=f"see what listens there: firstlight doctor --only ports   (or name another: {VARIABLE}=HOST:PORT)",
            ) from error
        if not isinstance(document, dict):
            raise FirstlightError(f"{self.base_url}{path} answers as no Ollama does", why="its answer is no object")
        if document.get("error"):
            raise self._refusal(answer.status_code, str(document["error"]))
        return document

    def _checked(self, answer: requests.Response) -> requests.Response:
        if answer.status_code < 400:
            return answer
        try:
            words = str(msgspec.json.decode(answer.content[:_LONGEST_ANSWER])["error"])
        except (msgspec.DecodeError, KeyError, TypeError):
            words = answer.text[:200]
        raise self._refusal(answer.status_code, words)

    def _refusal(self, status: int, words: str) -> Refusal:
        error = Refusal(f"Ollama at {self.base_url} refuses: {words or f'status {status}'}")
        error.status = status
        return error

    def _send(self, method: str, path: str, *, timeout: float | None, **options: Any) -> requests.Response:
        import requests

        session = requests.Session()
        session.trust_env = False  # a proxy of the environment is no way to a server on this machine
        try:
            return session.request(method, f"{self.base_url}{path}", timeout=(_CONNECT, timeout), **options)
        except requests.RequestException as error:
            raise FirstlightError(
                f"no Ollama answers at {self.base_url}",
                why=type(error).__name__,
                fix="start it: firstlight up --engine ollama --detach",
            ) from error


def address(text: str | None = None) -> str:
    """Return the address that OLLAMA_HOST (or `text`) names, as a client reaches it.

    `host`, `host:port`, `scheme://host[:port]`; http and https change the default port (Ollama, envconfig). What stands
    for every interface is reached at the loopback address.
    """
    told = (os.environ.get(VARIABLE, "") if text is None else text).strip().strip("\"'")
    scheme, found, rest = told.partition("://")
    split = urlsplit(f"//{rest if found else told}")
    try:
        port = split.port
    except ValueError:
        port = None
    host = split.hostname or "127.0.0.1"
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - what it is told, not what is listened on
        host = "127.0.0.1"
    port = port or {"http": 80, "https": 443}.get(scheme if found else "", PORT)
    return f"{scheme if found else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"


def answering(base_url: str | None = None) -> Api | None:
    """Return the server that answers as Ollama at OLLAMA_HOST's address, or at `base_url`; None: none does."""
    api = Api(base_url or address())
    try:
        return api if api.version() else None
    except FirstlightError:
        return None
