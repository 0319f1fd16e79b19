"""The end of a log that is put aside by size: FILE, then FILE.1, FILE.2 and so on."""

from __future__ import annotations

from pathlib import Path

_BLOCK = 1 << 16


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a log, going on in the files that were put aside; an unreadable one ends it."""
    found: list[str] = []
    number = 0
    while len(found) < count:
        file = path if number == 0 else path.with_name(f"{path.name}.{number}")
        try:
            found = [*_end_of(file, count - len(found)), *found]
        except OSError:
            break
        number += 1
    return found


def _end_of(file: Path, count: int) -> list[str]:
    with file.open("rb") as stream:
        start = stream.seek(0, 2)
        text = b""
        while start and text.count(b"\n") <= count:
            size = min(_BLOCK, start)
            start -= size
            stream.seek(start)
            text = stream.read(size) + text
    return text.decode(errors="replace").splitlines()[-count:]
