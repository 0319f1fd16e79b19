"""How much GPU memory a service's processes hold, by nvidia-smi."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from firstlight import process
from firstlight.errors import FirstlightError

_SECONDS = 5.0
_WORDS = ("nvidia-smi", "--query-compute-apps=pid,used_gpu_memory", "--format=csv,noheader,nounits")


def gpu_memory_of(pids: Sequence[int]) -> int | None:
    """Return the bytes of GPU memory that processes hold; None where there is no driver, or it does not tell."""
    if not Path("/proc/driver/nvidia").is_dir() or shutil.which(_WORDS[0]) is None:
        return None
    try:
        ended = process.run(_WORDS, timeout=_SECONDS)
    except FirstlightError:
        return None
    return parse_apps(ended.tail, pids) if ended.returncode == 0 else None


def parse_apps(output: str, pids: Sequence[int]) -> int | None:
    """Return the bytes of some processes in nvidia-smi's list (MiB); None where it names none of them with a figure."""
    wanted, total, told = set(pids), 0, False
    for line in output.splitlines():
        pid, _, used = (part.strip() for part in line.partition(","))
        if pid.isdecimal() and int(pid) in wanted and used.isdecimal():
            total, told = total + int(used) * 1024 * 1024, True
    return total if told else None
