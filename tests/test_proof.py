"""The OpenAI client against a server that misbehaves, and the first token measured."""

from __future__ import annotations

import itertools
import json
import os
import socket
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.loopback_openai import Behaviour, LoopbackOpenAI
from support.patience import with_patience

from firstlight.environments.remembering import remember, remembered
from firstlight.errors import FirstlightError, UsageError, VerificationFailed
from firstlight.home import Home
from firstlight.planning.plan import Plan
from firstlight.planning.request import Request, Supply
from firstlight.proof.client import Message, OpenAIClient, is_loopback
from firstlight.proof.first_token import measure
from firstlight.proof.receipts import FetchedFile, Receipt, to_json, write_receipt
from firstlight.proof.refusals import server_words
from firstlight.proof.sse import sse_data
from firstlight.ui.failures import show_failure
from firstlight.ui.terminal import show, tell

QUESTION = [Message(role="user", content="What is the capital of France?")]
SENTENCE = "The capital of France is Paris."


def answer(server: LoopbackOpenAI, model: str = "tiny", **options) -> str:
    return "".join(delta.text for delta in OpenAIClient(server.url, **options).chat(QUESTION, model))


def refused(model: str = "tiny", **behaviour) -> FirstlightError:
    with LoopbackOpenAI(**behaviour) as server, pytest.raises(FirstlightError) as caught:
        answer(server, model)
    return caught.value


# Server-sent events


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_are_whole_wherever_the_bytes_are_cut(end, size):
    text = end.join(
        [": ping", "", "event: x", "data: Übergröße 你好 🙂", "", "data:a", "data: b", "", "data: [DONE]", "", ""]
    )
    raw = text.encode()
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    assert list(sse_data(pieces)) == ["Übergröße 你好 🙂", "a\nb", "[DONE]"]


def test_a_byte_order_mark_and_a_missing_last_line_do_no_harm():
    assert list(sse_data([b"\xef\xbb\xbfdata: a\n\ndata: b"])) == ["a", "b"]


def test_bytes_that_are_no_utf8_become_replacement_characters():
    assert list(sse_data([b"data: \xff\n\n"])) == ["�"]


# Answers


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(),
        Behaviour(end="\r\n"),
        Behaviour(keep_alives=True),
        Behaviour(chunked=False),
        Behaviour(byte_by_byte=True),
        Behaviour(usage=9),
        Behaviour(done=False),
        Behaviour(plain_json=True),
        Behaviour(refuse_stream_options=True),
    ],
    ids=str,
)
def test_an_answer_arrives_whole(behaviour):
    with LoopbackOpenAI(behaviour) as server:
        assert answer(server) == SENTENCE


@pytest.mark.parametrize("chunked", [True, False])
def test_characters_cut_between_packets_stay_whole(chunked):
    with LoopbackOpenAI(pieces=["Grüße, ", "你好 🙂"], byte_by_byte=True, chunked=chunked) as server:
        assert answer(server) == "Grüße, 你好 🙂"


def test_a_piece_is_there_before_the_next_one_is_made():
    with LoopbackOpenAI(pieces=["a", "b"], chunked=False, delay=0.2) as server:
        deltas = OpenAIClient(server.url).chat(QUESTION, "tiny")
        first = next(delta for delta in deltas if delta.text)
        deltas.close()
        assert first.text == "a"


def test_an_answer_without_streaming():
    with LoopbackOpenAI(usage=8) as server:
        [whole] = OpenAIClient(server.url).chat(QUESTION, "tiny", stream=False)
    assert (whole.text, whole.finish_reason) == (SENTENCE, "stop")
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    assert "stream_options" not in server.requests[0]


def test_what_is_asked_reaches_the_server():
    with LoopbackOpenAI(api_key="secret") as server:
        client = OpenAIClient(server.url + "/v1/", "secret")
        list(client.chat(QUESTION, "tiny", max_tokens=5, temperature=0.0))
        assert client.models() == ["tiny"]
    [request] = server.requests
    assert request["messages"] == [{"role": "user", "content": QUESTION[0].content}]
    assert (request["model"], request["max_tokens"], request["temperature"]) == ("tiny", 5, 0.0)
    assert request["stream_options"] == {"include_usage": True}


def test_reasoning_is_kept_apart():
    with LoopbackOpenAI(reasoning=["hmm, ", "France"], pieces=["Paris."]) as server:
        deltas = list(OpenAIClient(server.url).chat(QUESTION, "tiny"))
    assert "".join(delta.text for delta in deltas) == "Paris."
    assert "".join(delta.reasoning for delta in deltas) == "hmm, France"


