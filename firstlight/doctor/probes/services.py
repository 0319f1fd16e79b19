"""The engines' services and detached servers: how they are, why they died, and who can reach them from outside."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from firstlight import process
from firstlight.catalogue.types import EngineEntry
from firstlight.doctor.looking import Look, listeners
from firstlight.doctor.probes import supervised, supervision
from firstlight.doctor.probes.stories import story_of
from firstlight.doctor.probes.supervised import SupervisedSeen
from firstlight.doctor.story import LogStory
from firstlight.errors import FirstlightError
from firstlight.machine.system import System, is_file

if TYPE_CHECKING:
    from firstlight.serving.records import Detached

SHOW_SECONDS = 1.5
JOURNAL_SECONDS = 1.5
_JOURNAL_LINES = 600
_PROPERTIES = ("Id", "LoadState", "ActiveState", "SubState", "Result", "ExecMainStatus", "NRestarts", "UnitFileState")
_STOPPED = frozenset({0, 128 + 2, 128 + 15, -2, -15})
"""How servers end that somebody stopped: INT and TERM."""
_OLD = 7 * 86_400.0
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - looked for, not bound to


class UnitSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A unit that starts an engine, as systemd tells it."""

    name: str
    engine: str
    path: str
    scope: str
    active: str | None = None
    """ActiveState; None: systemd was not asked, or did not answer."""
    result: str | None = None
    status: str | None = None
    """The exit status of its main process."""
    restarts: int = 0
    enabled: str | None = None
    story: LogStory | None = None
    """What its journal tells, for one that failed."""

    @property
    def failed(self) -> bool:
        """Whether it has failed, or is started again and again."""
        return self.active == "failed" or (self.active == "activating" and self.restarts > 0)


class RecordSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A detached server of ours."""

    name: str
    engine: str
    model: str
    endpoint: str
    alive: bool
    log: str
    path: str
    """The record itself."""
    story: LogStory | None = None
    """What its log tells, for one that is dead."""


class EndedSeen(msgspec.Struct, frozen=True, kw_only=True):
    """A detached server that ended by itself and has no record any more: mostly one that did not come up."""

    name: str
    log: str
    status: int
    story: LogStory | None = None


class OpenServer(msgspec.Struct, frozen=True, kw_only=True):
    """A server of an engine that listens on every address of the machine."""

    engine: str
    port: int
    address: str
    pid: int | None = None
    key: bool | None = None
    """Whether it wants a key; None: its command line and variables cannot be seen."""


class ServicesSeen(msgspec.Struct, frozen=True, kw_only=True):
    """The engines' services, detached servers, and servers that are open to the network."""

    units: tuple[UnitSeen, ...] = ()
    records: tuple[RecordSeen, ...] = ()
    damaged_records: tuple[str, ...] = ()
    ended: tuple[EndedSeen, ...] = ()
    supervised: tuple[SupervisedSeen, ...] = ()
    open: tuple[OpenServer, ...] = ()


def read(look: Look) -> ServicesSeen:
    """Return the services of the engines; systemd is asked where it runs, each question with a time limit."""
    home, known = look.home(), look.once(recorded)
    names = {record.name for record in known}
    files = sorted(home.services.glob("*/running.json"))
    return ServicesSeen(
        units=tuple(_units(look)),
        records=tuple(
            RecordSeen(
                name=record.name,
                engine=record.engine,
                model=record.model,
                endpoint=record.endpoint,
                alive=record.alive,
                log=record.log,
                path=str(home.services / record.name / "running.json"),
                story=None if record.alive else story_of(Path(record.log), record.engine),
            )
            for record in known
        ),
        damaged_records=tuple(str(file) for file in files if file.parent.name not in names and is_file(file)),
        ended=tuple(_ended(home.services)),
        supervised=tuple(supervised.read(home)),
        open=tuple(_open_servers(look)),
    )


def _ended(folder: Path) -> Iterator[EndedSeen]:
    """Give the servers of the last days that left an exit status and no record, but for those that were stopped."""
    for file in sorted(folder.glob("*/exit-status")):
        log = file.with_name("server.log")
        try:
            status, age = int(file.read_text()), time.time() - file.stat().st_mtime
        except (OSError, ValueError):
            continue
        if status in _STOPPED or age > _OLD or is_file(file.with_name("running.json")):
            continue
        yield EndedSeen(name=file.parent.name, log=str(log), status=status, story=story_of(log, None))


def recorded(look: Look) -> list[Detached]:
    """Return the records of our detached servers: `look.once(recorded)`."""
    home = look.home_in_use()
    if home is None or not home.services.is_dir():
        return []
    from firstlight.serving.records import all_records

    return all_records(home)


def _units(look: Look) -> Iterator[UnitSeen]:
    units = [
        UnitSeen(name=unit.name, engine=unit.engine, path=unit.path, scope=unit.scope)
        for unit in look.once(supervision.read).units
    ]
    runs = look.system.exists("/run/systemd/system") and look.system.which("systemctl") is not None
    for scope in ("system", "user"):
        group = [unit for unit in units if unit.scope == scope]
        told = _show(look.system, group) if group and runs else {}
        for unit in group:
            seen = _with(unit, told.get(f"{unit.name}.service", {}))
            yield msgspec.structs.replace(seen, story=_journal(look.system, seen)) if seen.failed else seen


def _with(unit: UnitSeen, told: dict[str, str]) -> UnitSeen:
    restarts = told.get("NRestarts", "0")
    return msgspec.structs.replace(
        unit,
        active=told.get("ActiveState"),
        result=told.get("Result"),
        status=told.get("ExecMainStatus"),
        restarts=int(restarts) if restarts.isdigit() else 0,
        enabled=told.get("UnitFileState") or None,
    )


