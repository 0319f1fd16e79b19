"""A model hub on 127.0.0.1 that speaks the protocols of Hugging Face and ModelScope, and misbehaves on request.

Hugging Face: GET /api/models/<id>[/revision/<rev>][?blobs=true], GET /api/models/<id>/tree/<rev> in pages, HEAD and GET
/<id>/resolve/<rev>/<file> with X-Repo-Commit, ETag, X-Linked-Size, X-Linked-Etag and Range. Large files are redirected
to a second host, 127.0.0.2, by signed addresses that expire, as the real one does, where `cdn` asks for it.
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
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, unquote, urlsplit

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
    lie_at: int | None = None
    """Large files have another byte at this place, always the same one: a hub whose copy is not the published one."""
    dies_after: int | None = None
    """After so many bytes of large files every connection is closed, those to come too."""
    private: bool = False
    """The model's page says that it is private."""
    withholds: str = ""
    """A file that is listed, and answered with 404."""
    hold_after: int | None = None
    """After so many bytes of large files all answers stand still until `go` is set."""
    cdn: bool = False
    """Large files are redirected to a signed address of another host."""
    uses: int = 1000
    """How often a signed address is good; then it answers 403, and a new one must be asked for."""
    plain_siblings: bool = False
    """The model's page has no sizes: an endpoint that does not know `blobs=true`."""
    page: int = 50
    """Entries on one page of the tree."""
    lists_at_most: int = 10**9
    """ModelScope's recursive list is cut off after so many entries, without a word."""
    held: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)
    stalled: threading.Event = field(default_factory=threading.Event)


