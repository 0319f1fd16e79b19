"""Sessions of requests whose connections are known to us, so that a thread that waits for one can be freed."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager

from firstlight.fetching.transport import certificates
from firstlight.fetching.types import Transport

Opened = Callable[[socket.socket], None]


class _Plain(HTTPConnection):
    """A connection that tells when it stands."""

    def __init__(self, *words: Any, opened: Opened, **named: Any) -> None:
        super().__init__(*words, **named)
        self._tell = opened

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        self._tell(made)
        return made


class _Secure(HTTPSConnection):
    """The same over TLS: the plain socket is told first, so that a silent handshake can be cut too."""

    def __init__(self, *words: Any, opened: Opened, **named: Any) -> None:
        super().__init__(*words, **named)
        self._tell = opened

    def _new_conn(self) -> socket.socket:
        made = super()._new_conn()
        self._tell(made)
        return made

    def connect(self) -> None:
        super().connect()
        if self.sock is not None:
            self._tell(self.sock)


def _pools(opened: Opened) -> dict[str, Any]:
    """Return the pool classes whose connections tell `opened` of their sockets."""
    plain = type("_Pool", (HTTPConnectionPool,), {"ConnectionCls": staticmethod(partial(_Plain, opened=opened))})
    secure = type("_Pool", (HTTPSConnectionPool,), {"ConnectionCls": staticmethod(partial(_Secure, opened=opened))})
    return {"http": plain, "https": secure}


class _Adapter(HTTPAdapter):
    """requests' adapter with those pools, also behind a proxy; it never retries by itself."""

    def __init__(self, opened: Opened) -> None:
        self._pools = _pools(opened)
        super().__init__(pool_connections=4, pool_maxsize=2, max_retries=0)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **words: Any) -> None:
        super().init_poolmanager(connections, maxsize, block, **words)
        self.poolmanager: PoolManager
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: str, **words: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **words)
        manager.pool_classes_by_scheme = self._pools
        return manager


def new_session(opened: Opened, *, direct: bool, transport: Transport) -> requests.Session:
    """Return a session; `direct`: past every proxy of the environment."""
    session = requests.Session()
    adapter = _Adapter(opened)
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    session.headers.clear()
    session.headers["Accept"] = "*/*"
    session.verify = transport.cert or True
    session.cert = transport.client_cert
    if transport.proxy:
        session.trust_env = False
        session.proxies = {"http": transport.proxy, "https": transport.proxy}
        session.verify = certificates(transport)
    elif direct:
        session.trust_env = False
        session.verify = certificates(transport)
    return session
