"""Runs uv, and reads what it draws: its progress bars become numbers, its messages go to the log."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import functools
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from firstlight.environments.pipconfig import redact
from firstlight.errors import FirstlightError
from firstlight.events import Step
from firstlight.process import run

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_ERASE_LINE = "\x1b[2K"
_FRAME = "Preparing packages..."
_COUNT = re.compile(r"\s*\((\d+)/(\d+)\)")
_BAR = re.compile(r"(\S+)\s+-+\s+([\d.]+) ?([KMGT]i)?B/([\d.]+) ?([KMGT]i)?B")
_RESOLVING = re.compile(r"[\u2800-\u28ff] (\S+==\S+)")
_DOWNLOADING = re.compile(r"^Downloading (\S+) \(([\d.]+)([KMGT]i)?B\)")
_DOWNLOADED = re.compile(r"^ Downloaded (\S+)")
_DRAWN = re.compile(r"[\u2800-\u28ff]|[\u2588\u2591]{3}|Preparing packages\.\.\.|Resolving dependencies\.\.\.")
_SAID = re.compile(r"(?:error|warning): .+")  # uv's last words may stand on the line that its spinner has left
_FACTOR = {"": 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30, "Ti": 1 << 40}
_HOUR = 3600.0
_PHASES = {"Resolved ": "preparing wheels", "Prepared ": "installing wheels"}
_BEAT = 1.0  # seconds between two signs of life while uv itself shows nothing new
_MEMORY = 65536  # characters of a redraw that are kept until its end is seen


class UvResult(msgspec.Struct, frozen=True):
    """How uv ended, and what it said (credentials removed)."""

    returncode: int
    messages: list[str]
    downloaded: int
    """Bytes."""


def clear_cache_leftovers(cache: Path) -> None:
    """Remove from uv's cache what killed programs were in the middle of; not while any uv works with this cache.

    Source: uv 0.13 keeps a shared lock on CACHE/.lock while it runs, and `uv cache clean` an exclusive one.
    """
    with contextlib.suppress(OSError), (cache / ".lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for left in cache.glob(".tmp*"):
            _remove(left)
        for left in cache.glob("lock-*"):  # ours (origins.py); another engine's setup may be between two runs of uv
            if time.time() - left.stat().st_mtime > _HOUR:
                _remove(left)


def _remove(left: Path) -> None:
    if left.is_dir() and not left.is_symlink():
        shutil.rmtree(left, ignore_errors=True)
    else:
        left.unlink(missing_ok=True)


@functools.cache
def find_uv() -> Path:
    """Return the path of the uv program that came with firstlight.

    Raises:
        FirstlightError: the installation of firstlight is damaged.
    """
    try:
        from uv import find_uv_bin

        return Path(find_uv_bin())
    except (ImportError, FileNotFoundError) as error:
        raise FirstlightError(
            "uv, which installs wheels, is not there",
            why="it comes with firstlight: this installation is damaged",
            fix="python -m pip install --force-reinstall uv",
        ) from error


class Screen:
    """Reads the terminal that uv draws on: one bar per running download, redrawn twenty times a second.

    uv 0.13 has no progress output for programs. A bar that was drawn and is gone from the next drawing is complete.
    """

    def __init__(
        self, step: Step, log: Path | None = None, expected: int | None = None, doing: str = "uv is at work"
    ) -> None:
        self.step = step
        self.doing = doing
        self.moved = time.monotonic()
        self.messages: list[str] = []
        self.downloads: dict[str, tuple[int, int]] = {}
        self._expected = expected
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._line = ""
        self._frame = ""
        self._told = -1
        self._resolving = ""
        self._log = log
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)

    @property
    def downloaded(self) -> int:
        """Bytes downloaded so far."""
        return sum(done for done, _total in self.downloads.values())

    def feed(self, drawn: bytes) -> None:
        """Take what was drawn."""
        text = self._decode(drawn)
        self._read_frames(_ESCAPE.sub("", text))
        pieces = (self._line + text).split("\n")
        self._line = pieces.pop()[-_MEMORY:]
        for piece in pieces:
            self._message(piece)

    def beat(self) -> None:
        """Say that uv is still at work where it has shown nothing new for a while: a silent index, a slow unpacking."""
        if time.monotonic() - self.moved >= _BEAT:
            self.step.progress(self.downloaded, self._expected if self.downloads else None, detail=self.doing)

    def close(self) -> None:
        """Take the end: an unfinished line is a message too, and all bars are complete."""
        self._message(self._line)
        self._line = ""

    def complete(self) -> None:
        """Take note that every download came to its end."""
        self.downloads = {name: (total, total) for name, (_done, total) in self.downloads.items()}

    def _message(self, piece: str) -> None:
        line = _ESCAPE.sub("", piece.rpartition(_ERASE_LINE)[2]).replace("\r", "").rstrip()
        said = _SAID.search(line) if _DRAWN.search(line) else None
        line = said[0] if said else line
        if not line.strip() or _DRAWN.search(line) or _BAR.search(line) or "experimental and may change" in line:
            return
        line = redact(line)
        self.messages.append(line)
        if line.startswith("Prepared "):
            self.complete()
        self.doing = next((words for sign, words in _PHASES.items() if line.startswith(sign)), self.doing)
        self._plain_progress(line)
        if self._log is not None:
            # A full disk must not stop the reader.
            with contextlib.suppress(OSError), self._log.open("a", encoding="utf-8", errors="replace") as sink:
                sink.write(line + "\n")

    def _plain_progress(self, line: str) -> None:
        """Read what uv tells without a terminal: when the download of a large wheel begins, and when it is done."""
        begun, ended = _DOWNLOADING.match(line), _DOWNLOADED.match(line)
        if begun:
            self.downloads[begun[1]] = (0, _bytes(begun[2], begun[3] or ""))
        elif ended and ended[1] in self.downloads:
            total = self.downloads[ended[1]][1]
            self.downloads[ended[1]] = (total, total)
            self.step.progress(self.downloaded, self._expected, detail=ended[1])

    def _read_frames(self, plain: str) -> None:
        resolving = _RESOLVING.findall(plain)
        if resolving and not self.downloads and resolving[-1] != self._resolving:
            self.moved, self._resolving = time.monotonic(), resolving[-1]
            self.step.progress(0, None, detail=f"resolving {resolving[-1]}")
        *finished, self._frame = (self._frame + plain).split(_FRAME)
        self._frame = self._frame[-_MEMORY:]
        for frame in finished:
            self._read_frame(frame)

    def _read_frame(self, frame: str) -> None:
        count = _COUNT.match(frame)
        if count is None:
            return
        running = {name: (_bytes(done, unit), _bytes(total, of)) for name, done, unit, total, of in _BAR.findall(frame)}
        for name, (_done, total) in self.downloads.items():
            if name not in running:
                self.downloads[name] = (total, total)
        self.downloads.update(running)
        known = sum(total for _done, total in self.downloads.values())
        everything = len(self.downloads) >= int(count[2])
        total = known if everything else max(known, self._expected or 0)
        if self.downloaded != self._told and self.downloads:
            self._told = self.downloaded
            self.moved = time.monotonic()
            largest = max(running, key=lambda name: running[name][1] - running[name][0], default="")
            detail = f"{count[1]} of {count[2]} wheels" + (f", {largest}" if largest else "")
            self.step.progress(self.downloaded, total if everything or self._expected else None, detail=detail)


def _bytes(number: str, unit: str) -> int:
    return int(float(number) * _FACTOR[unit])


def uv_configuration() -> dict[str, str]:
    """Return the variables that make uv read the user's or the machine's uv.toml, and no project's.

    Otherwise a pyproject.toml above the folder that we were called in, or above our home, would have a say.
    Source: uv's documentation, "Configuration files".
    """
    if os.environ.get("UV_CONFIG_FILE") or os.environ.get("UV_NO_CONFIG"):
        return {}
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()) / "uv" / "uv.toml"
    for file in (own, Path("/etc/uv/uv.toml")):
        if os.access(file, os.R_OK):
            return {"UV_CONFIG_FILE": str(file)}
    return {"UV_NO_CONFIG": "1"}


@contextlib.contextmanager
def _beating(screen: Screen) -> Iterator[None]:
    """Let a screen beat every second while uv runs."""
    stop = threading.Event()

    def beat() -> None:
        while not stop.wait(_BEAT):
            screen.beat()

    heart = threading.Thread(target=beat, name="uv-beat", daemon=True)
    heart.start()
    try:
        yield
    finally:
        stop.set()
        heart.join()


def run_uv(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str],
    cache: Path,
    step: Step,
    log: Path | None = None,
    hold: tuple[int, ...] = (),
    expected: int | None = None,
    doing: str = "uv is at work",
) -> UvResult:
    """Run uv to its end and return how it ended; a failing uv is not an exception.

    Args:
        arguments: its words, beginning with the command.
        environment: variables laid over ours, credentials among them.
        cache: its cache folder.
        step: takes the progress, in bytes.
        log: file that its messages are appended to.
        hold: descriptors that it keeps open.
        expected: bytes that are expected to be downloaded, until it is known better.
        doing: what is told every second while uv itself shows nothing.
    """
    cache.mkdir(parents=True, exist_ok=True)
    screen = Screen(step, log, expected, doing)
    variables: dict[str, str | None] = {
        # What our caller's shell has activated must not decide where we install.
        **dict.fromkeys(
            ("VIRTUAL_ENV", "CONDA_PREFIX", "UV_PYTHON", "UV_SYSTEM_PYTHON", "UV_PROJECT", "UV_NO_PROGRESS")
        ),
        **dict.fromkeys(("PYTHONPATH", "PYTHONHOME", "UV_WORKING_DIR", "UV_NO_CACHE", "COLUMNS", "FORCE_COLOR")),
        "NO_COLOR": "1",
        "TERM": "xterm",
        **uv_configuration(),
        "UV_CACHE_DIR": str(cache),
        **environment,
    }
    argv = [str(find_uv()), *arguments]
    with _beating(screen):
        ended = run(argv, environment=variables, folder=cache.parent, hold=hold, screen=screen.feed, leash=True)
    screen.close()
    if ended.returncode == 0 and screen.downloads:
        screen.complete()
        step.progress(screen.downloaded, screen.downloaded)
    return UvResult(ended.returncode, screen.messages, screen.downloaded)
