"""A build's lock on disk: `envs/<engine>/<build>/`, its names, its text, and reading it back strictly."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from firstlight.catalogue.locks import lock_path
from firstlight.catalogue.types import Build
from firstlight.errors import VerificationFailed

SCHEMA = "firstlight.lock/1"
CONDA_LOCK = "conda-lock.yml"
WISH = "environment.yml"

_HEAD = re.compile(r"# (build|python|platform|wish|resolved|newest|pinned|open|marks|sum): (\S+)")
_MARK = 4
"""Hexadecimal digits of each line's own sum: they tell which line was edited, the whole sum that one was."""
_LINE = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)((?: --hash=sha256:[0-9a-f]{64})*)")
_HASH = re.compile(r"sha256:([0-9a-f]{64})")


class LockedWheel(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One distribution of a lock: its exact version, and the SHA-256 of each of its wheels that fits the platform.

    No hash: the wheel lies outside of the registry and its sum is public nowhere; it is held by its version alone.
    """

    name: str
    version: str
    sha256: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The line of a requirements file."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{value}" for value in self.sha256)])


class PipLock(msgspec.Struct, frozen=True, kw_only=True):
    """The pip layer of a build for its Python and platform."""

    build: str
    python: str
    """The minor version."""
    platform: str
    """In uv's words: `x86_64-manylinux_2_28`."""
    wish: str
    """The digest of the wish that it was made from."""
    resolved: str
    """The day on which it was made, ISO 8601."""
    newest: str | None = None
    """Nothing that came to the registry after this day was taken."""
    wheels: tuple[LockedWheel, ...]
    """Every one with its hashes."""
    pinned: tuple[LockedWheel, ...] = ()
    """Those that are held by their version alone."""
    open: bool = False
    """Whether something is still to be resolved at the first install: the CUDA libraries of a torch that is not the
    registry's, which its own metadata names."""

    @property
    def digest(self) -> str:
        """The SHA-256 of all that it holds."""
        return hashlib.sha256("".join(render(self)).encode()).hexdigest()

    @property
    def whole(self) -> bool:
        """Whether every file is known by its hash."""
        return not self.pinned and not self.open

    @property
    def integrity(self) -> Literal["locked", "pinned"]:
        """`locked` where every file is known by its hash."""
        return "locked" if self.whole else "pinned"


class Damage(VerificationFailed):
    """A lock file says what no lock can say: it was edited, or cut off."""

    def __init__(self, what: str, *, why: str, file: Path, line: int = 0) -> None:
        fix = "get the file again (reinstall firstlight, or `git checkout` it), or resolve afresh: add --unlocked"
        super().__init__(what, why=why, fix=fix)
        self.file, self.line = file, line


def render(lock: PipLock) -> tuple[str, str]:
    """Return the texts of a lock's files: the hashed wheels, and the others, empty where there are none."""
    head = [
        f"# {SCHEMA}: made by `firstlight lock.update`, held by `firstlight lock.check`; edits are refused.",
        f"# build: {lock.build}",
        f"# python: {lock.python}",
        f"# platform: {lock.platform}",
        f"# wish: {lock.wish}",
        f"# resolved: {lock.resolved}",
        *([f"# newest: {lock.newest}"] if lock.newest else []),
        *([f"# pinned: {len(lock.pinned)}"] if lock.pinned else []),
        *(["# open: cuda-libraries"] if lock.open else []),
    ]
    told = (
        "# Held by their versions: wheels outside of the registry whose sums are public nowhere. What is open is "
        "settled at the first install, under the versions of the lock beside this file."
    )
    hashed = _summed(head, [], lock.wheels)
    return hashed, "" if lock.whole else _summed(head, [told], lock.pinned)


def _summed(head: Sequence[str], told: Sequence[str], wheels: Sequence[LockedWheel]) -> str:
    """Return the text of a file, with the sum of its lines in its head."""
    lines = [wheel.line for wheel in wheels]
    head = [*head, f"# marks: {''.join(map(_mark, lines))}"] if lines else head
    return "\n".join([*head, f"# sum: {_sum(head, lines)}", *told, *lines, ""])


def _mark(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()[:_MARK]


def _sum(head: Sequence[str], lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join([*head, *lines]).encode()).hexdigest()


def read_lock(folder: Path, build: Build, python: str) -> PipLock | None:
    """Return the lock of a build for a Python, None where it has none.

    Raises:
        Damage: it was edited by hand or cut off; the file, the line and the package are named.
    """
    path, pins = lock_path(folder, build, python), lock_path(folder, build, python, "pins")
    return read_text_lock(path, pins, build.id, python)


def read_text_lock(path: Path, pins: Path, build: str, python: str) -> PipLock | None:
    """Return the lock that two files hold, None where the first one is missing; see `read_lock`."""
    text = _text(path)
    if text is None:
        return None
    head, wheels = _parse(path, text, hashed=True)
    lacking = [key for key in ("build", "python", "platform", "wish", "resolved") if key not in head]
    if lacking:
        raise _damage(path, 1, f"its head does not say {', '.join(lacking)}")
    if (head["build"], head["python"]) != (build, python):
        raise _damage(path, 1, f"it is the lock of {head['build']} for Python {head['python']}")
    _hold_to_sum(path, text, head, wheels)
    pinned: Sequence[LockedWheel] = ()
    beside = _text(pins)
    if beside is not None:
        same, pinned = _parse(pins, beside, hashed=False)
        told: dict[str, str] = {key: same.pop(key) for key in ("marks", "sum") if key in same}
        if same != head:
            raise _damage(pins, 1, f"its head differs from that of {path.name}")
        _hold_to_sum(pins, beside, told, pinned)
    if head.pop("pinned", "0") != str(len(pinned)):
        raise _damage(pins, 0, f"it does not hold the pinned wheels that {path.name} speaks of")
    newest, still_open = head.pop("newest", None), head.pop("open", None) is not None
    return PipLock(wheels=tuple(wheels), pinned=tuple(pinned), newest=newest, open=still_open, **head)


def _text(path: Path) -> str | None:
    """Return what a file holds, None where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except UnicodeDecodeError as error:
        raise _damage(path, 0, f"it is no text: {error}") from error
    except OSError as error:
        raise _damage(path, 0, error.strerror or str(error)) from error


def _parse(path: Path, text: str, *, hashed: bool) -> tuple[dict[str, str], list[LockedWheel]]:
    head: dict[str, str] = {}
    wheels: list[LockedWheel] = []
    if not text.endswith("\n") or not text.startswith(f"# {SCHEMA}"):
        raise _damage(path, 1, "it is cut off, or no lock at all")
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("#"):
            match = _HEAD.fullmatch(line)
            if match:
                head[match[1]] = match[2]
            continue
        found = _LINE.fullmatch(line)
        name = line.partition("=")[0].strip()
        if found is None:
            raise _damage(path, number, f"{name or 'an empty line'}: no line of a lock")
        if bool(found[3]) is not hashed:
            raise _damage(path, number, f"{found[1]} has {'no hash' if hashed else 'a hash'}")
        wheels.append(LockedWheel(name=found[1], version=found[2], sha256=tuple(_HASH.findall(found[3]))))
    names = [wheel.name for wheel in wheels]
    if names != sorted(set(names)):
        raise _damage(path, 0, "its lines are not in order, or name something twice")
    return head, wheels


def _hold_to_sum(path: Path, text: str, head: dict[str, str], wheels: Sequence[LockedWheel]) -> None:
    """Take the sums out of a head, and raise where they are not those of its file."""
    marks, told = head.pop("marks", ""), head.pop("sum", None)
    above = list(itertools.takewhile(lambda line: line.startswith("#") and line[2:6] != "sum:", text.splitlines()))
    if told == _sum(above, [wheel.line for wheel in wheels]):
        return
    raise _damage(path, *_edited(text, marks, wheels))


def _edited(text: str, marks: str, wheels: Sequence[LockedWheel]) -> tuple[int, str]:
    """Return the line that was edited first (0: it is not known) and what is wrong, with the packages' names."""
    from difflib import SequenceMatcher

    before = [marks[at : at + _MARK] for at in range(0, len(marks), _MARK)]
    after, names = [_mark(wheel.line) for wheel in wheels], [wheel.name for wheel in wheels]
    numbers = [number for number, line in enumerate(text.splitlines(), 1) if not line.startswith("#")]
    for what, _first, _last, at, to in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if what == "equal" or not before:
            continue
        if what == "delete":
            sides = [f"after {names[at - 1]}"] if at else []
            sides += [f"before {names[at]}"] if at < len(names) else []
            return 0, f"what stood {' and '.join(sides) or 'there'} was taken out: its sum does not hold"
        told = "it was put in by hand" if what == "insert" else "it is not what was locked"
        return numbers[at], f"{', '.join(names[at:to])}: {told}, so the sum of the file does not hold"
    return 0, "its head, a version or a hash was edited: its sum does not hold"


def _damage(path: Path, line: int, why: str) -> Damage:
    where = f"{path}, line {line}" if line else str(path)
    return Damage(f"the lock {path.parent.name} is damaged: {where}", why=why, file=path, line=line)
