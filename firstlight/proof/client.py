"""A client of any OpenAI-compatible endpoint: the models it serves, and streamed chat completions."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import msgspec

from firstlight.errors import FirstlightError, UsageError
from firstlight.proof.refusals import refusal, server_words
from firstlight.proof.sse import sse_data

if TYPE_CHECKING:
    import requests

CONNECT_SECONDS = 10.0


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens as the server counted them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class ChatDelta(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of an answer. `generated` tells whether the model made something for it, even if it decodes to nothing.

    `text` is the answer and `reasoning` what a reasoning model says to itself first.
    """

    text: str = ""
    reasoning: str = ""
    generated: bool = False
    finish_reason: str | None = None
    usage: Usage | None = None


class _Delta(msgspec.Struct):
    role: str | None = None
    content: Any = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: Usage | None = None
    error: Any = None
    detail: Any = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model] | None = None


def is_loopback(host: str) -> bool:
    """Tell whether a host name is this machine's loopback, where no proxy may stand between."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _plain_text(content: Any) -> str:
    """Return the text of a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return ""


class OpenAIClient:
    """Talks to one endpoint. `base_url` may end in `/v1` or not; `timeout` is the longest silence in seconds."""

    def __init__(self, base_url: str, api_key: str | None = None, timeout: float = 300.0) -> None:
        """Raises UsageError when the address or the key cannot be one."""
        parts = urlsplit(base_url if "://" in base_url else f"http://{base_url}")
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError(f'"{base_url}" is no address of a server', fix="--url http://127.0.0.1:8000")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise UsageError("the API key holds signs that no HTTP header can carry", fix="check the key's file")
        # The address of a curl line, pasted whole, is one too.
        whole = parts._replace(query="", fragment="").geturl().rstrip("/").removesuffix("/chat/completions")
        self.base_url = whole.removesuffix("/v1").rstrip("/")
        self.timeout = timeout
        self._api_key = api_key
        self._host = parts.hostname

    def _session(self) -> requests.Session:
        import requests

        session = requests.Session()
        session.trust_env = not is_loopback(self._host)
        # As a callable, so that an entry of ~/.netrc cannot take the place of the key.
        session.auth = self._authorize
        session.headers["Accept-Encoding"] = "identity"
        return session

    def _authorize(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._api_key:
            request.headers["Authorization"] = f"Bearer {self._api_key}"
        return request

    def _send(self, session: requests.Session, method: str, path: str, body: bytes | None = None) -> requests.Response:
        import requests

        try:
            return session.request(
                method,
                f"{self.base_url}{path}",
                data=body,
                headers={"Content-Type": "application/json"} if body else None,
                timeout=(min(CONNECT_SECONDS, self.timeout), self.timeout),
                stream=True,
            )
        except requests.Timeout as error:
            raise FirstlightError(
                f"{self.base_url} did not answer within {self.timeout:.0f} s",
                why=str(error),
                fix="look at the server's log",
            ) from error
        except requests.exceptions.SSLError as error:
            raise FirstlightError(
                f"no safe connection to {self.base_url}", why=str(error), fix="use http:// where the server has no TLS"
            ) from error
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, UnicodeError) as error:
            raise UsageError(
                f'"{self.base_url}" is no address', why=str(error), fix="--url http://127.0.0.1:8000"
            ) from error
        except requests.RequestException as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> FirstlightError:
        import requests

        if isinstance(error, requests.exceptions.ProxyError):
            return FirstlightError(
                f"the proxy does not reach {self.base_url}", why=str(error), fix=f"export NO_PROXY={self._host}"
            )
        return FirstlightError(
            f"nothing answers at {self.base_url}",
            why=_innermost(error),
            fix="start a server: firstlight up   (or name another: --url http://HOST:PORT)",
        )

    def models(self) -> list[str]:
        """Return the ids of the models served, in the server's order; some servers list none.

        Raises:
            FirstlightError: nothing answers, or the server refuses (its own words are told).
        """
        with self._session() as session, self._send(session, "GET", "/v1/models") as response:
            if response.status_code != 200:
                raise refusal(self.base_url, response.status_code, response.content, None, [])
            try:
                listed = msgspec.json.decode(response.content, type=_Models)
            except msgspec.DecodeError as error:
                raise FirstlightError(
                    f"{self.base_url}/v1/models is no list of models", why=str(error), fix="check the address: --url"
                ) from error
            return [model.id for model in listed.data or []]

    def only_model(self) -> str:
        """Return the first model served.

        Raises:
            FirstlightError: the server lists none, or does not answer.
        """
        try:
            served = self.models()
        except FirstlightError as error:
            if error.what.startswith("nothing answers"):
                raise
            raise FirstlightError(
                f"{self.base_url} does not tell which model it serves",
                why=error.what,
                fix="name it: --model NAME_OR_PATH",
            ) from error
        if not served:
            raise FirstlightError(
                f"{self.base_url} lists no model", why="some servers list none", fix="name it: --model NAME_OR_PATH"
            )
        return served[0]

    def chat(
        self,
        messages: Sequence[Message],
        model: str,
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stream: bool = True,
    ) -> Iterator[ChatDelta]:
        """Yield an answer piece by piece (one piece from a server that does not stream).

        Raises:
            FirstlightError: nothing answers, the server refuses (its own words are told), it stays silent for
                `timeout` seconds, or the answer breaks off before its end.
        """
        body: dict[str, Any] = {"model": model, "messages": messages, "stream": stream}
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        if temperature is not None:
            body["temperature"] = temperature
        with self._session() as session:
            response = self._ask(session, body, model)
            with response:
                if "text/event-stream" in response.headers.get("Content-Type", ""):
                    yield from self._streamed(response)
                else:
                    yield self._whole(response)

    def _ask(self, session: requests.Session, body: dict[str, Any], model: str) -> requests.Response:
        """Send a chat request; a server that refuses to count usage in a stream is asked again without."""
        attempts = [{**body, "stream_options": {"include_usage": True}}, body] if body["stream"] else [body]
        for attempt in attempts:
            response = self._send(session, "POST", "/v1/chat/completions", msgspec.json.encode(attempt))
            if response.status_code == 200:
                return response
            with response:
                status, content = response.status_code, self._content(response)
            words = server_words(content).lower()
            if attempt is body or status not in {400, 422} or not _refuses_stream_options(words):
                break
        served: list[str] = []
        if status == 404:
            with contextlib.suppress(FirstlightError):
                served = self.models()
        raise refusal(self.base_url, status, content, model, served)

    def _content(self, response: requests.Response) -> bytes:
        import requests

        try:
            return response.content
        except requests.RequestException:
            return b""

    def _whole(self, response: requests.Response) -> ChatDelta:
        import requests

        try:
            chunk = msgspec.json.decode(response.content, type=_Chunk)
        except requests.RequestException as error:
            raise self._broken(error, 0) from error
        except msgspec.DecodeError as error:
            raise self._unreadable(response.content, error) from error
        return self._delta(chunk)

    def _streamed(self, response: requests.Response) -> Iterator[ChatDelta]:
        import requests

        pieces, finished = 0, False
        # Without chunked transfer a bigger read would wait until that much is there.
        size = 65536 if response.headers.get("Transfer-Encoding", "").lower() == "chunked" else 1
        try:
            for data in sse_data(response.iter_content(size)):
                if data == "[DONE]":
                    return
                try:
                    chunk = msgspec.json.decode(data, type=_Chunk)
                except msgspec.DecodeError as error:
                    raise self._unreadable(data.encode(), error) from error
                delta = self._delta(chunk)
                pieces += delta.generated
                finished = finished or delta.finish_reason is not None
                yield delta
        except requests.RequestException as error:
            raise self._broken(error, pieces) from error
        if not finished:
            raise self._broken(None, pieces)

    def _delta(self, chunk: _Chunk) -> ChatDelta:
        if chunk.error or (chunk.detail and chunk.choices is None):
            raise FirstlightError(
                f"{self.base_url} broke the answer off with an error",
                why=server_words(msgspec.json.encode({"error": chunk.error or chunk.detail})),
                fix="look at the server's log",
            )
        if not chunk.choices:
            return ChatDelta(usage=chunk.usage)
        choice = chunk.choices[0]
        said = choice.delta or choice.message or _Delta()
        text, reasoning = _plain_text(said.content), said.reasoning_content or said.reasoning or ""
        silent = said.content is not None and said.role is None and choice.finish_reason is None
        return ChatDelta(
            text=text,
            reasoning=reasoning,
            generated=bool(text or reasoning) or silent,
            finish_reason=choice.finish_reason,
            usage=chunk.usage,
        )

    def _broken(self, error: Exception | None, pieces: int) -> FirstlightError:
        import requests

        if isinstance(error, requests.ConnectionError) and "timed out" in str(error).lower():
            what = f"{self.base_url} fell silent for {self.timeout:.0f} s after {pieces} tokens"
        else:
            what = f"the answer of {self.base_url} broke off after {pieces} tokens"
        if isinstance(error, requests.exceptions.ChunkedEncodingError):  # its own words are about hexadecimal numbers
            why = "the server closed the connection in the middle of the answer"
        else:
            why = _innermost(error) if error else "the stream ended without a finish reason"
        return FirstlightError(what, why=why, fix="look at the server's log; it may have died")

    def _unreadable(self, content: bytes, error: Exception) -> FirstlightError:
        return FirstlightError(
            f"{self.base_url} sent what is no chat completion: {content[:200].decode(errors='replace')!r}",
            why=str(error),
            fix="check that the address is an OpenAI-compatible server's: --url",
        )


def _refuses_stream_options(words: str) -> bool:
    return any(
        sign in words for sign in ("stream_options", "include_usage", "extra", "unexpected keyword", "unknown field")
    )


def _innermost(error: BaseException) -> str:
    """Return the words of the error at the bottom: the ones above only wrap it."""
    while True:
        below = error.__cause__ or error.__context__
        if below is None:
            return getattr(error, "strerror", None) or str(error) or type(error).__name__
        error = below
