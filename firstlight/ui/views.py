"""Machine facts, plans and generations as a person reads them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from firstlight.catalogue.names import command_for
from firstlight.catalogue.types import Build
from firstlight.fetching.words import size
from firstlight.machine.facts import Machine
from firstlight.planning.failing import explaining
from firstlight.planning.plan import Plan, Refusal
from firstlight.ui.builds import build_lines, far_lines, refusal_lines
from firstlight.ui.tables import sheet, table, wrapped
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


def plan_lines(
    plan: Plan,
    *,
    explain: bool,
    columns: int | None = None,
    builds: Sequence[Build] = (),
    machine: str | None = None,
) -> list[str]:
    """Return a plan as lines; with `explain` also the table of every build with the rule that refused it.

    Args:
        plan: the plan.
        explain: whether to show every build.
        columns: what the lines are fitted to, by default the terminal; a file or a pipe gets one line per build.
        builds: the engine's builds, for what each one asks for.
        machine: the file of facts that the plan is for; None: this machine.
    """
    if columns is None and is_terminal(sys.stdout):
        columns = width(most=200)
    lines = _decision(plan, columns)
    if explain:
        lines += ["", *build_lines(plan, builds, columns)]
    elif plan.build is None:
        lines += ["", *_near_lines(plan.refused, columns)]
    if plan.remedies:
        lines += ["", "What would help:"]
        lines += [line for remedy in plan.remedies for line in _long(as_typed(remedy), columns)]
    if plan.alternatives:
        lines += ["", "What does fit here:"]
        lines += [f"  {command_for(other.engine)}   ({other.build})" for other in plan.alternatives]
    if plan.build is None and not explain:
        lines += ["", f"Every build and its reason: {explaining(plan, machine)}"]
    return lines


_FAR = frozenset({"arch", "requested"})
"""Rules that say no more than that another build was asked for, or that it is for another machine."""


def _near_lines(refused: list[Refusal], columns: int | None) -> list[str]:
    """Return the refusals of the builds that came near; what is said of a missing GPU comes last."""
    near = sorted((item for item in refused if item.rule not in _FAR), key=lambda item: item.rule == "device")
    return refusal_lines(near, columns) if near else far_lines(refused, columns)


def _decision(plan: Plan, columns: int | None) -> list[str]:
    build = plan.build
    if build is None:
        wider = "; ".join(f"without {each.words}: {each.build}" for each in plan.without)
        head = f"{plan.engine}: nothing fits {f'as asked; {wider}' if wider else 'this machine'}"
        lines = [head] if columns is None else wrapped(head, columns, indent="")
        return [*lines, *(line for told in plan.warnings for line in _long(told, columns))]
    parts = [
        f"CUDA {build.cuda}" if build.cuda else "CPU",
        f"torch {build.torch}" if build.torch else "",
        f"Python {build.python}" if build.python else "",
        build.integrity,
    ]
    head = f"{plan.engine}: {build.id} ({', '.join(filter(None, parts))})"
    lines = [head] if columns is None else wrapped(head, columns, indent="")
    told = [f"because {reason}" for reason in plan.because]
    told += [f"taking for granted: {fact}" for fact in plan.assumed]
    told += [f"{number}. {step.what}" for number, step in enumerate(plan.steps, 1)]
    return [*lines, *(line for text in told for line in _long(text, columns))]


def _long(text: str, columns: int | None) -> list[str]:
    return [f"  {text}"] if columns is None else wrapped(text, columns, indent="  ")
