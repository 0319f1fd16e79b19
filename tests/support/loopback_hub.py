"""A model hub on 127.0.0.1 that speaks what huggingface_hub and modelscope need, and misbehaves on request.

Hugging Face: GET /api/models/<id>[/revision/<rev>][?blobs=true], GET /api/models/<id>/tree/<rev>, HEAD and GET
/<id>/resolve/<rev>/<file> with X-Repo-Commit, ETag, X-Linked-Size, X-Linked-Etag and Range.
ModelScope: GET /api/v1/models/<id>, its /revisions, its /repo/files and its /repo?FilePath=.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Faults:
    """What goes wrong. Byte counts are of one file's body."""

    gated: bool = False
    """Files are refused with 401 GatedRepo; the listing is not."""
    forbidden: bool = False
    """Everything is refused with 403."""
    cut_after: int | None = None
    """The connection is closed after so many bytes of a large file, `cuts` times."""
    cuts: int = 1
    stall_after: int | None = None
    """Nothing more comes after so many bytes of a large file, `stalls` times."""
    stalls: int = 1
    corrupt: int = 0
    """So many answers for large files have one byte changed."""
    claimed_size: int | None = None
    """Large files are listed with this size."""
    busy: bool = False
    """Everything answers 503."""
    not_json: bool = False
    """A login page in place of JSON."""
    bytes_per_second: int | None = None
    stalled: threading.Event = field(default_factory=threading.Event)


