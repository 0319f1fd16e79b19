"""The header of a GGUF file: what model it is, how it is quantised, and whether all of its bytes are there."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from firstlight.errors import FirstlightError, UsageError
from firstlight.models.weights import GGUF_MARK, LFS_MARK

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MOST_ENTRIES = 100_000
_LONGEST_TEXT = 64 << 20
_MOST_ELEMENTS = 16_000_000
_DEEPEST = 4

_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4",
}  # fmt: skip
"""`general.file_type` (llama.cpp, include/llama.h, llama_ftype)."""

_TENSOR_TYPES = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36), 10: (256, 84),
    11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292), 16: (256, 66), 17: (256, 74),
    18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82), 23: (256, 136), 24: (1, 1), 25: (1, 2),
    26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip
"""Numbers in a block, and its bytes, by a tensor's type (ggml, ggml.h and ggml-common.h)."""


class GgufHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a GGUF file says of itself. `size` and `announced` in bytes; `parameters` are the numbers of all tensors."""

    architecture: str
    name: str | None
    quantization: str
    """Such as `Q4_K_M`; `unknown` where it tells none that we know."""
    parameters: int
    context_length: int | None
    chat_template: str | None
    size: int
    announced: int | None
    """Where its last tensor ends; None: a type of tensor is too new for us to tell."""
    kind: str
    """`model`, `adapter`, `mmproj` (what turns pictures into tokens), or what else it calls itself."""
    part: tuple[int, int] | None
    """Which file it is of how many, where a model is split."""


def read_gguf(file: Path) -> GgufHeader:
    """Return what the header of a GGUF file says, after making sure that the file is as long as it announces.

    Format: ggml, docs/gguf.md, versions 2 and 3, little-endian.

    Raises:
        UsageError: it is no GGUF file.
        FirstlightError: it is damaged, cut off, or cannot be read.
    """
    try:
        with file.open("rb") as stream:
            size = file.stat().st_size
            _require_mark(stream, file)
            header = _Reader(stream).header(size)
    except (EOFError, struct.error, UnicodeDecodeError, OverflowError, MemoryError, ValueError) as error:
        raise FirstlightError(
            f"{file} is damaged",
            why=f"its GGUF header cannot be understood: {error or type(error).__name__}",
            fix="fetch it again",
        ) from error
    except OSError as error:
        raise UsageError(f"cannot read {file}", why=error.strerror or str(error), fix=f"ls -l {file}") from error
    if header.announced is not None and size < header.announced:
        raise FirstlightError(
            f"{file} is cut off: {size} of {header.announced} bytes are there",
            why="its header announces more bytes than the file has: the download was broken off",
            fix="fetch it again",
        )
    return header


def _require_mark(stream: BinaryIO, file: Path) -> None:
    start = stream.read(len(LFS_MARK))
    if start[:4] == GGUF_MARK:
        stream.seek(4)
        return
    why, fix = f"it begins with {start[:8]!r}", "name a *.gguf file"
    if start == LFS_MARK:
        why, fix = "it is a Git-LFS pointer: a few lines of text in place of the file", "git lfs pull"
    elif start.lstrip()[:1] == b"<":
        why, fix = "it is a web page: the download was answered with one", "fetch it again"
    elif not start:
        why, fix = "it is empty: its download was broken off", "fetch it again"
    raise UsageError(f"{file} is no GGUF file", why=why, fix=fix)


class _Reader:
    """Reads the parts of a header in order; every length is held against a bound before anything is read."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def header(self, size: int) -> GgufHeader:
        version = self._number("I")
        if version not in {2, 3}:
            raise ValueError(f"version {version} is not known")
        tensors, entries = self._number("Q"), self._number("Q")
        if max(tensors, entries) > _MOST_ENTRIES:
            raise ValueError(f"{tensors} tensors and {entries} entries are said to follow")
        told: dict[str, Any] = {}
        for _ in range(entries):
            key = self._text()
            told[key] = self._value(self._number("I"))
        numbers, end = self._tensors(tensors)
        position = self._stream.tell()
        alignment = told.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20:
            raise ValueError(f"an alignment of {alignment}")
        start = position + -position % alignment
        return _described(told, numbers, size, None if end is None else start + end if end else position)

    def _tensors(self, count: int) -> tuple[int, int | None]:
        """Return the numbers in all tensors, and where the last one ends in the data; None: that cannot be told."""
        numbers, end, known = 0, 0, True
        for _ in range(count):
            self._text()
            dimensions = self._number("I")
            if dimensions > 8:
                raise ValueError(f"a tensor of {dimensions} dimensions")
            elements = 1
            for _dimension in range(dimensions):
                elements *= self._number("Q")
            kind, offset = self._number("I"), self._number("Q")
            numbers += elements
            block, size = _TENSOR_TYPES.get(kind, (0, 0))
            known = known and block > 0
            end = max(end, offset + elements * size // block) if block else end
        return numbers, end if known else None

    def _take(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) < count:
            raise EOFError("it ends in the middle")
        return data

    def _number(self, kind: str) -> Any:
        return struct.unpack(f"<{kind}", self._take(struct.calcsize(f"<{kind}")))[0]

    def _text(self) -> str:
        length = self._number("Q")
        if length > _LONGEST_TEXT:
            raise ValueError(f"a text of {length} bytes")
        return self._take(length).decode("utf-8", "replace")

    def _value(self, kind: int, depth: int = 0) -> Any:
        """Return a value; None for lists, which are passed over."""
        if kind == _STRING:
            return self._text()
        if kind in _SCALARS:
            return self._number(_SCALARS[kind])
        if kind != _ARRAY or depth > _DEEPEST:
            raise ValueError(f"a value of type {kind}")
        inner, count = self._number("I"), self._number("Q")
        if count > _MOST_ELEMENTS:
            raise ValueError(f"a list of {count} values")
        if inner in _SCALARS:
            self._take(count * struct.calcsize(f"<{_SCALARS[inner]}"))
        else:
            for _ in range(count):
                self._value(inner, depth + 1)
        return None


def _described(told: dict[str, Any], numbers: int, size: int, announced: int | None) -> GgufHeader:
    architecture = told.get("general.architecture")
    if not isinstance(architecture, str) or not architecture:
        raise ValueError("it names no architecture")
    context, parts, part = (told.get(key) for key in (f"{architecture}.context_length", "split.count", "split.no"))
    name, template = told.get("general.name"), told.get("tokenizer.chat_template")
    return GgufHeader(
        architecture=architecture,
        name=name if isinstance(name, str) else None,
        quantization=_FILE_TYPES.get(told.get("general.file_type", -1), "unknown"),
        parameters=numbers,
        context_length=context if isinstance(context, int) else None,
        chat_template=template if isinstance(template, str) else None,
        size=size,
        announced=announced,
        kind=str(told.get("general.type", "mmproj" if architecture == "clip" else "model")),
        part=(int(part or 0) + 1, parts) if isinstance(parts, int) and parts > 1 else None,
    )
