"""What a member of an archive may be, judged by its header before anything is written; nothing is touched here.

The rules are strict enough that the tree stays closed whatever comes later: no member is written through a link, a
folder is never replaced, and a link's `..` stand only at its start, where every part above it is a real folder. So each
step of following a link ends inside the tree.
"""

from __future__ import annotations

import fnmatch
import unicodedata
from collections.abc import Sequence

from firstlight.fetching.tar_headers import Header, Refused

_LONGEST_PART = 255  # bytes; NAME_MAX of Linux
_LONGEST = 4000  # bytes; below PATH_MAX with room for the folder above
_DEEPEST = 64
RATIO_FROM = 256 << 20
"""Unpacked bytes from which on the ratio is looked at: a small file of zeros is no bomb."""


def parts_of(name: str) -> tuple[str, ...]:
    """Return the parts of a member's name; none: the top folder itself.

    Raises:
        Refused: it is empty, absolute, leads outside, is too long or too deep, or holds control characters.
    """
    if not name:
        raise Refused("a member", "has no name")
    _plain(name, name, "name")
    if name.startswith("/"):
        raise Refused(name, "has an absolute name")
    parts = tuple(part for part in name.split("/") if part not in {"", "."})
    if ".." in parts:
        raise Refused(name, "leads out of its folder with `..`")
    if len(parts) > _DEEPEST:
        raise Refused(name[:200], f"lies {len(parts)} folders deep")
    if any(len(part.encode()) > _LONGEST_PART for part in parts) or len(name.encode()) > _LONGEST:
        raise Refused(f"{name[:200]}…", "has a name that is too long for a file system")
    return parts


def _plain(text: str, name: str, what: str) -> None:
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        shown = name.encode("unicode_escape").decode()
        raise Refused(shown[:200], f"has a {what} with control characters")


class Judge:
    """Judges members one after the other, knowing what came before."""

    def __init__(
        self,
        *,
        unpacked: int | None,
        members: int,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
    ) -> None:
        self._unpacked = unpacked
        self._members = members
        self._include = include
        self._exclude = exclude
        self._seen: dict[tuple[str, ...], str] = {}
        self._headers = 0
        self.declared = 0
        """Bytes that the members so far say they have."""

    def count(self) -> None:
        """Take that one more header was read, of a member or about one.

        Raises:
            Refused: there are more than the bound.
        """
        self._headers += 1
        if self._headers > 2 * self._members:  # a long name is a header of its own
            raise Refused("the whole archive", f"has more than {self._members} members")

    def admit(self, header: Header) -> tuple[str, ...] | None:
        """Return where a member goes, None where it is left out.

        Raises:
            Refused: it, or the archive with it, is not taken.
        """
        parts = parts_of(header.name)
        if not parts:
            if header.kind != "folder":
                raise Refused(header.name, "takes the place of the folder itself")
            return None
        if header.kind == "file" and header.mode & 0o6000:
            raise Refused(header.name, "would run with its owner's rights (setuid or setgid)")
        self.declared += header.size
        if self._unpacked is not None and self.declared > self._unpacked:
            raise Refused(header.name, f"makes it more than the {self._unpacked} bytes that were expected at most")
        if header.kind == "symlink":
            self._symlink(header, parts)
        elif header.kind == "hardlink":
            self._hardlink(header)
        self._place(header, parts)
        return parts if self._wanted("/".join(parts)) else None

    def _place(self, header: Header, parts: tuple[str, ...]) -> None:
        """Note what stands where; a name is given once, and only folders have something below them."""
        for depth in range(1, len(parts)):
            above = self._seen.setdefault(parts[:depth], "folder")
            if above != "folder":
                raise Refused(header.name, f"lies below {'/'.join(parts[:depth])}, which is a {above} and no folder")
        kind = "file" if header.kind == "hardlink" else header.kind
        before = self._seen.get(parts)
        self._seen[parts] = kind
        if len(self._seen) > 2 * self._members:
            raise Refused("the whole archive", f"has more than {self._members} members")
        if before is not None and before != kind:
            raise Refused(header.name, f"is a {kind}, and was a {before} before")
        if before is not None and kind != "folder":
            raise Refused(header.name, "is there twice")

    def _symlink(self, header: Header, parts: tuple[str, ...]) -> None:
        target = header.target
        if not target:
            raise Refused(header.name, "is a link to nowhere")
        _plain(target, header.name, "target")
        if target.startswith("/"):
            raise Refused(header.name, f"links to {target[:200]}, outside of its folder")
        steps = [step for step in target.split("/") if step not in {"", "."}]
        up = next((number for number, step in enumerate(steps) if step != ".."), len(steps))
        if up > len(parts) - 1:
            raise Refused(header.name, f"links to {target[:200]}, outside of its folder")
        if ".." in steps[up:]:
            raise Refused(header.name, f"links to {target[:200]}, whose `..` stand not at its start")
        if len(target.encode()) > _LONGEST:
            raise Refused(header.name, "has a target that is too long for a file system")

    def _hardlink(self, header: Header) -> None:
        target = parts_of(header.target)
        if self._seen.get(target) != "file":
            raise Refused(
                header.name, f"is a hard link to {header.target[:200]}, which is no file before it in the archive"
            )
        if not self._wanted("/".join(target)):
            raise Refused(header.name, f"is a hard link to {header.target[:200]}, which is left out")

    def _wanted(self, name: str) -> bool:
        if self._include and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self._include):
            return False
        return not any(fnmatch.fnmatchcase(name, pattern) for pattern in self._exclude)
