"""Machine facts, plans and generations as a person reads them."""

from __future__ import annotations

import sys

from firstlight.machine.facts import Machine
from firstlight.planning.plan import Plan, Refusal
from firstlight.ui.quantities import size
from firstlight.ui.tables import cells, sheet, table, wrapped
from firstlight.ui.terminal import as_typed, is_terminal, width


def machine_lines(machine: Machine) -> list[str]:
    """Return the facts of a machine as lines."""
    host, init = machine.host, machine.init
    inside = f", inside {host.container}" if host.container else ""
    wsl = f", WSL {host.wsl}" if host.wsl else ""
    flags = machine.cpu.flags
    notable = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd", "sve") if flag in (flags or [])]
    pairs: list[tuple[str, str | None]] = [
        ("system", f"{host.os_name or host.os or 'unknown'}{inside}{wsl}"),
        ("kernel", f"{host.kernel} on {host.arch}"),
        ("C library", f"{host.libc or 'unknown'} {host.libc_version or ''}".rstrip()),
        ("user", f"{f'{host.user} (uid {host.uid})' if host.user else f'uid {host.uid} (no name)'}, sudo: {host.sudo}"),
        ("services", f"{init.system or 'unknown'}{f' ({init.state})' if init.state else ''}"),
        (
            "processor",
            f"{machine.cpu.model}, {machine.cpu.cores} cores ({', '.join(notable) or 'no vector flags seen'})",
        ),
        ("memory", _memory(machine)),
        ("NVIDIA", _nvidia(machine)),
        *_gpus(machine),
        ("Pythons", ", ".join(f"{found.version} {found.path}" for found in machine.pythons or []) or "none"),
        ("conda", f"{machine.conda.root} ({machine.conda.version})" if machine.conda else "none"),
    ]
    lines = sheet(pairs, indent="")
    if machine.disks:
        rows = [["mount", "type", "size", "free", ""]]
        rows += [
            [
                disk.mount,
                disk.fs or "?",
                size(disk.total) if disk.total is not None else "?",
                size(disk.free) if disk.free is not None else "?",
                {True: "writable", False: "read-only", None: ""}[disk.writable],
            ]
            for disk in machine.disks
        ]
        lines += ["", *table(rows, indent="")]
    lines += [f"not known: {failure.probe}: {failure.reason}" for failure in machine.problems]
    return lines


def _memory(machine: Machine) -> str | None:
    memory = machine.memory
    if memory.total is None:
        return None
    free = f", {size(memory.available)} available" if memory.available is not None else ""
    return f"{size(memory.total)}{free}{f', /dev/shm {size(memory.shm)}' if memory.shm is not None else ''}"


def _nvidia(machine: Machine) -> str:
    nvidia = machine.nvidia
    if nvidia is None:
        return "no driver"
    problem = f"; PROBLEM: {nvidia.problem} ({nvidia.problem_detail})" if nvidia.problem else ""
    return f"driver {nvidia.driver or 'unknown'}, runs CUDA up to {nvidia.cuda or 'unknown'}{problem}"


def _gpus(machine: Machine) -> list[tuple[str, str | None]]:
    return [
        (
            f"GPU {gpu.index}",
            f"{gpu.name or gpu.vendor}"
            + (f", compute capability {gpu.compute_capability}" if gpu.compute_capability else "")
            + (f", {size(gpu.memory_total)}" if gpu.memory_total else "")
            + (", MIG" if gpu.mig else "")
            + ("" if gpu.vendor == "nvidia" else " (seen, not used)"),
        )
        for gpu in machine.gpus or []
    ]


def plan_lines(plan: Plan, *, explain: bool, columns: int | None = None) -> list[str]:
    """Return a plan as lines; with `explain` also the table of every build with the rule that refused it.

    The table is fitted to `columns`, by default to the terminal; a file or a pipe gets one line per build.
    """
    if columns is None and is_terminal(sys.stdout):
        columns = width(most=200)
    lines: list[str] = []
    if plan.build is None:
        lines.append(f"{plan.engine}: nothing fits this machine")
    else:
        build = plan.build
        cuda = f"CUDA {build.cuda}" if build.cuda else "CPU"
        lines.append(
            f"{plan.engine}: {build.id} ({cuda}, torch {build.torch}, Python {build.python}, {build.integrity})"
        )
        lines += [f"  because {reason}" for reason in plan.because]
        lines += [f"  taking for granted: {fact}" for fact in plan.assumed]
        lines += [f"  {number}. {step.what}" for number, step in enumerate(plan.steps, 1)]
    if plan.refused and (explain or plan.build is None):
        lines += ["", *refusal_lines(plan.refused, columns)]
    if plan.alternatives:
        lines += ["", "What does fit here:"]
        lines += [f"  firstlight up --engine {other.engine}   ({other.build})" for other in plan.alternatives]
    return lines


def refusal_lines(refused: list[Refusal], columns: int | None) -> list[str]:
    """Return the refused builds as a table, or as a block of lines each where the table is wider than `columns`."""
    rows = [["build", "rule", "why not", "what would help"]]
    rows += [[item.build, item.rule, item.reason, item.remedy or ""] for item in refused]
    lines = [line.rstrip() for line in table([[as_typed(cell) for cell in row] for row in rows])]
    if columns is None or max(map(cells, lines)) <= columns:
        return lines
    blocks = ["  refused builds: the rule, why not, and what would help"]
    for item in refused:
        blocks.append(f"  {item.build}: {item.rule}")
        for text in filter(None, (item.reason, item.remedy)):
            blocks += wrapped(as_typed(text), columns, indent="    ")
    return blocks
