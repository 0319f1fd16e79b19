"""Where everything is kept: the layout of FIRSTLIGHT_HOME."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from firstlight.errors import FirstlightError

MARKER = "firstlight-home.json"
"""The file that says that a folder is a firstlight home."""


class Home(msgspec.Struct, frozen=True):
    """The folder that holds all state; the README draws it."""

    root: Path

    @property
    def environments(self) -> Path:
        """Conda prefixes and virtual environments, one folder per engine."""
        return self.root / "environments"

    @property
    def models(self) -> Path:
        """Models as plain directories: models/<hub>/<owner>/<name>/."""
        return self.root / "models"

    @property
    def services(self) -> Path:
        """Running and installed services, one folder each."""
        return self.root / "services"

    @property
    def downloads(self) -> Path:
        """Partial files with their state, and finished archives."""
        return self.root / "downloads"

    @property
    def conda_cache(self) -> Path:
        """Unpacked conda packages, on the filesystem of the environments so that hard links work."""
        return self.root / "cache" / "conda"

    @property
    def wheel_cache(self) -> Path:
        """Uv's cache, on the filesystem of the environments so that hard links work."""
        return self.root / "cache" / "wheels"

    @property
    def receipts(self) -> Path:
        """What was done and what was proven, one JSON file each."""
        return self.root / "receipts"

    def prepare(self) -> None:
        """Make the folder and its marker.

        Raises:
            FirstlightError: it cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            marker = self.root / MARKER
            if not marker.exists():
                marker.write_text('{"schema": "firstlight.home/1"}\n')
            elif not os.access(self.root, os.W_OK):
                raise PermissionError(13, "Permission denied")
        except OSError as error:
            raise FirstlightError(
                f"firstlight's home {self.root} cannot be written",
                why=error.strerror or str(error),
                fix="choose a folder that you can write: export FIRSTLIGHT_HOME=/path/with/room",
            ) from error


def find_home(mounts: list[str], environment: dict[str, str] | None = None) -> Path | None:
    """Return the home that is set or in use: FIRSTLIGHT_HOME, the default, else one on a mount; None: there is none.

    Args:
        mounts: mount points on which a plan may have put a home (`<mount>/firstlight`).
        environment: variables; this process's by default.
    """
    variables = os.environ if environment is None else environment
    default = default_root(environment)
    if variables.get("FIRSTLIGHT_HOME"):
        return default
    places = [default, *(Path(mount) / "firstlight" for mount in mounts)]
    for place in places:
        try:
            if (place / MARKER).is_file() and os.access(place, os.W_OK):
                return place
        except OSError:
            continue
    return None


def default_root(environment: dict[str, str] | None = None, uid: int | None = None) -> Path:
    """Return the home of this user: FIRSTLIGHT_HOME, else /var/lib/firstlight for root, else the XDG data folder.

    Raises:
        FirstlightError: this user has no home folder (a uid without a name and HOME not set), or `~NAME` names nobody.
    """
    variables = os.environ if environment is None else environment
    chosen = variables.get("FIRSTLIGHT_HOME")
    if chosen:
        return _expanded(chosen).absolute()
    if (os.geteuid() if uid is None else uid) == 0:
        return Path("/var/lib/firstlight")
    data = variables.get("XDG_DATA_HOME")
    return (Path(data) if data else _expanded(variables.get("HOME") or "~") / ".local" / "share") / "firstlight"


def _expanded(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise FirstlightError(
            "firstlight has no folder to keep its files in",
            why=f"{text}: {str(error).rstrip('.')} (HOME is not set and the uid has no name, or the name is nobody's)",
            fix="export FIRSTLIGHT_HOME=/path/you/can/write",
        ) from error
