"""Archives that are here already: found by name, recognised by content, known by their sum; no network is used."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from firstlight.catalogue.archives import load_archives
from firstlight.engines.ollama.program import PROGRAM, says
from firstlight.engines.ollama.releases import ENGINE, KnownArchive, known_archive
from firstlight.errors import FirstlightError, UsageError, VerificationFailed
from firstlight.events import Step
from firstlight.fetching.recognising import recognise
from firstlight.fetching.unpacking import Selection, unpack
from firstlight.home import Home
from firstlight.machine.space import gigabytes
from firstlight.planning.versions import release_key

WORDS = ("tgz", "tar.zst", "zst")
"""Bare words that stand for "find it"."""
_SUFFIXES = (".tgz", ".tar.gz", ".tar.zst")
_PARTS = re.compile(r"-(?:rocm|mlx|jetpack\d+)\b")
"""Archives that only add to another one."""
_IN_NAME = re.compile(r"(?<![\d.])v?(\d+\.\d+\.\d+(?:-rc\d+)?)(?![\d.]*\d)")
_AGAIN = "with firstlight, which goes on where a download broke off: firstlight ollama.install"
_CHUNK = 1 << 20
_NO_RELEASE = "0"


class Local(msgspec.Struct, frozen=True, kw_only=True):
    """A local archive: its bytes, sum, and what they tell about it."""

    file: Path
    size: int
    sha256: str
    known: KnownArchive | None = None
    """The archive of the catalogue that has this sum."""
    named: str | None = None
    """The release that its name, or the folder that it lies in, tells."""


def archive_file(word: str, arch: str, home: Home, environment: Mapping[str, str] | None = None) -> list[Path]:
    """Return the local archives that a value of --offline means, best first; a path is taken as it is.

    Args:
        word: `tgz` for "find it", or a path.
        arch: the architecture that it is for.
        home: where downloads are kept.
        environment: variables; this process's by default.

    Raises:
        UsageError: there is no such file, or none was found.
    """
    if word not in WORDS:
        given = Path(word).expanduser().absolute()
        path = given.parent.resolve() / given.name  # so that nobody reads `here/../there`
        if path.is_file():
            return [path]
        if path.is_dir():
            found = _sorted(_in_folder(path, arch))
            if found:
                return found
        raise UsageError(
            f"--offline: {path} {'holds no archive of Ollama for this machine' if path.is_dir() else 'is no file'}",
            why=_others_there(path if path.is_dir() else path.parent),
            fix="name the archive, or let it be found: firstlight ollama.install --offline tgz",
        )
    folders = _folders(home, environment)
    for folder in folders:
        found = _sorted(_in_folder(folder, arch))
        if found:
            return found
    name = load_archives(ENGINE).arches.get(arch, arch)
    raise UsageError(
        "no archive of Ollama was found",
        why=f"no ollama-linux-{name}*.tgz or .tar.zst lies in {', '.join(map(str, folders))}",
        fix="name it: firstlight ollama.install --offline /path/to/ollama-linux-" + name + ".tgz",
    )


def _others_there(folder: Path) -> str | None:
    names = sorted(path.name for path in folder.glob("ollama-*")) if folder.is_dir() else []
    return f"{folder} holds {', '.join(names[:5])}" if names else None


def _folders(home: Home, environment: Mapping[str, str] | None) -> list[Path]:
    variables = os.environ if environment is None else environment
    mine = [Path.cwd(), home.downloads, home.downloads / ENGINE]
    user = Path(variables["HOME"]) if variables.get("HOME") else None
    named = variables.get("XDG_DOWNLOAD_DIR") or _user_dirs(user)
    if named:
        mine.append(Path(named.replace("$HOME", str(user or "~"))).expanduser())
    if user is not None:
        mine.append(user / "Downloads")
    return list(dict.fromkeys(mine))


def _user_dirs(user: Path | None) -> str | None:
    """Return the folder of downloads that the desktop has set (user-dirs.dirs(5))."""
    if user is None:
        return None
    try:
        text = (user / ".config" / "user-dirs.dirs").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r'^XDG_DOWNLOAD_DIR="([^"]+)"', text, re.MULTILINE)
    return found[1] if found else None


def _in_folder(folder: Path, arch: str) -> Iterator[Path]:
    """Give the archives of an architecture in a folder, and in folders below it that are named by a release."""
    name = load_archives(ENGINE).arches.get(arch, arch)
    for place in [folder, *(_releases_below(folder))]:
        try:
            entries = sorted(place.glob(f"ollama-linux-{name}*"))
        except OSError:
            continue
        for path in entries:
            if path.name.endswith(_SUFFIXES) and not _PARTS.search(path.name) and path.is_file():
                yield path


def _releases_below(folder: Path) -> list[Path]:
    try:
        return [
            entry for entry in folder.iterdir() if re.fullmatch(r"v?\d+\.\d+\.\d+.*", entry.name) and entry.is_dir()
        ]
    except OSError:
        return []


def _sorted(files: Iterator[Path]) -> list[Path]:
    """Return archives, newest release first as far as names tell; of one release the newest file first."""

    def key(path: Path) -> tuple[object, ...]:
        return release_key(named_release(path) or _NO_RELEASE), path.name.endswith(".tar.zst"), path.stat().st_mtime

    return sorted(files, key=key, reverse=True)


def named_release(file: Path) -> str | None:
    """Return the release that the name of a file tells, or that of the folder that it lies in."""
    for text in (file.name, file.parent.name):
        found = _IN_NAME.search(text)
        if found:
            return found[1]
    return None


def look_at(file: Path, step: Step) -> Local:
    """Return what a local file is, by its content and its sum.

    Raises:
        VerificationFailed: it is no archive: a web page, empty, a program, something else.
    """
    _require_archive(file)
    size = file.stat().st_size
    digest, done = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            step.progress(done, size, "items", f"hashing {gigabytes(done)} of {gigabytes(size)}")
    sha256 = digest.hexdigest()
    return Local(file=file, size=size, sha256=sha256, known=known_archive(sha256), named=named_release(file))


def _require_archive(file: Path) -> None:
    seen = recognise(file)
    if seen.kind == "tar":
        return
    fetch = f"fetch it again\n{_AGAIN}"
    fixes = {
        "html": f"what was saved is an error or log-in page of some site: {fetch}",
        "empty": fetch,
        "truncated": fetch,
        "elf": "that is the program alone, as the first releases were published: take the archive of a newer one",
        "other": f"take ollama-linux-….tgz or .tar.zst of a release, unchanged: {fetch}",
    }
    raise VerificationFailed(
        f"{file} is no archive of Ollama", why=seen.detail, fix=fixes.get(seen.kind, fixes["other"])
    )


def release_inside(file: Path, scratch_folder: Path, step: Step) -> str:
    """Return the release that the program inside an archive tells: only that program is unpacked, and asked.

    Args:
        file: the archive.
        scratch_folder: where there is room for the program for a moment; gone again where it was not there before.
        step: takes the progress.

    Raises:
        VerificationFailed: the archive is damaged or holds no such program.
        UsageError: the program cannot be asked here.
        FirstlightError: the folder cannot be written.
    """
    step.note(f"the sum of {file.name} is known nowhere: its program is asked which release it is")
    with (
        _made(scratch_folder),
        tempfile.TemporaryDirectory(prefix=".firstlight-ollama-", dir=scratch_folder) as scratch,
    ):
        folder = Path(scratch) / "peek"
        try:
            unpack(file, folder, step=step, selection=Selection(include=(PROGRAM,)))
        except VerificationFailed as damaged:
            damaged.fix = f"{damaged.fix}\n{_AGAIN}" if damaged.fix else _AGAIN
            raise
        program = folder / PROGRAM
        if not program.is_file():
            raise VerificationFailed(
                f"{file} is no archive of Ollama", why=f"it holds no {PROGRAM}", fix="take the archive of a release"
            )
        told = says(program)
    if told.version is None:
        raise UsageError(
            f"which release {file} is cannot be found out",
            why=f"its sum is known nowhere, and its program does not run here: {told.why}",
            fix=f"say it: firstlight ollama.install --offline {file} --release X.Y.Z",
        )
    return told.version


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[Path]:
    """Have a folder while the block runs; what of it was not there before goes again."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FirstlightError(
            f"{folder} cannot be written",
            why=error.strerror or str(error),
            fix="choose a folder that you can write: export FIRSTLIGHT_HOME=/path/with/room",
        ) from error
    try:
        yield folder
    finally:
        for each in missing:
            with contextlib.suppress(OSError):  # something else came into it
                each.rmdir()


def companions(local: Local, names: Sequence[str]) -> dict[str, Path]:
    """Return, by name, those of the other archives of a build that lie beside a local one."""
    beside = {name: local.file.with_name(name) for name in names}
    return {name: path for name, path in beside.items() if path.is_file()}