@dataclass
class Seen:
    """One request."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    cookie: str | None


@dataclass
class LoopbackHub:
    """The running hub: its address, its models (id → file name → bytes), faults, and the requests that came."""

    url: str
    models: dict[str, dict[str, bytes]]
    faults: Faults
    seen: list[Seen] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ranges(self) -> list[str]:
        """The Range headers that asked for more than the beginning."""
        return [seen.range for seen in self.seen if seen.range and not seen.range.startswith("bytes=0-")]

    def take(self, name: str) -> bool:
        """Use up one of the counted faults; False when none is left."""
        with self.lock:
            left = getattr(self.faults, name)
            if left <= 0:
                return False
            setattr(self.faults, name, left - 1)
            return True


LARGE = 1 << 16


def is_large(data: bytes) -> bool:
    return len(data) >= LARGE


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def huggingface_entry(name: str, data: bytes, claimed: int | None) -> dict[str, object]:
    size = claimed if claimed and is_large(data) else len(data)
    entry: dict[str, object] = {"rfilename": name, "size": size, "blobId": git_sha1(data)}
    if is_large(data):
        entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 134}
    return entry


class Handler(BaseHTTPRequestHandler):
    hub: LoopbackHub
    protocol_version = "HTTP/1.1"
    timeout = 30

    def log_message(self, *_words):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        address = urlsplit(self.path)
        path, query = unquote(address.path), {key: values[0] for key, values in parse_qs(address.query).items()}
        headers = self.headers
        self.hub.seen.append(
            Seen(self.command, self.path, headers["Range"], headers["Authorization"], headers["Cookie"])
        )
        faults = self.hub.faults
        if faults.busy:
            return self.json(503, {"error": "busy"}, body=body)
        if faults.not_json:
            return self.send(200, b"<html>please log in</html>", {"Content-Type": "text/html"}, body=body)
        if faults.forbidden:
            return self.json(403, {"error": "Forbidden", "Code": 403, "Message": "no access"}, body=body)
        if path.startswith("/api/v1/models/"):
            return self.modelscope(path.removeprefix("/api/v1/models/"), query, body=body)
        return self.huggingface(path, body=body)

    # Hugging Face

    def huggingface(self, path, *, body):
        info = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        tree = re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = info or tree or file
        files = self.hub.models.get(match[1]) if match else None
        if files is None:
            return self.json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}, body=body)
        if match[2] not in {None, "main", COMMIT}:
            return self.json(404, {"error": "Invalid rev"}, {"X-Error-Code": "RevisionNotFound"}, body=body)
        if info:
            entries = [huggingface_entry(name, data, self.hub.faults.claimed_size) for name, data in files.items()]
            document = {"id": match[1], "modelId": match[1], "sha": COMMIT, "private": False, "gated": False}
            return self.json(200, {**document, "tags": [], "downloads": 1, "siblings": entries}, body=body)
        if tree:
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": git_sha1(data)} for name, data in files.items()
            ]
            return self.json(200, entries, body=body)
        return self.resolve(match, files, body=body)

    def resolve(self, match, files, *, body):
        if self.hub.faults.gated:
            error = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {match[1]} is restricted."}
            return self.json(401, {"error": "gated"}, error, body=body)
        data = files.get(match[3])
        if data is None:
            return self.json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}, body=body)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{git_sha1(data)}"'}
        if is_large(data):
            headers["X-Linked-Size"] = str(len(data))
            headers["X-Linked-Etag"] = headers["ETag"] = f'"{hashlib.sha256(data).hexdigest()}"'
        return self.file(data, headers, body=body)

    # ModelScope

    def modelscope(self, rest, query, *, body):
        match = re.fullmatch(r"([^/]+/[^/]+)(/.*)?", rest)
        files = self.hub.models.get(match[1]) if match else None
        if files is None:
            return self.json(404, {"Code": 10010205001, "Success": False, "Message": "not found"}, body=body)
        if query.get("Revision", "master") not in {"master", "v1"}:
            return self.json(404, {"Code": 10010205002, "Success": False, "Message": "no such revision"}, body=body)
        if match[2] is None:
            return self.modelscope_data({"Id": 1, "Name": match[1].split("/")[1], "Path": match[1]}, body=body)
        if match[2] == "/revisions":
            branches = {"Branches": [{"Revision": "master"}], "Tags": [{"Revision": "v1"}]}
            return self.modelscope_data({"RevisionMap": branches}, body=body)
        if match[2] == "/repo/files":
            entries = [
                {
                    "Name": name.rsplit("/")[-1],
                    "Path": name,
                    "Size": len(data),
                    "Sha256": hashlib.sha256(data).hexdigest(),
                    "Type": "blob",
                    "IsLFS": is_large(data),
                    "Revision": COMMIT,
                    "Mode": "33188",
                    "CommittedDate": 1700000000,
                }
                for name, data in files.items()
            ]
            return self.modelscope_data({"Files": entries}, body=body)
        data = files.get(query.get("FilePath", ""))
        if match[2] != "/repo" or data is None:
            return self.json(404, {"Code": 404, "Success": False, "Message": "no such file"}, body=body)
        return self.file(data, {"Content-Type": "application/octet-stream"}, body=body)

    def modelscope_data(self, data, *, body):
        return self.json(200, {"Code": 200, "Success": True, "Message": "success", "Data": data}, body=body)

    # answers

    def json(self, status, document, headers=None, *, body):
        self.send(
            status, json.dumps(document).encode(), {"Content-Type": "application/json", **(headers or {})}, body=body
        )

    def send(self, status, data, headers, *, body):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def file(self, data, headers, *, body):
        large, start, status = is_large(data), 0, 200
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        end = len(data)
        if asked:
            start, status = int(asked[1]), 206
            end = int(asked[2]) + 1 if asked[2] else len(data)
            if start >= len(data):
                return self.send(416, b"", {"Content-Range": f"bytes */{len(data)}"}, body=body)
            headers = {**headers, "Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
        payload = data[start:end]
        if body and large and self.hub.take("corrupt"):
            payload = payload[:-1] + bytes([payload[-1] ^ 0xFF])
        self.send_response(status)
        for name, value in {**headers, "Accept-Ranges": "bytes", "Content-Length": str(len(payload))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.pour(payload, large=large)
        return None

    def pour(self, payload, *, large):
        faults, sent, pace = self.hub.faults, 0, self.hub.faults.bytes_per_second
        cut = faults.cut_after if large and faults.cut_after is not None and self.hub.take("cuts") else None
        stall = faults.stall_after if large and faults.stall_after is not None and self.hub.take("stalls") else None
        while sent < len(payload):
            block = payload[sent : sent + 16384]
            with contextlib.suppress(OSError):
                self.wfile.write(block)
                self.wfile.flush()
            sent += len(block)
            if cut is not None and sent >= cut:
                self.close_connection = True
                return
            if stall is not None and sent >= stall:
                faults.stalled.set()
                self.hub.closing.wait(60)
                self.close_connection = True
                return
            if pace and large and self.hub.closing.wait(len(block) / pace):
                self.close_connection = True
                return


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_words):
        """A client that goes away in the middle is what these tests are about."""


@contextlib.contextmanager
def loopback_hub(models: dict[str, dict[str, bytes]], faults: Faults | None = None) -> Iterator[LoopbackHub]:
    """Serve `models` (id → file name → bytes) until the block ends."""
    handler = type("BoundHandler", (Handler,), {})
    server = Server(("127.0.0.1", 0), handler)
    hub = LoopbackHub(f"http://127.0.0.1:{server.server_address[1]}", models, faults or Faults())
    handler.hub = hub
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def main() -> None:
    """Serve one made-up model until interrupted, to look at by hand."""
    import sys

    with loopback_hub({"own/model": {"config.json": b"{}", "model.safetensors": bytes(1 << 20)}}) as hub:
        print(hub.url, flush=True)
        while True:
            time.sleep(3600 if sys.stdin else 1)


if __name__ == "__main__":
    main()
