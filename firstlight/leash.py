"""Ends the programs of a firstlight that is gone, however it went: a process that waits for the end of a pipe.

Started by path with an isolated interpreter (`python -I -S leash.py`), so it imports the standard library alone. Its
standard input tells `+PID` for a process group that began and `-PID` for one that ended; the input's end is the end of
whoever started it, also by SIGKILL.

Why not PR_SET_PDEATHSIG: that signal is tied to the *thread* that started the program, and reaches one process only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

GRACE = 0.5
"""Seconds from TERM to KILL: what is ended here writes to places that the next run cleans."""


def _signal(groups: set[int], number: int) -> None:
    for group in groups:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(group, number)


def main() -> None:
    """Read which groups run; at the end of the input, end them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in sys.stdin:
        word = line.strip()
        with contextlib.suppress(ValueError):
            (groups.add if word.startswith("+") else groups.discard)(int(word[1:]))
    if groups:
        _signal(groups, signal.SIGTERM)
        time.sleep(GRACE)
        _signal(groups, signal.SIGKILL)


if __name__ == "__main__":
    main()
