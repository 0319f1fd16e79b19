"""The folder that an archive is unpacked into: beside the place where it will be, locked while somebody works in it."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

from firstlight.errors import FirstlightError

STAGING = ".unpacking-"
"""How the names of staging folders begin; what lies in such a folder was never finished."""

_PATIENCE = 10.0  # seconds for a killed run's process to let go of it


def claim(staging: Path) -> int:
    """Return the descriptor of the empty, locked staging folder.

    Raises:
        FirstlightError: another process works in it, or it cannot be made.
    """
    deadline = time.monotonic() + _PATIENCE
    try:
        while True:
            staging.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), staging.stat()):
                    _empty(staging, descriptor)
                    return descriptor
            except FileNotFoundError:  # it was published or removed just now
                pass
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise _occupied(staging) from None
            os.close(descriptor)
            time.sleep(0.05)
    except OSError as error:
        raise FirstlightError(
            f"{staging.parent} cannot be written",
            why=error.strerror or str(error),
            fix="choose a folder that you can write: export FIRSTLIGHT_HOME=/path/with/room",
        ) from error


def _empty(staging: Path, descriptor: int) -> None:
    for entry in list(staging.iterdir()):
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    os.fchmod(descriptor, 0o755)


def _occupied(staging: Path) -> FirstlightError:
    return FirstlightError(
        f"another firstlight is unpacking into {staging.parent}",
        why=f"it holds {staging}",
        fix=f"wait for it, or look: fuser -v {staging}",
    )
