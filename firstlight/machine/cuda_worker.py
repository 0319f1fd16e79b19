"""Reads libcuda in a process of its own, for machines where NVML is missing or broken (older Jetsons have none).

Run as a script, `python -I -S cuda_worker.py`. It imports nothing of firstlight and prints marked JSON lines as
`nvml_worker.py` does. Source of the numbers: cuda.h, CUdevice_attribute 75 and 76 (compute capability).
"""

from __future__ import annotations

import ctypes
import json
import sys
from typing import Any

MARK = "@firstlight "
CAPABILITY_MAJOR = 75
CAPABILITY_MINOR = 76


def _tell(document: dict[str, Any]) -> None:
    sys.stdout.write(f"\n{MARK}{json.dumps(document)}\n")
    sys.stdout.flush()


def _error_text(cuda: Any, code: int) -> str:
    text = ctypes.c_char_p()
    try:
        if cuda.cuGetErrorString(code, ctypes.byref(text)) == 0 and text.value:
            return f"CUDA error {code}: {text.value.decode('utf-8', 'replace')}"
    except AttributeError:
        pass
    return f"CUDA error {code}"


def _attribute(cuda: Any, device: ctypes.c_int, attribute: int) -> int | None:
    value = ctypes.c_int()
    return value.value if cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device) == 0 else None


def _gpu(cuda: Any, index: int) -> dict[str, Any]:
    device = ctypes.c_int()
    code = cuda.cuDeviceGet(ctypes.byref(device), index)
    if code != 0:
        return {"index": index, "notes": [_error_text(cuda, code)]}
    name = ctypes.create_string_buffer(256)
    total = ctypes.c_size_t()
    major, minor = (_attribute(cuda, device, which) for which in (CAPABILITY_MAJOR, CAPABILITY_MINOR))
    named = cuda.cuDeviceGetName(name, len(name), device) == 0
    sized = cuda.cuDeviceTotalMem_v2(ctypes.byref(total), device) == 0
    return {
        "index": index,
        "name": name.value.decode("utf-8", "replace") if named else None,
        "compute_capability": None if major is None or minor is None else f"{major}.{minor}",
        "memory_total": total.value if sized else None,
        "notes": [],
    }


def main() -> int:
    """Print what libcuda tells; an error of CUDA is part of that."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        _tell({"error": {"code": None, "text": f"libcuda.so.1 cannot be loaded: {error}"}})
        return 0
    version = ctypes.c_int()
    if cuda.cuDriverGetVersion(ctypes.byref(version)) == 0:  # needs no cuInit: it answers where the GPUs do not
        _tell({"cuda": version.value})
    count = ctypes.c_int()
    code = cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count))
    if code != 0:
        _tell({"error": {"code": code, "text": _error_text(cuda, code)}})
        return 0
    for index in range(count.value):
        _tell({"gpu": _gpu(cuda, index)})
    _tell({"complete": count.value})
    return 0


if __name__ == "__main__":
    sys.exit(main())
