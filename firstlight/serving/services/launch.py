"""Becomes a service under supervisor: reads its words, variables and secrets, leaves root, and runs the engine.

Started by path with an isolated interpreter (`python -I -S launch.py NAME`) in the supervisor's folder, so it imports
the standard library alone. Supervisor's own configuration may be read by everyone and gives `%` a meaning: nothing of
the service stands in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import pwd
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

PR_SET_PDEATHSIG = 1
"""linux/prctl.h; the kernel forgets it when the user changes."""
_KEPT = 50
"""Starts that are remembered."""


def secrets_of(path: str | None) -> dict[str, str]:
    """Return the variables of an environment file: `NAME=value` lines, the value may stand in quotes."""
    if path is None:
        return {}
    found = {}
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, sign, value = line.strip().partition("=")
        if sign and name and not name.startswith(("#", ";")):
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            found[name.strip()] = value[1:-1] if quoted else value
    return found


def remember_start(file: Path, burst: int, interval: float, most: float) -> float:
    """Note this start and return the seconds to wait: the more starts there were of late, the longer."""
    now = time.time()
    starts: list[float] = []
    with contextlib.suppress(OSError, ValueError):
        starts = [float(line) for line in file.read_text().split()][-_KEPT:]
    late = sum(1 for start in starts if now - interval < start <= now)
    with contextlib.suppress(OSError):  # a full disk must not keep the service down
        file.write_text("".join(f"{start}\n" for start in (*starts, now)))
    return min(most, 2.0 ** (late - burst)) if late > burst else 0.0


def raise_limits(open_files: int | None, *, locked: bool) -> None:
    """Raise the limits of this process as far as it may."""
    with contextlib.suppress(OSError, ValueError):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        wanted = open_files if hard == resource.RLIM_INFINITY else min(hard, open_files or hard)
        if wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    if locked:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def become(user: str) -> None:
    """Go on as another user, with that user's groups."""
    entry = pwd.getpwnam(user)
    if os.geteuid() != entry.pw_uid:
        os.initgroups(user, entry.pw_gid)
        os.setgid(entry.pw_gid)
        os.setuid(entry.pw_uid)
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)


def fail(text: str) -> NoReturn:
    """Tell why the engine cannot be started and end as a shell would."""
    sys.stderr.write(f"cannot start {text}\n")
    raise SystemExit(127)


def main() -> NoReturn:
    """Run the service whose name is the only word."""
    folder = Path("..") / "services" / sys.argv[1]
    try:
        wish: dict[str, Any] = json.loads((folder / "launch.json").read_text(encoding="utf-8"))
        environment = {**wish["environment"], **secrets_of(wish["secrets"])}
    except (OSError, ValueError, KeyError) as error:
        fail(f"{sys.argv[1]}: its description cannot be read: {error}")
    pause = remember_start(folder / "starts", wish["burst"], wish["interval"], wish["most"])
    if pause:
        sys.stderr.write(f"started too often of late: waiting {pause:.0f} s\n")
        sys.stderr.flush()
        time.sleep(pause)
    raise_limits(wish["open_files"], locked=wish["locked"])
    argv: list[str] = wish["argv"]
    try:
        if wish["user"]:
            become(wish["user"])
        os.chdir(environment.get("HOME") or "/")
    except KeyError:
        fail(f"{argv[0]}: there is no user {wish['user']}")
    except OSError as error:
        fail(f"{argv[0]}: {error}")
    try:
        os.execvpe(argv[0], argv, environment)  # noqa: S606 - a list of words, no shell
    except OSError as error:
        fail(f"{argv[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