def _show(system: System, units: list[UnitSeen]) -> dict[str, dict[str, str]]:
    words = ["systemctl", *_scope(units[0]), "show", "--no-pager", f"--property={','.join(_PROPERTIES)}"]
    words += [f"{unit.name}.service" for unit in units]
    return parse_show(_output(system, words, SHOW_SECONDS))


def parse_show(output: str) -> dict[str, dict[str, str]]:
    """Return the properties that `systemctl show` printed, by the unit's name; units stand apart by an empty line."""
    blocks = [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in output.split("\n\n")]
    return {block["Id"]: block for block in blocks if "Id" in block}


def _journal(system: System, unit: UnitSeen) -> LogStory | None:
    return story_of_lines(journal_of(system, unit.name, *_scope(unit)), unit.engine)


def journal_of(system: System, unit: str, *options: str) -> list[str]:
    """Return the last lines of a unit's journal; none where it cannot be read in time."""
    words = [
        "journalctl",
        *options,
        f"--unit={unit}.service",
        f"--lines={_JOURNAL_LINES}",
        "--no-pager",
        "--quiet",
        "--all",
    ]
    lines: list[str] = []
    _output(system, [*words, "--output=short-iso"], JOURNAL_SECONDS, lines)
    return lines


def story_of_lines(lines: Iterable[str], engine: str) -> LogStory | None:
    """Return what the lines of a journal tell; None where there are none."""
    from firstlight.doctor.log_file import LogParts
    from firstlight.doctor.logs import tell

    numbered = [(number, line) for number, line in enumerate(lines, 1) if line]
    text = "\n".join(line for _number, line in numbered)
    parts = LogParts(lines=numbered, size=len(text), count=len(numbered), sample=text, extent="whole")
    return tell(parts, engine) if numbered else None


def _scope(unit: UnitSeen) -> list[str]:
    return ["--user"] if unit.scope == "user" else []


def _output(system: System, words: list[str], seconds: float, lines: list[str] | None = None) -> str:
    """Return a program's output; nothing where it is not there, fails or takes too long."""
    program = system.which(words[0])
    if program is None:
        return ""
    taken: list[str] = [] if lines is None else lines
    with contextlib.suppress(FirstlightError):
        process.run(
            [str(program), *words[1:]],
            environment=system.additions(LC_ALL="C", SYSTEMD_COLORS="0"),
            timeout=max(0.1, system.remaining(seconds)),
            on_line=taken.append,
        )
    return "\n".join(taken)


def _open_servers(look: Look) -> Iterator[OpenServer]:
    """Give the engines' servers that listen on every address; a socket is an engine's by its process or its port."""
    system = look.system
    ports = [page.port for page in look.catalogue.engines.values()]
    # Where the process cannot be seen, a port tells only when it is the default of one engine alone.
    own = {page.port: name for name, page in look.catalogue.engines.items() if ports.count(page.port) == 1}
    rows = [row for row in look.once(listeners) or [] if row.address in _EVERYWHERE]
    if not rows:
        return
    holders = _holders(system, {row.inode for row in rows})
    ours = {urlsplit(record.endpoint).port: record.engine for record in look.once(recorded) if record.alive}
    told: set[int] = set()
    for row in rows:
        pid = holders.get(row.inode)
        words = _words(system, pid)
        engine = engine_of(words, look.catalogue.engines) or ours.get(row.port)
        if engine is None and not words:
            engine = own.get(row.port)
        if engine in look.catalogue.engines and engine is not None and row.port not in told:
            told.add(row.port)
            page = look.catalogue.engines[engine]
            key = _has_key(system, pid, words, page) if words or page.key_flag is None else None
            yield OpenServer(engine=engine, port=row.port, address=row.address, pid=pid, key=key)


def _holders(system: System, inodes: set[str]) -> dict[str, int]:
    """Return which process holds each socket, as far as we may look."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[str, int] = {}
    for entry in system.entries("/proc"):
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(entry / "fd"):
                with contextlib.suppress(OSError):
                    inode = wanted.get(os.readlink(descriptor.path))  # noqa: PTH115 - thousands of them
                    if inode is not None:
                        found.setdefault(inode, int(entry.name))
        if len(found) == len(wanted):
            break
    return found


def _words(system: System, pid: int | None) -> list[str]:
    """Return a process's command line; none where it cannot be seen."""
    words = system.text_of(f"/proc/{pid}/cmdline") if pid is not None else None
    return [word for word in (words or "").split("\0") if word]


def engine_of(words: list[str], engines: Iterable[str]) -> str | None:
    """Return the engine whose program, script or module a command line runs."""
    names = [PurePosixPath(word).name.removesuffix(".py") for word in words[:3]]
    names += [word.partition(".")[0] for before, word in pairwise(words[:6]) if before == "-m"]
    return next((name for name in engines if name in names), None)


def _has_key(system: System, pid: int | None, words: list[str], page: EngineEntry) -> bool | None:
    """Tell whether a server was given a key, by its flags or its variables; no value of either is kept."""
    if page.key_flag is None:
        return False
    if any(word.partition("=")[0] == page.key_flag for word in words):
        return True
    variables = system.bytes_of(f"/proc/{pid}/environ") if pid is not None else None
    if variables is None:
        return None
    name = f"{page.key_variable}=".encode()
    return any(item.startswith(name) and len(item) > len(name) for item in variables.split(b"\0"))
