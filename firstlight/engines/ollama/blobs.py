"""The blobs of Ollama's store: files named by their hash, with the modes and the owner that Ollama gives them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
from pathlib import Path
from typing import Literal

import msgspec

from firstlight.errors import FirstlightError, UsageError
from firstlight.files import write_atomic
from firstlight.home import Home

VARIABLE = "OLLAMA_MODELS"
_DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}")

How = Literal["hard link", "symlink", "copy", "move", "present"]
"""How a file became a blob."""


class Layer(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One blob of a model; `digest` is `sha256:` and 64 hex digits, `size` in bytes."""

    media_type: str
    digest: str
    size: int


def models_folder(home: Home) -> Path:
    """Return the store: the user's own where OLLAMA_MODELS names one, else ours in the home."""
    own = os.environ.get(VARIABLE, "").strip().strip("\"'")
    return Path(own).expanduser().absolute() if own else own_folder(home)


def own_folder(home: Home) -> Path:
    """Return the store in the home."""
    return home.models / "ollama"


def blob_path(folder: Path, digest: str) -> Path:
    """Return where a blob lies in the store.

    Raises:
        UsageError: the digest is none; nothing of it ever becomes part of a path.
    """
    if not is_digest(digest):
        raise UsageError(f'"{digest[:80]}" is no digest', why="one is sha256: and 64 hex digits")
    return folder / "blobs" / digest.replace(":", "-")


def is_digest(digest: str) -> bool:
    """Tell whether a digest is one that a blob can have."""
    return bool(_DIGEST.fullmatch(digest))


def has_blob(folder: Path, layer: Layer) -> bool:
    """Tell whether a blob is there in its right size."""
    try:
        return blob_path(folder, layer.digest).stat().st_size == layer.size
    except OSError:
        return False


def put_blob(folder: Path, data: bytes, media_type: str) -> Layer:
    """Store a small blob and return it as a layer."""
    layer = Layer(media_type=media_type, digest=f"sha256:{hashlib.sha256(data).hexdigest()}", size=len(data))
    if not has_blob(folder, layer):
        path = blob_path(folder, layer.digest)
        make_folder(path.parent, folder)
        write_atomic(path, data)
        own(path, folder)
    return layer


def take_blob(folder: Path, file: Path, digest: str, *, move: bool = False) -> How:
    """Make a file of a known hash a blob of the store, without a second copy where that can be; returns how.

    On another filesystem a symlink stands for it, which every release follows; the file must then stay where it is.
    Where the store's filesystem knows no links at all it is copied.

    Args:
        folder: the store.
        file: the file.
        digest: its hash, found by whoever calls.
        move: the file is ours and needed nowhere else.

    Raises:
        FirstlightError: the store cannot be written.
    """
    path, file = blob_path(folder, digest), file.resolve()
    make_folder(path.parent, folder)
    with contextlib.suppress(OSError):
        if path.resolve().samefile(file) or path.stat().st_size == file.stat().st_size:
            return "present"
    passing = path.with_name(f".{path.name}.{os.getpid()}")
    passing.unlink(missing_ok=True)
    how: How
    try:
        if move:
            shutil.move(file, passing)
            how = "move"
        else:
            how = _link(file, passing)
        passing.replace(path)
    except OSError as error:
        passing.unlink(missing_ok=True)
        raise unwritable(folder, error) from error
    if how in {"move", "copy"}:
        path.chmod(0o644)
        own(path, folder)
    return how


def _link(file: Path, place: Path) -> How:
    # Another filesystem, one without links, or a file of another user (fs.protected_hardlinks).
    passable = {errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES, errno.ENOSYS}
    try:
        os.link(file, place)
    except OSError as error:
        if error.errno not in passable:
            raise
    else:
        return "hard link"
    try:
        place.symlink_to(file)
    except OSError as error:
        if error.errno not in passable:
            raise
    else:
        return "symlink"
    shutil.copyfile(file, place)
    return "copy"


def make_folder(path: Path, store: Path) -> None:
    """Make a folder of the store with the mode and the owner that Ollama's own folders have.

    Raises:
        FirstlightError: it cannot be made.
    """
    missing = [each for each in (path, *path.parents) if not each.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        for each in reversed(missing):
            if each == store or store in each.parents:
                each.chmod(0o755)
                own(each, store)
    except OSError as error:
        raise unwritable(store, error) from error


def own(path: Path, store: Path) -> None:
    """Give a file of the store to the owner of the store, as root: its server runs as that user, and prunes."""
    if os.geteuid() != 0 or path.is_symlink():
        return
    owner = store.stat()
    if owner.st_uid != 0:
        os.chown(path, owner.st_uid, owner.st_gid)


def unwritable(folder: Path, error: OSError) -> FirstlightError:
    """Return the error for a store that cannot be written."""
    return FirstlightError(
        f"Ollama's models in {folder} cannot be written",
        why=error.strerror or str(error),
        fix=f"see which folder stops it: namei -l {folder}   (or another folder: export {VARIABLE}=/path/with/room)",
    )
