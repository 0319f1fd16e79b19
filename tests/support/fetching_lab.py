"""A laboratory for downloads: servers with faults on hosts of their own, one folder, and fetching into it."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random

from support.faulty_server import faulty_server

from firstlight.events import Note, Step
from firstlight.fetching.fetch import fetch
from firstlight.fetching.state import key_of, load
from firstlight.fetching.types import Policy, Source, Wanted

PIECE = 1 << 17
SIZE = 4 << 20
DATA = random.Random(1).randbytes(SIZE)
OTHER = random.Random(2).randbytes(SIZE)
SHA256 = hashlib.sha256(DATA).hexdigest()
EVERYWHERE = tuple(range(100, SIZE, 1 << 14))  # a wrong byte in whatever part is taken
POLICY = {
    "connections": 12,
    "per_source": 3,
    "piece": PIECE,
    "stall_seconds": 30.0,
    "retry_wait": 0.02,
    "retry_wait_max": 0.1,
    "spare": 0,
}
HASTY = {"attempts": 3}  # gives a source up soon that fails; it never takes a slow machine for a source that fails
SILENT = {"stall_seconds": 2.0, "connect_seconds": 2.0, "attempts": 3}  # where silence itself is what is shown


class Lab:
    """Servers on hosts of their own, one folder, and fetching into it."""

    def __init__(self, stack, tmp_path):
        self.stack, self.hosts = stack, itertools.count(1)
        self.folder = tmp_path / "files"
        self.folder.mkdir()
        self.target = self.folder / "file.bin"
        self.said, self.waiting = [], []

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
            for condition, action in list(self.waiting):
                if condition():
                    action()

        return Step(hear, "fetch", "fetch")

    def when(self, condition, action):
        """Act as soon as something holds, looked at several times a second while a download tells of itself."""
        self.waiting.append((condition, action))

    def state(self):
        """What the state on disk says, or None."""
        return load(self.folder / "file.bin.partial.json")

    def kept(self, route=None):
        """How many bytes the state on disk has, of one source or of all."""
        state = self.state()
        runs = state.runs if state else []
        return sum(end - at for at, end, owner in runs if not route or state.origins[owner].key == key_of(route.url))

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
    """Run again when the fault is over: the right file, and no byte that was kept is asked for again."""
    for route in routes:
        mend(route)
    with only_the_rest(lab, *routes) as there:
        fetched = lab.fetch(*routes)
    in_place(lab, fetched)
    assert fetched.resumed == there
    assert (there > 0) == kept
    return fetched


@contextlib.contextmanager
def only_the_rest(lab, *routes):
    """In this block no request asks for what is kept on disk at its beginning; yields how many bytes that is."""
    runs, before = kept_runs(lab.folder), [len(route.seen) for route in routes]
    yield sum(end - start for start, end in runs)
    seen = [one for route, count in zip(routes, before, strict=True) for one in route.seen[count:]]
    assert seen
    assert not asked_again(runs, [one.headers.get("range") for one in seen])


def kept_runs(folder):
    """The bytes [start, end) that the one broken-off download under a folder has kept; none where there is none."""
    states = [state for path in folder.rglob("*.partial.json") if (state := load(path)) is not None and state.runs]
    assert len(states) <= 1
    return [(start, end) for state in states for start, end, _owner in state.runs]


def asked_again(runs, ranges):
    """Those Range headers, of one file's requests, that ask for bytes of these runs; a probe of one byte asks for none.

    This is what "goes on where it stopped" means. Bytes that a server sent say less: a slow connection's piece is asked
    for a second time, and what is left in buffers was sent too.
    """
    again = []
    for asked in ranges:
        first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        pair = int(first), int(last) if last else 1 << 62
        if pair != (0, 0) and any(start <= pair[1] and pair[0] < end for start, end in runs):
            again.append(asked)
    return again


def late(lab, good, *liars):
    """Every answer stands still until bytes of all liars are written: however slow anything is, they are in the file.

    What a liar gives first is enough to be wrong (EVERYWHERE). It may be banned before: then the good ones go on too.
    """
    holds = [route.hold(1) for route in good] + [route.hold(PIECE) for route in liars if len(liars) > 1]

    def go():
        for hold in holds:
            hold.go.set()

    lab.when(lambda: all(lab.kept(liar) >= PIECE // 2 for liar in liars) or "wrong bytes" in lab.loud(), go)
