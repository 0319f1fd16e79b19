"""Reads NVML in a process of its own: a driver library that hangs or crashes takes only this process with it.

Run as a script, `python -I -S nvml_worker.py FOLDER_OF_PYNVML`. It imports nothing of firstlight, starts in about
50 ms, and prints one marked JSON line for the system and one for each GPU as soon as it knows them.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Callable
from typing import Any

MARK = "@firstlight "


def _tell(document: dict[str, Any]) -> None:
    sys.stdout.write(f"\n{MARK}{json.dumps(document)}\n")
    sys.stdout.flush()


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


class _Fields:
    """Asks for single facts; one that the driver refuses is null, and why is kept unless it is merely not supported."""

    def __init__(self, nvml: Any) -> None:
        self.nvml = nvml
        self.notes: list[str] = []

    def ask(self, name: str, read: Callable[[], Any], not_supported: Any = None) -> Any:
        try:
            return read()
        except (self.nvml.NVMLError_NotSupported, self.nvml.NVMLError_FunctionNotFound):
            return not_supported
        except self.nvml.NVMLError as error:
            self.notes.append(f"{name}: {error}")
            return None


def _gpu(nvml: Any, index: int) -> dict[str, Any]:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
    except nvml.NVMLError as error:  # one lost card (fallen off the bus) must not hide the others
        return {"index": index, "notes": [str(error)]}
    fields = _Fields(nvml)
    capability = fields.ask("compute_capability", lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))
    # A card that cannot have MIG answers "not supported": then it is off.
    mig = fields.ask("mig", lambda: bool(nvml.nvmlDeviceGetMigMode(handle)[0]), not_supported=False)
    memory = fields.ask("memory", lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    if mig:
        memory = _largest_instance(nvml, handle) or memory
    name = fields.ask("name", lambda: _text(nvml.nvmlDeviceGetName(handle)))
    return {
        "index": index,
        "name": name,
        "compute_capability": f"{capability[0]}.{capability[1]}" if capability else None,
        "memory_total": int(memory.total) if memory is not None else None,
        "memory_free": int(memory.free) if memory is not None else None,
        "mig": mig,
        "virtualization": fields.ask("virtualization", lambda: int(nvml.nvmlDeviceGetVirtualizationMode(handle))),
        "uuid": fields.ask("uuid", lambda: _text(nvml.nvmlDeviceGetUUID(handle))),
        "fabric": fields.ask("fabric", lambda: _fabric(nvml, handle)),
        "notes": fields.notes,
    }


def _largest_instance(nvml: Any, handle: Any) -> Any:
    """Return the memory of the largest MIG instance: a program can use one instance, never the whole card."""

    def memory_at(place: int) -> Any:
        try:
            return nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place))
        except nvml.NVMLError:  # a place without an instance
            return None

    try:
        sizes = [memory_at(place) for place in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))]
    except nvml.NVMLError:
        return None
    return max((size for size in sizes if size is not None), key=lambda size: size.total, default=None)


def _fabric(nvml: Any, handle: Any) -> dict[str, int]:
    info = nvml.c_nvmlGpuFabricInfo_t()
    nvml.nvmlDeviceGetGpuFabricInfo(handle, ctypes.byref(info))
    return {"state": int(info.state), "status": int(info.status)}


def main() -> int:
    """Print what NVML tells; an error of NVML is part of that."""
    sys.path.append(sys.argv[1])
    try:
        import pynvml as nvml
    except ImportError as error:
        _tell({"error": {"code": None, "text": f"the Python module pynvml cannot be imported: {error}"}})
        return 0
    fields = _Fields(nvml)
    try:
        nvml.nvmlInit()
        _tell(
            {
                "driver": fields.ask("driver", lambda: _text(nvml.nvmlSystemGetDriverVersion())),
                "cuda": fields.ask("cuda", lambda: int(nvml.nvmlSystemGetCudaDriverVersion_v2())),
                "notes": fields.notes,
            }
        )
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        _tell({"error": {"code": int(error.value), "text": str(error)}})
        return 0
    for index in range(count):
        _tell({"gpu": _gpu(nvml, index)})
    _tell({"complete": count})
    return 0


if __name__ == "__main__":
    sys.exit(main())
