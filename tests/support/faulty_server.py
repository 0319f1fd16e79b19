"""An HTTP server on a loopback address that gives files fast and misbehaves as told (`faults.py`), address by address.

with faulty_server() as server:
    good = server.add("/a/file.bin", data)
    bad = server.add("/b/file.bin", data, Faults(dies_after=1 << 20))
    ... fetch good.url, bad.url ...
    assert good.requests("GET") == 3 and bad.given >= 1 << 20
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from support.faults import HTML, Faults
from support.faulty_route import Content, Gone, Route, Seen

BLOCK = 1 << 18


class Handler(BaseHTTPRequestHandler):
    server: FaultyServer
    protocol_version = "HTTP/1.1"
    timeout = 120
    wbufsize = 0
    disable_nagle_algorithm = True

    def setup(self):
        self.carried = 0
        super().setup()
        if self.server.congestion:
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, self.server.congestion.encode())

    def log_message(self, *_words):
        pass

    def do_GET(self):
        self.answer(body=True)

    def do_HEAD(self):
        self.answer(body=False)

    def answer(self, *, body):
        path = self.path if self.path.startswith("/") else urlsplit(self.path).path
        if path == "/-/seen":
            return self.plain(200, json.dumps(self.server.report()).encode())
        route = self.server.routes.get(path) or self.server.routes.get(path.split("?")[0])
        seen = Seen(self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        with self.server.lock:
            self.server.seen.append(seen)
            (route.seen if route else self.server.strays).append(seen)
        if route is None:
            return self.plain(404, b"no such file", seen=seen)
        if route.faults.http10:
            self.protocol_version, self.close_connection = "HTTP/1.0", True
        try:
            with self.place(route, seen) as given:
                if given:
                    self.serve(route, seen, body=body)
        except Gone:
            with contextlib.suppress(OSError):
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
            self.close_connection = True
        except OSError:
            self.close_connection = True
        return None

    @contextlib.contextmanager
    def place(self, route, seen):
        """One of the places that the address has for answers; False where there is none."""
        faults, most = route.faults, route.faults.max_connections
        with route.lock:
            if most is not None and faults.over == "wait":
                route.lock.wait_for(lambda: route.answering < most or self.server.closing.is_set(), 60)
            full = most is not None and route.answering >= most
            if not full:
                route.answering += 1
                route.most_at_once = max(route.most_at_once, route.answering)
        try:
            if full and faults.over == "reset":
                raise Gone
            if full:
                self.plain(int(faults.over), b"too many connections", self.retry(faults), seen=seen)
            yield not full
        finally:
            with route.lock:
                route.answering -= not full
                route.lock.notify_all()

    @staticmethod
    def retry(faults):
        return {"Retry-After": faults.retry_after} if faults.retry_after is not None else {}

    def plain(self, status, data, headers=None, *, seen=None, kind="text/plain"):
        if seen is not None:
            seen.status = status
        self.send_response(status)
        for name, value in {"Content-Type": kind, **(headers or {}), "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def serve(self, route, seen, *, body):
        faults = route.faults
        if route.dead:
            raise Gone
        if faults.hangs:
            self.server.closing.wait(120)
            raise Gone
        if any(seen.headers.get(name.lower()) != value for name, value in faults.requires):
            return self.plain(401, b"who are you?", seen=seen)
        if faults.expires_after is not None and not route.take("expires", faults.expires_after):
            return self.plain(403, b"the signature has expired", seen=seen)
        if faults.missing:
            return self.plain(404, b"not found", seen=seen)
        if faults.failing and route.take("failing", faults.failing):
            return self.plain(faults.status, b"not now", self.retry(faults), seen=seen)
        if faults.redirect:
            return self.plain(faults.redirect_status, b"", {"Location": self.location(faults.redirect)}, seen=seen)
        if faults.html or (faults.html_first and route.take("html", faults.html_first)):
            return self.plain(200, HTML, seen=seen, kind="text/html; charset=utf-8")
        if not body and faults.head == "refused":
            return self.plain(405, b"", seen=seen)
        return self.file(route, seen, body=body)

    def location(self, target):
        if target == "loop":
            return self.path
        if target == "relative":
            hop = re.search(r"hop=(\d+)", self.path)
            return f"?hop={int(hop[1]) + 1 if hop else 1}"
        return target

    def file(self, route, seen, *, body):
        faults, content = route.faults, route.content
        size = content.size - faults.smaller_by
        headers = {"Content-Type": "application/octet-stream", **self.identity(route, content)}
        if faults.gzip == "always" or (faults.gzip == "accepted" and "gzip" in seen.headers.get("accept-encoding", "")):
            packed = content.packed
            headers["Content-Encoding"] = "gzip"
            return self.pour(route, seen, Content(packed), 0, len(packed), {**headers}, 200, body=body)
        if not faults.no_range:
            headers["Accept-Ranges"] = "bytes"
        start, end, status = self.asked(route, seen, content, size)
        if status == 416:
            return self.plain(416, b"", {"Content-Range": f"bytes */{size}"}, seen=seen)
        if status == 206 and faults.multipart:
            return self.multipart(route, seen, content, start, end, size)
        if status == 206:
            moved = 1000 if faults.content_range == "shifted" and end + 1000 <= size else 0
            start, end = start + moved, end + moved
            told = {
                "right": f"bytes {start}-{end - 1}/{size}",
                "shifted": f"bytes {start}-{end - 1}/{size}",
                "asked_only": f"bytes {start}-{end - 1}/{size}",
                "total": f"bytes {start}-{end - 1}/{size + 1000}",
                "garbage": "octets, some",
                "missing": None,
            }[faults.content_range]
            if faults.content_range == "asked_only" and end + 1000 <= size:
                start, end = start + 1000, end + 1000
            if faults.status_200:
                status = 200
            elif told is not None:
                headers["Content-Range"] = told
        return self.pour(route, seen, content, start, end, headers, status, body=body)

    def identity(self, route, content):
        faults, headers = route.faults, {}
        if faults.etag == "strong":
            headers["ETag"] = content.etag
        elif faults.etag == "weak":
            headers["ETag"] = f"W/{content.etag}"
        elif faults.etag == "changing":
            headers["ETag"] = f'"{len(route.seen)}-{content.size}"'
        if faults.last_modified:
            headers["Last-Modified"] = content.modified
        return headers

    def asked(self, route, seen, content, size):
        """The bytes [start, end) to give, and the status."""
        faults, pair, number = route.faults, seen.range, len(route.seen)
        if pair is None or faults.no_range or faults.drops_range:
            return 0, size, 200
        start, end = pair[0], size if pair[1] is None else min(pair[1] + 1, size)
        if faults.drops_range_above is not None and end - start > faults.drops_range_above:
            return 0, size, 200
        if faults.drops_range_after is not None and number > faults.drops_range_after:
            return 0, size, 200
        condition = seen.headers.get("if-range")
        if condition is not None and not faults.ignores_if_range:
            known = self.identity(route, content)
            strong = condition == known.get("ETag") and not condition.startswith("W/")
            if not strong and condition != known.get("Last-Modified"):
                return 0, size, 200
        return (start, end, 206) if start < size else (0, 0, 416)

    def multipart(self, route, seen, content, start, end, size):
        head = (
            f"--cut\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {start}-{end - 1}/{size}\r\n\r\n"
        )
        data = head.encode() + bytes(content.view[start:end]) + b"\r\n--cut--\r\n"
        kind = {"Content-Type": "multipart/byteranges; boundary=cut", **self.identity(route, content)}
        return self.pour(route, seen, Content(data), 0, len(data), kind, 206, body=True)

    def pour(self, route, seen, content, start, end, headers, status, *, body):
        """Send the head and the bytes [start, end) of the content."""
        faults, seen.status = route.faults, status
        known = {"Content-Length": str(end - start)} if body or faults.head == "right" else {}
        length = {"chunked": {"Transfer-Encoding": "chunked"}, "close": {"Connection": "close"}, "right": known}
        self.send_response(status)
        for name, value in {**headers, **length[faults.length]}.items():
            self.send_header(name, value)
        self.end_headers()
        if faults.length == "close" or faults.short_by:
            self.close_connection = True
        if not body:
            return
        short = faults.short_by if end - start > 2 * faults.short_by else 0
        for at, block in self.blocks(route, content, start, end - short):
            self.limits(route, at)
            if (wait := route.turn(len(block))) > 0 and self.server.closing.wait(wait):
                raise Gone
            self.put(route, seen, block, chunked=faults.length == "chunked")
        if faults.length == "chunked":
            self.wfile.write(b"0\r\n\r\n")
        if faults.long_by:
            self.wfile.write(b"\xee" * faults.long_by)

    def blocks(self, route, content, start, end):
        """The bytes in blocks, small where something is to happen at a byte, the wrong ones changed."""
        faults, rate = route.faults, route.faults.bytes_per_second
        slowest = min(filter(None, (rate, faults.total_bytes_per_second)), default=0)
        size = max(1024, min(BLOCK, slowest // 50)) if slowest else BLOCK
        if route.holds or route.watches:
            size = min(size, 1 << 14)
        if faults.reset_every or faults.hang_once is not None or faults.dies_after or faults.hang_after:
            size = min(size, 1 << 14)
        began, sent = time.monotonic(), 0
        for at in range(start, end, size):
            stop = min(at + size, end)
            block = content.view[at:stop]
            if len(block) < stop - at:
                block = bytes(block) + bytes(stop - at - len(block))
            wrong = [offset for offset in faults.corrupt if at <= offset < stop]
            if wrong:
                changed = bytearray(block)
                for offset in wrong:
                    changed[offset - at] ^= faults.corrupt_seed
                block = changed
            yield at, block
            sent += stop - at
            if rate and (ahead := sent / rate - (time.monotonic() - began)) > 0 and self.server.closing.wait(ahead):
                raise Gone

    def limits(self, route, at):
        """Do what is to happen before the block at this byte."""
        faults = route.faults
        route.stand_still()
        if route.dead or self.server.closing.is_set():
            raise Gone
        if faults.reset_every is not None and self.carried >= faults.reset_every:
            raise Gone
        silent = faults.hang_after is not None and route.given >= faults.hang_after
        if faults.hang_once is not None and at >= faults.hang_once and route.take("hang_once", 1):
            silent = True
        if silent:
            self.server.closing.wait(120)
            raise Gone

    def put(self, route, seen, block, *, chunked):
        if chunked:
            self.connection.sendall(b"%x\r\n" % len(block))
        self.connection.sendall(block)
        if chunked:
            self.connection.sendall(b"\r\n")
        self.carried += len(block)
        seen.given += len(block)
        route.count(len(block))


class FaultyServer(ThreadingHTTPServer):
    """The running server: its address, its routes, and every request that came."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, host: str = "127.0.0.1", port: int = 0, congestion: str = "") -> None:
        super().__init__((host, port), Handler)
        self.url = f"http://{host}:{self.server_address[1]}"
        self.congestion = congestion
        self.routes: dict[str, Route] = {}
        self.seen: list[Seen] = []
        self.strays: list[Seen] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()

    def handle_error(self, *_words: object) -> None:
        """A client that goes away in the middle is what these tests are about."""

    def add(self, path: str, data: bytes | Path, faults: Faults | None = None, *, then: bytes | None = None) -> Route:
        """Serve `data` at `path`; `then` is what it may change to."""
        following = Content(then, 1) if then is not None else None
        route = Route(path, self.url + path, Content(data), faults or Faults(), following)
        self.routes[path] = route
        return route

    def heal(self, route: Route, **changes: object) -> None:
        """Give an address other faults (none: no fault), with its counts begun anew."""
        route.faults = replace(Faults(), **changes)  # type: ignore[arg-type]
        route.used, route.dead = {}, False

    def report(self) -> dict[str, dict[str, object]]:
        """What went on so far, for a program that runs this one."""
        return {
            route.path: {
                "requests": route.requests(),
                "gets": route.requests("GET"),
                "ranged": len(route.ranges()),
                "given": route.given,
                "most_at_once": route.most_at_once,
            }
            for route in self.routes.values()
        }


@contextlib.contextmanager
def faulty_server(host: str = "127.0.0.1", port: int = 0, congestion: str = "") -> Iterator[FaultyServer]:
    """Serve until the block ends; 127.0.0.2 and on are other hosts."""
    server = FaultyServer(host, port, congestion)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()
