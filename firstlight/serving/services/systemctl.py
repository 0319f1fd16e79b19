"""systemctl and journalctl of the system or of a user, with what they print parsed."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import time
from pathlib import Path

from firstlight import process
from firstlight.errors import FirstlightError
from firstlight.process import Completed
from firstlight.serving.services.spec import Scope

SECONDS = 30.0
_BUS_SECONDS = 10.0
_VERSION = re.compile(r"systemd (\d+)")
_NO_BUS = re.compile(r"Failed to connect to (?:user scope )?bus|No medium found|\$DBUS_SESSION_BUS_ADDRESS")
_READ_ONLY = "Read-only file system"
RUNTIME = Path("/run/systemd/system")
_JOURNALS = (Path("/var/log/journal"), Path("/run/log/journal"))


def runs() -> bool:
    """Tell whether systemd is this machine's init (sd_booted(3)); systemctl is also there where it is not."""
    return RUNTIME.is_dir() and shutil.which("systemctl") is not None


def runtime_folder() -> Path:
    """Return the user's runtime folder: XDG_RUNTIME_DIR, else where systemd makes it."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}")


def journal_closed(scope: Scope) -> bool:
    """Tell whether the journal of a scope is there and shut to this user, by access(2): lists of access count too.

    What a user's own units say stands in a file of that user's own, but for a journal that is only kept in memory.
    """
    name = "system.journal" if scope == "system" else "*.journal"
    files = [file for folder in _JOURNALS for file in folder.glob(f"*/{name}")]
    return bool(files) and not any(os.access(file, os.R_OK) for file in files)


def user_name() -> str:
    """Return this user's name, or the number where it has none."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


class Systemctl:
    """Calls of systemctl in one scope."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.words = ["systemctl", *(["--user"] if scope == "user" else [])]

    @property
    def environment(self) -> dict[str, str | None]:
        """The variables that its programs get: plain output, and the way to the user's bus where a login gave none."""
        plain: dict[str, str | None] = {"LC_ALL": "C", "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "", "PAGER": ""}
        if self.scope == "user":
            plain["XDG_RUNTIME_DIR"] = str(runtime_folder())
        return plain

    def try_run(self, *words: str, seconds: float = SECONDS) -> Completed:
        """Run systemctl; a failure is in what is returned."""
        return process.run([*self.words, *words], environment=self.environment, timeout=seconds)

    def run(self, *words: str, what: str, seconds: float = SECONDS) -> str:
        """Run systemctl and return its output.

        Raises:
            FirstlightError: it failed: `what`, with its own words as the reason.
        """
        ended = self.try_run(*words, seconds=seconds)
        if ended.returncode == 0:
            return ended.tail
        raise FirstlightError(what, why=_last(ended.tail), fix=self._fix(ended.tail, words))

    def _fix(self, output: str, words: tuple[str, ...]) -> str:
        if self.scope == "user" and _NO_BUS.search(output):
            return "loginctl enable-linger; export XDG_RUNTIME_DIR=/run/user/$(id -u)"
        if _READ_ONLY in output:
            return "make /etc writable, or use --scope user or --scope supervisor"
        if "authentication" in output or "Access denied" in output or "Permission denied" in output:
            return f"as root: {' '.join([*self.words, *(each for each in words if each != '--no-block')])}"
        return f"try it by hand: {' '.join([*self.words, *words])}"

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return properties of a unit; none where systemd does not answer."""
        try:
            ended = self.try_run("show", "--no-pager", f"--property={','.join(properties)}", unit, seconds=_BUS_SECONDS)
        except FirstlightError:
            return {}
        return dict(line.split("=", 1) for line in ended.tail.splitlines() if "=" in line)

    def version(self) -> int:
        """Return the major version of systemd, 0 where it does not tell."""
        try:
            ended = process.run(["systemctl", "--version"], environment=self.environment, timeout=_BUS_SECONDS)
        except FirstlightError:
            return 0
        found = _VERSION.search(ended.tail)
        return int(found[1]) if found else 0

    def journal_words(self, unit: str, *options: str) -> list[str]:
        """Return the journalctl command of a unit."""
        kind = "--user-unit" if self.scope == "user" else "--unit"
        return ["journalctl", *(["--user"] if self.scope == "user" else []), f"{kind}={unit}", "--no-pager", *options]

    def unreadable(self, unit: str, why: str) -> FirstlightError:
        """Return the error that tells how the journal of a unit can be read all the same."""
        fix = f"as root or in the group systemd-journal: {' '.join(self.journal_words(unit))}"
        if self.scope == "user":
            fix = f"as root: usermod --append --groups systemd-journal {user_name()}   (then log in anew)"
        return FirstlightError(f"the journal of {unit} cannot be read", why=why, fix=fix)

    def journal(self, unit: str, *, lines: int, since: float | None = None) -> str:
        """Return the last lines of a unit's journal.

        Args:
            unit: its name.
            lines: how many.
            since: seconds since the epoch.

        Raises:
            FirstlightError: the journal cannot be read by this user.
        """
        # Else a line with a colour or a progress bar in it is only "[235B blob data]".
        options = ["--quiet", "--all", "--output=short-iso", f"--lines={lines}"]
        if since is not None:
            options.append(f"--since=@{since:.3f}")
        got: list[str] = []
        ended = process.run(
            self.journal_words(unit, *options), environment=self.environment, timeout=_BUS_SECONDS, on_line=got.append
        )
        if ended.returncode or any("insufficient permissions" in each for each in got[:3]):
            raise self.unreadable(unit, _last(ended.tail) or "journalctl refused")
        return "\n".join(got)


def wait_for_bus(seconds: float = _BUS_SECONDS) -> bool:
    """Wait until the user's own systemd answers; False when it does not in time."""
    private = runtime_folder() / "systemd" / "private"
    deadline = time.monotonic() + seconds
    while not private.exists():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.1)
    return True


def _last(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("See ", "Hint:", "Job for"))]
    return next(iter(telling or lines), "")[:300]
