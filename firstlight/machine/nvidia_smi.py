"""nvidia-smi as the last way to ask the driver."""

from __future__ import annotations

import re
from pathlib import Path

from firstlight.errors import FirstlightError
from firstlight.machine.facts import Gpu
from firstlight.machine.nvidia_report import Report, vgpu_by
from firstlight.machine.system import System
from firstlight.process import run

_FIELDS = ("index", "name", "uuid", "driver_version", "memory.total", "memory.free", "compute_cap", "mig.mode.current")
_OLD_FIELDS = _FIELDS[:6]
"""What every driver knows; the others came later, and one unknown field fails the whole query."""
_MIB = 1 << 20
_NOTHING = re.compile(r"\[.*\]|n/a|err!|unknown error|insufficient permissions", re.IGNORECASE)
MISMATCH = re.compile(r"Driver/library version mismatch", re.IGNORECASE)


def ask_smi(system: System, seconds: float, program: Path) -> Report:
    """Return nvidia-smi's answer within `seconds`."""
    environment = system.additions(LC_ALL="C")
    ends = seconds
    report = Report(source="nvidia-smi", reason="nvidia-smi did not run")
    try:
        for fields in (_FIELDS, _OLD_FIELDS):
            ended = run(
                [str(program), f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"],
                environment=environment,
                timeout=ends,
            )
            ends = max(0.2, ends - ended.seconds)
            report = parse_query(ended.tail, fields) if ended.returncode == 0 else _refused(ended.tail)
            if report.gpus is not None or "field" not in (report.reason or "").lower():
                break
        if report.gpus is not None:
            summary = run([str(program)], environment=environment, timeout=ends)
            report = Report(**{name: getattr(report, name) for name in _KEPT}, cuda=parse_summary(summary.tail))
    except FirstlightError as error:
        return report if report.gpus is not None else Report(source="nvidia-smi", reason=error.what)
    return report


_KEPT = ("source", "driver", "gpus", "complete", "notes")


def parse_query(text: str, fields: tuple[str, ...]) -> Report:
    """Return the report of a `--query-gpu` answer in CSV without header and units (memory in MiB)."""
    import csv

    gpus, driver = [], None
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) != len(fields) or not row[0].strip().isdigit():
            continue
        values = {
            name: None if _NOTHING.fullmatch(word.strip()) else word.strip()
            for name, word in zip(fields, row, strict=True)
        }
        driver = values["driver_version"] or driver
        mig = values.get("mig.mode.current")
        gpus.append(
            Gpu(
                index=int(row[0]),
                name=values["name"],
                uuid=values["uuid"],
                compute_capability=values.get("compute_cap"),
                memory_total=_bytes(values["memory.total"]),
                memory_free=_bytes(values["memory.free"]),
                # A card that cannot have MIG shows "[N/A]": then it is off.
                mig=(mig == "Enabled") if "mig.mode.current" in values else None,
                vgpu=vgpu_by(values["name"], None),
            )
        )
    return Report(source="nvidia-smi", driver=driver, gpus=gpus, complete=True)


def parse_summary(text: str) -> str | None:
    """Return the CUDA version in the head of nvidia-smi's table (no query field has it)."""
    match = re.search(r"CUDA (?:\w+ )?Version\s*:\s*(\d+\.\d+)", text)
    return match.group(1) if match else None


def _refused(text: str) -> Report:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    reason = next((line for line in lines if MISMATCH.search(line)), lines[0] if lines else "nvidia-smi failed")
    return Report(source="nvidia-smi", reason=reason)


def _bytes(mebibytes: str | None) -> int | None:
    try:
        return int(float(mebibytes) * _MIB) if mebibytes is not None else None
    except ValueError:
        return None
