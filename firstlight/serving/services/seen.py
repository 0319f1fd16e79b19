"""What systemd tells of a unit, as our own words: its state, and why it last failed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from firstlight.errors import FirstlightError
from firstlight.serving.services.failures import explain
from firstlight.serving.services.gpu import gpu_memory_of
from firstlight.serving.services.metrics import enriched
from firstlight.serving.services.spec import Failure, ServiceSpec, State, Status

PROPERTIES = (
    "LoadState",
    "ActiveState",
    "SubState",
    "Result",
    "MainPID",
    "NRestarts",
    "MemoryCurrent",
    "ActiveEnterTimestampMonotonic",
    "UnitFileState",
    "ExecMainStatus",
    "ExecMainCode",
    "ControlGroup",
    "Job",
)
_STATES: dict[str, State] = {
    "active": "running",
    "reloading": "running",
    "activating": "starting",
    "deactivating": "stopped",
    "inactive": "stopped",
    "failed": "failed",
}
_UNSET = 2**64 - 1
_RESTARTED = re.compile(r"Scheduled restart job")
_ENDED = "Main process exited"
_KILLED = "code=killed, status=9/KILL"


def state_of(told: dict[str, str]) -> State:
    """Return the state that ActiveState and SubState stand for."""
    if told.get("SubState", "").startswith("auto-restart"):
        return "restarting"
    return _STATES.get(told.get("ActiveState", ""), "unknown")


def parse_status(spec: ServiceSpec, told: dict[str, str], survives: str, log: Callable[[], str]) -> Status:
    """Return a unit's properties as a status; `log` is only called for one that failed."""
    state = state_of(told)
    pid = _number(told.get("MainPID")) or None
    entered = _number(told.get("ActiveEnterTimestampMonotonic"))
    uptime = time.clock_gettime(time.CLOCK_MONOTONIC) - entered / 1e6 if entered and state == "running" else None
    restarts = _number(told.get("NRestarts"))
    enabled = told.get("UnitFileState", "")
    pids = _processes(told.get("ControlGroup", "")) or ([pid] if pid else [])
    status = Status(
        name=spec.name,
        engine=spec.engine,
        scope=spec.scope,
        state=state,
        detail=_detail(told),
        model=spec.model,
        model_id=spec.model_id,
        endpoint=f"{spec.base_url}/v1",
        pid=pid if state != "stopped" else None,
        uptime=uptime,
        restarts=restarts,
        memory=(_number(told.get("MemoryCurrent")) or _resident(pids)) if state == "running" else None,
        gpu_memory=gpu_memory_of(pids) if pids and spec.devices else None,
        enabled=enabled == "enabled" if enabled else False,
        survives=survives if enabled == "enabled" else "it does not come back after a reboot: it is not enabled",
        hardening=spec.hardening,
        user=spec.user,
        generation=spec.generation,
        failure=_failure(spec, told, state, log) if state in {"failed", "restarting"} or restarts else None,
    )
    return enriched(status, spec)


def _detail(told: dict[str, str]) -> str:
    words = " ".join(filter(None, (told.get("ActiveState"), f"({told['SubState']})" if told.get("SubState") else "")))
    result = told.get("Result", "success")
    if told.get("LoadState") not in {"loaded", None}:
        return f"{words}, its unit is {told.get('LoadState')}"
    return f"{words}, {result}" if result not in {"", "success"} else words


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and int(text) != _UNSET else None


def _processes(group: str) -> list[int]:
    """Return the processes of a unit's control group, as far as this machine shows them."""
    for place in ("/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"):
        try:
            text = Path(f"{place}{group}/cgroup.procs").read_text() if group else ""
        except OSError:
            continue
        return [int(line) for line in text.split() if line.isdecimal()]
    return []


def _resident(pids: list[int]) -> int | None:
    """Return the resident bytes of processes; None where none can be seen."""
    pages = 0
    for pid in pids:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, ValueError, IndexError):
            continue
    import resource

    return pages * resource.getpagesize() if pages else None


def _failure(spec: ServiceSpec, told: dict[str, str], state: State, log: Callable[[], str]) -> Failure:
    """Return why it last failed, from the part of its log that belongs to the run which ended."""
    again = told.get("NRestarts", "0") not in {"", "0"}
    if state == "running":
        times = "once" if told.get("NRestarts") == "1" else f"{told.get('NRestarts')} times"
        what = f"{spec.name} was started again {times} since it was last told to start"
    elif state == "restarting":
        what = f"{spec.name} failed, and is started again"
    else:
        what = f"{spec.name} failed again and again, and stays down" if again else f"{spec.name} failed"
    try:
        runs = _RESTARTED.split(log())
    except FirstlightError as unreadable:
        return Failure(what=what, why=unreadable.what, fix=unreadable.fix)
    last = next((run for run in reversed(runs) if _ENDED in run), runs[-1])
    found = explain(spec, last, what, fix=f"read its log: firstlight service.logs {spec.name}")
    if found.cause is None and _KILLED in last:
        return Failure(
            what=what,
            why="its process was killed (signal 9): by somebody, or by the kernel where memory ran out",
            fix="see whether memory ran out: dmesg | grep -i 'killed process'",
            cause="killed",
        )
    return found
