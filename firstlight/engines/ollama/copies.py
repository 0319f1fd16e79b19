"""Other copies of Ollama on this machine, and a prefix such as /usr/local through which ours is found.

In a prefix, versions lie in a store of their own, `PREFIX/lib/firstlight/ollama/`; `PREFIX/bin/ollama` and
`PREFIX/lib/ollama` lead to its current version. What somebody else has put there is moved aside whole, never mixed.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from firstlight.engines.ollama.program import LIBRARY, PROGRAM, says
from firstlight.environments.archives import ArchiveStore
from firstlight.environments.generation_store import LOCK
from firstlight.environments.spec import Generation
from firstlight.errors import FirstlightError, UsageError
from firstlight.files import switch_symlink
from firstlight.home import Home

ENGINE = "ollama"
_PLACES = ("/usr/local/bin", "/usr/bin", "/bin", "/opt/ollama/bin", "/snap/bin")
_UNITS = ("/etc/systemd/system/ollama.service", "/usr/lib/systemd/system/ollama.service")
_OURS = Path("lib") / "firstlight"


class ForeignCopy(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody else has put where ours is to be found."""

    program: Path | None = None
    library: Path | None = None

    def __str__(self) -> str:
        return " and ".join(str(path) for path in (self.program, self.library) if path is not None)


class Prefix(msgspec.Struct, frozen=True, kw_only=True):
    """A folder with `bin` and `lib` through which our versions are found."""

    root: Path

    @property
    def home(self) -> Home:
        """Where its versions and their lock lie."""
        return Home(self.root / _OURS)

    @property
    def program(self) -> Path:
        """What a shell starts."""
        return self.root / PROGRAM

    @property
    def library(self) -> Path:
        """Its folder of libraries, for programs that look for it there."""
        return self.root / LIBRARY

    @property
    def links(self) -> dict[Path, str]:
        """The links that lead to the current version, with their targets: relative, so that the prefix can be moved."""
        current = f"firstlight/{ENGINE}/current"
        return {self.program: f"../lib/{current}/{PROGRAM}", self.library: f"{current}/{LIBRARY}"}

    def leave(self) -> None:
        """Remove the folders that firstlight made in it, as far as nothing is left in them; its lock is held."""
        kept = self.home.root
        if (kept / ENGINE).is_dir() and not [path for path in (kept / ENGINE).iterdir() if path.name != LOCK]:
            (kept / ENGINE / LOCK).unlink(missing_ok=True)
        for folder in (kept / "downloads" / ENGINE, kept / "downloads", kept / ENGINE, kept, kept.parent):
            with contextlib.suppress(OSError):  # absent, or something is in it
                folder.rmdir()
        for folder in (self.root / "bin", self.root):
            with contextlib.suppress(OSError):
                folder.rmdir()

    @property
    def aside(self) -> Path:
        """Where a foreign copy is kept."""
        return self.root / _OURS / "adopted"


def other_copies(store: ArchiveStore, environment: Mapping[str, str] | None = None) -> list[str]:
    """Return, in words, the copies and the unit of Ollama on this machine that are not of a store."""
    path = (os.environ if environment is None else environment).get("PATH", os.defpath)
    folders = dict.fromkeys([*filter(None, path.split(os.pathsep)), *_PLACES])
    told: dict[Path, str] = {}
    ours = store.folder.resolve()
    for folder in folders:
        program = Path(folder) / ENGINE
        with contextlib.suppress(OSError, RuntimeError):
            real = program.resolve()
            if program.is_file() and ours not in real.parents and real not in told:
                told[real] = f"{program} (libraries: {_libraries_of(real)})"
    units = [
        f"the systemd unit {unit} (a new version of its program: sudo systemctl restart ollama)"
        for unit in _UNITS
        if Path(unit).is_file()
    ]
    return [*told.values(), *units]


def _libraries_of(program: Path) -> str:
    places = (program.parent.parent / LIBRARY, program.parent / LIBRARY)
    return str(next((place for place in places if place.is_dir()), "none"))


def prefix_at(text: str) -> Prefix:
    """Return the prefix that a person names; it need not be there yet.

    Raises:
        UsageError: it is a file, or the root of the system.
        FirstlightError: this user may not write there.
    """
    if not text.strip():
        raise UsageError("--prefix is empty", why="a variable that is not set?", fix="--prefix /path/of/a/folder")
    try:
        root = Path(text).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"--prefix: {text} is no folder", why=str(error), fix="--prefix /path/of/a/folder") from error
    if root == Path("/") or (root.exists() and not root.is_dir()):
        what = "the root of the system" if root == Path("/") else "no folder"
        raise UsageError(f"--prefix: {root} is {what}", fix="--prefix /usr/local, or a folder of your own")
    _require_writable(root)
    return Prefix(root=root)


def _require_writable(root: Path) -> None:
    closed = []
    for place in (root / "bin", root / "lib"):
        there = place
        while not there.exists() and there != there.parent:
            there = there.parent
        if not os.access(there, os.W_OK | os.X_OK):
            closed.append(there)
    if closed:
        words = ", ".join(dict.fromkeys(map(str, closed)))
        raise FirstlightError(
            f"this user (uid {os.geteuid()}) may not write to {words}",
            why=f"--prefix {root} puts links into {root}/bin and {root}/lib, and versions below {root}/{_OURS}",
            fix=f"as root: sudo firstlight ollama.install --prefix {shlex.quote(str(root))}\n"
            "or without root, into a folder of your own: firstlight ollama.install --prefix ~/.local",
        )


