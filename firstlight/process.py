"""One way to run other programs: argument lists, own process group, output to a log, a tail kept, TERM then KILL."""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO

import msgspec

from firstlight.errors import FirstlightError

TAIL_LINES = 200
DRAIN_SECONDS = 15.0
"""At most, for the last words of a program that has ended; what it left behind may go on talking."""


class Command(msgspec.Struct, frozen=True):
    """A program to run: its words, the environment variables that it adds (None removes one), its folder."""

    argv: tuple[str, ...]
    environment: dict[str, str | None] = {}
    folder: Path | None = None


class Completed(msgspec.Struct, frozen=True):
    """How a program ended: exit status (negative: the signal), the last lines of its output, seconds that it took."""

    returncode: int
    tail: str
    seconds: float


def merged_environment(additions: Mapping[str, str | None]) -> dict[str, str]:
    """Return this process's environment with `additions` laid over it; None removes a variable."""
    environment = dict(os.environ)
    for key, value in additions.items():
        if value is None:
            environment.pop(key, None)
        else:
            environment[key] = value
    return environment


_running: weakref.WeakSet[Child] = weakref.WeakSet()


def stop_children(grace: float = 5.0) -> None:
    """End every program that this process still runs; for an interrupted command, from its main thread."""
    threads = [threading.Thread(target=child.stop, args=(grace,)) for child in list(_running) if child.poll() is None]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class _Leash:
    """The one helper process (`leash.py`) that ends our leashed programs when we are gone, also by SIGKILL."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def tell(self, word: str) -> None:
        """Tell it that a group began (`+PID`) or ended (`-PID`); it is started with the first one."""
        with self._lock, contextlib.suppress(OSError):
            if self._process is None:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", str(Path(__file__).with_name("leash.py"))],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    start_new_session=True,
                )
                atexit.register(self.close)
            if self._process.stdin is not None:
                os.write(self._process.stdin.fileno(), f"{word}\n".encode())

    def close(self) -> None:
        """Let it go: what still runs on it is ended."""
        with self._lock:
            process, self._process = self._process, None
        if process is not None and process.stdin is not None:
            process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2.0)


_leash = _Leash()


def _open_screen() -> tuple[int, int]:
    """Return both ends of a new terminal, wide enough that programs do not cut their words short.

    A chroot or a bare container may have no /dev/ptmx: then it is a pipe, and the program tells less of its progress.
    """
    try:
        ours, theirs = os.openpty()
    except OSError:
        return os.pipe()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 160, 0, 0))  # rows, columns, unused pixels
    return ours, theirs


def _watch(terminal: int, screen: Callable[[bytes], None]) -> None:
    try:
        while True:
            try:
                drawn = os.read(terminal, 1 << 16)
            except OSError:  # EIO: the last program on this terminal has ended
                return
            if not drawn:
                return
            screen(drawn)
    finally:
        os.close(terminal)


class Child:
    """A running program in its own session; its output goes to a log file, line by line to `on_line`, and to a tail.

    With `screen` it runs on a terminal of its own, for programs that tell their progress only there, and `screen` gets
    the bytes that it draws; log, tail and `on_line` then stay empty. With `leash` it ends within a second of this
    process, however this one ends.
    """

    def __init__(
        self,
        command: Command,
        *,
        log: Path | None = None,
        on_line: Callable[[str], None] | None = None,
        stdin: str | None = None,
        hold: tuple[int, ...] = (),
        screen: Callable[[bytes], None] | None = None,
        leash: bool = False,
    ) -> None:
        self.command = command
        self._leashed = False
        self.log = log
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.started = time.monotonic()
        self._on_line = on_line
        terminal, stdout = _open_screen() if screen is not None else (None, subprocess.PIPE)
        try:
            self._process = subprocess.Popen(
                command.argv,
                env=merged_environment(command.environment),
                cwd=command.folder,
                stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
                stdout=stdout,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=hold,
            )
        except OSError as error:
            if terminal is not None:
                os.close(terminal)
            raise FirstlightError(
                f"cannot start {command.argv[0]}", why=error.strerror or str(error), fix="firstlight machine"
            ) from error
        finally:
            if terminal is not None:
                os.close(stdout)
        self.pid = self._process.pid
        if leash:
            self._leashed = True
            _leash.tell(f"+{self.pid}")
        _running.add(self)
        reader = self._drain if screen is None or terminal is None else partial(_watch, terminal, screen)
        self._reader = threading.Thread(target=reader, name=f"output-{self.pid}", daemon=True)
        self._reader.start()
        if stdin is not None and self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(stdin.encode())
                self._process.stdin.close()

    def _drain(self) -> None:
        stream: IO[bytes] | None = self._process.stdout
        if stream is None:
            return
        with contextlib.ExitStack() as stack:
            stack.enter_context(stream)
            sink = None
            if self.log is not None:
                with contextlib.suppress(OSError):  # nor must one that has no room for a log at all
                    self.log.parent.mkdir(parents=True, exist_ok=True)
                    sink = stack.enter_context(self.log.open("ab", buffering=0))
            for raw in stream:
                if sink is not None:
                    with contextlib.suppress(OSError):  # a full disk must not stop the program that we watch
                        sink.write(raw)
                line = raw.decode(errors="replace").rstrip("\r\n")
                self.tail.append(line)
                if self._on_line is not None:
                    self._on_line(line)

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        status = self._process.poll()
        if status is not None:
            self._unleash()
        return status

    def _unleash(self) -> None:
        """Its number may soon be another program's."""
        if self._leashed:
            self._leashed = False
            _leash.tell(f"-{self.pid}")

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait up to `timeout` seconds; return the exit status, or None when it still runs."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        self._unleash()
        self._drained()
        return status

    def stop(self, grace: float = 15.0) -> int:
        """End the whole process group: TERM, then KILL after `grace` seconds. Returns the exit status."""
        stop_group(self.pid, grace, alive=lambda: self._process.poll() is None)
        status = self._process.wait()
        self._unleash()
        self._drained()
        return status

    def _drained(self) -> None:
        """Wait until its last words are read. A program that it left behind may hold the pipe open, and say nothing."""
        ends = time.monotonic() + DRAIN_SECONDS
        self._reader.join(1.0)
        while self._reader.is_alive() and self._unread() and time.monotonic() < ends:
            self._reader.join(0.2)

    def _unread(self) -> bool:
        """Tell whether its output holds more, or its end."""
        stream = self._process.stdout
        try:
            return stream is not None and bool(select.select([stream], [], [], 0)[0])
        except (OSError, ValueError):  # the reader is through and has closed it
            return False

    @property
    def output(self) -> str:
        """The last lines of its output."""
        return "\n".join(self.tail)


