"""What is installed in the home: each engine's environments, what lies in them, and what became of them since."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from firstlight.doctor.looking import Look
from firstlight.errors import FirstlightError

if TYPE_CHECKING:
    from firstlight.environments.generation_store import GenerationStore
    from firstlight.environments.spec import Generation

_LIBRARY = re.compile(rb'"?([^,"]+\.so(?:\.[^,"/]*)?)"?,[^,]*,(\d+)\r?')
_TORCH_CUDA = re.compile(r"^cuda\b[^=\n]*=\s*['\"](\d[\d.]*)['\"]", re.MULTILINE)
_MOST_TOLD = 20


class LinkedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A shared library of an engine: the major versions of CUDA that it is linked with, and what it does not find."""

    name: str
    cuda: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()


class EnvironmentSeen(msgspec.Struct, frozen=True, kw_only=True):
    """One environment of an engine."""

    engine: str
    id: str
    build: str
    kind: str
    state: str
    created: str
    prefix: str
    current: bool = False
    previous: bool = False
    problems: tuple[str, ...] = ()
    distributions: dict[str, str] = {}
    """Versions by canonical name, of what lies there now."""
    changed: tuple[str, ...] = ()
    """What is not as it was built, in words."""
    torch_cuda: str | None = None
    linked: tuple[LinkedFile, ...] = ()
    """Read where nothing has examined the environment since it last changed."""
    not_whole: tuple[str, ...] = ()
    """Shared libraries that are gone or of another size than their wheel's list says."""
    damaged: tuple[str, ...] | None = None
    """Files whose hash is wrong; None: not hashed."""
    examination: tuple[str, ...] = ()
    """What did not hold when it was examined after the install, in words."""
    behind: tuple[str, ...] = ()
    """What the catalogue's lock of its build holds now, and the one that it was made from did not, in words."""


class EngineFolder(msgspec.Struct, frozen=True, kw_only=True):
    """The folder of an engine's environments."""

    engine: str
    path: str
    current: str | None = None
    """What the link `current` leads to; None: there is no such link."""
    current_there: bool = True
    busy: bool = False
    """Whether a firstlight is changing it at this moment."""
    leftovers: tuple[str, ...] = ()
    """What killed builds and removals have left."""


class Environments(msgspec.Struct, frozen=True, kw_only=True):
    """All environments of the home."""

    folders: tuple[EngineFolder, ...] = ()
    found: tuple[EnvironmentSeen, ...] = ()

    @property
    def current(self) -> list[EnvironmentSeen]:
        """The environments in use."""
        return [item for item in self.found if item.current]


def read(look: Look) -> Environments:
    """Return the environments of the home; nothing of them is run."""
    home = look.home()
    try:
        names = sorted(entry.name for entry in home.environments.iterdir() if entry.is_dir())
    except OSError:
        names = []
    archives = {name: page for name, page in look.catalogue.engines.items() if page.kind == "archive"}
    names = [name for name in names if name not in archives]
    unpacked = [page for name, page in archives.items() if (home.root / name).is_dir()]
    if not names and not unpacked:
        return Environments()
    from firstlight.environments.generations import Store, store_for

    locks = look.system.text_of("/proc/locks") or ""
    stores = [*(Store(home, name) for name in names), *(store_for(home, page) for page in unpacked)]
    return Environments(
        folders=tuple(_folder(store, locks) for store in stores),
        found=tuple(seen for store in stores for seen in _seen(look, store)),
    )


def _folder(store: GenerationStore, locks: str) -> EngineFolder:
    link = store.folder / "current"
    try:
        target: str | None = str(link.readlink())
    except OSError:
        target = None
    busy = _locked(store.folder / ".lock", locks)
    building = () if busy else tuple(item.id for item in store.list() if item.state == "building" and item.build)
    removed = () if busy else tuple(sorted(path.name for path in store.folder.glob(".removed-*")))
    return EngineFolder(
        engine=store.engine,
        path=str(store.folder),
        current=target,
        current_there=target is None or store.current() is not None,
        busy=busy,
        leftovers=(*building, *removed),
    )


def _locked(file: Path, locks: str) -> bool:
    """Tell whether somebody holds the lock on a file, without touching the lock (proc_locks(5))."""
    try:
        inode = file.stat().st_ino
    except OSError:
        return False
    return bool(re.search(rf"FLOCK\s+ADVISORY\s+WRITE\s+\d+\s+\S+:{inode}\s", locks))


