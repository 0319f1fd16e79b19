"""Runs a hub's official client library in an environment of its own, and watches that it moves on."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from firstlight.events import Step
from firstlight.home import Home
from firstlight.machine.space import says_full
from firstlight.models.hubs import HubEndpoint, Hubs
from firstlight.models.selection import RemoteFile
from firstlight.process import Child, Command

_WORKER = Path(__file__).with_name("hub_worker.py")

FailureKind = Literal["network", "stalled", "missing", "revision", "gated", "damaged", "space", "library"]

_LONG = str(7 * 24 * 3600)
"""Seconds; our own watch ends a download that stands still, however long it may take."""


class UvTool(msgspec.Struct, frozen=True, kw_only=True):
    """How uv is called here: the user's pip configuration as arguments and variables, and the Python for helpers."""

    uv: Path
    arguments: tuple[str, ...] = ()
    """Options that `uv pip install` and `uv run` both take."""
    environment: dict[str, str] = {}
    cache: Path
    """On the filesystem of the home, so that hard links work."""
    python: str

    def variables(self) -> dict[str, str | None]:
        """Return the variables for uv and what it starts: its cache, and nothing of the caller's own Python."""
        own: dict[str, str | None] = {
            "PYTHONPATH": None,
            "PYTHONHOME": None,
            "VIRTUAL_ENV": None,
            "PYTHONNOUSERSITE": "1",
        }
        return {**own, "UV_NO_PROGRESS": "1", **self.environment, "UV_CACHE_DIR": str(self.cache)}


_PLAIN_WORDS: dict[FailureKind, str] = {
    "missing": "it has no model of that name",
    "revision": "it has no such revision of the model",
}


class HubFailure(Exception):  # noqa: N818 - it is caught inside this room, and tells which kind of failure
    """One hub could not do it; another one may."""

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.kind: FailureKind = kind
        self.reason = reason


class Listing(msgspec.Struct, frozen=True):
    """What a repository holds, at which commit."""

    commit: str | None
    files: list[RemoteFile]


class _Event(msgspec.Struct, frozen=True):
    """One line of the worker."""

    event: str
    done: int = 0
    total: int = 0
    file: str = ""
    kind: str = "network"
    reason: str = ""
    commit: str | None = None
    files: list[RemoteFile] = []


class Library:
    """One hub's client library, as it is called for one model."""

    def __init__(self, endpoint: HubEndpoint, hubs: Hubs, *, uv: UvTool, home: Home, log: Path) -> None:
        self.endpoint = endpoint
        self.hubs = hubs
        self._uv = uv
        self._home = home
        self._log = log

    def list_files(self, model: str, revision: str | None, hold: tuple[int, ...] = ()) -> Listing:
        """Return the files of a repository.

        Raises:
            HubFailure: the hub does not know it, refuses it, or cannot be reached.
        """
        request = {"action": "list", "source": self.endpoint.source, "id": model, "revision": revision}
        last = self._run(request, {}, _Watch(None, 0), hold)
        return Listing(last.commit, last.files)

    def download(
        self,
        model: str,
        revision: str | None,
        folder: Path,
        files: list[RemoteFile],
        *,
        plain: bool,
        step: Step,
        hold: tuple[int, ...] = (),
    ) -> None:
        """Fetch files into `folder`, going on from what is there.

        Args:
            model: its id.
            revision: the commit that the listing named, or a branch.
            folder: where the files go.
            files: what to fetch.
            plain: over plain HTTP, where the library has a faster way that some networks block.
            step: takes the progress in bytes.
            hold: descriptors that the library's process keeps open.

        Raises:
            HubFailure: it stopped; what came is kept.
        """
        request = {
            "action": "download",
            "source": self.endpoint.source,
            "id": model,
            "revision": revision,
            "folder": str(folder),
            "files": [file.name for file in files],
            "total": sum(file.size for file in files),
        }
        extra: dict[str, str | None] = {"HF_HUB_DISABLE_XET": "1"} if plain else {}
        self._run(request, extra, _Watch(step, self.hubs.download.stall_seconds), hold)

    def _run(
        self, request: dict[str, Any], extra: dict[str, str | None], watch: _Watch, hold: tuple[int, ...]
    ) -> _Event:
        child = Child(
            Command(self._argv(), {**self._variables(), **extra}),
            log=self._log,
            on_line=watch.line,
            stdin=msgspec.json.encode(request).decode(),
            hold=hold,
            leash=True,
        )
        try:
            while child.wait(0.2) is None:
                if watch.stalled():
                    raise HubFailure("stalled", f"no byte came for {watch.patience:g} s")
        finally:
            if child.poll() is None:
                child.stop(grace=2.0)
        return watch.result(child.output)

    def _argv(self) -> tuple[str, ...]:
        requirements: list[str] = getattr(self.hubs.libraries, self.endpoint.source)
        wanted = [word for requirement in requirements for word in ("--with", requirement)]
        alone = ("--no-project", "--isolated", "--no-env-file", "--python", self._uv.python)
        return (str(self._uv.uv), "run", *alone, *self._uv.arguments, *wanted, "python", "-u", str(_WORKER))

    def _variables(self) -> dict[str, str | None]:
        own = _huggingface_variables if self.endpoint.source == "huggingface" else _modelscope_variables
        return {**self._uv.variables(), **own(self.endpoint, self._home.root / "cache" / "hubs")}


