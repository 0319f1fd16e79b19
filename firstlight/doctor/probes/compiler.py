"""What compiles GPU kernels at the start of an engine: a C compiler, and the headers of the Pythons."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from firstlight.doctor.looking import Look
from firstlight.machine.system import is_file, printable

_COMPILERS = ("gcc", "clang", "cc")
"""In the order in which Triton looks (triton/runtime/build.py, 3.x), after the variable CC."""


class PythonHeaders(msgspec.Struct, frozen=True, kw_only=True):
    """An interpreter of the machine, and whether its Python.h is there."""

    python: str
    version: str
    present: bool


class Compiler(msgspec.Struct, frozen=True, kw_only=True):
    """The C compiler that would be found, and what CC says."""

    compiler: str | None = None
    named: str | None = None
    """The value of CC, where it is set."""
    headers: tuple[PythonHeaders, ...] = ()


def read(look: Look) -> Compiler:
    """Return the C compiler by CC and PATH, and the Python headers of the machine's interpreters."""
    system = look.system
    named = system.environment.get("CC") or None
    words = (named.split()[0],) if named else _COMPILERS
    found = next((path for word in words if (path := _find(look, word)) is not None), None)
    return Compiler(
        compiler=printable(found) if found is not None else None,
        named=named,
        headers=tuple(_headers(found.path, found.version) for found in look.machine().pythons or [] if found.path),
    )


def _find(look: Look, word: str) -> Path | None:
    if "/" in word:
        return Path(word) if is_file(Path(word)) else None
    return look.system.which(word)


def _headers(python: str, version: str) -> PythonHeaders:
    minor = ".".join(version.split(".")[:2])
    prefixes = {Path(python).parent.parent, Path("/usr")}
    with contextlib.suppress(OSError, RuntimeError):
        prefixes.add(Path(python).resolve().parent.parent)
    present = any(is_file(prefix / "include" / f"python{minor}" / "Python.h") for prefix in prefixes)
    return PythonHeaders(python=python, version=version, present=present)