def _seen(look: Look, store: GenerationStore) -> Iterator[EnvironmentSeen]:
    current, previous = store.current(), store.previous()
    for item in store.list():
        seen = EnvironmentSeen(
            engine=item.engine,
            id=item.id,
            build=item.build,
            kind=item.kind,
            state=item.state,
            created=item.created,
            prefix=str(item.prefix),
            current=current is not None and current.id == item.id,
            previous=previous is not None and previous.id == item.id,
            problems=item.problems,
        )
        whole = item.state != "building" and not item.problems and item.python  # without one, its problems say all
        yield _looked_into(look, item, seen) if whole and (seen.current or seen.previous) else seen


def _looked_into(look: Look, item: Generation, seen: EnvironmentSeen) -> EnvironmentSeen:
    from firstlight.environments.distributions import canonical, site_packages

    try:
        root = site_packages(item.python_path)
    except FirstlightError as error:
        return msgspec.structs.replace(seen, problems=(f"{error.what}: {error.why}",))
    present = installed(root)
    built = {canonical(package.name): package.version for package in item.wheels}
    # What somebody else made may change as they like; of an old manifest nothing is known.
    changed = tuple(_changes(built, present)) if built and item.kind != "adopted" else ()
    examined = item.examination
    return msgspec.structs.replace(
        seen,
        distributions=present,
        changed=changed,
        torch_cuda=torch_cuda(root),
        linked=tuple(_linked(look, item)) if examined is None or changed else (),
        not_whole=tuple(not_whole(root)) if seen.current else (),
        damaged=tuple(_damaged(item)) if look.deep and seen.current else None,
        examination=tuple(check.summary for check in examined.failed) if examined is not None else (),
        behind=_behind(look, item),
    )


def _behind(look: Look, item: Generation) -> tuple[str, ...]:
    page = look.catalogue.engines.get(item.engine)
    build = next((build for build in page.build if build.id == item.build), None) if page is not None else None
    if build is None or item.spec is None:
        return ()
    from firstlight.environments.locking.applying import behind

    return behind(item.engine, build, item.spec)


def installed(root: Path) -> dict[str, str]:
    """Return the versions of what lies in a folder of packages, by canonical name, from the names of its metadata."""
    from firstlight.environments.distributions import canonical

    found = {}
    for entry in sorted(root.iterdir()):
        name, dash, version = entry.name.removesuffix(".dist-info").rpartition("-")
        if dash and entry.name.endswith(".dist-info"):
            found[canonical(name)] = version
    return found


def _changes(built: dict[str, str], present: dict[str, str]) -> Iterator[str]:
    for name in sorted({*built, *present}):
        was, now = built.get(name), present.get(name)
        if was is not None and now is None:
            yield f"{name} {was} is gone"
        elif was is not None and now is not None and _release(was) != _release(now):
            yield f"{name} {was} became {now}"


def _release(version: str) -> str:
    """Return a version as names of metadata folders and of packages agree on it."""
    return re.sub(r"[-_.+]", ".", version)


def torch_cuda(root: Path) -> str | None:
    """Return the CUDA that a folder's torch was made for, from its own file; None: no torch, or one for the CPU."""
    try:
        match = _TORCH_CUDA.search((root / "torch" / "version.py").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return match[1] if match else None


def _linked(look: Look, item: Generation) -> Iterator[LinkedFile]:
    page = look.catalogue.engines.get(item.engine)
    if page is None or page.examination is None:
        return
    from firstlight.environments.linkage import extensions_of, not_there, read_linked

    for file in extensions_of(item.python_path, page.examination.extensions):
        linked = read_linked(file)
        if linked is not None:
            absent = tuple(not_there(linked, item.python_path))
            yield LinkedFile(name=file.name, cuda=tuple(linked.cuda), absent=absent)


def not_whole(root: Path) -> list[str]:
    """Return the shared libraries that are gone or have another size than the lists of their wheels say."""
    wrong: list[str] = []
    for record in sorted(root.glob("*.dist-info/RECORD")):
        try:
            lines = [line for line in record.read_bytes().split(b"\n") if b".so" in line]
        except OSError:
            continue
        for row in filter(None, map(_LIBRARY.fullmatch, lines)):
            name, size = row[1].decode(errors="replace"), int(row[2])
            try:
                there = (root / name).stat().st_size
            except OSError:
                wrong.append(f"{name} is gone")
                continue
            if there != size:
                wrong.append(f"{name} has {there:,} bytes instead of {size:,}")
    return _few(wrong)


def _damaged(item: Generation) -> list[str]:
    from firstlight.environments.distributions import damaged

    every = [(name, file) for name, files in damaged(item.python_path).items() for file in files]
    # Some wheels list bytecode too, which Python writes anew when its source looks newer.
    return _few(f"{name}: {file}" for name, file in every if not file.endswith(".pyc"))


def _few(words: Iterable[str]) -> list[str]:
    every = list(words)
    return every if len(every) <= _MOST_TOLD else [*every[:_MOST_TOLD], f"and {len(every) - _MOST_TOLD} more"]
