"""The engines' default ports, and who listens on them."""

from __future__ import annotations

import errno
import socket

import msgspec

from firstlight.doctor.looking import Look, listeners
from firstlight.serving.ports import PortHolder, port_holder
from firstlight.serving.records import all_records


class PortSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One port: the engines whose default it is, who listens on it, and our own server's name when it is that one."""

    port: int
    engines: tuple[str, ...]
    holder: PortHolder | None = None
    taken: bool = False
    """It cannot be had, also where the kernel's table did not tell by whom."""
    ours: str | None = None


class PortsSeen(msgspec.Struct, frozen=True, kw_only=True):
    """Every default port of the catalogue."""

    ports: tuple[PortSeen, ...]


def read(look: Look) -> PortsSeen:
    """Return who holds the engines' default ports."""
    wanted: dict[int, list[str]] = {}
    for name, page in look.catalogue.engines.items():
        wanted.setdefault(page.port, []).append(name)
    return PortsSeen(ports=tuple(_look_at(look, port, tuple(names)) for port, names in sorted(wanted.items())))


def _look_at(look: Look, port: int, engines: tuple[str, ...]) -> PortSeen:
    known = look.once(listeners)
    if known is None:
        return PortSeen(port=port, engines=engines, taken=look.system.live and _in_use(port))
    if not any(listener.port == port for listener in known):
        return PortSeen(port=port, engines=engines)
    holder = port_holder(port) if look.system.live else None
    ours = next((record.name for record in all_records(look.home()) if f":{port}/" in f"{record.endpoint}/"), None)
    return PortSeen(port=port, engines=engines, holder=holder, taken=True, ours=ours)


def _in_use(port: int) -> bool:
    """Tell whether a server cannot have the port; leftovers of closed connections do not count."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.errno == errno.EADDRINUSE
    return False
