"""Runs in a throw-away environment that holds a hub's official client library; knows nothing of firstlight.

Reads one JSON request from standard input and answers in JSON lines: `listing`, `progress`, `done` or `failed`.

    {"action": "list", "source": "huggingface", "id": "owner/name", "revision": null}
    {"action": "download", ..., "folder": "/where", "files": ["config.json"], "total": 123}

Endpoint, token and time limits come from the library's own environment variables.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

_INTERVAL = 0.5  # seconds between two looks at the files
_ALIVE = 1 << 20  # bytes read between two looks that show that a library is at work

_write_lock = threading.Lock()


def say(event: str, **values: Any) -> None:
    """Write one event as a JSON line. Where nobody reads any more, the work has no purpose: the process ends."""
    line = json.dumps({"event": event, **values}) + "\n"
    try:
        with _write_lock:
            sys.stdout.write(line)
            sys.stdout.flush()
    except BrokenPipeError:
        os._exit(3)


# ── Hugging Face (huggingface_hub) ───────────────────────────────────────────────────────────────────────────────────


def _list_huggingface(model: str, revision: str | None) -> tuple[str | None, list[dict[str, Any]]]:
    hub = importlib.import_module("huggingface_hub")
    info = hub.HfApi().model_info(model, revision=revision, files_metadata=True)
    files = []
    for entry in info.siblings or []:
        large = entry.lfs
        files.append(
            {
                "name": entry.rfilename,
                "size": int(entry.size or 0),
                "sha256": large["sha256"] if isinstance(large, dict) else getattr(large, "sha256", None),
                "sha1": None if large else entry.blob_id,
            }
        )
    return info.sha, files


def _download_huggingface(model: str, revision: str | None, folder: str, files: list[str]) -> None:
    hub = importlib.import_module("huggingface_hub")
    patterns = [glob.escape(name) for name in files]
    hub.snapshot_download(model, revision=revision, local_dir=folder, allow_patterns=patterns)


# ── ModelScope (modelscope) ──────────────────────────────────────────────────────────────────────────────────────────


def _list_modelscope(model: str, revision: str | None) -> tuple[str | None, list[dict[str, Any]]]:
    api = importlib.import_module("modelscope.hub.api").HubApi()
    entries = api.get_model_files(model, revision=revision or "master", recursive=True)
    files = [
        {
            "name": entry["Path"],
            "size": int(entry.get("Size") or 0),
            "sha256": entry.get("Sha256") or None,
            "sha1": None,
        }
        for entry in entries
        if entry.get("Type") != "tree"
    ]
    return None, files


def _download_modelscope(model: str, revision: str | None, folder: str, files: list[str]) -> None:
    library = importlib.import_module("modelscope.hub.snapshot_download")
    library.snapshot_download(
        model, revision=revision or "master", local_dir=folder, allow_patterns=[glob.escape(name) for name in files]
    )


_LIST = {"huggingface": _list_huggingface, "modelscope": _list_modelscope}
_DOWNLOAD = {"huggingface": _download_huggingface, "modelscope": _download_modelscope}

# ── progress ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def bytes_there(folder: Path, files: list[str]) -> tuple[int, str]:
    """Return the bytes of `files` that lie in `folder`, partial ones counted, and the file that grows.

    A library may reserve a partial file's whole size before its bytes come: only blocks that exist are counted.
    """
    total, growing = 0, ""
    for name in files:
        with contextlib.suppress(OSError):
            total += (folder / name).stat().st_size
    for partial in folder.rglob("*.incomplete"):
        with contextlib.suppress(OSError):
            state = partial.stat()
            total += min(state.st_size, state.st_blocks * 512)
    for name in files:
        if not (folder / name).exists():
            growing = name
            break
    return total, growing


def _read_so_far() -> int:
    """Return the bytes that this process has read (Linux's /proc/PID/io, proc(5)); 0 where that is not told."""
    try:
        return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])
    except (OSError, IndexError, ValueError):
        return 0


def _watch(folder: Path, files: list[str], total: int, stop: threading.Event) -> None:
    """Tell how far the files are, whenever something moves: new bytes, or a library that reads them back to hash."""
    last, read = -1, _read_so_far()
    while not stop.wait(_INTERVAL):
        done, growing = bytes_there(folder, files)
        now = _read_so_far()
        if done != last or now - read > _ALIVE:
            say("progress", done=min(done, total), total=total, file=growing)
            last = done
        read = now


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────

_KINDS = {
    "GatedRepoError": "gated",
    "AuthenticationError": "gated",
    "PermissionDeniedError": "gated",
    "RevisionNotFoundError": "revision",
    "RepositoryNotFoundError": "missing",
    "NotExistError": "missing",
    "FileIntegrityError": "damaged",
    "LocalEntryNotFoundError": "network",
}


def _chain(error: BaseException | None) -> list[BaseException]:
    """Return an error and what caused it, outermost first."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


def kind_of(error: BaseException) -> str:
    """Return what an error of a library means: `gated`, `missing`, `revision`, `damaged`, `space` or `network`."""
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno in {28, 122}:  # no space left, quota exceeded
            return "space"
        names = [kind.__name__ for kind in type(link).__mro__]
        kind = next((_KINDS[name] for name in names if name in _KINDS), None)
        if kind is not None and kind != "network":
            return kind
        status = getattr(getattr(link, "response", None), "status_code", None) or getattr(link, "status_code", None)
        if status in {401, 403}:
            return "gated"
        if status == 404:
            return "missing"
    return "network"


def reason_of(error: BaseException) -> str:
    """Return one line that says what went wrong, from the innermost cause that has words."""
    texts = [
        f"{type(link).__name__}: {str(link).strip().splitlines()[0]}" for link in _chain(error) if str(link).strip()
    ]
    return (texts[-1] if texts else type(error).__name__)[:300]


def main() -> int:
    """Do what the request on standard input asks; 0 when it is done."""
    request = json.loads(sys.stdin.read())
    source, model, revision = request["source"], request["id"], request["revision"]
    say("started")
    stop = threading.Event()
    try:
        if request["action"] == "list":
            commit, files = _LIST[source](model, revision)
            say("listing", commit=commit, files=files)
            return 0
        folder = Path(request["folder"])
        arguments = (folder, request["files"], request["total"], stop)
        threading.Thread(target=_watch, args=arguments, daemon=True).start()
        _DOWNLOAD[source](model, revision, str(folder), request["files"])
        stop.set()
        say("done")
    except Exception as error:  # noqa: BLE001 - whatever a library raises becomes a line that the caller reads
        stop.set()
        say("failed", kind=kind_of(error), reason=reason_of(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
