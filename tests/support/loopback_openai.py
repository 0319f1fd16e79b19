"""An OpenAI-compatible server on 127.0.0.1 that can misbehave in every way that clients meet."""

from __future__ import annotations

import json
import socket
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self


@dataclass
class Behaviour:
    """What the server does. `pieces` are the texts of the stream's chunks."""

    pieces: list[str] = field(default_factory=lambda: ["The capital", " of France", " is Paris."])
    reasoning: list[str] = field(default_factory=list)
    models: list[str] = field(default_factory=lambda: ["tiny"])
    finish_reason: str | None = "stop"
    usage: int | None = None
    refuse_stream_options: bool = False
    delay: float = 0.0
    status: int = 200
    body: bytes = b""
    models_status: int = 200
    api_key: str | None = None
    end: str = "\n"
    chunked: bool = True
    cut: int | None = None
    """Bytes of the stream after which the connection is reset."""
    cut_clean: bool = False
    done: bool = True
    error_in_stream: Any = None
    keep_alives: bool = False
    plain_json: bool = False
    byte_by_byte: bool = False
    hang: bool = False


class LoopbackOpenAI:
    """The server, as a context manager; `requests` keeps what it was asked."""

    def __init__(self, behaviour: Behaviour | None = None, **changes: Any) -> None:
        self.behaviour = behaviour or Behaviour(**changes)
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.hung_up = threading.Event()
        outer = self

        class Handler(_Handler):
            owner = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    owner: LoopbackOpenAI
    protocol_version = "HTTP/1.1"

    def log_message(self, *_arguments: object) -> None:
        pass

    def _reply(self, status: int, body: bytes, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refused(self) -> bool:
        key = self.owner.behaviour.api_key
        if key is None or self.headers.get("Authorization") == f"Bearer {key}":
            return False
        self._reply(401, b'{"error":"Unauthorized"}')
        return True

    def do_GET(self) -> None:
        behaviour = self.owner.behaviour
        self.owner.headers.append(dict(self.headers))
        if self._refused():
            return
        if self.path == "/health":
            self._reply(200, b"")
        elif self.path != "/v1/models":
            self._reply(404, b'{"detail":"Not Found"}')
        elif behaviour.models_status != 200:
            self._reply(behaviour.models_status, b"Internal Server Error", "text/plain")
        else:
            data = [{"id": name, "object": "model"} for name in behaviour.models]
            self._reply(200, json.dumps({"object": "list", "data": data}).encode())

    def do_POST(self) -> None:
        behaviour = self.owner.behaviour
        self.owner.headers.append(dict(self.headers))
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.owner.requests.append(request)
        if self._refused():
            return
        if behaviour.hang:
            self.owner.hung_up.wait(300)
        elif behaviour.refuse_stream_options and "stream_options" in request:
            detail = [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs"}]
            self._reply(422, json.dumps({"detail": detail}).encode())
        elif behaviour.status != 200:
            kind = "application/json" if behaviour.body.startswith((b"{", b"[")) else "text/html"
            self._reply(behaviour.status, behaviour.body, kind)
        elif behaviour.plain_json or not request.get("stream"):
            self._whole()
        else:
            self._stream(request)

    def _usage(self) -> dict[str, int]:
        return {"prompt_tokens": 7, "completion_tokens": self.owner.behaviour.usage or 0, "total_tokens": 0}

    def _whole(self) -> None:
        behaviour = self.owner.behaviour
        message = {"role": "assistant", "content": "".join(behaviour.pieces)}
        answer = {"choices": [{"message": message, "finish_reason": behaviour.finish_reason}], "usage": self._usage()}
        self._reply(200, behaviour.body or json.dumps(answer).encode())

    def _events(self, request: dict[str, Any]) -> list[str]:
        behaviour = self.owner.behaviour
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"reasoning_content": text} for text in behaviour.reasoning]
        deltas += [{"content": text} for text in behaviour.pieces]
        chunks: list[dict[str, Any]] = [{"choices": [{"delta": delta, "finish_reason": None}]} for delta in deltas]
        if behaviour.error_in_stream is not None:
            return [json.dumps(chunk, ensure_ascii=False) for chunk in [*chunks, behaviour.error_in_stream]]
        if behaviour.finish_reason is not None:
            chunks.append({"choices": [{"delta": {}, "finish_reason": behaviour.finish_reason}]})
        if behaviour.usage is not None and request.get("stream_options", {}).get("include_usage"):
            chunks.append({"choices": [], "usage": self._usage()})
        return [json.dumps(chunk, ensure_ascii=False) for chunk in chunks]

    def _stream(self, request: dict[str, Any]) -> None:
        behaviour = self.owner.behaviour
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        if behaviour.chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        end, sent = behaviour.end, 0
        events = [*self._events(request), *(["[DONE]"] if behaviour.done and behaviour.finish_reason else [])]
        try:
            for event in events:
                text = f": keep-alive{end}{end}" if behaviour.keep_alives else ""
                payload = f"{text}data: {event}{end}{end}".encode()
                if behaviour.cut is not None and sent + len(payload) > behaviour.cut:
                    self._send(payload[: behaviour.cut - sent])
                    self._hang_up()
                    return
                sent += len(payload)
                for piece in (
                    [payload[at : at + 1] for at in range(len(payload))] if behaviour.byte_by_byte else [payload]
                ):
                    self._send(piece)
                time.sleep(behaviour.delay)
            if behaviour.chunked:
                self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.owner.hung_up.set()
            self.close_connection = True

    def _send(self, payload: bytes) -> None:
        if payload:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(payload), payload) if self.owner.behaviour.chunked else payload)
            self.wfile.flush()

    def _hang_up(self) -> None:
        self.close_connection = True
        if self.owner.behaviour.cut_clean:
            if self.owner.behaviour.chunked:
                self.wfile.write(b"0\r\n\r\n")
            return
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()
