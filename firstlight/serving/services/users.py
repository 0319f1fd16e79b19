"""Whom a service of the system runs as, and whether that user can reach what it needs."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec

from firstlight import process
from firstlight.errors import FirstlightError, UsageError, did_you_mean

SERVICE_USER = "firstlight"
_NOLOGIN = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false")
_SECONDS = 20.0


class Blocked(msgspec.Struct, frozen=True, kw_only=True):
    """What a user cannot reach, and the folder or file that stands in the way."""

    path: Path
    obstacle: Path
    mode: str

    @property
    def words(self) -> str:
        """The obstacle in words."""
        return f"{self.path}: {self.obstacle} lets no other user in ({self.mode})"


def exists(name: str) -> bool:
    """Tell whether this machine knows a user."""
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):
        return False
    return True


def require_user(name: str) -> None:
    """Make sure that a user exists.

    Raises:
        UsageError: it does not; near names are offered.
    """
    if exists(name):
        return
    known = [entry.pw_name for entry in pwd.getpwall()]
    raise UsageError(
        f'there is no user "{name}" on this machine{did_you_mean(name, known)}',
        why="a unit with a missing user fails with status 217/USER",
        fix=f"make it: useradd --system {name}   (or leave --user out: {SERVICE_USER} is made)",
    )


def creation() -> list[str]:
    """Return the command that makes the service user."""
    shell = next((path for path in _NOLOGIN if Path(path).exists()), _NOLOGIN[-1])
    words = ["useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
    return [*words, "--shell", shell, SERVICE_USER]


def create() -> None:
    """Make the service user.

    Raises:
        FirstlightError: it cannot be made.
    """
    _run(creation(), f"the user {SERVICE_USER} cannot be made")


def remove(name: str) -> None:
    """Remove a user that was made for services; its group goes with it.

    Raises:
        FirstlightError: it cannot be removed: something of it still runs, say.
    """
    _run(["userdel", name], f"the user {name} cannot be removed")


def _run(words: list[str], what: str) -> None:
    if shutil.which(words[0]) is None:
        raise FirstlightError(what, why=f"there is no {words[0]} here", fix="run the service as root: --user root")
    ended = process.run(words, timeout=_SECONDS, environment={"LC_ALL": "C"})
    if ended.returncode:
        raise FirstlightError(what, why=ended.tail or f"{words[0]} ended with {ended.returncode}", fix=" ".join(words))


def blocked(user: str, paths: Iterable[Path], *, hidden: tuple[str, ...] = ()) -> Blocked | None:
    """Return the first path that a user cannot read or enter, by the modes of all on the way; None: all are open.

    Access lists are not looked at: where they matter, a path may be told as blocked that is not.

    Args:
        user: the user; one that does not exist yet is nobody's friend.
        paths: folders and files.
        hidden: folders whose own modes do not count, because what is needed is bound out of them.
    """
    uid, gids = _identity(user)
    if uid == 0:
        return None
    for path in paths:
        for step in _steps(path):
            if any(step == Path(folder) for folder in hidden):
                continue
            try:
                seen = step.stat()
            except OSError:
                continue
            needed = 5 if stat.S_ISDIR(seen.st_mode) and step == path else 1 if stat.S_ISDIR(seen.st_mode) else 4
            if not _allowed(seen, uid, gids, needed):
                return Blocked(path=path, obstacle=step, mode=stat.filemode(seen.st_mode))
    return None


def _identity(user: str) -> tuple[int, set[int]]:
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return -1, set()
    return entry.pw_uid, {entry.pw_gid, *(group.gr_gid for group in grp.getgrall() if user in group.gr_mem)}


def _steps(path: Path) -> list[Path]:
    real = Path(os.path.realpath(path))
    return [*reversed(real.parents), real]


def _allowed(seen: os.stat_result, uid: int, gids: set[int], needed: int) -> bool:
    shift = 6 if seen.st_uid == uid else 3 if seen.st_gid in gids else 0
    return (seen.st_mode >> shift) & needed == needed


def groups_here(names: Iterable[str]) -> tuple[str, ...]:
    """Return those of some groups that this machine has."""
    known = {group.gr_name for group in grp.getgrall()}
    return tuple(name for name in names if name in known)
