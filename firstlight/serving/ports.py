"""TCP ports: a free one, who holds one, and the refusal that names the holder."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import pwd
import shlex
import socket
import struct
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from firstlight.errors import FirstlightError, UsageError
from firstlight.home import Home, default_root
from firstlight.serving.records import all_records

LISTEN = "0A"
"""TCP_LISTEN in /proc/net/tcp (include/net/tcp_states.h)."""
_COMMAND_LENGTH = 100


class PortHolder(msgspec.Struct, frozen=True, kw_only=True):
    """Who listens on a port. `pid` and `command` are None where the process belongs to another user or container."""

    port: int
    address: str
    user: str | None
    pid: int | None
    command: str | None

    @property
    def words(self) -> str:
        """The holder in words."""
        who = f" (user {self.user})" if self.user else ""
        if self.pid is None:
            return f"a process that cannot be seen from here{who}"
        return f"process {self.pid}{who}: {self.command}"


class Listener(msgspec.Struct, frozen=True, kw_only=True):
    """A listening TCP socket as the kernel's table tells it; `inode` is what processes hold it by."""

    port: int
    address: str
    uid: int
    inode: str


def parse_listeners(table: str) -> list[Listener]:
    """Return the listening sockets of a /proc/net/tcp or /proc/net/tcp6; lines that make no sense are passed over."""
    found = []
    for row in (line.split() for line in table.splitlines()[1:]):
        with contextlib.suppress(ValueError, IndexError, struct.error):
            if row[3] == LISTEN:
                address = _address(row[1].rpartition(":")[0])
                found.append(Listener(port=_port(row), address=address, uid=int(row[7]), inode=row[9]))
    return found


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port that is free on `host` at this moment."""
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _bind_error(host: str, port: int, *, reuse: bool) -> OSError | None:
    with socket.socket(_family(host), socket.SOCK_STREAM) as probe:
        if reuse:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError as error:
            return error
    return None


def _rows() -> list[list[str]]:
    """Return the rows of the kernel's TCP tables, split into their columns."""
    rows = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):
            rows += [line.split() for line in Path(table).read_text().splitlines()[1:]]
    return [row for row in rows if len(row) > 9]


def _address(text: str) -> str:
    """Return an address of /proc/net/tcp{,6} in words: groups of four bytes, each in the machine's byte order."""
    raw = b"".join(struct.pack("=I", int(text[start : start + 8], 16)) for start in range(0, len(text), 8))
    return str(ipaddress.ip_address(raw))


def _port(row: list[str]) -> int:
    return int(row[1].rpartition(":")[2], 16)


def _process_with(inode: str) -> int | None:
    """Return the process with the lowest number that has the socket `inode` open."""
    wanted = f"socket:[{inode}]"
    for pid in sorted(int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()):
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    if str(descriptor.readlink()) == wanted:
                        return pid
    return None


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        text = shlex.join(word.decode(errors="replace") for word in words if word)
        if text:
            return text if len(text) <= _COMMAND_LENGTH else text[: _COMMAND_LENGTH - 1] + "…"
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return "?"


def _user(uid: str) -> str:
    try:
        return pwd.getpwuid(int(uid)).pw_name
    except KeyError:
        return uid


def port_holder(port: int) -> PortHolder | None:
    """Return who listens on a TCP port of this machine, or None when nobody does.

    Source of the table's columns: proc_pid_net(5) and Documentation/networking/proc_net_tcp.rst of Linux.
    """
    for row in _rows():
        if row[3] == LISTEN and _port(row) == port:
            pid = _process_with(row[9])
            return PortHolder(
                port=port,
                address=_address(row[1].rpartition(":")[0]),
                user=_user(row[7]),
                pid=pid,
                command=None if pid is None else _command_line(pid),
            )
    return None


def _is_free(host: str, port: int) -> OSError | None:
    """Return None when a server can listen on `port`, else what stands in the way.

    The first try is without SO_REUSEADDR: with it, a port that another server has bound but not yet opened (engines
    bind first and load for minutes) would look free. The kernel's leftovers of closed connections are no obstacle.
    """
    error = _bind_error(host, port, reuse=False)
    if error is None or error.errno != errno.EADDRINUSE:
        return error
    if any(_port(row) == port and row[3] != LISTEN for row in _rows()):
        return _bind_error(host, port, reuse=True)
    return error


def _next_free(host: str, port: int) -> int:
    for candidate in range(port + 1, min(port + 50, 65536)):
        if _is_free(host, candidate) is None:
            return candidate
    return free_port(host)


def _ours(port: int, home: Home | None) -> str | None:
    """Return the name of our own detached server on `port`."""
    for record in all_records(home or Home(default_root())):
        if record.alive and urlsplit(record.endpoint).port == port:
            return record.name
    return None


def _our_service(holder: PortHolder | None, port: int, home: Home | None) -> str | None:
    """Return the name of the installed service that holds `port`: the holder's command is the service's own."""
    from firstlight.serving.services.records import all_services

    try:
        words = Path(f"/proc/{holder.pid}/cmdline").read_bytes() if holder is not None else b""
    except OSError:
        return None
    for record in all_services(home or Home(default_root())):
        if record.spec.port == port and words == "".join(f"{word}\0" for word in record.spec.argv).encode():
            return record.spec.name
    return None


def require_free_port(host: str, port: int, home: Home | None = None) -> None:
    """Make sure that a server can listen on `port` of `host`.

    Raises:
        UsageError: the port is no port, or `host` is no address of this machine.
        FirstlightError: another process holds it (named, with a free port beside it), or it needs root.
    """
    if not 0 < port < 65536:
        raise UsageError(f"{port} is no TCP port", fix="choose one between 1024 and 65535: --port 8000")
    try:
        error = _is_free(host, port)
    except (socket.gaierror, UnicodeError) as unknown:
        raise UsageError(f'"{host}" is no address', why=str(unknown), fix="--host 127.0.0.1") from unknown
    if error is None:
        return
    if isinstance(error, socket.gaierror) or error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
        raise UsageError(f'"{host}" is no address of this machine', why=str(error), fix="--host 127.0.0.1")
    if error.errno in {errno.EACCES, errno.EPERM}:
        raise FirstlightError(
            f"port {port} cannot be opened",
            why="ports below 1024 belong to root",
            fix=f"--port {_next_free(host, 7999)}",
        )
    holder = port_holder(port)
    another = _next_free(host, port)
    fix = f"--port {another}"
    if ours := _ours(port, home):
        fix = f"firstlight down {ours}   (or choose another port: {fix})"
    elif service := _our_service(holder, port, home):
        fix = f"firstlight service.stop {service}   (or choose another port: {fix})"
    raise FirstlightError(
        f"port {port} is taken",
        why=f"{holder.address} is held by {holder.words}" if holder else "a process has bound it and not opened it yet",
        fix=fix,
    )
