"""The program of a release, as it lies on disk: what it is for, what it says of itself, what must lie beside it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from firstlight.catalogue.types import Build
from firstlight.errors import FirstlightError, NothingFits, VerificationFailed
from firstlight.process import run

PROGRAM = "bin/ollama"
LIBRARY = "lib/ollama"
NOWHERE = "127.0.0.1:1"
"""No server answers there: a program that reaches one tells that one's version instead of its own."""

_SAYS = re.compile(r"(?:client version is|ollama version is)\s+v?(\S+)", re.IGNORECASE)
_PATIENCE = 60.0
_ELF = b"\x7fELF"
_MACHINES = {62: "x86_64", 183: "aarch64"}
"""e_machine (elf(5)): EM_X86_64, EM_AARCH64."""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What a program said when it was asked for its version: the version, or why there is none."""

    version: str | None = None
    why: str = ""


def architecture(program: Path) -> str | None:
    """Return what a program was built for, by its ELF header; None: it is no ELF file, or of another machine."""
    try:
        with program.open("rb") as stream:
            head = stream.read(20)
    except OSError:
        return None
    if not head.startswith(_ELF) or len(head) < 20:
        return None
    number = int.from_bytes(head[18:20], "little")
    return _MACHINES.get(number, f"machine {number}")


def says(program: Path) -> Told:
    """Return the version that a program tells; it is started with a home of its own and reaches no server."""
    with tempfile.TemporaryDirectory(prefix="firstlight-ollama-") as home:
        variables: dict[str, str | None] = {"HOME": home, "OLLAMA_HOST": NOWHERE, "OLLAMA_MODELS": f"{home}/models"}
        try:
            told = run([str(program), "-v"], environment=variables, timeout=_PATIENCE, leash=True)
        except FirstlightError as error:
            return Told(why=error.why or error.what)
    found = _SAYS.search(told.tail)
    if found is None:
        last = told.tail.strip().splitlines()
        return Told(why=last[-1] if last else f"it ended with status {told.returncode} and said nothing")
    return Told(version=found[1])


def check_release(prefix: Path, build: Build, *, here: bool = True) -> list[str]:
    """Hold an unpacked release against the build that it is to be; return what must be said of it.

    Args:
        prefix: the folder with `bin` and `lib`.
        build: the build.
        here: whether it is for this machine, so that its program can be run.

    Raises:
        NothingFits: it is for another architecture.
        VerificationFailed: its program does not run, or libraries are missing.
    """
    program = prefix / PROGRAM
    if not program.is_file():
        raise _damaged(build, f"it holds no {PROGRAM}")
    made_for = architecture(program)
    if made_for is not None and made_for != build.arch:
        raise NothingFits(
            f"this archive is for {made_for}, and {build.id} is for {build.arch}",
            why=f"the ELF header of its {PROGRAM} says so",
            fix="fetch the archive for this architecture: firstlight ollama.install",
        )
    missing = list(_missing(prefix, build))
    if missing:
        raise _damaged(build, "; ".join(missing))
    return _said(program, build) if here else []


def _missing(prefix: Path, build: Build) -> Iterator[str]:
    library = prefix / LIBRARY
    if not library.is_dir():
        yield f"it holds no {LIBRARY}: without it models run on the slowest CPU code, or not at all"
        return
    if build.runner is None or (library / build.runner).is_dir():
        return
    runners = [path.name for path in (library / "runners").glob(f"{build.runner}*")]
    folders = sorted(path.name for path in library.iterdir() if path.name.startswith(("cuda_", "rocm", "runners")))
    inside_the_program = not folders and any(library.glob("libcublas.so*"))  # the layout up to 0.5.1
    if not runners and not inside_the_program:
        yield f"the GPU libraries {build.runner} are not in {LIBRARY} (there are: {', '.join(folders) or 'none'})"


def _said(program: Path, build: Build) -> list[str]:
    told = says(program)
    if told.version is None:
        damaged = _damaged(build, f"its program does not run: {told.why}")
        damaged.fix = f"whether programs may run here: firstlight doctor --only disk-noexec\n{damaged.fix}"
        raise damaged
    if told.version != build.release:
        return [f"the archive of {build.release} holds a program that calls itself {told.version}"]
    return []


def _damaged(build: Build, why: str) -> VerificationFailed:
    return VerificationFailed(
        f"what was unpacked is no working Ollama {build.release}; nothing was switched",
        why=why,
        fix="fetch it from another source: firstlight ollama.install --mirror https://HOST/FOLDER",
    )
