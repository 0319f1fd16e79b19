"""The chat screen: streaming, multi-turn, on a terminal or through pipes."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TextIO

import msgspec

from firstlight.errors import FirstlightError
from firstlight.proof.client import Message, OpenAIClient, Usage
from firstlight.ui.terminal import styled

YOU = "You: "
LEAVE = {"exit", "quit", "/exit", "/quit", "/bye"}
INTERRUPTED = 130
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What a model says must not steer the terminal."""


class _Answer(msgspec.Struct, frozen=True):
    text: str
    tokens: int
    seconds: float
    """From the first token to the last."""
    stopped: bool


class Screen:
    """Where the conversation is read from and written to; `terminal` when a person sits on both ends."""

    def __init__(self, stdin: TextIO, stdout: TextIO) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.terminal = stdin.isatty() and stdout.isatty()
        _speak_utf8(stdin)
        _speak_utf8(stdout)

    def write(self, text: str, *, faint: bool = False) -> None:
        """Write at once what may be a part of a line."""
        if self.stdout.isatty():
            text = _CONTROL.sub("", text)
        self.stdout.write(styled(text, "dim", self.stdout) if faint and text else text)
        self.stdout.flush()

    def read_line(self) -> str | None:
        """Return the next line without its end, or None at the end of the input (Ctrl-D)."""
        if self.terminal and self.stdin is sys.stdin and self.stdout is sys.stdout:
            try:
                return input(YOU)
            except EOFError:
                return None
        if self.terminal:
            self.write(YOU)
        line = self.stdin.readline()
        return line.rstrip("\r\n") if line else None


def _speak_utf8(stream: TextIO) -> None:
    """Let a stream carry any text, whatever the locale says: LC_ALL=POSIX still means UTF-8 on today's terminals."""
    reconfigure = getattr(stream, "reconfigure", None)
    if reconfigure is not None:
        plain = (stream.encoding or "ascii").lower().replace("-", "") in {"ascii", "ansix3.41968", "utf8", "usascii"}
        reconfigure(encoding="utf-8" if plain else stream.encoding, errors="replace")


def _prepare_editing() -> None:
    """Give the prompt history and editing; 8-bit signs stay whole also in the POSIX locale."""
    try:
        import readline
    except ImportError:
        return
    for setting in (
        "set input-meta on",
        "set output-meta on",
        "set convert-meta off",
        "set enable-bracketed-paste off",
    ):
        readline.parse_and_bind(setting)
    readline.set_auto_history(True)


def _stream_answer(client: OpenAIClient, model: str, messages: Sequence[Message], screen: Screen) -> _Answer:
    """Write an answer as it comes; Ctrl-C stops it and keeps what is there."""
    text, pieces, usage, stopped, thinking = "", 0, Usage(), False, False
    first = last = None
    deltas = client.chat(messages, model)
    try:
        for delta in deltas:
            if delta.generated:
                last = time.monotonic()
                first = last if first is None else first
                pieces += 1
            if delta.reasoning and screen.terminal:
                screen.write(delta.reasoning, faint=True)
                thinking = True
            if delta.text:
                if thinking:
                    screen.write("\n\n")
                    thinking = False
                text += delta.text  # first: Ctrl-C may come while it is written
                screen.write(delta.text)
            usage = delta.usage or usage
    except KeyboardInterrupt:
        stopped = True
    finally:
        _close(deltas)
    tokens = pieces if usage.completion_tokens is None else usage.completion_tokens
    return _Answer(text, tokens, (last or 0.0) - (first or 0.0), stopped)


def _close(deltas: Iterator[object]) -> None:
    """Hang up, so that the server stops making tokens that nobody reads."""
    close = getattr(deltas, "close", None)
    if close is not None:
        close()


def _note(answer: _Answer) -> str:
    rate = f", {(answer.tokens - 1) / answer.seconds:.1f} tokens/s" if answer.tokens > 1 and answer.seconds > 0 else ""
    return f"[{'stopped, ' if answer.stopped else ''}{answer.tokens} token{'s' * (answer.tokens != 1)}{rate}]"


def _show_error(screen: Screen, error: FirstlightError) -> None:
    lines = [
        f"error: {error.what}",
        f"  why: {error.why}" if error.why else "",
        f"  fix: {error.fix}" if error.fix else "",
    ]
    screen.write("\n" + "\n".join(line for line in lines if line) + "\n\n")


def _clean(text: str) -> str:
    """Return text that can be sent: bytes that were no UTF-8 become the replacement character."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def chat(
    client: OpenAIClient,
    model: str | None = None,
    *,
    system: str | None = None,
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
) -> int:
    """Hold a conversation until Ctrl-D, `exit` or `quit`; return 0, or 130 after Ctrl-C at the prompt.

    On a terminal: a prompt with history, Ctrl-C stops an answer that streams, and an error of the server is shown and
    the conversation goes on. Through pipes: each line is a turn, answers only are written, the first error ends it.
    Without `model` it is the first one that the server lists.

    Raises:
        FirstlightError: through pipes, or before the first turn.
    """
    screen = Screen(stdin or sys.stdin, stdout or sys.stdout)
    name = model or client.only_model()
    history = [Message(role="system", content=system)] if system else []
    if screen.terminal:
        _prepare_editing()
        screen.write(f"{name} at {client.base_url}. Ctrl-C stops an answer, Ctrl-D leaves.\n", faint=True)
    try:
        _converse(client, name, history, screen)
    except KeyboardInterrupt:
        screen.write("\n")
        return INTERRUPTED
    return 0


def _converse(client: OpenAIClient, model: str, history: list[Message], screen: Screen) -> None:
    """Take turns until the input ends or says so."""
    while (line := screen.read_line()) is not None:
        if line.strip().lower() in LEAVE:
            return
        if line.strip():
            history = _turn(client, model, [*history, Message(role="user", content=_clean(line))], screen)
    screen.write("\n" if screen.terminal else "")


def _turn(client: OpenAIClient, model: str, messages: list[Message], screen: Screen) -> list[Message]:
    """Have one answer made and return the conversation with it, or without this turn where none came."""
    if screen.terminal:
        screen.write(f"{model.rstrip('/').rpartition('/')[2]}: ")
    try:
        answer = _stream_answer(client, model, messages, screen)
    except FirstlightError as error:
        if not screen.terminal:
            raise
        _show_error(screen, error)
        return messages[:-1]
    screen.write("\n")
    if screen.terminal:
        screen.write(f"{_note(answer)}\n", faint=True)
    elif answer.stopped:
        raise KeyboardInterrupt
    return [*messages, Message(role="assistant", content=answer.text)] if answer.text else messages[:-1]


def ask(client: OpenAIClient, model: str | None, text: str, stdout: TextIO | None = None) -> int:
    """Stream one answer; return 0, or 130 when Ctrl-C stopped it.

    Raises:
        FirstlightError: nothing answers, the server refuses, or it lists no model and none was named.
    """
    screen = Screen(sys.stdin, stdout or sys.stdout)
    answer = _stream_answer(client, model or client.only_model(), [Message(role="user", content=_clean(text))], screen)
    screen.write("\n")
    return INTERRUPTED if answer.stopped else 0
