"""Lists the processes on every GPU by NVML, in a process of its own: a driver that hangs takes only this one.

Started by path with an isolated interpreter; the one argument is the folder that pynvml lies in. Prints one marked JSON
line per GPU.
"""

from __future__ import annotations

import json
import sys
from typing import Any

MARK = "@firstlight "


def _tell(document: dict[str, Any]) -> None:
    sys.stdout.write(f"{MARK}{json.dumps(document)}\n")
    sys.stdout.flush()


_LISTS = ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetGraphicsRunningProcesses")


def _processes(nvml: Any, handle: Any) -> list[dict[str, int | None]] | None:
    found: dict[int, int | None] = {}
    answers = 0
    for name in _LISTS:
        for version in ("_v3", "_v2"):  # drivers before R510 know the older one alone
            try:
                listed = getattr(nvml, f"{name}{version}")(handle)
            except nvml.NVMLError_FunctionNotFound:
                continue
            except nvml.NVMLError:
                break
            answers += 1
            for process in listed:
                found.setdefault(int(process.pid), process.usedGpuMemory)
            break
    return [{"pid": pid, "bytes": size} for pid, size in found.items()] if answers else None


def main() -> int:
    """Print the processes of each GPU; an error of NVML is told in a line."""
    sys.path.append(sys.argv[1])
    try:
        import pynvml as nvml
    except ImportError as error:
        _tell({"error": str(error)})
        return 0
    try:
        nvml.nvmlInit()
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                _tell({"gpu": index, "processes": _processes(nvml, handle)})
            except nvml.NVMLError as error:  # one lost card must not hide the others
                _tell({"gpu": index, "processes": None, "why": str(error)})
    except nvml.NVMLError as error:
        _tell({"error": str(error)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
