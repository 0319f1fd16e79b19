"""What is wanted, where it may come from, how it is fetched, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Protocol

import msgspec

SourceKind = Literal["origin", "prefix", "host", "modelscope", "hub", "user", "file"]
"""The publisher, a proxy put before its address, a replaced host, ModelScope's copy, a model hub, an address that the
user gave, a file of this machine."""

MIB = 1 << 20


class Source(msgspec.Struct, frozen=True, kw_only=True, repr_omit_defaults=True):
    """One place that has a file.

    Attributes:
        url: an http(s) address; for the kind `file` a path or a file:// address.
        name: how people are told of it; never holds credentials.
        headers: sent to this host alone (a token); never shown, and not sent on when it redirects to another host.
    """

    url: str
    name: str
    kind: SourceKind = "origin"
    headers: tuple[tuple[str, str], ...] = ()

    def __repr__(self) -> str:
        return f"Source({self.name!r}, {self.kind!r})"


class PieceHashes(msgspec.Struct, frozen=True):
    """The SHA-256 of every piece of `size` bytes; the last piece may be shorter."""

    size: int
    sha256: tuple[str, ...]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """A file: its name (shown), its sources in order of trust, and what is known of its bytes.

    `git_sha1` is git's own sum of the file (a blob), used where no SHA-256 is known.
    """

    name: str
    sources: tuple[Source, ...]
    size: int | None = None
    sha256: str | None = None
    pieces: PieceHashes | None = None
    git_sha1: str | None = None


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How hard to try. The defaults suit a good line and a bad one; times are seconds, amounts bytes.

    Attributes:
        connections: at most so many at once, over all sources and files.
        per_source: at most so many at once to one host; fewer where it refuses more, or where more gain nothing.
        piece: the least that one request asks for; more where a connection is fast.
        connect_seconds: patience for a connection.
        stall_seconds: a connection that is silent for so long is cut.
        floor_rate: bytes a second; below it a connection loses its piece to a source that is faster.
        attempts: failures in a row, with not one byte between them, after which a source is given up.
        retry_wait, retry_wait_max: the first pause after a failure (doubled each time) and the longest one.
        retry_after_max: the longest pause that a server may ask for (Retry-After); more gives it up.
        save_seconds: how far the state on disk may lag behind the bytes; never more than 1 MiB, however fast they come.
        reserve: take the room on disk before the first byte.
        spare: bytes that stay free on the disk.
        verbose: say in the progress what each source gives.
        compare: where no hash is known, a file of at most so many bytes is fetched from a second source as well and
            compared; of a larger one that is done with samples, and said.
        compare_seconds: the longest that this may take where the second source is slow; what was compared is said.
        small: files of at most so many bytes are asked for whole, by one request and without a probe.
    """

    connections: int = 32
    per_source: int = 16
    piece: int = MIB
    connect_seconds: float = 10.0
    stall_seconds: float = 20.0
    floor_rate: float = 32_000.0
    attempts: int = 12
    retry_wait: float = 0.25
    retry_wait_max: float = 4.0
    retry_after_max: float = 300.0
    save_seconds: float = 0.2
    reserve: bool = True
    spare: int = 16 * MIB
    verbose: bool = False
    compare: int = 64 * MIB
    compare_seconds: float = 60.0
    small: int = MIB


class Transport(msgspec.Struct, frozen=True, kw_only=True):
    """How the network is reached. What is not given comes from the environment, as requests reads it.

    Attributes:
        proxy: for every source, also on this machine itself; may hold a password.
        cert: a file of certificates to trust.
        client_cert: our own certificate and key in one file.
        trusted_hosts: hosts (or host:port) whose certificates are not checked.
    """

    proxy: str | None = None
    cert: str | None = None
    client_cert: str | None = None
    trusted_hosts: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Transport(proxy={'***' if self.proxy else None}, trusted_hosts={self.trusted_hosts!r})"


class Share(msgspec.Struct, frozen=True):
    """How many of the file's bytes a source gave, over all runs."""

    source: str
    bytes: int


class Dropped(msgspec.Struct, frozen=True):
    """A source that was given up, and why; `banned` where its bytes were wrong."""

    source: str
    reason: str
    banned: bool = False


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is in place.

    Attributes:
        sha256: of the bytes in place.
        hash_known: it was held against a hash that was known before; False was said loudly.
        bytes: came over the network in this run, also those that were thrown away.
        resumed: were there from an earlier run and were kept.
        reused: the file was in place already.
    """

    path: Path
    size: int
    sha256: str
    hash_known: bool
    bytes: int = 0
    resumed: int = 0
    shares: tuple[Share, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    reused: bool = False


class Consumer(Protocol):
    """Takes the bytes while they arrive (an unpacker). Called from one thread at a time; must not block for long."""

    def advance(self, partial: Path, frontier: int) -> None:
        """Bytes [0, frontier) of `partial` are there, in order; not yet verified as a whole."""

    def restart(self) -> None:
        """What was handed over may be wrong (the object changed, a source lied): begin again at byte 0."""

    def finish(self) -> None:
        """The whole file was handed over and its hash held; the file still has its partial name."""

    def abort(self) -> None:
        """The fetch failed; leave nothing behind."""
