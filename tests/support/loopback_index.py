"""A PEP 503 package index on 127.0.0.1 that misbehaves on request, and wheels made on the spot.

It also serves plain files (a conda channel, a find-links page), with the same faults.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import socketserver
import threading
import time
import urllib.parse
import zipfile
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path


def make_wheel(
    name: str,
    version: str,
    *,
    requires: tuple[str, ...] = (),
    files: Mapping[str, bytes] | None = None,
    tag: str = "py3-none-any",
) -> tuple[str, bytes]:
    """A valid wheel with a module of its name: its file name and its bytes."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    members = {
        f"{module}/__init__.py": f'VERSION = "{version}"\n'.encode(),
        **(files or {}),
        f"{info}/METADATA": "\n".join(
            [
                "Metadata-Version: 2.1",
                f"Name: {name}",
                f"Version: {version}",
                *(f"Requires-Dist: {r}" for r in requires),
            ]
        ).encode()
        + b"\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n".encode(),
    }
    record = []
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for path, content in members.items():
            archive.writestr(path, content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            record.append(f"{path},sha256={digest},{len(content)}")
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,", ""]))
    return f"{module}-{version}-{tag}.whl", buffer.getvalue()


class LoopbackIndex:
    """What the server holds and how it misbehaves.

    `faults` maps the end of a path to what happens to a GET of it: `404`, `500` …, `hang` (never answers), `stall`
    (half the body, then nothing), `cut` (half the body, then the connection closes), `corrupt` (one byte differs),
    `slow`. The last four leave requests for a range alone, as small reads pass where long transfers break;
    `always-slow` does not. `head-405` … answers HEAD alone so. With `password` (`user:password`) every
    request has to carry it.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.wheels: dict[str, dict[str, bytes]] = {}
        self.folders: dict[str, Path] = {}
        self.faults: dict[str, str] = {}
        self.hashes: dict[str, str] = {}
        self.with_hashes = True
        self.password: str | None = None
        self.requests: list[str] = []
        self.closing = threading.Event()
        self.url = ""

    def add(self, name: str, version: str, **options: object) -> str:
        """Put a new wheel into the index; returns its sha256."""
        filename, content = make_wheel(name, version, **options)  # type: ignore[arg-type]
        self.wheels.setdefault(name, {})[filename] = content
        return hashlib.sha256(content).hexdigest()

    @property
    def simple(self) -> str:
        """The index URL."""
        return f"{self.url}/simple"

    def body(self, path: str) -> bytes | None:
        """The bytes that lie at `path`, None where nothing is."""
        parts = [part for part in path.split("/") if part]
        if path in self.files:
            return self.files[path]
        if len(parts) == 2 and parts[0] == "simple" and parts[1] in self.wheels:
            return self.page(parts[1])
        if len(parts) == 2 and parts[0] == "files":
            return next((held[parts[1]] for held in self.wheels.values() if parts[1] in held), None)
        for mount, folder in self.folders.items():
            target = folder / path[len(mount) :].lstrip("/")
            if path.startswith(mount) and target.is_file():
                return target.read_bytes()
        return None

    def page(self, name: str) -> bytes:
        """The PEP 503 page of a project."""
        links = []
        for filename, content in self.wheels[name].items():
            digest = self.hashes.get(filename, hashlib.sha256(content).hexdigest())
            fragment = f"#sha256={digest}" if self.with_hashes else ""
            links.append(f'<a href="/files/{urllib.parse.quote(filename)}{fragment}">{filename}</a><br>')
        return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>".encode()

    def fault(self, path: str) -> str | None:
        """How a GET of `path` misbehaves."""
        return next((fault for end, fault in self.faults.items() if path.rstrip("/").endswith(end.rstrip("/"))), None)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        index = self.server.index
        path = urllib.parse.unquote(self.path.partition("?")[0])
        index.requests.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        fault = index.fault(path)
        if fault is not None and fault.startswith("head-"):
            fault = None if with_body else fault[5:]
        expected = base64.b64encode((index.password or "").encode()).decode()
        if index.password is not None and self.headers.get("Authorization") != f"Basic {expected}":
            self._send(401, b"who are you\n", with_body)
            return
        if fault == "hang":
            index.closing.wait(120)
            self.close_connection = True
            return
        body = index.body(path)
        if fault is not None and fault.isdigit():
            self._send(int(fault), b"fault\n", with_body)
        elif body is None:
            self._send(404, b"nothing here\n", with_body)
        elif fault == "corrupt" and not self.headers.get("Range"):
            middle = len(body) // 2
            self._send(200, body[:middle] + bytes([body[middle] ^ 0xFF]) + body[middle + 1 :], with_body)
        else:
            always = fault is not None and fault.startswith("always-")
            fault = fault[7:] if always and fault is not None else None if self.headers.get("Range") else fault
            self._send(200, body, with_body, fault)

    def _send(self, status: int, body: bytes, with_body: bool, fault: str | None = None) -> None:
        begin, end = 0, len(body)
        wanted = self.headers.get("Range", "")
        if status == 200 and wanted.startswith("bytes=") and fault is None:
            first, _, last = wanted[6:].partition("-")
            begin = int(first) if first else max(0, end - int(last))
            end = min(end, int(last) + 1) if first and last else end
            status = 206
        self.send_response(status)
        kind = "text/html" if b"<html>" in body[:64] else "application/octet-stream"
        kind = "application/vnd.pypi.simple.v1+json" if body.startswith(b'{"meta"') else kind
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(end - begin))
        self.send_header("Accept-Ranges", "bytes")
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(body)}")
        self.end_headers()
        if with_body:
            self._write(body[begin:end], fault)

    def _write(self, body: bytes, fault: str | None) -> None:
        if fault in {"cut", "stall"}:
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "stall":
                self.server.index.closing.wait(120)
            self.close_connection = True
        elif fault == "slow":
            for start in range(0, len(body), max(1, len(body) // 20)):
                self.wfile.write(body[start : start + max(1, len(body) // 20)])
                self.wfile.flush()
                if self.server.index.closing.wait(0.15):
                    return
        else:
            self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        pass


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64
    index: LoopbackIndex

    def handle_error(self, *_args: object) -> None:
        """A client that goes away is no news."""


@contextlib.contextmanager
def serve() -> Iterator[LoopbackIndex]:
    """Run the index on a free port of 127.0.0.1."""
    index = LoopbackIndex()
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.index = index
        index.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield index
        finally:
            index.closing.set()
            server.shutdown()
            thread.join()
            time.sleep(0)