@dataclass
class Seen:
    """One request."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    cookie: str | None
    host: str = ""
    status: int = 0


@dataclass
class LoopbackHub:
    """The running hub: its address, its models (id → file name → bytes), faults, and the requests that came."""

    url: str
    models: dict[str, dict[str, bytes]]
    faults: Faults
    seen: list[Seen] = field(default_factory=list)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    given: int = 0
    """Bytes of large files that went out."""
    promised: int = 0
    """The same, with those that are just going out."""
    dead: bool = False
    cdn_url: str = ""
    signatures: dict[str, int] = field(default_factory=dict)
    """Signed addresses and how often each was used."""

    def sign(self, name: str) -> str:
        """Return a new signed address of a file."""
        with self.lock:
            signature = f"secret{len(self.signatures)}"
            self.signatures[signature] = 0
        return f"{self.cdn_url}/cas/{quote(name)}?X-Signature={signature}&Expires=99"

    def good(self, signature: str) -> bool:
        """Use a signed address once; False when it is used up."""
        with self.lock:
            if signature not in self.signatures:
                return False
            self.signatures[signature] += 1
            return self.signatures[signature] <= self.faults.uses

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


@lru_cache
def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@lru_cache
def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def huggingface_entry(name: str, data: bytes, claimed: int | None, *, plain: bool = False) -> dict[str, object]:
    if plain:
        return {"rfilename": name}
    size = claimed if claimed and is_large(data) else len(data)
    entry: dict[str, object] = {"rfilename": name, "size": size, "blobId": git_sha1(data)}
    if is_large(data):
        entry["lfs"] = {"sha256": sha256(data), "size": size, "pointerSize": 134}
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
        self.seen = Seen(
            self.command,
            self.path,
            headers["Range"],
            headers["Authorization"],
            headers["Cookie"],
            headers["Host"] or "",
        )
        self.hub.seen.append(self.seen)
        faults = self.hub.faults
        if self.hub.dead:
            self.close_connection = True
            return None
        if faults.busy:
            return self.json(503, {"error": "busy"}, body=body)
        if faults.not_json:
            return self.send(200, b"<html>please log in</html>", {"Content-Type": "text/html"}, body=body)
        if faults.forbidden:
            return self.json(403, {"error": "Forbidden", "Code": 403, "Message": "no access"}, body=body)
        if path.startswith("/cas/"):
            return self.signed(path.removeprefix("/cas/"), query, body=body)
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
            faults, plain = self.hub.faults, self.hub.faults.plain_siblings
            entries = [huggingface_entry(name, data, faults.claimed_size, plain=plain) for name, data in files.items()]
            document = {
                "id": match[1],
                "modelId": match[1],
                "sha": COMMIT,
                "private": self.hub.faults.private,
                "gated": False,
            }
            return self.json(200, {**document, "tags": [], "downloads": 1, "siblings": entries}, body=body)
        if tree:
            return self.tree(files, body=body)
        return self.resolve(match, files, body=body)

    def tree(self, files, *, body):
        query = parse_qs(urlsplit(self.path).query)
        start, size = int(query.get("cursor", ["0"])[0]), self.hub.faults.page
        entries = [{"type": "directory", "path": "some", "size": 0, "oid": "0" * 40}]
        for name, data in list(files.items())[start : start + size]:
            entry = {"type": "file", "path": name, "size": len(data), "oid": git_sha1(data)}
            if is_large(data):
                entry["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 134}
            entries.append(entry)
        here = f"{self.hub.url}{self.path.split('?')[0]}"
        more = (
            {"Link": f'<{here}?recursive=true&cursor={start + size}>; rel="next"'} if start + size < len(files) else {}
        )
        return self.json(200, entries, more, body=body)

    def signed(self, name, query, *, body):
        if not self.hub.good(query.get("X-Signature", "")):
            return self.send(403, b"<Error>expired</Error>", {"Content-Type": "application/xml"}, body=body)
        data = next(files[name] for files in self.hub.models.values() if name in files)
        return self.file(data, {"ETag": f'"{sha256(data)}"'}, body=body)

    def resolve(self, match, files, *, body):
        if self.hub.faults.gated:
            error = {"X-Error-Code": "GatedRepo", "X-Error-Message": f"Access to model {match[1]} is restricted."}
            return self.json(401, {"error": "gated"}, error, body=body)
        data = files.get(match[3])
        if data is None or match[3] == self.hub.faults.withholds:
            return self.json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"}, body=body)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{git_sha1(data)}"'}
        if is_large(data):
            headers["X-Linked-Size"] = str(len(data))
            headers["X-Linked-Etag"] = headers["ETag"] = f'"{sha256(data)}"'
            if self.hub.faults.cdn:
                return self.send(302, b"", {**headers, "Location": self.hub.sign(match[3])}, body=body)
        return self.file(data, headers, body=body)

    # ModelScope

    def modelscope(self, rest, query, *, body):
        match = re.fullmatch(r"([^/]+/[^/]+)(/.*)?", rest)
        files = self.hub.models.get(match[1]) if match else None
        if files is None:
            return self.json(404, {"Code": 10010205001, "Success": False, "Message": "not found"}, body=body)
        if query.get("Revision", "master") not in {"master", "v1", COMMIT}:
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
                    "Sha256": sha256(data),
                    "Type": "blob",
                    "IsLFS": is_large(data),
                    "Revision": COMMIT,
                    "Mode": "33188",
                    "CommittedDate": 1700000000,
                }
                for name, data in files.items()
            ]
            entries = self.level(entries, query)
            latest = {"Id": COMMIT, "ShortId": COMMIT[:8], "Message": "files"}
            return self.modelscope_data({"Files": entries, "LatestCommitter": latest}, body=body)
        data = files.get(query.get("FilePath", ""))
        if match[2] != "/repo" or data is None:
            return self.json(404, {"Code": 404, "Success": False, "Message": "no such file"}, body=body)
        return self.file(data, {"Content-Type": "application/octet-stream"}, body=body)

    def level(self, entries, query):
        """What a list shows: everything with Recursive, else one folder and the folders in it."""
        if query.get("Recursive", "").lower() == "true":
            return entries[: self.hub.faults.lists_at_most]
        root = f"{query['Root']}/" if query.get("Root") else ""
        inside = [entry for entry in entries if entry["Path"].startswith(root)]
        here = [entry for entry in inside if "/" not in entry["Path"].removeprefix(root)]
        folders = {entry["Path"].removeprefix(root).split("/")[0] for entry in inside if entry not in here}
        return [
            *here,
            *({"Path": f"{root}{name}", "Name": name, "Type": "tree", "Size": 0} for name in sorted(folders)),
        ]

    def modelscope_data(self, data, *, body):
        return self.json(200, {"Code": 200, "Success": True, "Message": "success", "Data": data}, body=body)

    # answers

    def json(self, status, document, headers=None, *, body):
        self.send(
            status, json.dumps(document).encode(), {"Content-Type": "application/json", **(headers or {})}, body=body
        )

    def send(self, status, data, headers, *, body):
        self.seen.status = status
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
        lie = self.hub.faults.lie_at
        if large and lie is not None and start <= lie < end:
            payload = payload[: lie - start] + bytes([payload[lie - start] ^ 0xFF]) + payload[lie - start + 1 :]
        if body and large and self.hub.take("corrupt"):
            payload = payload[:-1] + bytes([payload[-1] ^ 0xFF])
        self.seen.status = status
        self.send_response(status)
        for name, value in {**headers, "Accept-Ranges": "bytes", "Content-Length": str(len(payload))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.pour(payload, large=large)
        return None

    def pour(self, payload, *, large):
        faults, sent, pace = self.hub.faults, 0, self.hub.faults.bytes_per_second
        cut, stall = (
            after if large and after is not None and len(payload) >= after and self.hub.take(name) else None
            for name, after in (("cuts", faults.cut_after), ("stalls", faults.stall_after))
        )
        while sent < len(payload):
            block = payload[sent : sent + 32768]
            if large and not self.may_give(len(block)):
                self.close_connection = True
                return
            try:
                self.wfile.write(block)
                self.wfile.flush()
            except OSError:
                self.close_connection = True
                return
            sent += len(block)
            if large:
                with self.hub.lock:
                    self.hub.given += len(block)
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

    def may_give(self, count):
        """Tell whether bytes of a large file may go out: not when the hub is dead. Waits where it holds them back."""
        hub, faults = self.hub, self.hub.faults
        with hub.lock:
            hub.promised += count
            if faults.dies_after is not None and hub.promised > faults.dies_after:
                hub.dead = True
            over = faults.hold_after is not None and hub.promised > faults.hold_after
        if hub.dead:
            return False
        while over and not faults.go.is_set():
            faults.held.set()
            if hub.closing.is_set():
                return False
            faults.go.wait(0.05)
        return True


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_words):
        """A client that goes away in the middle is what these tests are about."""


@contextlib.contextmanager
def loopback_hub(
    models: dict[str, dict[str, bytes]], faults: Faults | None = None, protocol: type[Handler] = Handler
) -> Iterator[LoopbackHub]:
    """Serve `models` (id → file name → bytes) until the block ends."""
    handler = type("BoundHandler", (protocol,), {})
    # The second address is another host to a client, on the same machine.
    servers = [Server((address, 0), handler) for address in ("127.0.0.1", "127.0.0.2")]
    own, other = (f"http://{server.server_address[0]}:{server.server_address[1]}" for server in servers)
    hub = LoopbackHub(own, models, faults or Faults(), cdn_url=other)
    handler.hub = hub
    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True) for server in servers
    ]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        hub.closing.set()
        for server, thread in zip(servers, threads, strict=True):
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
