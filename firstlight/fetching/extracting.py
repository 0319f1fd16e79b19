"""Members written into a folder that is held open: no name is ever looked up through a link.

Every step goes through the descriptor of the folder above it and follows no link (openat(2), O_NOFOLLOW), so that what
the judge may have overlooked still cannot lead outside. Owners are never taken from an archive, modes are 0755 or 0644.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from firstlight.fetching.tar_headers import Refused

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SMALL = 1 << 20  # bytes for which nobody asks beforehand whether there is room


class NoRoom(Exception):  # noqa: N818 - reads as the sentence that it stands for
    """The disk cannot take what is declared; `needed` bytes are missing room."""

    def __init__(self, needed: int) -> None:
        super().__init__(needed)
        self.needed = needed


class Tree:
    """Writes members below an open folder.

    Args:
        top: descriptor of the folder.
        on_bytes: called with the bytes of each write.
    """

    def __init__(self, top: int, on_bytes: Callable[[int], None] = lambda _size: None) -> None:
        self.files = 0
        self.bytes = 0
        self._top = top
        self._on_bytes = on_bytes
        self._at: tuple[str, ...] = ()
        self._above = -1  # descriptor of the folder `_at`, where that is not the top
        self._file = -1
        self._executable = False

    def folder(self, parts: tuple[str, ...]) -> None:
        """Make a folder, and those above it."""
        self._enter(parts)

    def link(self, parts: tuple[str, ...], target: str) -> None:
        """Make a symbolic link."""
        os.symlink(target, parts[-1], dir_fd=self._enter(parts[:-1]))

    def hard_link(self, parts: tuple[str, ...], target: str) -> None:
        """Make another name for a file of this tree."""
        steps = tuple(step for step in target.split("/") if step not in {"", "."})
        folder = self._open(steps[:-1], make=False)
        try:
            here = self._enter(parts[:-1])
            os.link(steps[-1], parts[-1], src_dir_fd=folder, dst_dir_fd=here, follow_symlinks=False)
        finally:
            os.close(folder)
        self.files += 1

    def begin(self, parts: tuple[str, ...], size: int, *, executable: bool) -> None:
        """Begin a file.

        Raises:
            NoRoom: the disk has less than `size` bytes free.
        """
        folder = self._enter(parts[:-1])
        if size > _SMALL:
            volume = os.fstatvfs(folder)
            if size > volume.f_bavail * volume.f_frsize:
                raise NoRoom(size)
        self._file = os.open(parts[-1], _FILE, 0o600, dir_fd=folder)
        self._executable = executable

    def write(self, data: memoryview) -> None:
        """Write the next bytes of the file."""
        while data:
            written = os.write(self._file, data)
            self.bytes += written
            self._on_bytes(written)
            data = data[written:]

    def end(self) -> None:
        """Finish the file."""
        os.fchmod(self._file, 0o755 if self._executable else 0o644)
        os.close(self._file)
        self._file = -1
        self.files += 1

    def close(self) -> None:
        """Let go of what is open."""
        for descriptor in (self._file, self._above):
            if descriptor != -1:
                os.close(descriptor)
        self._file = self._above = -1
        self._at = ()

    def _enter(self, parts: tuple[str, ...]) -> int:
        """Return the descriptor of a folder, made where it is missing; the last one is kept open."""
        if not parts:
            return self._top
        if self._above == -1 or parts != self._at:
            opened = self._open(parts, make=True)
            if self._above != -1:
                os.close(self._above)
            self._above, self._at = opened, parts
        return self._above

    def _open(self, parts: tuple[str, ...], *, make: bool) -> int:
        here = os.dup(self._top)
        for depth, part in enumerate(parts, 1):
            try:
                inner = _opened(part, here, make=make)
            except OSError as error:
                if error.errno not in {errno.ENOTDIR, errno.ELOOP}:  # a file, or a link
                    raise
                raise Refused("/".join(parts), f"lies below {'/'.join(parts[:depth])}, which is no folder") from None
            finally:
                os.close(here)
            here = inner
        return here


def _opened(part: str, above: int, *, make: bool) -> int:
    if make:
        try:
            os.mkdir(part, 0o755, dir_fd=above)
        except FileExistsError:
            pass
        else:
            descriptor = os.open(part, _FOLDER, dir_fd=above)
            os.fchmod(descriptor, 0o755)  # whatever the umask says
            return descriptor
    return os.open(part, _FOLDER, dir_fd=above)


def clear(folder: int) -> None:
    """Remove everything below an open folder, following no link."""
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
            continue
        inner = os.open(name, _FOLDER, dir_fd=folder)
        try:
            clear(inner)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=folder)