def test_hanging_up_reaches_the_server():
    with LoopbackOpenAI(pieces=["token "] * 10000, delay=0.002) as server:
        deltas = OpenAIClient(server.url).chat(QUESTION, "tiny")
        next(delta for delta in deltas if delta.text)
        deltas.close()
        assert server.hung_up.wait(120)


# What goes wrong


def test_nothing_answers():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(FirstlightError, match="nothing answers at " + url) as caught:
            OpenAIClient(url).models()
    assert "firstlight up" in caught.value.fix
    assert caught.value.why == "Connection refused"


@pytest.mark.parametrize("url", ["ftp://127.0.0.1", "http://", "", "http:///v1"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(UsageError):
        OpenAIClient(url)


@pytest.mark.parametrize("key", ["schlüssel", "two\nlines"])
def test_a_key_that_no_header_carries_is_refused_and_not_shown(key):
    with pytest.raises(UsageError) as caught:
        OpenAIClient("http://127.0.0.1:1", key)
    assert key not in f"{caught.value.what} {caught.value.why} {caught.value.fix}"


def test_a_missing_key_is_told():
    error = refused(api_key="secret")
    assert "401" in error.what
    assert "API key" in error.what
    assert error.why == "Unauthorized"
    assert "OPENAI_API_KEY" in error.fix


def test_a_wrong_key_is_not_shown():
    with LoopbackOpenAI(api_key="right") as server, pytest.raises(FirstlightError) as caught:
        answer(server, api_key="wrong-key-9")
    assert "wrong-key-9" not in f"{caught.value.what} {caught.value.why} {caught.value.fix}"


def test_an_unknown_model_tells_those_that_are_served():
    words = b'{"object":"error","message":"The model `tiney` does not exist.","type":"NotFoundError","code":404}'
    error = refused("tiney", status=404, body=words, models=["tiny", "other"])
    assert 'it does not serve "tiney" (did you mean "tiny"?); models served: tiny, other' in error.what
    assert error.why == "The model `tiney` does not exist."
    assert error.fix == "--model tiny"


def test_a_wrong_path_is_not_taken_for_an_unknown_model():
    error = refused(status=404, body=b'{"detail":"Not Found"}', models_status=404)
    assert "no such path" in error.what
    assert "--url" in error.fix


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"message":"too long","type":"BadRequestError","code":400}}', "too long"),
        (b'{"error":"a bare message"}', "a bare message"),
        (b"{\"detail\":\"Server is pinned to '/m'; requested 'x'.\"}", "Server is pinned to '/m'; requested 'x'."),
        (b'{"detail":[{"loc":["body","messages",0],"msg":"Field required"}]}', "messages.0: Field required"),
        (b'{"message":"an older shape"}', "an older shape"),
        (b'{"odd":1}', '{"odd":1}'),
        (b"<html><style>p {}</style><h1>502</h1> Bad  Gateway</html>", "502 Bad Gateway"),
        (b"plain \xff text", "plain � text"),
        (b"", ""),
        (b"[" * 3000, "[" * 500),
    ],
)
def test_the_servers_own_words_are_found_in_every_shape(body, words):
    assert server_words(body) == words


@pytest.mark.parametrize(
    ("status", "body", "what", "fix"),
    [
        (500, b"Internal Server Error", "the server itself failed", "log"),
        (503, b"", "the server itself failed", "log"),
        (400, b"{\"detail\":\"Server is pinned to '/m'; requested 'x'.\"}", "another model", "--model"),
        (400, b'{"error":{"message":"default chat template is no longer allowed"}}', "base model", "instruct"),
        (400, b'{"error":{"message":"maximum context length is 512 tokens"}}', "longer than", "new one"),
        (422, b'{"detail":[{"loc":["body","x"],"msg":"bad"}]}', "refused the request", "correct"),
        (429, b"{}", "too many", "again"),
    ],
)
def test_a_refusal_says_what_it_means_and_what_to_do(status, body, what, fix):
    error = refused(status=status, body=body)
    assert str(status) in error.what
    assert what in error.what
    assert fix in error.fix
    assert error.why


@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(cut=330),
        Behaviour(cut=330, cut_clean=True),
        Behaviour(cut=330, chunked=False),
        Behaviour(cut=330, chunked=False, cut_clean=True),
        Behaviour(finish_reason=None),
    ],
    ids=str,
)
def test_an_answer_that_breaks_off_is_no_answer(behaviour):
    with LoopbackOpenAI(behaviour) as server, pytest.raises(FirstlightError) as caught:
        answer(server)
    assert "chat completion" in caught.value.what or "broke off" in caught.value.what


