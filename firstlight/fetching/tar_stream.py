"""A tar archive as a stream: bytes are pushed in as they come, members are judged and handed on."""

from __future__ import annotations

from typing import Protocol

from firstlight.fetching.tar_headers import BLOCK, END, Damaged, Header, Headers, Refused
from firstlight.fetching.tar_rules import Judge


class Sink(Protocol):
    """Where members go; each is called only with what the judge has admitted."""

    def folder(self, parts: tuple[str, ...]) -> None:
        """Make a folder."""

    def link(self, parts: tuple[str, ...], target: str) -> None:
        """Make a symbolic link."""

    def hard_link(self, parts: tuple[str, ...], target: str) -> None:
        """Make a hard link to a file that was written before."""

    def begin(self, parts: tuple[str, ...], size: int, *, executable: bool) -> None:
        """Begin a file; its bytes come next, in any number of pieces."""

    def write(self, data: memoryview) -> None:
        """Take the next bytes of the file."""

    def end(self) -> None:
        """Take that the file is whole."""


class TarStream:
    """Takes the bytes of a tar archive in pieces of any size.

    Raises (from `feed` and `close`):
        Refused: a member is not taken.
        Damaged: it is no archive, or cut off.
    """

    def __init__(self, judge: Judge, sink: Sink) -> None:
        self.left_out = 0
        self._judge = judge
        self._sink = sink
        self._headers = Headers()
        self._block = bytearray()
        self._left = 0  # bytes of content that are still to come
        self._padding = 0
        self._extension: bytearray | None = None
        self._writing = False
        self._zeros = 0
        self._members = 0
        self._name = ""

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        view = memoryview(data)
        while view:
            if self._left:
                view = self._content(view)
            elif self._padding:
                skipped = min(self._padding, len(view))
                self._padding -= skipped
                view = view[skipped:]
            else:
                taken = view[: BLOCK - len(self._block)]
                self._block += taken
                view = view[len(taken) :]
                if len(self._block) == BLOCK:
                    block = bytes(self._block)
                    self._block.clear()
                    self._next(block)

    def close(self) -> None:
        """Take that there is no more."""
        if self._left or self._padding or self._extension is not None:
            raise Damaged(f"it ends in the middle of {self._name or 'a member'}", truncated=True)
        if self._block or self._headers.pending or not self._zeros:
            raise Damaged("it ends before the mark that ends an archive", truncated=True)
        if not self._members:
            raise Refused("the whole archive", "holds nothing")

    def _content(self, view: memoryview) -> memoryview:
        taken = view[: self._left]
        self._left -= len(taken)
        if self._extension is not None:
            self._extension += taken
        elif self._writing:
            self._sink.write(taken)
        if not self._left:
            self._whole()
        return view[len(taken) :]

    def _whole(self) -> None:
        if self._extension is not None:
            data, self._extension = bytes(self._extension), None
            self._headers.extend(data)
        elif self._writing:
            self._writing = False
            self._sink.end()

    def _next(self, block: bytes) -> None:
        if block == END:
            self._zeros += 1
            return
        if self._zeros:
            raise Damaged("bytes follow behind the mark that ends the archive")
        self._judge.count()
        header, size = self._headers.read(block)
        if header is None:
            self._extension = bytearray()
            self._begin_content(size)
        else:
            self._name = header.name
            self._member(header)

    def _begin_content(self, size: int) -> None:
        self._left = size
        self._padding = -size % BLOCK
        if not size:
            self._whole()

    def _member(self, header: Header) -> None:
        parts = self._judge.admit(header)
        self._members += parts is not None or header.kind != "folder"
        if parts is None:
            self.left_out += header.kind != "folder"
        elif header.kind == "folder":
            self._sink.folder(parts)
        elif header.kind == "symlink":
            self._sink.link(parts, header.target)
        elif header.kind == "hardlink":
            self._sink.hard_link(parts, header.target)
        else:
            self._sink.begin(parts, header.size, executable=bool(header.mode & 0o111))
            self._writing = True
        self._begin_content(header.size)
