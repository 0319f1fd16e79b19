"""The chat screen: on a real terminal with Ctrl-C and Ctrl-D, and through pipes."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import firstlight
from support.loopback_openai import LoopbackOpenAI
from support.service_specs import spec

from firstlight.errors import FirstlightError
from firstlight.home import Home
from firstlight.proof.client import OpenAIClient
from firstlight.serving.services.records import Record, save
from firstlight.ui.chat import ask, chat

if TYPE_CHECKING:
    from typing_extensions import Self

ROOT = Path(__file__).parent.parent
PROGRAM = """
import sys
from firstlight.errors import FirstlightError
from firstlight.proof.client import OpenAIClient
from firstlight.ui.chat import ask, chat
try:
    sys.exit(chat(OpenAIClient(sys.argv[1]), *sys.argv[2:3], system=(sys.argv[3:4] or [None])[0]))
except FirstlightError as error:
    print(error.what, file=sys.stderr)
    sys.exit(error.code)
"""


class Terminal:
    """A person at a real terminal: types, reads what stands there, presses keys."""

    def __init__(self, *words: str, program: str = PROGRAM, **environment: str) -> None:
        self.screen = ""
        self._seen = 0
        master, slave = pty.openpty()
        self._master = master
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),  # noqa: PLW1509
            cwd=ROOT,
            env={**os.environ, "TERM": "xterm", **environment},
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_details: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def read(self, wanted: str, seconds: float = 120.0) -> str:
        """Wait until `wanted` stands on the screen, after what was waited for before; return what came."""
        deadline = time.monotonic() + seconds
        while wanted not in self.screen[self._seen :]:
            assert time.monotonic() < deadline, f"{wanted!r} never came; the screen: {self.screen!r}"
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.screen += os.read(self._master, 65536).decode(errors="replace")
                except OSError:
                    assert wanted in self.screen[self._seen :], f"ended without {wanted!r}: {self.screen!r}"
        start, self._seen = self._seen, self.screen.index(wanted, self._seen) + len(wanted)
        return self.screen[start : self._seen]

    def end(self, again: str = "") -> int:
        """Read the rest and return the exit status.

        `again` is pressed once more where nothing happens: a signal that comes between readline's prompt and its wait
        for a key is seen by Python at the next key only, and a machine that stalls right there makes that moment long.
        """
        with contextlib.suppress(OSError):
            while True:
                if not select.select([self._master], [], [], 30 if again else 120)[0]:
                    if not again or self.process.poll() is not None:
                        break
                    self.type(again)
                    again = ""
                    continue
                data = os.read(self._master, 65536)
                if not data:
                    break
                self.screen += data.decode(errors="replace")
        return self.process.wait(120)


def test_a_conversation_on_a_terminal_keeps_its_history():
    with LoopbackOpenAI(usage=9, delay=0.01) as server, Terminal(server.url) as terminal:
        terminal.read("tiny at http://")
        terminal.read("You: ")
        terminal.type("hello\r")
        terminal.read("tiny: ")
        terminal.read("The capital of France is Paris.")
        assert "tokens/s" in terminal.read("You: ")
        terminal.type("and again\r")
        terminal.read("Paris.")
        terminal.read("You: ")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert [message["role"] for message in server.requests[1]["messages"]] == ["user", "assistant", "user"]
    assert server.requests[1]["messages"][1]["content"] == "The capital of France is Paris."
    assert "Traceback" not in terminal.screen


def test_ctrl_c_stops_an_answer_and_keeps_what_was_said():
    with LoopbackOpenAI(pieces=["word "] * 5000, delay=0.01) as server, Terminal(server.url, "tiny") as terminal:
        terminal.read("You: ")
        terminal.type("talk\r")
        terminal.read("word word")
        terminal.type("\x03")
        assert "stopped" in terminal.read("You: ")
        assert server.hung_up.wait(120), "the server goes on making tokens that nobody reads"
        server.behaviour.pieces, server.behaviour.delay = ["short"], 0.0
        terminal.type("go on\r")
        terminal.read("short")
        terminal.read("You: ")
        terminal.type("\x03")
        assert terminal.end(again="\x03") == 130
    said = server.requests[1]["messages"][1]
    assert said["role"] == "assistant"
    assert said["content"].startswith("word word")
    assert len(said["content"]) < 5000
    assert "Traceback" not in terminal.screen


def test_ctrl_c_before_the_first_token_forgets_the_turn():
    with LoopbackOpenAI(hang=True) as server, Terminal(server.url, "tiny") as terminal:
        terminal.read("You: ")
        terminal.type("lost\r")
        terminal.read("tiny: ")
        deadline = time.monotonic() + 120
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.02)
        terminal.type("\x03")
        terminal.read("You: ")
        server.behaviour.hang = False
        server.hung_up.set()
        terminal.type("kept\r")
        terminal.read("Paris.")
        terminal.read("You: ")
        terminal.type("exit\r")
        assert terminal.end() == 0
    assert [message["content"] for message in server.requests[-1]["messages"]] == ["kept"]


@pytest.mark.parametrize("word", ["exit", "quit", " QUIT "])
def test_words_that_leave(word):
    with LoopbackOpenAI() as server, Terminal(server.url, "tiny") as terminal:
        terminal.read("You: ")
        terminal.type(word + "\r")
        assert terminal.end() == 0
    assert server.requests == []


def test_an_error_is_shown_and_the_conversation_goes_on():
    with LoopbackOpenAI(status=500, body=b"out of order") as server, Terminal(server.url, "tiny") as terminal:
        terminal.read("You: ")
        terminal.type("first\r")
        shown = terminal.read("You: ")
        assert "error: " in shown
        assert "why: out of order" in shown
        assert "fix: " in shown
        server.behaviour.status = 200
        terminal.type("second\r")
        terminal.read("Paris.")
        terminal.read("You: ")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert [message["content"] for message in server.requests[-1]["messages"]] == ["second"]


@pytest.mark.parametrize("locale", ["POSIX", "C.UTF-8"])
def test_any_script_is_typed_and_shown_in_any_locale(locale):
    with LoopbackOpenAI(pieces=["你好 ", "Grüße"]) as server, Terminal(server.url, "tiny", LC_ALL=locale) as terminal:
        terminal.read("You: ")
        terminal.type("Größe 你好?\r")
        terminal.read("你好 Grüße")
        terminal.read("You: ")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert server.requests[0]["messages"][0]["content"] == "Größe 你好?"


def test_the_line_before_is_a_key_away():
    with LoopbackOpenAI() as server, Terminal(server.url, "tiny") as terminal:
        for keys in ("remember this\r", "\x1b[A\r"):
            terminal.read("You: ")
            terminal.type(keys)
            terminal.read("Paris.")
        terminal.read("You: ")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert server.requests[1]["messages"][-1]["content"] == "remember this"


def test_what_a_model_says_does_not_steer_the_terminal():
    with (
        LoopbackOpenAI(pieces=["a\x1b]0;title\x07b\x1b[2Jc", "\x9b5nd\ne"]) as server,
        Terminal(server.url, "t") as terminal,
    ):
        terminal.read("You: ")
        terminal.type("x\r")
        said = terminal.read("You: ")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert "\x1b]0" not in said
    assert "\x1b[2J" not in said
    assert "\x9b" not in said
    assert "d\r\ne" in said


def test_reasoning_is_faint_and_apart():
    with (
        LoopbackOpenAI(reasoning=["hmm"], pieces=["Paris."]) as server,
        Terminal(server.url, "tiny", NO_COLOR="") as terminal,
    ):
        terminal.read("You: ")
        terminal.type("x\r")
        said = terminal.read("You: ")
        terminal.type("\x04")
        assert terminal.end() == 0
    assert re.search("\x1b\\[2mhmm\x1b\\[0m(\r\n)+Paris", said)


def test_no_color_means_no_color():
    with LoopbackOpenAI(usage=9) as server, Terminal(server.url, "tiny", NO_COLOR="1") as terminal:
        terminal.read("You: ")
        terminal.type("x\r")
        assert "\x1b[2m" not in terminal.read("You: ")
        terminal.type("\x04")
        assert terminal.end() == 0


# Pipes


def piped(url: str, text: bytes, *words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, url, *words],
        input=text,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("environment", [{}, {"LC_ALL": "POSIX"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}], ids=str)
def test_through_pipes_answers_alone_are_written(environment):
    with LoopbackOpenAI(pieces=["Grüße ", "你好"], reasoning=["hmm"]) as server:
        done = piped(server.url, "Größe\n\nzweite\n".encode(), "tiny", "be brief", **environment)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "Grüße 你好\nGrüße 你好\n"
    roles = [message["role"] for message in server.requests[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert server.requests[1]["messages"][1]["content"] == "Größe"


def test_through_pipes_an_error_ends_the_conversation():
    with LoopbackOpenAI(status=500) as server:
        done = piped(server.url, b"one\ntwo\n", "tiny")
    assert done.returncode == 1
    assert b"answered 500" in done.stderr
    assert len(server.requests) == 1


def test_bytes_that_are_no_utf8_are_sent_as_replacement_characters():
    with LoopbackOpenAI() as server:
        assert piped(server.url, b"a\xffb\n", "tiny").returncode == 0
    assert server.requests[0]["messages"][0]["content"] == "a�b"


def test_ctrl_c_through_pipes_leaves_with_130():
    with LoopbackOpenAI(pieces=["word "] * 5000, delay=0.01) as server:
        words = [sys.executable, "-c", PROGRAM, server.url, "tiny"]
        pipe = subprocess.PIPE
        with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT) as process:
            process.stdin.write(b"talk\n")
            process.stdin.flush()
            assert process.stdout.read(10) == b"word word "
            process.send_signal(signal.SIGINT)
            _rest, errors = process.communicate(timeout=300)
        assert process.returncode == 130
        assert errors == b""


# In one process


def test_the_only_model_is_taken_by_itself():
    out = io.StringIO()
    with LoopbackOpenAI(models=["/models/tiny"]) as server:
        assert chat(OpenAIClient(server.url), stdin=io.StringIO("hello"), stdout=out) == 0
    assert server.requests[0]["model"] == "/models/tiny"
    assert out.getvalue() == "The capital of France is Paris.\n"


def test_a_server_that_lists_no_model_needs_its_name():
    with LoopbackOpenAI(models=[]) as server:
        client = OpenAIClient(server.url)
        with pytest.raises(FirstlightError, match="lists no model"):
            ask(client, None, "hello", io.StringIO())
        assert ask(client, "/models/tiny", "hello", io.StringIO()) == 0


def test_one_question_is_answered():
    out = io.StringIO()
    with LoopbackOpenAI() as server:
        assert ask(OpenAIClient(server.url), "tiny", "hello", out) == 0
    assert out.getvalue() == "The capital of France is Paris.\n"
    assert [message["content"] for message in server.requests[0]["messages"]] == ["hello"]


@pytest.mark.parametrize(
    "url",
    [
        None,
        "http://127.0.0.1:{}",
        "http://127.0.0.1:{}/v1/",
        "127.0.0.1:{}",
        "http://localhost:{}/v1",
        "http://127.0.0.1:{}/v1/chat/completions",
    ],
)
def test_a_service_of_ours_is_asked_with_its_own_model_and_key(tmp_path, url):
    home = Home(tmp_path / "home")
    with LoopbackOpenAI(models=[], api_key="of-the-service") as server:
        service = spec(folder=home.services / "chat", secrets=home.services / "chat" / "environment", port=server.port)
        service.folder.mkdir(parents=True)
        service.secrets.write_text("VLLM_API_KEY=of-the-service\n")
        (home.root / "firstlight-home.json").write_text('{"schema": "firstlight.home/1"}')
        save(Record(spec=service, installed="2026-11-23T00:00:00Z"))
        where = ["--url", url.format(server.port)] if url is not None else []
        ended = firstlight("ask", "What is the capital of France?", *where, home=home.root)
    assert (ended.code, ended.out) == (0, "The capital of France is Paris.\n"), ended.err
    assert server.requests[-1]["model"] == service.model_id


def test_a_service_is_not_stopped_by_down(tmp_path):
    home = Home(tmp_path / "home")
    service = spec(folder=home.services / "chat", port=8123)
    service.folder.mkdir(parents=True)
    (home.root / "firstlight-home.json").write_text('{"schema": "firstlight.home/1"}')
    save(Record(spec=service, installed="2026-11-23T00:00:00Z"))
    for words, code in ((["down", service.name], 2), (["down"], 1)):
        ended = firstlight(*words, home=home.root)
        assert ended.code == code
        assert f"fix: firstlight service.stop {service.name}" in ended.err
    assert firstlight("down", "other", home=home.root).code == 2