def group_alive(pid: int) -> bool:
    """Tell whether any process of the group `pid` still runs (zombies not counted, where /proc tells)."""
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    for entry in Path("/proc").iterdir() if Path("/proc/self").exists() else ():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[2]) == pid and fields[0] not in {"Z", "X"}:
                    return True
    return False


def stop_group(pid: int, grace: float = 15.0, alive: Callable[[], bool] | None = None) -> None:
    """Send TERM to the process group `pid`, and KILL to what is left of it after `grace` seconds."""
    lives = alive or (lambda: group_alive(pid))
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while time.monotonic() < deadline and (lives() or group_alive(pid)):
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def run(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str | None] | None = None,
    folder: Path | None = None,
    timeout: float | None = None,
    log: Path | None = None,
    on_line: Callable[[str], None] | None = None,
    stdin: str | None = None,
    hold: tuple[int, ...] = (),
    screen: Callable[[bytes], None] | None = None,
    leash: bool = False,
) -> Completed:
    """Run a program to its end and return how it ended; a failing program is not an exception.

    Args:
        argv: the words, never a shell string.
        environment: variables laid over ours; None removes one.
        folder: where it runs.
        timeout: seconds; past it the group gets TERM, then KILL.
        log: file that its whole output is appended to.
        on_line: called with each line of output, from another thread.
        stdin: text for its standard input; without it there is none (/dev/null).
        hold: descriptors that the program keeps open (a lock that must outlive us).
        screen: run it on a terminal of its own, and take the bytes that it draws (see `Child`).
        leash: end it when this process is gone (see `Child`).

    Raises:
        FirstlightError: it could not be started, or it ran past `timeout`.
    """
    child = Child(
        Command(tuple(argv), dict(environment or {}), folder),
        log=log,
        on_line=on_line,
        stdin=stdin,
        hold=hold,
        screen=screen,
        leash=leash,
    )
    try:
        status = child.wait(timeout)
    except BaseException:
        child.stop(grace=5.0)
        raise
    if status is None:
        child.stop(grace=2.0)
        raise FirstlightError(
            f"{Path(argv[0]).name} did not end within {timeout:.0f} s and was stopped",
            why=(child.tail[-1] if child.tail else "it printed nothing"),
            fix=f"try it by hand: {' '.join(argv)}",
        )
    return Completed(status, child.output, time.monotonic() - child.started)
