"""What a server said when it refused, out of every shape that it may say it in, and what to do about it."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from firstlight.errors import FirstlightError, did_you_mean

_LENGTH = 500


def _words_of(value: Any) -> str:
    """Return the message in an error body: OpenAI's object, a bare message, FastAPI's `detail` as text or list."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(_words_of, value)))
    if not isinstance(value, dict):
        return "" if value is None else str(value)
    if "msg" in value:
        place = ".".join(str(part) for part in value.get("loc", ()) if part != "body")
        return f"{place}: {value['msg']}" if place else str(value["msg"])
    for key in ("error", "message", "detail", "errors"):
        if value.get(key):
            return _words_of(value[key])
    return msgspec.json.encode(value).decode()


def server_words(content: bytes) -> str:
    """Return the server's own words from an error body of any shape, at most 500 characters; may be empty."""
    try:
        text = _words_of(msgspec.json.decode(content))
    except (msgspec.DecodeError, RecursionError):
        text = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", content.decode(errors="replace"), flags=re.DOTALL)
    return " ".join(text.split())[:_LENGTH]


_BY_WORDS = (
    (
        ("chat template", "chat_template"),
        "the model has no chat template: it is a base model",
        "choose an instruct or chat model: --model NAME",
    ),
    (
        ("context length", "max_model_len", "maximum context"),
        "the conversation is longer than the model's context",
        "start a new one, or serve with a longer context",
    ),
    (("pinned to",), "it serves another model", "name the model exactly as the server does: --model NAME_OR_PATH"),
)
"""Words of servers in lower case, what they mean, and what to do."""


def _missing(words: str, model: str | None, served: list[str]) -> tuple[str, str]:
    if model is None or ("model" not in words and not served):
        return "it has no such path", "give the server's address without a path: --url http://127.0.0.1:8000"
    names = ", ".join(served) if served else "none listed"
    summary = f'it does not serve "{model}"{did_you_mean(model, served)}; models served: {names}'
    return summary, f"--model {served[0] if served else 'NAME'}"


def _meaning(status: int, words: str, model: str | None, served: list[str]) -> tuple[str, str]:
    """Return in short what a refusal means, and what to do."""
    if status in {401, 403}:
        return "it wants an API key, or another one", "give the server's key: export OPENAI_API_KEY=KEY"
    if status == 404:
        return _missing(words, model, served)
    for signs, summary, fix in _BY_WORDS:
        if any(sign in words for sign in signs):
            return summary, fix
    if status == 429:
        return "it has too many requests", "try again in a moment"
    if status >= 500:
        return "the server itself failed", "look at the server's log; it may be loading or dead"
    return "it refused the request", "correct what the server says above"


def refusal(base_url: str, status: int, content: bytes, model: str | None, served: list[str]) -> FirstlightError:
    """Return the error for an answer that is no success: its status, the server's own words, and a fix."""
    words = server_words(content)
    summary, fix = _meaning(status, words.lower(), model, served)
    return FirstlightError(f"{base_url} answered {status}: {summary}", why=words or "it gave no reason", fix=fix)
