"""The user's list of conda environments (`~/.conda/environments.txt`), so that `conda env list` shows ours."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
from collections.abc import Callable, Iterator
from pathlib import Path

from firstlight.files import write_atomic


def environments_list() -> Path | None:
    """Return the file that conda reads; None for a user without a home.

    Source: conda 26.7 `core/envs_manager.py`: as root the homes of the password database are looked at, not $HOME.
    """
    with contextlib.suppress(KeyError, RuntimeError):
        home = Path(pwd.getpwuid(0).pw_dir) if os.geteuid() == 0 else Path("~").expanduser()
        if home.is_dir():
            return home / ".conda" / "environments.txt"
    return None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one firstlight at a time change a file of `folder`; conda itself takes no lock."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _change(change: Callable[[list[str]], list[str]], *, create: bool) -> Path | None:
    """Rewrite the list; returns it when it was changed. A list that cannot be written is left alone."""
    listing = environments_list()
    if listing is None or not (create or listing.exists()):
        return None
    try:
        listing.parent.mkdir(parents=True, exist_ok=True)
        with _alone(listing.parent):
            text = listing.read_text(encoding="utf-8", errors="surrogateescape") if listing.exists() else ""
            before = text.splitlines()
            after = change(before)
            if after == before:
                return None
            mode = listing.stat().st_mode & 0o777 if listing.exists() else 0o644
            # A link (dotfiles kept elsewhere) stays a link.
            payload = "".join(f"{line}\n" for line in after).encode("utf-8", "surrogateescape")
            write_atomic(listing.resolve(), payload, mode)
    except OSError:
        return None
    return listing


def register_prefix(prefix: Path) -> Path | None:
    """Add an environment to the list, once; returns the list when it was changed."""
    line = str(prefix.absolute())
    return _change(lambda lines: lines if line in lines else [*lines, line], create=True)


def unregister_prefix(prefix: Path) -> Path | None:
    """Take an environment off the list, all other lines kept; returns the list when it was changed."""
    line = str(prefix.absolute())
    return _change(lambda lines: [kept for kept in lines if kept.strip() != line], create=False)
