"""What one way of asking the NVIDIA driver told: the common form of NVML's, libcuda's and nvidia-smi's answers."""

from __future__ import annotations

import json
import re
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from firstlight.errors import FirstlightError
from firstlight.machine.facts import Gpu
from firstlight.machine.system import Background, System
from firstlight.process import Child, Command

MARK = "@firstlight "
_VGPU_PROFILE = re.compile(r"-\d+[ABCQ](?:ME)?$")
"""vGPU names end in their profile: memory in GB and series, `A100D-4C` (NVIDIA vGPU software documentation)."""
_VIRTUALIZATION_VGPU = 2
_FABRIC_PENDING = frozenset({1, 2})
"""NVML_GPU_FABRIC_STATE_NOT_STARTED and _IN_PROGRESS (nvml.h)."""
_FABRIC_COMPLETED = 3


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. `gpus` is None when it could not list them; `reason` says what went wrong, `code` is its number."""

    source: str
    driver: str | None = None
    cuda: str | None = None
    gpus: list[Gpu] | None = None
    complete: bool = False
    code: int | None = None
    reason: str | None = None
    fabric_ready: bool | None = None
    """Whether the NVSwitch fabric is up; None where there is none or nobody tells."""
    notes: list[str] = []
    """Single facts that were refused."""


def ask_nvml(system: System, seconds: float, library: Path | None) -> Report:
    """Return NVML's answer, read by pynvml in a worker process."""
    spec = find_spec("pynvml")
    if spec is None or spec.origin is None:
        return Report(source="nvml", reason="the Python module pynvml is not installed")
    origin = Path(spec.origin)
    folder = origin.parent.parent if origin.name == "__init__.py" else origin.parent
    return _ask_worker(system, "nvml", ["nvml_worker.py", str(folder)], seconds, library)


def ask_libcuda(system: System, seconds: float, library: Path | None) -> Report:
    """Return libcuda's answer, read by ctypes in a worker process."""
    return _ask_worker(system, "libcuda", ["cuda_worker.py"], seconds, library)


def _ask_worker(system: System, source: str, words: list[str], seconds: float, library: Path | None) -> Report:
    script = Path(__file__).with_name(words[0])
    changes: dict[str, str | None] = {
        # Facts are about the machine, not about what one shell hides; PCI order is NVML's order.
        "CUDA_VISIBLE_DEVICES": None,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    if library is not None:
        # Found where the loader may not look (WSL, GKE's /usr/local/nvidia): that folder comes last.
        folders = [system.environment.get("LD_LIBRARY_PATH", ""), str(library.parent)]
        changes["LD_LIBRARY_PATH"] = ":".join(folder for folder in folders if folder)
    try:
        child = Child(Command((sys.executable, "-I", "-S", str(script), *words[1:]), {**system.additions(), **changes}))
    except FirstlightError as error:
        return Report(source=source, reason=f"{error.what}: {error.why}")
    status = child.wait(seconds)
    if status is None:
        # Ended on the side: a process stuck inside the driver cannot even be killed, and nobody shall wait for it.
        Background(f"stop-{child.pid}", lambda: child.stop(grace=0.3))
    return parse_worker(source, list(child.tail), status, seconds)


def parse_worker(source: str, lines: list[str], status: int | None, seconds: float) -> Report:
    """Return the report that a worker's output stands for.

    Args:
        source: `nvml` or `libcuda`.
        lines: what it printed; only marked lines are ours.
        status: its exit status, None when it did not end within `seconds`.
        seconds: how long it had.
    """
    documents = [document for line in lines if (document := _decode(line)) is not None]
    merged: dict[str, Any] = {}
    for document in documents:
        merged.update(document)
    entries = [document["gpu"] for document in documents if "gpu" in document]
    complete = "complete" in merged
    failure = merged.get("error") or {}
    reason, code = failure.get("text"), failure.get("code")
    if not complete and reason is None:
        noise = [line for line in lines if line.strip() and not line.startswith(MARK)]
        library = {"nvml": "NVML (libnvidia-ml.so.1)", "libcuda": "CUDA (libcuda.so.1)"}[source]
        reason = f"{library} {_how_it_ended(status, seconds)}" + (f": {noise[-1].strip()}" if noise else "")
    notes = list(merged.get("notes") or [])
    notes += [f"GPU {entry['index']}: {note}" for entry in entries for note in entry.get("notes", [])]
    return Report(
        source=source,
        driver=merged.get("driver"),
        cuda=cuda_text(merged.get("cuda")),
        gpus=[_gpu(entry) for entry in entries] if complete or entries else None,
        complete=complete,
        code=code,
        reason=reason,
        fabric_ready=_fabric(entries),
        notes=notes,
    )


def cuda_text(number: int | None) -> str | None:
    """Return `12.2` for the driver's number 12020 (1000 × major + 10 × minor)."""
    return f"{number // 1000}.{number % 1000 // 10}" if number else None


def vgpu_by(name: str | None, virtualization: int | None) -> bool | None:
    """Tell whether a GPU is a virtual one, by NVML's virtualization mode or by the profile in its name."""
    if virtualization == _VIRTUALIZATION_VGPU or (name is not None and _VGPU_PROFILE.search(name)):
        return True
    return None if virtualization is None else False


def _how_it_ended(status: int | None, seconds: float) -> str:
    if status is None:
        return f"did not answer within {seconds:.1f} s"
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = "unknown"
        return f"crashed the process that read it (signal {-status}, {name})"
    return f"could not be read, the reader ended with status {status}"


def _decode(line: str) -> dict[str, Any] | None:
    if not line.startswith(MARK):
        return None
    try:
        document = json.loads(line[len(MARK) :])
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _gpu(entry: dict[str, Any]) -> Gpu:
    return Gpu(
        index=entry["index"],
        name=entry.get("name"),
        compute_capability=entry.get("compute_capability"),
        memory_total=entry.get("memory_total"),
        memory_free=entry.get("memory_free"),
        mig=entry.get("mig"),
        vgpu=vgpu_by(entry.get("name"), entry.get("virtualization")),
        uuid=entry.get("uuid"),
    )


def _fabric(entries: list[dict[str, Any]]) -> bool | None:
    found = [entry["fabric"] for entry in entries if entry.get("fabric")]
    if any(fabric["state"] in _FABRIC_PENDING for fabric in found):
        return False
    done = [fabric for fabric in found if fabric["state"] == _FABRIC_COMPLETED]
    return all(fabric["status"] == 0 for fabric in done) if done else None
