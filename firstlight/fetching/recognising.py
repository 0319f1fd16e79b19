"""What a file is, by its first bytes: names lie, above all those of files that a person has fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from firstlight.errors import FirstlightError, VerificationFailed
from firstlight.fetching.decompressing import GZIP, ZSTD, Compression, stream_of
from firstlight.fetching.tar_headers import BLOCK, Damaged, looks_like_tar

HEAD = 1 << 18  # zstd gives nothing out before a block of up to 128 KiB is there
"""Bytes from the beginning that tell what a file is."""
_STEP = 1024

_OTHERS = (
    (b"\xfd7zXZ\0", "an xz archive"),
    (b"BZh", "a bzip2 archive"),
    (b"PK\x03\x04", "a zip archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"!<arch>\n", "a Debian package or a static library"),
    (b"GGUF", "a model file (GGUF)"),
    (b"MZ", "a Windows program"),
    (b"%PDF", "a PDF document"),
    (b"version https://git-lfs", "a Git LFS pointer: a few lines of text in place of the file"),
)
_TAGS = (b"<!doctype html", b"<html", b"<head", b"<?xml", b"<body", b"<script", b"<!--")


class Recognised(msgspec.Struct, frozen=True, kw_only=True):
    """What a file holds, how it is compressed, and the same in words."""

    kind: Literal["tar", "elf", "html", "empty", "truncated", "damaged", "other"]
    compression: Compression = "none"
    detail: str = ""


def recognise_bytes(head: bytes, *, whole: bool = False) -> Recognised:
    """Return what begins with these bytes.

    Args:
        head: the beginning, `HEAD` bytes of it where there are so many.
        whole: whether that is all that there is.
    """
    if not head:
        return Recognised(kind="empty", detail="it is empty")
    compression: Compression = "gzip" if head.startswith(GZIP) else "zstd" if head.startswith(ZSTD) else "none"
    if compression != "none":
        return _packed(head, compression, whole=whole)
    if looks_like_tar(head):
        return Recognised(kind="tar", detail="a tar archive")
    if head.startswith(b"\x7fELF"):
        return Recognised(kind="elf", detail="a Linux program")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:20].lower().startswith(_TAGS):
        start = text.split(b"\n")[0][:40].decode(errors="replace").strip()
        return Recognised(kind="html", detail=f"it is a web page: it begins with {start!r}")
    for magic, words in _OTHERS:
        if head.startswith(magic):
            return Recognised(kind="other", detail=f"it is {words}")
    if not head.strip(b"\0"):
        return Recognised(kind="truncated", detail="it begins with nothing but zeros: it was never filled")
    return Recognised(kind="other", detail=_begins_with(head))


def _begins_with(head: bytes) -> str:
    line = head.splitlines()[0].decode("utf-8", errors="replace").strip()
    if line and line.isprintable() and "\ufffd" not in line:
        return f"it is text that begins with {line[:24]!r}"
    return f"it begins with the bytes {head[:8].hex(' ')}"


def _packed(head: bytes, compression: Compression, *, whole: bool) -> Recognised:
    plain = b""
    stream = stream_of(compression)
    try:
        for at in range(0, len(head), _STEP):  # what is damaged further behind is found when it is unpacked
            plain += b"".join(stream.feed(head[at : at + _STEP]))
            if len(plain) >= BLOCK:
                break
    except Damaged as error:
        return Recognised(kind="damaged", compression=compression, detail=error.why)
    if looks_like_tar(plain[:BLOCK]):
        return Recognised(kind="tar", compression=compression, detail=f"a tar archive, compressed with {compression}")
    if len(plain) < BLOCK and whole:
        why = f"it ends before the first member of its {compression} content"
        return Recognised(kind="truncated", compression=compression, detail=why)
    inside = recognise_bytes(plain[:BLOCK]).detail
    return Recognised(
        kind="other", compression=compression, detail=f"its {compression} content is no tar archive: {inside}"
    )


def recognise(path: Path) -> Recognised:
    """Return what a file is, by its content; one that is cut off further behind is found when it is unpacked.

    Raises:
        FirstlightError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD + 1)
    except OSError as error:
        raise FirstlightError(
            f"{path} cannot be read", why=error.strerror or str(error), fix=f"look at it: ls -l {path.parent}"
        ) from error
    return recognise_bytes(head[:HEAD], whole=len(head) <= HEAD)


def require_archive(path: Path, *, program: bool = False) -> Recognised:
    """Return what a file is where it can be unpacked: a tar archive or, with `program`, a Linux program alone.

    Raises:
        VerificationFailed: it is something else.
        FirstlightError: it cannot be read.
    """
    found = recognise(path)
    if found.kind == "tar" or (found.kind == "elf" and program):
        return found
    raise no_archive(str(path), found)


def no_archive(name: str, found: Recognised) -> VerificationFailed:
    """Return the error that says what a file is instead of an archive, and what to do."""
    if found.kind == "html":
        fix = (
            "the page of a proxy, a login or an error was saved in its place; fetch the file again from another source"
        )
    elif found.kind in {"empty", "truncated"}:
        fix = "fetch it again: its download was cut off"
    else:
        fix = "fetch it again, and compare its size with the publisher's"
    if found.kind == "damaged":
        return VerificationFailed(f"{name} is damaged", why=found.detail, fix="fetch it again")
    return VerificationFailed(f"{name} is no archive that can be unpacked", why=found.detail, fix=fix)
