"""Versions of an unpacked engine that nothing needs any more: who still uses one, and the others removed.

The current one and the one before stay, as `rollback` needs them, and so do copies that were adopted. Of the rest goes
what no process, no service and no unit or link of somebody's own leads to.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path

import msgspec

from firstlight.environments.archives import ArchiveStore
from firstlight.environments.generation_store import GenerationStore
from firstlight.environments.spec import Generation
from firstlight.errors import FirstlightError
from firstlight.events import Note, Reporter, Step, step
from firstlight.home import Home
from firstlight.machine.space import gigabytes
from firstlight.serving.restarting import servers_of
from firstlight.serving.services.records import all_services

_PROC = Path("/proc")
_UNITS = (
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/etc/supervisor/conf.d",
    "~/.config/systemd/user",
)
_LARGEST_UNIT = 1 << 18
_PATIENCE = 10.0
"""Seconds to wait for another firstlight; what is left goes with the next install."""


class Seen(msgspec.Struct, frozen=True):
    """A process: the program that it runs (None: it is another user's), and its words."""

    pid: int
    program: str | None
    words: tuple[str, ...]


class Use(msgspec.Struct, frozen=True):
    """What uses a version, in words, and the command that ends it; empty where that is not for us to say."""

    what: str
    end: str = ""


def tidy(home: Home, store: GenerationStore, reporter: Reporter, *, locked: bool = False) -> None:
    """Remove the versions of a store that nothing needs, and say so; nothing for environments that are built.

    Args:
        home: whose services and servers may use them.
        store: where the versions lie.
        reporter: is told what went, and what stays because it is used.
        locked: whether the caller holds the store's lock.
    """
    if not isinstance(store, ArchiveStore) or not store.spare():
        return
    with contextlib.suppress(FirstlightError), nullcontext() if locked else store.lock(wait=_PATIENCE):
        _tidy(home, store, reporter)


def _tidy(home: Home, store: ArchiveStore, reporter: Reporter) -> None:
    spare, seen = store.spare(), list(processes())
    used = {item.id: use for item in spare if (use := _use_of(item, home, store, seen)) is not None}
    for name, use in used.items():
        reporter(Note(f"the old version {name} of {store.engine} stays: {use.what}"))
    going = [item for item in spare if item.id not in used]
    if not going:
        return
    with step(reporter, "tidy", f"remove old versions of {store.engine}") as current:
        gone = [item for item in going if _removed(store, item, current)]
        freed = sum(file.size for item in gone for file in item.files)
        names = ", ".join(item.id for item in gone)
        current.detail = f"{names}: {gigabytes(freed)}; the current one and the one before stay" if gone else ""


def _removed(store: ArchiveStore, item: Generation, current: Step) -> bool:
    try:
        store.remove(item.id)
    except OSError as error:
        current.warn(f"the old version {item.id} cannot be removed: {error.strerror or error}")
        return False
    return True


def _use_of(version: Generation, home: Home, store: GenerationStore, seen: list[Seen]) -> Use | None:
    return next(chain(running_from(version, home, store, seen), _named_by(version, store)), None)


def running_from(version: Generation, home: Home, store: GenerationStore, seen: list[Seen]) -> Iterator[Use]:
    """Give what runs from a version: our services and servers, and of our own versions whatever process else."""
    if store.home.root == home.root:  # versions in a prefix have names of their own
        yield from _ours(version, home, store)
    for process in seen if version.kind == "archive" else ():
        if _runs_from(process, version.prefix, store.folder):
            yield Use(f"process {process.pid} runs from it", f"kill {process.pid}")


def _named_by(version: Generation, store: GenerationStore) -> Iterator[Use]:
    """Give the units and links of somebody's own that lead to a version."""
    folder = version.prefix
    for unit in _units():
        if _names(unit, folder):
            yield Use(f"{unit} names it")
    for link in _links(Path(version.program or store.engine).name):
        if folder.resolve() in link.resolve().parents and store.folder not in link.parents:
            yield Use(f"{link} leads to it")


def _ours(version: Generation, home: Home, store: GenerationStore) -> Iterator[Use]:
    """Give our own services and detached servers that run from a version."""
    for service in all_services(home):
        if service.spec.engine == store.engine and service.spec.generation == version.id:
            yield Use(f"the service {service.spec.name} runs from it", f"firstlight service.remove {service.spec.name}")
    for server in servers_of(home, store.engine):
        if server.details.environment == version.id:
            yield Use(
                f"{server.name} serves from it at {server.endpoint} (process {server.pid})",
                f"firstlight down {server.name}",
            )


def processes() -> Iterator[Seen]:
    """Give the processes of this machine but for ourselves, as far as the kernel shows them."""
    for entry in _PROC.iterdir() if _PROC.is_dir() else ():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
            if not any(words):
                continue  # a thread of the kernel, or gone
            program: str | None = None
            with contextlib.suppress(PermissionError):
                program = str((entry / "exe").readlink())
            yield Seen(int(entry.name), program, tuple(words))


def _runs_from(process: Seen, version: Path, versions: Path) -> bool:
    """Tell whether a process runs from a version, or, where another user's is not shown, may run from it."""
    real = version.resolve()
    if process.program is not None and Path(process.program).is_relative_to(real):
        return True
    paths = [Path(word) for word in process.words if word.startswith(os.sep)]
    if any(path.is_relative_to(version) or path.is_relative_to(real) for path in paths):
        return True
    return process.program is None and any(path.is_relative_to(versions) for path in paths)


def _units() -> Iterator[Path]:
    for place in _UNITS:
        folder = Path(os.path.expanduser(place))  # noqa: PTH111 - it may have no home to expand to
        for pattern in ("*.service", "*.service.d/*.conf", "*.conf"):
            yield from sorted(folder.glob(pattern))


def _names(unit: Path, folder: Path) -> bool:
    try:
        with unit.open("rb") as stream:
            text = stream.read(_LARGEST_UNIT).decode(errors="replace")
    except OSError:
        return False
    return any(f"{place}{os.sep}" in text for place in {folder, folder.resolve()})


def _links(name: str) -> Iterator[Path]:
    """Give the symbolic links of that name where a shell looks."""
    folders = [*os.environ.get("PATH", os.defpath).split(os.pathsep), "/usr/local/bin", "/usr/bin"]
    for folder in dict.fromkeys(filter(None, folders)):
        link = Path(folder) / name
        with contextlib.suppress(OSError, RuntimeError):
            if link.is_symlink() and link.exists():
                yield link
