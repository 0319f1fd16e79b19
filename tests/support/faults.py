"""What can be wrong with an HTTP server, one field per fault; they combine. Byte counts are of bodies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Please log in to the network.</body></html>"


@dataclass(frozen=True)
class Faults:
    """How one address misbehaves. The defaults are a server without fault that knows Range, ETag and If-Range."""

    # whole answers
    failing: int = 0
    """So many requests are answered with `status` before the file is given; -1: all of them."""
    status: int = 503
    retry_after: str | None = None
    """The Retry-After header of those answers: seconds or a date."""
    missing: bool = False
    """404, always."""
    html: bool = False
    """A login page with status 200 in place of the file."""
    html_first: int = 0
    """The login page for so many requests, then the file."""
    redirect: str | None = None
    """Where to; "loop" means to itself, "relative" to `?hop=N` counting up without an end."""
    redirect_status: int = 302
    max_connections: int | None = None
    """More answers than this at the same time get `over`."""
    over: Literal["503", "429", "reset", "wait"] = "503"
    requires: tuple[tuple[str, str], ...] = ()
    """Headers without which the answer is 401."""
    expires_after: int | None = None
    """403 after so many requests, as a signed address does."""

    # connections
    dies_after: int | None = None
    """After so many bytes of this address, over all answers, every connection is reset and none answered again."""
    hangs: bool = False
    """Takes the request and never answers."""
    hang_after: int | None = None
    """Goes silent in the middle of an answer when this address has given so many bytes, and in every later answer."""
    hang_once: int | None = None
    """One answer goes silent at this byte of the file; later answers are whole."""
    reset_every: int | None = None
    """Resets each connection when it has carried so many bytes."""
    bytes_per_second: int | None = None
    """Of each connection."""
    total_bytes_per_second: int | None = None
    """Of the address, over all its connections."""
    http10: bool = False
    """HTTP/1.0: the connection is closed after each answer."""

    # ranges
    no_range: bool = False
    """Range is ignored, and Accept-Ranges says `none`."""
    drops_range: bool = False
    """Range is ignored as by a proxy on the way: Accept-Ranges still says `bytes`."""
    drops_range_above: int | None = None
    """Range is ignored when more bytes than this are asked for."""
    drops_range_after: int | None = None
    """Range is ignored from this request of the address on."""
    content_range: Literal["right", "shifted", "total", "missing", "garbage", "asked_only"] = "right"
    """`shifted`: header and bytes are 1000 further on. `asked_only`: the header is what was asked, the bytes are
    1000 further on. `total`: the whole is told to be 1000 longer."""
    multipart: bool = False
    """206 with multipart/byteranges, also for one range."""
    status_200: bool = False
    """The range is honoured, with status 200 and no Content-Range."""
    ignores_if_range: bool = False

    # lengths
    short_by: int = 0
    """Each body ends so many bytes before the said length (small ones do not: nobody could get those)."""
    long_by: int = 0
    """So many bytes come after the said length."""
    smaller_by: int = 0
    """The file is told to be so many bytes smaller, and that is all that is given (negative: larger, with zeros)."""
    head: Literal["right", "refused", "no_length"] = "right"
    length: Literal["right", "chunked", "close"] = "right"
    """`chunked`: chunked transfer coding. `close`: no length, the end of the connection is the end of the file."""

    # bytes
    corrupt: tuple[int, ...] = ()
    """Offsets in the file whose bytes are wrong."""
    corrupt_seed: int = 0xFF
    """What the wrong bytes are XORed with: two liars that agree have the same, others a different one."""
    gzip: Literal["no", "always", "accepted"] = "no"
    """Content-Encoding: gzip of the whole file; Range is ignored."""
    changes_after: int | None = None
    """When this address has given so many bytes, it serves `Route.next` from the next request on."""
    etag: Literal["strong", "weak", "none", "changing"] = "strong"
    """`changing`: another one at each answer, as of machines behind one name."""
    quiet: bool = False
    """A changed file keeps its ETag and its Last-Modified."""
    last_modified: bool = True