def _huggingface_variables(endpoint: HubEndpoint, cache: Path) -> dict[str, str | None]:
    """Return what huggingface_hub reads (its documentation, "Environment variables").

    A token goes only to the hub itself, or to an endpoint that the user named.
    """
    home = Path(os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser())
    variables: dict[str, str | None] = {
        "HF_ENDPOINT": endpoint.url,
        "HF_HOME": str(cache / "huggingface"),
        "HF_HUB_CACHE": None,
        "HF_XET_CACHE": None,
        "HF_TOKEN_PATH": os.environ.get("HF_TOKEN_PATH") or str(home / "token"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DOWNLOAD_TIMEOUT": os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT") or "30",
        "HF_HUB_ETAG_TIMEOUT": os.environ.get("HF_HUB_ETAG_TIMEOUT") or "30",
    }
    if not endpoint.trusted:
        withheld: dict[str, str | None] = {"HF_TOKEN": None, "HUGGING_FACE_HUB_TOKEN": None}
        variables |= {**withheld, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    return variables


def _modelscope_variables(endpoint: HubEndpoint, cache: Path) -> dict[str, str | None]:
    """Return what modelscope reads (modelscope_hub/constants.py of 0.5.1); its limit of an hour per file is raised."""
    variables: dict[str, str | None] = {
        "MODELSCOPE_ENDPOINT": endpoint.url,
        "MODELSCOPE_CACHE": str(cache / "modelscope"),
        "MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT": os.environ.get("MODELSCOPE_DOWNLOAD_TOTAL_TIMEOUT") or _LONG,
        "TQDM_DISABLE": "1",
    }
    if not endpoint.trusted:
        variables["MODELSCOPE_API_TOKEN"] = None
    return variables


class _Watch:
    """Reads the worker's lines, passes progress on, and knows since when nothing moved."""

    def __init__(self, step: Step | None, patience: float) -> None:
        self.patience = patience
        self._step = step
        self._last: _Event | None = None
        self._moved: float | None = None
        self._lock = threading.Lock()

    def line(self, text: str) -> None:
        """Take one line of output; those that are no events are the library's own words, and stand in the log."""
        start = text.find('{"event"')
        if start < 0:
            return
        try:
            event = msgspec.json.decode(text[start:], type=_Event)
        except msgspec.DecodeError:
            return
        with self._lock:
            self._moved = time.monotonic()
            if event.event in {"listing", "done", "failed"}:
                self._last = event
        if event.event == "progress" and self._step is not None:
            self._step.progress(event.done, event.total, "bytes", event.file)

    def stalled(self) -> bool:
        """Tell whether the download began and has not moved for too long."""
        with self._lock:
            waiting = self._moved is not None and self._last is None
            return bool(self.patience) and waiting and time.monotonic() - (self._moved or 0.0) > self.patience

    def result(self, output: str) -> _Event:
        """Return the worker's last word.

        Raises:
            HubFailure: it failed, or ended without one.
        """
        with self._lock:
            last, began = self._last, self._moved is not None
        if last is None:
            lines = [line.strip() for line in output.splitlines() if line.strip()]
            said = next(
                (line for line in lines if "error" in line.lower() or line.startswith("×")), lines[-1] if lines else ""
            )
            if says_full(output):
                raise HubFailure("space", f"no room: {said}"[:300])
            what = (
                "the hub's client ended in the middle" if began else "the hub's client library could not be installed"
            )
            raise HubFailure("network" if began else "library", f"{what}: {said}"[:300])
        if last.event == "failed":
            known = {"missing", "revision", "gated", "damaged", "space"}
            kind: Any = last.kind if last.kind in known else "network"
            raise HubFailure(kind, _PLAIN_WORDS.get(kind) or last.reason)
        return last