def test_a_server_that_dies_in_mid_answer_is_told_in_plain_words():
    chunk = b'data: {"choices": [{"delta": {"content": "The"}}]}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

    def die() -> None:
        connection, _address = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(head + b"%x\r\n%s\r\n" % (len(chunk), chunk))
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=die)
        server.start()
        client = OpenAIClient(f"http://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(FirstlightError, match="broke off after 1 tokens") as caught:
            list(client.chat([Message(role="user", content="Hello")], "tiny"))
        server.join()
    assert caught.value.why == "the server closed the connection in the middle of the answer"


@pytest.mark.parametrize(
    "said", [{"error": {"message": "the engine died"}}, {"error": "the engine died"}, {"detail": "the engine died"}]
)
def test_an_error_inside_the_stream_is_told(said):
    error = refused(error_in_stream=said)
    assert "broke the answer off" in error.what
    assert error.why == "the engine died"


def test_silence_ends_after_the_timeout():
    with LoopbackOpenAI(hang=True) as server:
        with pytest.raises(FirstlightError, match="did not answer within"):
            answer(server, timeout=0.3)
        server.hung_up.set()


def test_silence_within_an_answer_ends_after_the_timeout():
    def claim(seconds):
        with pytest.raises(FirstlightError, match="fell silent"):
            answer(server, timeout=seconds)

    with LoopbackOpenAI(delay=300.0) as server:
        with_patience((1.0, 10.0, 100.0), claim)


def test_what_is_no_chat_server_is_told():
    error = refused(plain_json=True, body=b"<html>hello</html>")
    assert "no chat completion" in error.what
    assert "<html>" in error.what


def test_a_server_that_lists_no_model_asks_for_its_name():
    with LoopbackOpenAI(models=[]) as server, pytest.raises(FirstlightError, match="lists no model") as caught:
        OpenAIClient(server.url).only_model()
    assert "--model" in caught.value.fix


def test_a_server_whose_list_fails_asks_for_the_name():
    with LoopbackOpenAI(models_status=500) as server, pytest.raises(FirstlightError, match="does not tell") as caught:
        OpenAIClient(server.url).only_model()
    assert "500" in caught.value.why


# Proxies and netrc


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", True),
        ("10.0.0.1", False),
    ],
)
def test_loopback_addresses(host, loopback):
    assert is_loopback(host) is loopback


def test_no_proxy_and_no_netrc_stand_between_us_and_our_own_server(monkeypatch, tmp_path):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with LoopbackOpenAI(api_key="secret") as server:
        assert answer(server, api_key="secret") == SENTENCE


def test_another_machine_is_reached_through_the_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(FirstlightError, match="the proxy does not reach") as caught:
        OpenAIClient("http://203.0.113.9:8000").models()
    assert "203.0.113.9" in caught.value.fix


# The first token


def prove(expect_words: bool = True, max_tokens: int = 12, **behaviour):
    with LoopbackOpenAI(**behaviour) as server:
        return measure(
            server.url, "tiny", prompt="hello", max_tokens=max_tokens, device="cpu", expect_words=expect_words
        )


def test_the_first_token_is_measured(monkeypatch):
    looks = itertools.count()  # at the start, at each of four tokens, at the end
    clock = SimpleNamespace(monotonic=lambda: next(looks) * 0.05)
    monkeypatch.setattr("firstlight.proof.first_token.time", clock)
    proof = prove(pieces=["a", "b", "c", "d"], usage=4)
    assert (proof.text, proof.tokens, proof.finish_reason) == ("abcd", 4, "stop")
    assert (proof.model, proof.prompt, proof.device) == ("tiny", "hello", "cpu")
    assert (proof.first_token_seconds, proof.seconds) == (pytest.approx(0.05), pytest.approx(0.25))
    assert proof.tokens_per_second == pytest.approx(20)


def test_without_usage_the_pieces_are_counted():
    assert prove(pieces=["a", "b", "c"]).tokens == 3


def test_one_token_has_no_rate():
    proof = prove(pieces=["Paris"], usage=1)
    assert (proof.tokens, proof.tokens_per_second) == (1, None)


def test_tokens_of_random_weights_may_decode_to_nothing():
    proof = prove(expect_words=False, pieces=["", "�", ""], finish_reason="length", usage=12)
    assert proof.tokens == 12
    proof = prove(expect_words=False, pieces=["", "", ""], finish_reason="length", max_tokens=3)
    assert proof.tokens == 3


def test_a_server_may_hide_its_tokens_and_count_them():
    proof = prove(expect_words=False, pieces=[], finish_reason="length", usage=12)
    assert proof.tokens == 12
    assert proof.first_token_seconds <= proof.seconds


@pytest.mark.parametrize("usage", [11, 12, 13])
def test_the_token_that_ends_a_sequence_may_be_counted_or_not(usage):
    assert prove(finish_reason="length", usage=usage).tokens == usage


