"""The proof: one real chat completion, with its first token timed."""

from __future__ import annotations

import time

import msgspec

from firstlight.errors import VerificationFailed
from firstlight.proof.client import Message, OpenAIClient

FINISHED = ("stop", "length")


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. Times are seconds from sending the request.

    `tokens` are the completion tokens by the server's count, else the pieces that arrived. `tokens_per_second` is the
    rate after the first token, None where fewer than two tokens came or all came at once.
    """

    model: str
    prompt: str
    text: str
    first_token_seconds: float
    tokens_per_second: float | None
    tokens: int
    finish_reason: str | None
    device: str
    seconds: float


def measure(
    base_url: str,
    model: str,
    *,
    prompt: str = "What is the capital of France? Answer in one sentence.",
    max_tokens: int = 32,
    api_key: str | None = None,
    device: str,
    expect_words: bool = True,
    timeout: float = 300.0,
) -> Proof:
    """Ask for one completion and return what came back, with the time to the first token.

    It holds when there is at least one token, the finish reason is `stop` or `length`, the number of tokens agrees with
    `max_tokens`, and, with `expect_words`, the text holds a letter or digit. Random weights make tokens that decode to
    nothing, so their text proves nothing and is not looked at.

    When the finish reason is `length`, a count by the server must be `max_tokens`, give or take the one token that ends
    a sequence, which some servers count and others do not. A count by pieces may be lower, since a piece may hold
    several tokens or wait for the rest of a character, but not higher.

    Args:
        base_url: the endpoint.
        model: the id that the request carries.
        prompt: what the model is asked.
        max_tokens: the most tokens that it may make.
        api_key: the server's key, where it wants one.
        device: where the engine runs, for the record: `cuda:0`, `cpu`.
        expect_words: whether the model is a real one.
        timeout: the longest silence, in seconds.

    Raises:
        VerificationFailed: the proof did not hold; what came back is told.
        FirstlightError: nothing answers, or the server refuses.
    """
    started = time.monotonic()
    came = _collect(OpenAIClient(base_url, api_key, timeout), model, prompt, max_tokens)
    ended = time.monotonic()
    first = ended if came.first is None else came.first
    span = (ended if came.last is None else came.last) - first
    tokens = came.pieces if came.counted is None else came.counted
    proof = Proof(
        model=model,
        prompt=prompt,
        text=came.text or came.reasoning,
        first_token_seconds=first - started,
        tokens_per_second=(tokens - 1) / span if tokens > 1 and span > 0 else None,
        tokens=tokens,
        finish_reason=came.finish_reason,
        device=device,
        seconds=ended - started,
    )
    _check(proof, max_tokens, by_server=came.counted is not None, expect_words=expect_words)
    return proof


class _Came(msgspec.Struct, kw_only=True):
    """What came back so far; `first` and `last` are the arrivals of those tokens by the monotonic clock."""

    text: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    pieces: int = 0
    counted: int | None = None
    first: float | None = None
    last: float | None = None


def _collect(client: OpenAIClient, model: str, prompt: str, max_tokens: int) -> _Came:
    came = _Came()
    question = [Message(role="user", content=prompt)]
    for delta in client.chat(question, model, max_tokens=max_tokens, temperature=0.0, stream=True):
        if delta.generated:
            came.last = time.monotonic()
            came.first = came.last if came.first is None else came.first
            came.pieces += 1
        came.text += delta.text
        came.reasoning += delta.reasoning
        came.finish_reason = delta.finish_reason or came.finish_reason
        if delta.usage is not None and delta.usage.completion_tokens is not None:
            came.counted = delta.usage.completion_tokens
    return came


def _problem(proof: Proof, max_tokens: int, *, by_server: bool, expect_words: bool) -> str | None:
    if proof.tokens < 1:
        return "no token came"
    if proof.finish_reason not in FINISHED:
        return f"the answer did not end properly: its finish reason is {proof.finish_reason!r}, not stop or length"
    if proof.tokens > max_tokens + 1:
        return f"{proof.tokens} tokens came where at most {max_tokens} were asked for"
    if proof.finish_reason == "length" and by_server and proof.tokens < max_tokens - 1:
        return f"the length of {max_tokens} tokens was said to be reached with {proof.tokens}"
    if expect_words and not any(sign.isalnum() for sign in proof.text):
        return "tokens came, but no words"
    return None


def _check(proof: Proof, max_tokens: int, *, by_server: bool, expect_words: bool) -> None:
    problem = _problem(proof, max_tokens, by_server=by_server, expect_words=expect_words)
    if problem:
        raise VerificationFailed(
            f"the first token of {proof.model} is not proven: {problem}",
            why=f"it answered {proof.text[:200]!r} ({proof.tokens} tokens, finish reason {proof.finish_reason})",
            fix="look at the server's log, then run it again",
        )
