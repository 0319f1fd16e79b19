"""Which processes hold memory of the GPUs: NVML's list, with names and users out of /proc."""

from __future__ import annotations

import json
import pwd
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from firstlight.doctor.looking import Look
from firstlight.doctor.secrets import without_secrets
from firstlight.errors import FirstlightError
from firstlight.machine.driver import NVML, find_library
from firstlight.machine.system import Background, System
from firstlight.process import Child, Command
from firstlight.serving.records import all_records

MARK = "@firstlight "
_LONGEST = 3.0
_COMMAND_LENGTH = 80


class GpuProcess(msgspec.Struct, frozen=True, kw_only=True):
    """A process on a GPU. `command` is None where it runs outside this container; `bytes` where NVML does not tell."""

    pid: int
    bytes: int | None = None
    command: str | None = None
    user: str | None = None
    ours: str | None = None
    """Our own server's name, when it is that one's process."""


class GpuUse(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU and its processes; None: NVML does not list them."""

    index: int
    processes: tuple[GpuProcess, ...] | None


class GpuHolders(msgspec.Struct, frozen=True, kw_only=True):
    """The processes on every GPU; `problem` says why there is no list."""

    gpus: tuple[GpuUse, ...] = ()
    problem: str | None = None


def read(look: Look) -> GpuHolders:
    """Return the processes on the GPUs; nothing is started where there is no NVML."""
    library = find_library(look.system, NVML)
    spec = find_spec("pynvml")
    if library is None or spec is None or spec.origin is None:
        return GpuHolders()
    lines, problem = _ask(look.system, library, Path(spec.origin))
    found = parse(lines)
    named = tuple(msgspec.structs.replace(gpu, processes=_named(look, gpu.processes)) for gpu in found.gpus)
    return GpuHolders(gpus=named, problem=found.problem or problem)


def _ask(system: System, library: Path, module: Path) -> tuple[list[str], str | None]:
    seconds = max(0.5, system.remaining(_LONGEST) - 0.3)
    folder = module.parent.parent if module.name == "__init__.py" else module.parent
    # Found where the loader may not look (WSL, GKE's /usr/local/nvidia): that folder comes last.
    folders = [system.environment.get("LD_LIBRARY_PATH", ""), str(library.parent)]
    changes = {"LD_LIBRARY_PATH": ":".join(folder for folder in folders if folder)}
    script = Path(__file__).with_name("holders_worker.py")
    try:
        child = Child(Command((sys.executable, "-I", "-S", str(script), str(folder)), system.additions(**changes)))
    except FirstlightError as error:
        return [], error.what
    status = child.wait(seconds)
    if status is None:
        # Ended on the side: a process stuck inside the driver cannot even be killed, and nobody shall wait for it.
        Background(f"stop-{child.pid}", lambda: child.stop(grace=0.3))
        return list(child.tail), f"NVML did not answer within {seconds:.1f} s"
    return list(child.tail), None if status == 0 else f"the reader of NVML ended with status {status}"


def parse(lines: list[str]) -> GpuHolders:
    """Return what the worker's lines tell; only marked ones are ours."""
    gpus, problem = [], None
    for line in lines:
        if not line.startswith(MARK):
            continue
        try:
            told: dict[str, Any] = json.loads(line[len(MARK) :])
        except ValueError:  # cut short: the worker was killed while it wrote
            continue
        if "error" in told:
            problem = str(told["error"])
        elif "gpu" in told:
            processes = told.get("processes")
            gpus.append(
                GpuUse(
                    index=int(told["gpu"]),
                    processes=None if processes is None else tuple(GpuProcess(**process) for process in processes),
                )
            )
    return GpuHolders(gpus=tuple(gpus), problem=problem)


def _named(look: Look, processes: tuple[GpuProcess, ...] | None) -> tuple[GpuProcess, ...] | None:
    if not processes:
        return processes
    groups = {record.pid: record.name for record in all_records(look.home()) if record.alive}
    return tuple(_described(look.system, process, groups) for process in processes)


def _described(system: System, process: GpuProcess, groups: dict[int, str]) -> GpuProcess:
    """Return the process with its command and user; a child of one of our servers belongs to its process group."""
    folder = f"/proc/{process.pid}"
    words = (system.bytes_of(f"{folder}/cmdline") or b"").rstrip(b"\0").split(b"\0")
    command = without_secrets(shlex.join(word.decode(errors="replace") for word in words if word))
    command = command or system.text_of(f"{folder}/comm") or ""
    if len(command) > _COMMAND_LENGTH:
        command = command[: _COMMAND_LENGTH - 1] + "…"
    fields = (system.text_of(f"{folder}/stat") or "").rpartition(")")[2].split()
    group = int(fields[2]) if len(fields) > 2 and fields[2].isdigit() else process.pid
    return msgspec.structs.replace(process, command=command or None, user=_user(system, folder), ours=groups.get(group))


def _user(system: System, folder: str) -> str | None:
    try:
        uid = system.path(folder).stat().st_uid
    except OSError:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