def test_a_reasoning_model_cut_short_has_spoken():
    assert prove(reasoning=["let me think"], pieces=[], finish_reason="length").text == "let me think"


def test_a_server_that_does_not_stream_is_proven_without_a_rate():
    proof = prove(plain_json=True, usage=8)
    assert (proof.text, proof.tokens, proof.tokens_per_second) == (SENTENCE, 8, None)
    assert 0 < proof.first_token_seconds <= proof.seconds


@pytest.mark.parametrize(
    ("problem", "behaviour"),
    [
        ("no token came", {"pieces": []}),
        ("did not end properly", {"finish_reason": "error"}),
        ("at most 12 were asked for", {"usage": 14}),
        ("was said to be reached with 5", {"usage": 5, "finish_reason": "length"}),
        ("at most 12 were asked for", {"pieces": ["a"] * 20}),
        ("no words", {"pieces": ["\n", "!!", "�"]}),
    ],
)
def test_a_proof_that_does_not_hold_tells_what_came_back(problem, behaviour):
    with pytest.raises(VerificationFailed, match=problem) as caught:
        prove(**behaviour)
    assert "finish reason" in caught.value.why
    assert caught.value.code == 5


def test_a_proof_cut_short_is_no_proof():
    with pytest.raises(FirstlightError, match="broke off"):
        prove(finish_reason=None)


def test_the_key_comes_along():
    with LoopbackOpenAI(api_key="secret") as server:
        proof = measure(
            server.url, "tiny", prompt="x", max_tokens=12, api_key="secret", device="cpu", expect_words=True
        )
    assert proof.text == SENTENCE
    assert "secret" not in os.fsdecode(repr(proof))


# Receipts


SECRET = "https://user:s3cr%21t@host/simple"


def test_a_receipt_holds_no_credentials_of_addresses(tmp_path):
    request = Request(
        engine="tiny",
        channels=("https://key@channels.example/main", "https://conda.example/t/s3cr-token/main", "conda-forge"),
        indexes=(SECRET,),
        find_links=("http://user:s3cr@host:8080/wheels?a=b@c", "/data/t/wheels"),
        home=tmp_path,
        supply=Supply(
            index=SECRET, torch={"2.0+cpu": {f"index:{SECRET}": ["3.12"]}}, silent={"b": f"{SECRET}: silent"}
        ),
    )
    plan = Plan(
        engine="tiny", build=None, home=None, gpus=[], environment="venv", because=[f"torch comes from {SECRET}"],
        launch=None, needs=None, refused=[], steps=[], torch_source=f"index:{SECRET}",
    )  # fmt: skip
    receipt = Receipt(
        what="setup.tiny", started="2026-11-23T00:00:00Z", seconds=2.0, bytes=0, request=request, plan=plan,
        steps=[], fetched=[FetchedFile(name="a.whl", source=SECRET)], notes=[f"from {SECRET}"],
    )  # fmt: skip
    written = write_receipt(Home(tmp_path), receipt)
    for text in (Path(written.path).read_text(), to_json(written)):
        assert "s3cr" not in text
        assert "key@" not in text
        assert "user" not in text
        assert json.loads(text)["request"]["indexes"] == ["https://***@host/simple"]
    assert written.request.channels[1:] == ("https://conda.example/t/***/main", "conda-forge")
    assert written.request.find_links == ("http://***@host:8080/wheels?a=b@c", "/data/t/wheels")
    assert written.request.home == tmp_path


def test_no_document_and_no_line_shows_credentials(capsys):
    error = FirstlightError(
        "https://user:s3cr@host failed", why=SECRET, fix=SECRET, document={"plan": {"from": SECRET}}
    )
    show_failure(error, as_document=True)
    show(f"torch comes from {SECRET}")
    tell(f"torch comes from {SECRET}, write to me@host")
    said = capsys.readouterr()
    assert "s3cr" not in said.out + said.err
    assert "torch comes from https://***@host/simple, write to me@host" in said.err
    document = json.loads(said.out.rpartition("}")[0] + "}")
    assert document["plan"]["from"] == "https://***@host/simple"


@pytest.mark.parametrize(("index", "mode"), [(SECRET, 0o600), ("https://host/simple", 0o644)])
def test_the_supply_with_credentials_is_for_its_user_alone(tmp_path, index, mode):
    request = Request(engine="tiny", supply=Supply(index=index))
    remember(Home(tmp_path), request)
    written = next(tmp_path.rglob("supply.json"))
    assert written.stat().st_mode & 0o777 == mode
    assert remembered(Home(tmp_path), Request(engine="tiny")) == request
