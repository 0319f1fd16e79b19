"""A laboratory for downloads: servers with faults on hosts of their own, one folder, and fetching into it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import threading

from support.faulty_server import faulty_server

from firstlight.events import Note, Step
from firstlight.fetching.fetch import fetch
from firstlight.fetching.types import Policy, Source, Wanted

PIECE = 1 << 17
SIZE = 4 << 20
DATA = random.Random(1).randbytes(SIZE)
OTHER = random.Random(2).randbytes(SIZE)
SHA256 = hashlib.sha256(DATA).hexdigest()
EVERYWHERE = tuple(range(100, SIZE, 1 << 14))  # a wrong byte in whatever part is taken
POLICY = {
    "connections": 6,
    "per_source": 3,
    "piece": PIECE,
    "stall_seconds": 30.0,
    "retry_wait": 0.02,
    "retry_wait_max": 0.1,
    "spare": 0,
}
IMPATIENT = {"stall_seconds": 1.0, "connect_seconds": 1.0, "attempts": 3}
SLACK = 6 * PIECE  # what may be under way on every connection when a download ends


class Lab:
    """Servers on hosts of their own, one folder, and fetching into it."""

    def __init__(self, stack, tmp_path):
        self.stack, self.hosts = stack, itertools.count(1)
        self.folder = tmp_path / "files"
        self.folder.mkdir()
        self.target = self.folder / "file.bin"
        self.said = []

    def mirror(self, faults=None, data=DATA, then=None, path="/file.bin"):
        """An address on a new server at a new host, with these faults."""
        server = self.stack.enter_context(faulty_server(f"127.0.0.{next(self.hosts)}"))
        route = server.add(path, data, faults, then=then)
        route.server = server
        return route

    def step(self):
        def hear(event):
            if isinstance(event, Note):
                self.said.append(event)

        return Step(hear, "fetch", "fetch")

    def wanted(self, *routes, sha256=SHA256, size=None, pieces=None, name="file.bin", headers=()):
        names = ["first", "second", "third", "fourth"]
        sources = tuple(
            Source(url=route.url, name=names[at], kind="user", headers=headers) for at, route in enumerate(routes)
        )
        return Wanted(name=name, sources=sources, size=size, sha256=sha256, pieces=pieces)

    def fetch(self, *routes, policy=None, transport=None, **more):
        return fetch(
            self.wanted(*routes, **more),
            self.target,
            step=self.step(),
            policy=Policy(**{**POLICY, **(policy or {})}),
            transport=transport,
        )

    def left(self):
        """What lies in the folder."""
        return sorted(path.name for path in self.folder.iterdir())

    def loud(self):
        """What was said loudly."""
        return " ".join(note.text for note in self.said if note.level == "warn")


@contextlib.contextmanager
def lab_in(tmp_path, monkeypatch):
    """A lab, with no proxy of the environment in the way."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with contextlib.ExitStack() as stack:
        yield Lab(stack, tmp_path)


def in_place(lab, fetched, data=DATA):
    """The file is in place, whole, and alone."""
    assert lab.target.read_bytes() == data
    assert lab.left() == ["file.bin"], lab.left()
    assert (fetched.path, fetched.size, fetched.sha256) == (lab.target, len(data), hashlib.sha256(data).hexdigest())


def mend(route, **changes):
    """The fault is over; returns what the address has given so far."""
    route.server.heal(route, **changes)
    return route.given


def finish_what_is_left(lab, *routes, kept=True):
    """Run again when the fault is over: the right file, and only what was missing is asked for."""
    before = sum(mend(route) for route in routes)
    fetched = lab.fetch(*routes)
    in_place(lab, fetched)
    assert (fetched.resumed > 0) == kept
    assert sum(route.given for route in routes) - before <= SIZE - fetched.resumed + SLACK
    return fetched


def late(good, bad, given=2 * PIECE):
    """The good ones stand still until the bad one has given so many bytes."""
    holds = [route.hold(1) for route in good]

    def go():
        for hold in holds:
            hold.go.set()

    bad.at(given, go)
    timer = threading.Timer(10, go)  # it may be banned before it has given so much
    timer.daemon = True
    timer.start()