def foreign_copy(prefix: Prefix) -> ForeignCopy | None:
    """Return what somebody else has put where the prefix's links go, None where there is nothing."""
    found: dict[Path, Path | None] = {}
    for place, target in prefix.links.items():
        ours = place.is_symlink() and str(place.readlink()) == target
        found[place] = place if (place.is_symlink() or place.exists()) and not ours else None
    copy = ForeignCopy(program=found[prefix.program], library=found[prefix.library])
    return copy if copy.program or copy.library else None


def refuse_foreign(prefix: Prefix, copy: ForeignCopy, words: str) -> FirstlightError:
    """Return the error for a foreign copy that nobody has agreed to have moved aside; `words` asked for it."""
    return FirstlightError(
        f"{prefix.root} holds an Ollama that firstlight did not put there",
        why=f"{copy}: the libraries of two releases must never be mixed, so that it would have to be moved aside",
        fix=f"let it be moved to {prefix.aside} (ollama.rollback gives it back): "
        f"{words} --prefix {shlex.quote(str(prefix.root))} --yes\n"
        f"or take another folder: {words} --prefix ~/.local",
    )


def adopt(prefix: Prefix, copy: ForeignCopy, store: ArchiveStore) -> Generation | None:
    """Keep a foreign copy as a version that `rollback` goes to; nothing is moved yet, and it goes on working.

    Its program is linked, or copied where that cannot be, into the folder aside; `take_over` moves its libraries.
    Returns None where there is only a folder of libraries without any program: that is only put aside.
    """
    told = says(copy.program) if copy.program is not None else None
    if copy.program is None or told is None:
        return None
    places = _numbered(prefix.aside / f"{ENGINE}-{told.version or 'unknown'}")
    folder = next(place for place in places if not place.exists() or _same(place / PROGRAM, copy.program))
    for part in ("bin", "lib"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    if not (folder / PROGRAM).exists():
        _link_or_copy(copy.program, folder / PROGRAM)
    adopted = store.adopt(folder, PROGRAM, told.version or "unknown")
    for part in ("bin", "lib"):  # so that `current` leads into it like into any version
        place = store.folder / adopted.id / part
        if not place.exists():
            place.symlink_to(os.path.relpath(folder / part, place.parent))
    return adopted


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    for number in range(2, 1000):
        yield path.with_name(f"{path.name}.{number}")


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _link_or_copy(source: Path, target: Path) -> None:
    if source.is_symlink():  # its libraries lie beside what it leads to
        target.symlink_to(source.resolve())
        return
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def take_over(prefix: Prefix, copy: ForeignCopy | None, adopted: Generation | None) -> list[Path]:
    """Let the prefix's links lead to the current version; returns those that were made.

    The program first, in one rename: it finds its libraries beside itself, so that from then on the new version works
    whole. What a foreign copy had is moved aside after that, and stays whole too.
    """
    made = [place for place, target in prefix.links.items() if not _leads(place, target)]
    prefix.program.parent.mkdir(parents=True, exist_ok=True)
    prefix.library.parent.mkdir(parents=True, exist_ok=True)
    if prefix.program in made:
        switch_symlink(prefix.program, prefix.links[prefix.program])
    if prefix.library in made:
        if copy is not None and copy.library is not None:
            _put_aside(copy.library, prefix, adopted)
        switch_symlink(prefix.library, prefix.links[prefix.library])
    return made


def _leads(place: Path, target: str) -> bool:
    return place.is_symlink() and str(place.readlink()) == target


def _put_aside(library: Path, prefix: Prefix, adopted: Generation | None) -> None:
    if library.is_symlink() and adopted is None:
        library.unlink()
        return
    folder = (
        adopted.prefix
        if adopted is not None
        else next(place for place in _numbered(prefix.aside / f"{ENGINE}-libraries") if not place.exists())
    )
    (folder / "lib").mkdir(parents=True, exist_ok=True)
    try:
        library.rename(folder / LIBRARY)
    except OSError as error:
        raise FirstlightError(
            f"{library} cannot be moved aside",
            why=f"{error.strerror or error}; the new version works: {prefix.program} finds its libraries beside itself",
            fix=f"move it away by hand: mv {library} {library}.old",
        ) from error


def give_back(prefix: Prefix, adopted: Generation | None) -> list[str]:
    """Remove the prefix's links, and put the adopted copy back where it was; returns in words what was undone."""
    undone = []
    for place, target in prefix.links.items():
        if not _leads(place, target):
            continue
        kept = adopted.prefix / place.relative_to(prefix.root) if adopted is not None else None
        if kept is not None and kept.exists():
            place.unlink()
            kept.rename(place)
            undone.append(f"{place} is again what it was before firstlight")
        else:
            place.unlink()
            undone.append(f"removed the link {place}")
    for folder in [*prefix.aside.glob("*/*"), *prefix.aside.glob("*"), prefix.aside]:
        with contextlib.suppress(OSError):  # something of theirs is still in it
            folder.rmdir()
    return undone
