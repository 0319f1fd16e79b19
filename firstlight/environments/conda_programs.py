"""The conda, mamba or micromamba of this machine, for where py-rattler does not run."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from firstlight.environments.conda_list import unregister_prefix
from firstlight.environments.conda_packages import STOPPED, CondaPackage, Failure, Order, failure_of, packages_of
from firstlight.environments.pipconfig import redact
from firstlight.errors import FirstlightError
from firstlight.files import remove_tree
from firstlight.machine import conda as conda_facts
from firstlight.machine.system import System
from firstlight.process import Child, Command, run

_BEAT = 0.5  # seconds between looks at whether bytes arrive: conda is silent while it solves and downloads
_WIDTH = 80
_TOLD = 2000  # characters of a program's last words
_ANSWER = 60.0  # seconds for `--version`: conda is slow on a cold disk
_UNSOLVABLE = re.compile(
    r"PackagesNotFoundError|UnsatisfiableError|nothing provides|Could not solve|not available from current channels|"
    r"does not exist \(perhaps a typo",
    re.IGNORECASE,
)


class CondaProgram(msgspec.Struct, frozen=True):
    """A program that makes conda environments: its path, its kind (`conda`, `mamba`, `micromamba`), its version."""

    path: Path
    kind: str
    version: str


def find_program(environment: Mapping[str, str]) -> CondaProgram | None:
    """Return the first conda, mamba or micromamba of this machine that starts, None where there is none."""
    tried: set[Path] = set()
    for path in _candidates(environment):
        if path in tried or not os.access(path, os.X_OK):
            continue
        tried.add(path)
        try:
            told = run([str(path), "--version"], environment=_CLEAN, timeout=_ANSWER)
        except FirstlightError:
            continue
        version = re.search(r"\d+\.\d+[\w.]*", told.tail)
        if told.returncode == 0 and version:
            kind = next((kind for kind in ("micromamba", "mamba") if path.name.startswith(kind)), "conda")
            return CondaProgram(path, kind, version[0])
    return None


_CLEAN: dict[str, str | None] = dict.fromkeys(("PYTHONPATH", "PYTHONHOME", "CONDA_SUBDIR"))


def _candidates(environment: Mapping[str, str]) -> Iterator[Path]:
    """Give what the variables name, what PATH finds, quickest first, and the usual installations."""
    yield from (Path(environment[name]) for name in ("MAMBA_EXE", "CONDA_EXE") if environment.get(name))
    for name in ("micromamba", "mamba", "conda"):
        found = shutil.which(name, path=environment.get("PATH", os.defpath))
        if found:
            yield Path(found)
    installed = conda_facts.read(System(Path("/"), environment, _ANSWER))
    if installed is not None and installed.executable:
        yield Path(installed.executable)


def install_words(program: CondaProgram, prefix: Path, specs: Sequence[str], channels: Sequence[str]) -> list[str]:
    """Return the words that fill an empty environment from exactly these channels, whatever the user's .condarc adds.

    `create` is no choice: libmamba refuses a folder that holds files (mamba issue 3845), conda and mamba empty one that
    looks like an environment, and ours holds its manifest already.
    """
    words = [str(program.path), "install", "--yes", "--quiet", "--prefix", str(prefix), "--override-channels"]
    for channel in channels:
        words += ["--channel", channel]
    return words + [_spelled(spec) for spec in specs]


def _spelled(spec: str) -> str:
    """Return a match spec as the programs take it in one word: `python=3.12.*`, `zstd=1.5.7=hb8e6e7a_2`."""
    parts = spec.split()
    if len(parts) == 3:  # name, version, build
        return f"{parts[0]}={parts[1].lstrip('=')}={parts[2]}"
    return "=".join(spec.split(maxsplit=1)) if spec[-1] == "*" else spec.replace(" ", "")


def create_with(program: CondaProgram, order: Order, channels: Sequence[str]) -> list[CondaPackage] | Failure:
    """Create an environment with a program of this machine, and return its packages or why that failed.

    The program gets a cache of its own in ours, and leaves the user's alone. What an earlier attempt left in the prefix
    is removed first.

    Args:
        program: what makes it.
        order: where, of what, and how it is watched.
        channels: where from.
    """
    names = tuple(redact(channel) for channel in channels)
    store = order.cache.absolute() / program.kind
    (store / "conda-meta").mkdir(parents=True, exist_ok=True)  # libmamba wants its root to look like an environment
    _sweep(order)
    (order.prefix / "conda-meta").mkdir()
    (order.prefix / "conda-meta" / "history").touch()
    watch = _Watch(program, order, store)
    command = Command(
        tuple(install_words(program, order.prefix, order.specs, channels)), _environment(store, order.variables)
    )
    child = Child(command, log=order.log, on_line=watch.listen, hold=order.hold, leash=True)
    try:
        while (status := child.wait(_BEAT)) is None:
            if watch.silence() > order.stall:
                child.stop(grace=2.0)
                why = f"{program.kind} said nothing and fetched nothing for {order.stall:g} s"
                return Failure(names, "silent", why)
    except BaseException:
        child.stop(grace=5.0)
        raise
    packages = packages_of(order.prefix) if status == 0 else []
    if packages:
        unregister_prefix(order.prefix)  # conda adds it by itself; whoever called does it on the record
        watch.silence()
        return packages
    _sweep(order)
    if status in STOPPED:
        return Failure(names, "interrupted", f"{program.kind} was stopped")
    message = child.output[-_TOLD:].strip() or f"{program.kind} ended with status {status}"
    return failure_of(names, "SolverError" if _UNSOLVABLE.search(message) else program.kind, message)


class _Watch:
    """Tells how far a program is, and for how many seconds nothing has moved: neither a word nor a byte."""

    def __init__(self, program: CondaProgram, order: Order, store: Path) -> None:
        self._kind, self._step, self._store = program.kind, order.step, store
        self._moved = time.monotonic()
        self._said = ""
        self._before = self._seen = _bytes_in(store)

    def listen(self, line: str) -> None:
        """Take a line of the program."""
        self._moved = time.monotonic()
        self._said = line.strip() or self._said

    def silence(self) -> float:
        """Look, tell, and return the seconds since something moved."""
        now = _bytes_in(self._store)
        if now != self._seen:
            self._seen, self._moved = now, time.monotonic()
        self._step.progress(max(0, now - self._before), None, detail=f"{self._kind} {self._said}".strip()[:_WIDTH])
        return time.monotonic() - self._moved


def _environment(store: Path, variables: Mapping[str, str]) -> dict[str, str | None]:
    bundle = variables.get("SSL_CERT_FILE")
    certificates = {"REQUESTS_CA_BUNDLE": bundle, "CURL_CA_BUNDLE": bundle} if bundle else {}
    return {
        **_CLEAN,
        **variables,
        **certificates,
        "CONDA_PKGS_DIRS": str(store / "pkgs"),
        "MAMBA_ROOT_PREFIX": str(store),
        "CONDA_ALWAYS_YES": "true",
        "CONDA_REPORT_ERRORS": "false",
    }


def _sweep(order: Order) -> None:
    """Remove what an attempt left: conda asks about a folder that looks like an environment, and removes all of it."""
    for entry in order.prefix.iterdir():
        if entry.name not in order.kept:
            remove_tree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _bytes_in(store: Path) -> int:
    """Return the bytes of the archives and of the repodata that lie in a program's cache."""
    total = 0
    for folder in (store / "pkgs", store / "pkgs" / "cache"):
        for entry in folder.iterdir() if folder.is_dir() else ():
            try:
                total += entry.stat().st_size if entry.is_file() else 0
            except OSError:
                continue
    return total
