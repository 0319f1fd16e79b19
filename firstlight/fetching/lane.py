"""A source of one file while it is fetched: what object it has, how it behaves, how many connections it gets."""

from __future__ import annotations

import time

from firstlight.fetching.state import Origin, key_of
from firstlight.fetching.transport import host_of
from firstlight.fetching.trouble import WEB_PAGE, Refused
from firstlight.fetching.types import Dropped, Policy, Source

_NOTHING_THERE = frozenset(
    {
        "connection refused",
        "its name is unknown",
        "no answer",
        "the network is unreachable",
        "the proxy cannot be reached",
    }
)
_NEVER_SEEN = 2.0  # seconds before a place where nobody has answered yet is asked again
_HOLD = 4.0  # seconds before one more connection is tried where one was refused


def _is_silence(reason: str) -> bool:
    return reason in _NOTHING_THERE or reason.startswith("silent")


class Lane:
    """The live state of one source. Guarded by the lock of the file's ledger."""

    def __init__(self, source: Source, owner: int, policy: Policy) -> None:
        self.source = source
        self.owner = owner
        self.policy = policy
        self.host = host_of(source.url)
        self.key = key_of(source.url)
        self.url = source.url
        """Where it redirected to, so that not every piece asks for the way again."""
        self.length: int | None = None
        self.etag = ""
        self.modified = ""
        self.probed = False
        self.ranged = False
        self.admitted = False
        """It has the object that is being fetched."""
        self.dropped: Dropped | None = None
        self.trouble = ""
        """Why it is not answering just now."""
        self.failures = 0
        self.blocked_until = 0.0
        self.want = 0
        self.held_until = 0.0
        self.hold = _HOLD
        self.working = 0
        """Connections that are at it."""
        self.flowing = 0
        """Those of them whose bytes are coming."""
        self.rate = 0.0
        """Bytes a second of one connection, smoothed."""
        self.total_rate = 0.0
        self.latency = 0.02
        self.plain = False
        """It gives parts only where no condition (If-Range) comes with the question."""
        self.changes = 0
        self.fickle = False
        """Its ETag is another one at each answer, as of several machines behind one name: it says nothing."""
        self._round = 0.0

    @property
    def name(self) -> str:
        """How people are told of it."""
        return self.source.name

    @property
    def validator(self) -> str:
        """What makes a server give the rest only of the same object; empty: it has nothing that is strong enough.

        Source: RFC 9110, section 13.1.5 (If-Range takes a strong entity tag or a date).
        """
        if self.fickle:
            return ""
        if self.etag:
            return "" if self.etag.startswith("W/") else self.etag
        return self.modified

    @property
    def usable(self) -> bool:
        """Tell whether it may still give bytes."""
        return self.dropped is None

    def ready(self, now: float) -> bool:
        """Tell whether it may be asked now."""
        return self.dropped is None and now >= self.blocked_until

    def origin(self) -> Origin:
        """Return what is kept of it on disk."""
        return Origin(self.key, self.name, self.etag, self.modified)

    def drop(self, reason: str, *, banned: bool = False) -> None:
        """Give it up."""
        if self.dropped is None or banned:
            self.dropped = Dropped(self.name, reason, banned)

    def alive(self) -> None:
        """Take note that bytes came."""
        self.failures = 0
        self.trouble = ""

    def failed(self, trouble: Refused, began: float) -> None:
        """Take a failure of a request that began at `began`, and decide when the next may be sent.

        Several connections that fail together are one failure; a refusal while others get their bytes only says that
        these are as many as it allows.
        """
        now = time.monotonic()
        self.trouble = trouble.reason
        if trouble.lasting:
            self.drop(trouble.reason)
            return
        if trouble.busy and self.flowing > 0:
            self.want = max(1, self.flowing)
            self.held_until = now + max(self.hold, trouble.wait or 0.0)
            self.hold = min(self.hold * 2, 60.0)
            return
        if began < self._round:
            return
        self._round = now
        self.failures += 6 if trouble.reason == WEB_PAGE else 3 if _is_silence(trouble.reason) else 1
        if self.failures >= self.policy.attempts:
            self.drop(f"{trouble.reason}, again and again" if self.policy.attempts > 1 else trouble.reason)
            return
        wait = min(self.policy.retry_wait * 2 ** (self.failures - 1), self.policy.retry_wait_max)
        if not self.probed and _is_silence(trouble.reason):
            wait = min(wait, _NEVER_SEEN)  # it has never answered: most likely it never will
        if trouble.wait is not None:
            if trouble.wait > self.policy.retry_after_max:
                self.drop(f"{trouble.reason}; it asks us to come back in {trouble.wait:.0f} s")
                return
            wait = trouble.wait
        self.want = 1
        self.blocked_until = now + wait
