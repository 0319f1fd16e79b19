"""The Python interpreters of this machine, told by files wherever possible: starting one costs 20 ms and more."""

from __future__ import annotations

import functools
import mmap
import os
import re
from collections.abc import Iterator
from pathlib import Path

from firstlight import process
from firstlight.machine.conda import known_roots
from firstlight.machine.facts import Python
from firstlight.machine.system import Background, System, exists, is_file, printable, reason_of

RUN_SECONDS = 3.0
_NAME = re.compile(r"python3(?:\.\d+)?$")
_VERSION = re.compile(r"3\.\d+\.\d+(?:(?:a|b|rc)\d+)?\+?")
_MINOR = re.compile(r"python(3\.\d+)")
_BINARY_LIMIT = 128 << 20


def read(system: System) -> list[Python]:
    """Return the interpreters in the order of PATH, then those of known homes; each real file once.

    Virtual environments (ours above all) stand for the interpreter that they were made from.
    """
    found: list[tuple[Path, Path, str | None]] = []
    seen: set[Path] = set()
    for candidate in _candidates(system):
        try:
            real = candidate.resolve(strict=True)
        except (OSError, RuntimeError):  # a dangling link, a loop, or a folder that we may not look into
            continue
        path = real if exists(candidate.parent.parent / "pyvenv.cfg") else candidate
        if real in seen or not _is_program(real):
            continue
        seen.add(real)
        told = system.attempt(f"pythons:{printable(path)}", functools.partial(version_by_files, real), None)
        found.append((path, real, told))
    running = {
        real: Background(f"python-{path.name}", functools.partial(_ask, system, path))
        for path, real, known in found
        if known is None
    }
    pythons = []
    for path, real, known in found:
        version = known or _answer(system, path, running[real])
        if version is not None:
            pythons.append(Python(path=printable(path), version=version, ensurepip=has_ensurepip(real, version)))
    return pythons


def _candidates(system: System) -> Iterator[Path]:
    folders = list(system.search_path())
    folders += [system.path(name) for name in ("/usr/local/bin", "/usr/bin")]
    folders += [root / "bin" for root in known_roots(system)]
    folders += [version / "bin" for home in _version_homes(system) for version in _folders_of(home)]
    for folder in folders:
        if folder.name == "shims":  # pyenv, asdf, mise: scripts that choose a version; the versions are listed below
            continue
        try:
            names = sorted(name for name in os.listdir(folder) if _NAME.match(name))  # noqa: PTH208 - half the time
        except OSError:
            continue
        yield from (folder / name for name in names)


def _version_homes(system: System) -> Iterator[Path]:
    """Give the folders in which pyenv, uv, mise and asdf keep one folder per version."""
    variables, home = system.environment, system.home
    data = variables.get("XDG_DATA_HOME") or (str(home / ".local" / "share") if home else None)
    for variable, below, usual in (
        ("PYENV_ROOT", "versions", home and home / ".pyenv"),
        ("UV_PYTHON_INSTALL_DIR", "", data and Path(data, "uv", "python")),
        ("MISE_DATA_DIR", "installs/python", data and Path(data, "mise")),
        ("ASDF_DATA_DIR", "installs/python", home and home / ".asdf"),
    ):
        chosen = variables.get(variable) or usual
        if chosen:
            yield Path(chosen) / below


def _folders_of(home: Path) -> list[Path]:
    try:
        return sorted(folder for folder in home.iterdir() if not folder.name.startswith("."))
    except OSError:
        return []


def _is_program(real: Path) -> bool:
    other = real.name.startswith(("pypy", "graalpy"))  # the engines' wheels are made for CPython
    return not other and is_file(real) and os.access(real, os.X_OK)


def version_by_files(real: Path) -> str | None:
    """Return an interpreter's full version without starting it, None where no file tells.

    Asked in turn: conda's record, the name of a folder of pyenv or uv, the C header `patchlevel.h`, and the string
    in the program itself (a statically linked CPython holds its version between two NULs).
    """
    minor = _MINOR.match(real.name)
    prefix = real.parent.parent
    for record in sorted(prefix.glob("conda-meta/python-3.*.json")):
        if match := _VERSION.match(record.name[len("python-") :]):
            return match.group()
    if minor is None:
        return None
    if (match := re.match(r"(?:cpython-)?(3\.\d+\.\d+)(?:-|$)", prefix.name)) and (
        match.group(1).startswith(minor.group(1) + ".")
    ):
        return match.group(1)
    for header in sorted(prefix.glob(f"include/python{minor.group(1)}*/patchlevel.h")):
        if match := re.search(r'#define\s+PY_VERSION\s+"(3\.[^"]+)"', header.read_text(errors="replace")):
            return match.group(1)
    return version_in_binary(real, minor.group(1))


def version_in_binary(real: Path, minor: str) -> str | None:
    """Return the version that a statically linked interpreter carries in its data, or None."""
    start = f"\0{minor}.".encode()
    with real.open("rb") as stream:
        if not 4 <= os.fstat(stream.fileno()).st_size <= _BINARY_LIMIT or stream.read(4) != b"\x7fELF":
            return None
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            place = data.find(start)
            while place >= 0:
                text = data[place + 1 : place + 24].partition(b"\0")[0].decode("ascii", "replace")
                if _VERSION.fullmatch(text):
                    return text
                place = data.find(start, place + 1)
    return None


def has_ensurepip(real: Path, version: str) -> bool | None:
    """Tell whether the interpreter can make environments with pip: Debian ships ensurepip in a package of its own."""
    minor = ".".join(version.split(".")[:2])
    for lib in ("lib", "lib64"):
        folder = real.parent.parent / lib / f"python{minor}"
        if exists(folder / "os.py"):
            return exists(folder / "ensurepip" / "__init__.py")
    return None


def _ask(system: System, path: Path) -> str | None:
    """Ask an interpreter for its version, without site-packages and without the user's PYTHON variables."""
    ended = process.run(
        [str(path), "-I", "-S", "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"],
        environment=system.additions(),
        timeout=max(0.1, system.remaining(RUN_SECONDS)),
    )
    line = (ended.tail.splitlines() or [""])[-1].strip()
    return line if ended.returncode == 0 and _VERSION.fullmatch(line) else None


def _answer(system: System, path: Path, work: Background[str | None]) -> str | None:
    if not work.wait(system.remaining(RUN_SECONDS + 1.0)):
        system.failed(f"pythons:{printable(path)}", "it did not tell its version in time")
    elif work.error is not None:
        system.failed(f"pythons:{printable(path)}", reason_of(work.error))
    elif work.outcome(None) is None:
        system.failed(f"pythons:{printable(path)}", "it does not run")
    return work.outcome(None)
