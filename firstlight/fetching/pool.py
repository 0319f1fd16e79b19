"""What several downloads of one command share: connections, kept alive and counted, in all and by host."""

from __future__ import annotations

import os
import threading

from firstlight.fetching.transport import Client, Known
from firstlight.fetching.types import Policy, Transport

RATES = "FIRSTLIGHT_RATES"
"""Names the variable by which a person asks, in any command, what each source gives."""
_LOOK = 0.1  # seconds between two looks for a place


class Pool:
    """Hands out clients and places; thread-safe."""

    def __init__(self, policy: Policy | None, transport: Transport | None) -> None:
        self.policy = policy or Policy(verbose=os.environ.get(RATES, "") not in {"", "0"})
        self.transport = transport or Transport()
        self._lock = threading.Condition()
        self._known = Known()
        self._idle: list[Client] = []
        self._busy: set[Client] = set()
        self._total = 0
        self._hosts: dict[str, int] = {}
        self.stopped = False

    def enter(self, host: str) -> bool:
        """Take a place for one more connection to a host; False: there is none."""
        with self._lock:
            full = self._total >= self.policy.connections or self._hosts.get(host, 0) >= self.policy.per_source
            if full or self.stopped:
                return False
            self._total += 1
            self._hosts[host] = self._hosts.get(host, 0) + 1
            return True

    def wait_for_place(self, host: str) -> bool:
        """Take a place as soon as there is one; False: all is over."""
        while not self.enter(host):
            if self.stopped:
                return False
            with self._lock:
                self._lock.wait(_LOOK)
        return True

    def leave(self, host: str) -> None:
        """Give a place back."""
        with self._lock:
            self._total -= 1
            self._hosts[host] -= 1
            self._lock.notify()

    def client(self) -> Client:
        """Return a client, one with open connections where there is one."""
        with self._lock:
            client = self._idle.pop() if self._idle else Client(self.transport, self._known)
            self._busy.add(client)
        if self.stopped:
            client.stop()
        return client

    def give_back(self, client: Client) -> None:
        """Take a client back; its connections stay open for the next one."""
        with self._lock:
            self._busy.discard(client)
            if not self.stopped:
                self._idle.append(client)
                return
        client.close()

    def stop(self) -> None:
        """Cut every connection, also those that somebody waits for."""
        with self._lock:
            self.stopped = True
            idle, self._idle, busy = self._idle, [], list(self._busy)
        for client in busy:
            client.stop()
        for client in idle:
            client.close()
