"""Ollama as it lies here: its copies and their libraries, its unit, its running server, and its store of models."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from firstlight.doctor.looking import Look
from firstlight.doctor.probes.ollama_store import Store, read_store
from firstlight.doctor.probes.services import journal_of, recorded, story_of_lines
from firstlight.doctor.probes.stories import story_of
from firstlight.doctor.story import LogStory
from firstlight.machine.system import System, exists, is_file, printable

PROGRAM = "ollama"
_PLACES = ("/usr/local/bin", "/usr/bin", "/bin", "/opt/ollama/bin", "/snap/bin")
_SELF_CONTAINED = 150_000_000
"""Bytes: releases up to 0.3.6 carried their libraries inside the program, which was far bigger for it."""
_UNITS = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_ASK_SECONDS = 0.7
_MODELS = ".ollama/models"


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """One copy of the program, and the folder of libraries that it looks into."""

    program: str
    """Where it was found; links are followed in `real`."""
    real: str
    on_path: bool = False
    """Whether it is the one that a shell starts."""
    ours: bool = False
    """Whether it lies in firstlight's home."""
    library: str | None = None
    """Its folder of libraries; None: there is none where it looks."""
    looked_at: tuple[str, ...] = ()
    self_contained: bool = False
    mixed: tuple[str, ...] = ()
    """Why its libraries are of more than one release, in words."""


class OllamaUnit(msgspec.Struct, frozen=True, kw_only=True):
    """Its systemd unit, drop-ins counted in."""

    path: str
    program: str | None = None
    user: str | None = None
    """None: root, and then systemd sets no HOME."""
    variables: dict[str, str] = {}
    """Those of HOME, PATH and OLLAMA_…"""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """A model that the running server holds: its bytes, and those of them that lie on GPUs."""

    name: str
    size: int
    vram: int


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """The running server, as it answers on its port."""

    address: str
    version: str | None = None
    loaded: tuple[Loaded, ...] = ()


class OllamaSeen(msgspec.Struct, frozen=True, kw_only=True):
    """All of Ollama on this machine."""

    copies: tuple[Copy, ...] = ()
    unit: OllamaUnit | None = None
    server: Server | None = None
    story: LogStory | None = None
    """What the service's log, or that of a detached server of ours, tells."""
    stores: tuple[Store, ...] = ()


def read(look: Look) -> OllamaSeen:
    """Return what there is of Ollama; the program itself is not started."""
    system = look.system
    unit = _unit(system)
    copies = tuple(_copies(look, unit))
    server = _server(look, unit)
    stores = tuple(read_store(system, path, user, deep=look.deep) for path, user in _stores(system, unit).items())
    return OllamaSeen(
        copies=copies, unit=unit, server=server, story=_story(look, unit) if copies or unit else None, stores=stores
    )


def _copies(look: Look, unit: OllamaUnit | None) -> Iterator[Copy]:
    system = look.system
    first = system.which(PROGRAM)
    places = [*system.search_path(), *map(system.path, _PLACES)]
    candidates = [folder / PROGRAM for folder in places]
    ours = look.home().root / PROGRAM
    candidates += sorted(ours.glob(f"*/bin/{PROGRAM}"))
    if unit is not None and unit.program is not None:
        candidates.append(system.path(unit.program))
    told: set[Path] = set()
    for candidate in candidates:
        if not is_file(candidate):
            continue
        real = _real(candidate)
        if real not in told:
            told.add(real)
            yield _copy(candidate, real, on_path=first is not None and _real(first) == real, ours=ours in real.parents)


