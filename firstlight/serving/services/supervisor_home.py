"""The supervisor's own corner of the home: its program, its configuration, and a socket where one can lie."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import msgspec

from firstlight.catalogue.loading import read_toml
from firstlight.errors import FirstlightError, NetworkFailed
from firstlight.events import Step
from firstlight.files import remove_tree, switch_symlink, write_atomic
from firstlight.home import Home
from firstlight.resources import data_folder
from firstlight.serving import guard
from firstlight.serving.services import launch

_SOCKET = "supervisor.sock"
_LONGEST = 107
"""Bytes of a socket's path (sun_path of unix(7) is 108 with its end)."""
_BOUND_AS = len(".4194304")
"""The supervisor binds its socket under a longer name first: with a dot and its process id, at most 2^22 (proc(5))."""
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-+@")
"""Signs of a path that mean nothing in the supervisor's configuration."""


class Program(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """envs/supervisor.toml: which supervisor, and how it treats services."""

    requirement: str
    hashes: list[str]
    answers_within: float
    log_bytes: int
    old_logs: int
    sources: dict[str, str] = {}


class SupervisorHome:
    """The folder <home>/supervisor/ (mode 0700) and what lies in it."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.folder = home.root / "supervisor"
        self.programs = self.folder / "programs"
        self.configuration = self.folder / "supervisord.conf"
        self.log = self.folder / "supervisord.log"
        self.output = self.folder / "output.log"
        self.lock = home.services / ".supervisor.lock"
        self._site = self.folder / "site"
        self._told_socket = self.folder / "socket"

    def program(self) -> Program:
        """Return which supervisor is used."""
        return read_toml(data_folder("envs") / "supervisor.toml", Program)

    def prepare(self, step: Step) -> None:
        """Make the folder, and install the supervisor into it where that has not been done.

        Raises:
            NetworkFailed: no index gave it.
            FirstlightError: the folder cannot be written, or belongs to another user.
        """
        self.home.prepare()
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
            if self.folder.stat().st_uid != os.geteuid():
                raise PermissionError(errno.EPERM, "it belongs to another user")
            self.folder.chmod(0o700)
            self.programs.mkdir(exist_ok=True)
            self._helpers()
            self._install(step)
        except OSError as error:
            raise FirstlightError(
                f"{self.folder} cannot be used", why=error.strerror or str(error), fix=f"ls -ld {self.folder}"
            ) from error

    def _helpers(self) -> None:
        """Put copies of our two small programs there: this firstlight may be updated, moved or removed meanwhile."""
        for module in (guard, launch):
            source = Path(str(module.__file__))
            write_atomic(self.folder / source.name, source.read_bytes())

    def refresh_python(self) -> None:
        """Point the supervisor at the Python that runs us: an earlier one may have gone with a root disk."""
        base = getattr(sys, "_base_executable", None) or sys.executable
        switch_symlink(self.folder / "python", base)

    def _install(self, step: Step) -> None:
        wanted, marker = self.program(), self._site / ".firstlight"
        with contextlib.suppress(OSError):
            if marker.read_text() == wanted.requirement:
                return
        staging = self.folder / f".site-{os.getpid()}"
        remove_tree(staging)
        try:
            self._fetch(wanted, staging, step)
            (staging / ".firstlight").write_text(wanted.requirement)
            remove_tree(self._site)
            staging.rename(self._site)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _fetch(self, wanted: Program, target: Path, step: Step) -> None:
        from firstlight.environments.pipconfig import read_pip_settings, uv_arguments
        from firstlight.environments.uv_program import run_uv

        step.note(f"fetching {wanted.requirement}, which keeps services running without systemd")
        hashes = " ".join(f"--hash={each}" for each in wanted.hashes)
        asked = self.folder / "requirements.txt"
        write_atomic(asked, f"{wanted.requirement} {hashes}\n")
        words, variables = uv_arguments(read_pip_settings())
        where = ("--target", str(target), "--python", sys.executable)
        ended = run_uv(
            ["pip", "install", *words, "--require-hashes", "--requirements", str(asked), *where],
            environment=variables,
            cache=self.home.wheel_cache,
            step=step,
            log=self.home.root / "logs" / "supervisor.log",
        )
        if ended.returncode:
            why = next((line for line in reversed(ended.messages) if line.strip()), "uv gave no reason")
            raise NetworkFailed(
                f"{wanted.requirement} could not be installed",
                why=why.strip(),
                fix=f"see what was tried: less {self.home.root / 'logs' / 'supervisor.log'}",
            )

    def words(self) -> tuple[str, ...]:
        """Return the words that run the supervisor; the folder to run them in is `folder`."""
        start = "import sys; sys.path.insert(0, 'site'); from supervisor.supervisord import main; main()"
        return (str(self.folder / "python"), "-I", "-S", "-c", start, "-c", self.configuration.name)

    def write_configuration(self, place: Path | None = None) -> None:
        """Put the configuration together: the supervisor's own part, then each service's file."""
        from firstlight.serving.templated import render

        place = place or self.socket()
        texts = [file.read_text() for file in sorted(self.programs.glob("*.conf"))]
        spelt = _SOCKET if place is None or place.parent == self.folder else str(place)
        text = render("supervisord.conf.j2", socket=spelt, root=os.geteuid() == 0, programs=texts)
        write_atomic(self.configuration, text, 0o600)

    def services(self) -> list[str]:
        """Return the names of the services that stand in the configuration."""
        return sorted(file.stem for file in self.programs.glob("*.conf"))

    def remove(self) -> None:
        """Remove the whole folder, and the one that was made for the socket. The supervisor must have ended."""
        place = self.socket()
        remove_tree(self.folder)
        if place is not None and place.parent != self.folder:
            place.unlink(missing_ok=True)
            if place.parent.name.startswith("firstlight"):
                with contextlib.suppress(OSError):  # another home's socket lies there too
                    place.parent.rmdir()

    def socket(self) -> Path | None:
        """Return where the socket of the latest start lies; None: there was no start."""
        with contextlib.suppress(OSError):
            return Path(self._told_socket.read_text().strip())
        return None

    def choose_socket(self) -> Path:
        """Return where the socket will lie, and remember it: in the home, or where its path is short enough.

        Some network file systems know neither sockets nor hard links: the place is tried.

        Raises:
            FirstlightError: no place takes one.
        """
        tried = []
        for place in self._places():
            try:
                _try_socket(place)
            except OSError as error:
                tried.append(f"{place}: {error.strerror or error}")
                continue
            write_atomic(self._told_socket, f"{place}\n", 0o600)
            return place
        raise FirstlightError(
            "the supervisor's socket finds no place",
            why="; ".join(tried),
            fix="name a private folder with a short path: export XDG_RUNTIME_DIR=/path",
        )

    def _places(self) -> Iterator[Path]:
        """Give the places for a socket, best first; folders that everyone can write to only with a folder of ours."""
        yield self.folder / _SOCKET
        name = f"supervisor-{sha256(str(self.folder).encode()).hexdigest()[:12]}.sock"
        runtime = os.environ.get("XDG_RUNTIME_DIR", "")
        if runtime.startswith("/") and set(runtime) <= _PLAIN:
            yield Path(runtime) / name
        if os.geteuid() == 0:
            yield Path("/run/firstlight") / name
        for shared in ("/tmp", "/var/tmp"):  # noqa: S108 - a folder of ours in it, its owner and mode checked
            yield Path(shared) / f"firstlight-{os.geteuid()}" / name


def _try_socket(place: Path) -> None:
    """Make sure that a socket can lie at `place` as the supervisor makes it.

    Raises:
        OSError: it cannot.
    """
    if len(os.fsencode(place)) + _BOUND_AS > _LONGEST:
        raise OSError(errno.ENAMETOOLONG, "its path is too long for a socket")
    place.parent.mkdir(mode=0o700, exist_ok=True)
    seen = place.parent.lstat()
    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or seen.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "the folder is not this user's alone")
    first, second = (place.with_name(f".try-{os.getpid()}{end}") for end in ("", "-2"))
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.bind(str(first))
            first.chmod(0o700)
            os.link(first, second)
    finally:
        for left in (first, second):
            left.unlink(missing_ok=True)
