"""Runs one program and leaves nothing of it behind: a tiny parent that ends the whole tree when its own owner is gone.

Started by path with an isolated interpreter (`python -I -S guard.py … -- program words`), so it imports the standard
library alone and works whatever the program's environment does to Python.

Why a pipe and not PR_SET_PDEATHSIG alone: that signal is tied to the *thread* that started the child and reaches one
process only. The read end of a pipe tells the death of the owner surely, also by SIGKILL, and then the whole tree goes.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import select
import signal
import sys
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
"""linux/prctl.h: the signal that this process gets when its parent ends."""
PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h: orphans below this process become its children, so that none gets out of sight."""
GRACE = 5.0
"""Seconds from TERM to KILL when the owner is gone."""
SWEEP_GRACE = 2.0
"""Seconds from TERM to KILL for what a program left behind when it ended."""
FORWARD_AFTER = 3.0
"""A TERM usually goes to the whole group; one for the guard alone is handed on after these seconds."""
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def _prctl(option: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def descendants(root: int) -> list[int]:
    """Return the processes below `root` that still run (zombies left out), children before grandchildren."""
    children: dict[int, list[int]] = {}
    ended: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                fields = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
                if fields[0] in {"Z", "X"}:
                    ended.add(int(entry.name))
    found: list[int] = []
    rest = [root]
    while rest:
        below = children.get(rest.pop(0), [])
        found += below
        rest += below
    return [pid for pid in found if pid not in ended]


def _signal_all(number: int) -> bool:
    """Send a signal to everything below; False when nothing is there any more."""
    below = descendants(os.getpid())
    for pid in below:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
    return bool(below)


class Guard:
    """The running program, its ended state, and what came from outside."""

    def __init__(self, argv: list[str], owner_pipe: int | None, keep: list[int]) -> None:
        self.argv = argv
        self.owner_pipe = owner_pipe
        self.keep = keep
        self.main = 0
        self.status: int | None = None
        self._asked_to_end: float | None = None
        self._forwarded = False
        self._wake_read, self._wake_write = os.pipe()

    def start(self) -> None:
        """Start the program as a child in this process's own group."""
        os.set_blocking(self._wake_write, False)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        for number in (*_ENDING, signal.SIGCHLD):
            signal.signal(number, lambda _number, _frame: None)
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        if self.owner_pipe is not None:
            os.set_inheritable(self.owner_pipe, False)
        guard = os.getpid()
        self.main = os.fork()
        if self.main == 0:
            self._become_program(guard)

    def _become_program(self, guard: int) -> None:
        try:
            _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != guard:
                os._exit(143)
            for number in (signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)  # Python ignores these two; an exec would pass that on
            for descriptor in self.keep:
                os.set_inheritable(descriptor, True)
            os.execvp(self.argv[0], self.argv)  # noqa: S606 - a list of words, no shell
        except OSError as error:
            os.write(2, f"cannot start {self.argv[0]}: {error.strerror}\n".encode())
        finally:
            os._exit(127)

    def reap(self) -> None:
        """Collect every ended child; keep the program's own status (128 + signal where one ended it)."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self.main:
                    self.status = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)

    def run(self) -> int:
        """Wait for the program, for its owner's end, or for a signal; return the program's exit status."""
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        if self.owner_pipe is not None:
            poll.register(self.owner_pipe, select.POLLIN | select.POLLHUP)
        while True:
            self.reap()
            if self.status is not None:
                self.end(SWEEP_GRACE)
                return self.status
            for descriptor, _event in poll.poll(self._poll_milliseconds()):
                if descriptor == self.owner_pipe:
                    self.end(GRACE)
                    return 143 if self.status is None else self.status
                self._take_signals(os.read(descriptor, 64))
            self._forward()

    def _poll_milliseconds(self) -> int | None:
        return None if self._asked_to_end is None or self._forwarded else 250

    def _take_signals(self, numbers: bytes) -> None:
        if self._asked_to_end is None and any(number in numbers for number in _ENDING):
            self._asked_to_end = time.monotonic()

    def _forward(self) -> None:
        if self._asked_to_end is None or self._forwarded or time.monotonic() < self._asked_to_end + FORWARD_AFTER:
            return
        self._forwarded = True
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.main, signal.SIGTERM)

    def end(self, grace: float) -> None:
        """End everything below this process: TERM, then KILL after `grace` seconds, until nothing is left."""
        deadline = time.monotonic() + grace
        alive = _signal_all(signal.SIGTERM)
        while alive and time.monotonic() < deadline:
            time.sleep(0.05)
            self.reap()
            alive = bool(descendants(os.getpid()))
        deadline = time.monotonic() + grace
        while alive and time.monotonic() < deadline:
            alive = _signal_all(signal.SIGKILL)
            time.sleep(0.05)
            self.reap()


def _leave_terminal(log: str) -> None:
    """Become a session of our own with no terminal, output to `log`."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for source, target in ((null, 0), (sink, 1), (sink, 2)):
        os.dup2(source, target)


def _detach(log: str) -> None:
    """Go on in a grandchild of whoever started us; this process prints its id and ends once it stands."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid:
        os.close(tell)
        ready = os.read(told, 16)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
        os._exit(0 if ready == b"ready" else 1)
    os.close(told)
    _leave_terminal(log)
    os.write(tell, b"ready")
    os.close(tell)


def main() -> int:
    """Parse the words and run the program; return its exit status."""
    parser = argparse.ArgumentParser(prog="guard")
    parser.add_argument("--owner-pipe", type=int, help="descriptor that reaches its end when the owner is gone")
    parser.add_argument("--keep", type=int, action="append", default=[], help="descriptor that the program gets too")
    parser.add_argument("--detach", metavar="LOG", help="leave the starter, with output to this file")
    parser.add_argument("--status", metavar="FILE", help="where the exit status is written")
    parser.add_argument("argv", nargs="+")
    words = parser.parse_args()
    if words.detach:
        _detach(words.detach)
    guard = Guard(words.argv, words.owner_pipe, words.keep)
    guard.start()
    status = guard.run()
    if words.status:
        with contextlib.suppress(OSError):
            Path(words.status).write_text(f"{status}\n")
    return status


if __name__ == "__main__":
    sys.exit(main())