def _real(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        return path


def _copy(program: Path, real: Path, *, on_path: bool, ours: bool) -> Copy:
    # Where it looks: beside the folder of the program that the links lead to, then below it (Ollama ml/path.go).
    looked_at = [real.parent.parent / "lib" / PROGRAM, real.parent / "lib" / PROGRAM]
    library = next((folder for folder in looked_at if folder.is_dir()), None)
    return Copy(
        program=printable(program),
        real=printable(real),
        on_path=on_path,
        ours=ours,
        library=printable(library) if library is not None else None,
        looked_at=tuple(printable(folder) for folder in looked_at),
        self_contained=library is None and real.stat().st_size > _SELF_CONTAINED,
        mixed=tuple(mixed(_names(library))) if library is not None else (),
    )


def _names(folder: Path) -> list[str]:
    """Return what a folder of libraries holds, two levels deep: `cuda_v12/libggml-cuda.so`."""
    names = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        names.append(entry.name)
        if entry.is_dir():
            names += [f"{entry.name}/{name}" for name in sorted(os.listdir(entry.path))]  # noqa: PTH208 - names alone
    return names


def mixed(names: list[str]) -> Iterator[str]:
    """Give, in words, why the libraries of a folder are of more than one release; nothing where they go together.

    The layouts of the releases: runners/ up to 0.5.7, cuda_v11 and cuda_v12 from 0.5.8, all in one folder from 0.9.3,
    cuda_v12 and cuda_v13 from 0.11.11, llama-server from 0.30 (their own Dockerfiles).

    Args:
        names: what the folder holds, subfolders included.
    """
    tops = {name for name in names if "/" not in name}
    folders = sorted(name for name in tops if name.startswith("cuda_v"))
    ggml = any(name.startswith("libggml-base.so") for name in tops)
    flat = sorted(name for name in tops if re.match(r"lib(?:cublas|cublasLt|cudart|ggml-cuda)\.so", name))
    server = any(name.startswith("llama-server") for name in tops)
    if "runners" in tops and (ggml or server):
        yield "runners/ is of a release up to 0.5.7, the rest is newer"
    if flat and folders:
        yield f"{flat[0]} lies flat as in 0.9.3 to 0.11.10, beside {', '.join(folders)}"
    if "cuda_v11" in tops and ("cuda_v13" in tops or server):
        newer = "cuda_v13" if "cuda_v13" in tops else "llama-server"
        yield f"cuda_v11 is of a release up to 0.9.2, {newer} is newer"
    for folder in folders:
        inside = {name.partition("/")[2] for name in names if name.startswith(f"{folder}/")}
        majors = {match[1] for name in inside if (match := re.match(r"libcudart\.so\.(\d+)", name))}
        if len(majors) > 1:
            yield f"{folder} holds libcudart of CUDA {' and '.join(sorted(majors))}"


def _unit(system: System) -> OllamaUnit | None:
    path = next(
        (f"{folder}/{PROGRAM}.service" for folder in _UNITS if system.exists(f"{folder}/{PROGRAM}.service")), None
    )
    if path is None:
        return None
    texts = [system.text_of(path) or ""]
    for folder in _UNITS:
        drop_ins = f"{folder}/{PROGRAM}.service.d"
        texts += [system.text_of(f"{drop_ins}/{entry.name}") or "" for entry in system.entries(drop_ins)]
    return parse_unit(path, "\n".join(texts))


def parse_unit(path: str, text: str) -> OllamaUnit:
    """Return what a unit says, drop-ins following it; later lines win (systemd.exec(5))."""
    program: str | None = None
    user: str | None = None
    variables: dict[str, str] = {}
    for line in (raw.strip() for raw in text.splitlines()):
        key, equals, value = line.partition("=")
        if not equals or key.startswith(("#", ";")):
            continue
        if key == "ExecStart" and value:
            program = value.lstrip("-+!:@").split()[0]
        elif key == "User":
            user = value or None
        elif key == "Environment":
            variables.update(_assignments(value))
    return OllamaUnit(path=path, program=program, user=user, variables=variables)


def _assignments(value: str) -> Iterator[tuple[str, str]]:
    try:
        words = shlex.split(value)
    except ValueError:
        words = value.split()
    for word in words:
        name, equals, text = word.partition("=")
        if equals and (name in {"HOME", "PATH"} or name in {"OLLAMA_HOST", "OLLAMA_MODELS", "OLLAMA_LLM_LIBRARY"}):
            yield name, text


def _stores(system: System, unit: OllamaUnit | None) -> dict[Path, str | None]:
    """Return the folders of models that servers here would use, and the user of each (None: whoever asks)."""
    found: dict[Path, str | None] = {}
    if unit is not None:
        home = unit.variables.get("HOME") or _home_of(system, unit.user or "root") or "/root"
        models = unit.variables.get("OLLAMA_MODELS") or f"{home}/{_MODELS}"
        if models.startswith("/"):
            found[system.path(models)] = unit.user or "root"
    own = system.environment.get("OLLAMA_MODELS")
    if own and own.startswith("/"):
        found.setdefault(Path(own), None)
    elif system.home is not None:
        found.setdefault(system.home / _MODELS, None)
    return {path: user for path, user in found.items() if user is not None or exists(path)}


def _home_of(system: System, user: str) -> str | None:
    for line in (system.text_of("/etc/passwd") or "").splitlines():
        fields = line.split(":")
        if fields[0] == user and len(fields) > 5:
            return fields[5]
    return None


def _server(look: Look, unit: OllamaUnit | None) -> Server | None:
    """Return what the server on this machine answers, asked on the loopback address."""
    page = look.catalogue.engines.get(PROGRAM)
    if page is None or not look.system.live:
        return None
    told = look.system.environment.get("OLLAMA_HOST") or (unit.variables.get("OLLAMA_HOST") if unit else None) or ""
    port = int(match[1]) if (match := re.search(r":(\d{1,5})/?$", told)) else page.port
    version = _ask(port, "/api/version", look)
    if not isinstance(version, dict):
        return None
    running = _ask(port, "/api/ps", look)
    models = running.get("models") if isinstance(running, dict) else None
    loaded = [
        Loaded(name=str(item.get("name")), size=int(item.get("size") or 0), vram=int(item.get("size_vram") or 0))
        for item in models or []
        if isinstance(item, dict)
    ]
    return Server(address=f"127.0.0.1:{port}", version=str(version.get("version") or ""), loaded=tuple(loaded))


def _ask(port: int, path: str, look: Look) -> Any:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=max(0.1, look.system.remaining(_ASK_SECONDS)))
    try:
        connection.request("GET", path)
        return msgspec.json.decode(connection.getresponse().read(1 << 20))
    except (OSError, http.client.HTTPException, msgspec.DecodeError, ValueError):
        return None
    finally:
        connection.close()


def _story(look: Look, unit: OllamaUnit | None) -> LogStory | None:
    """Return what its log tells: the journal of the unit, else the log of a detached server of ours."""
    if unit is not None and look.system.exists("/run/systemd/system"):
        story = story_of_lines(journal_of(look.system, PROGRAM), PROGRAM)
        if story is not None:
            return story
    record = next((record for record in look.once(recorded) if record.engine == PROGRAM and record.alive), None)
    return story_of(Path(record.log), PROGRAM) if record is not None else None
