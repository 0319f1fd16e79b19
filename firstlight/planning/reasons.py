"""Why a build was chosen, in words; and which of the reasons must not be overlooked."""

from __future__ import annotations

from collections.abc import Sequence

from firstlight.machine.facts import Gpu
from firstlight.planning.case import Case, command, gigabytes
from firstlight.planning.devices import has_nvidia, is_slice, nvidia_gpus
from firstlight.planning.gpu_rules import by_ptx, native_for
from firstlight.planning.torch import Torch
from firstlight.planning.versions import at_least, major


def because(case: Case, torch: Torch, told: list[str]) -> list[str]:
    """Return why this build, in words; the warnings (`told`) are among the lines."""
    build, nvidia = case.build, case.machine.nvidia
    lines = ["the newest build whose every requirement this machine meets"]
    if build.cuda is None and not has_nvidia(case.machine):
        others = sorted({gpu.vendor for gpu in case.machine.gpus or []})
        seen = f"there is no NVIDIA GPU (seen and not used: {', '.join(others)})" if others else "there is no GPU"
        lines.append(f"on the CPU: {seen if case.machine.gpus is not None else 'no NVIDIA driver is known here'}")
    if build.cuda is not None and nvidia is not None:
        if nvidia.driver is not None and not case.machine.host.wsl:
            lines.append(f"driver {nvidia.driver} runs CUDA {major(build.cuda)}.x")
        elif nvidia.cuda is not None:
            lines.append(f"the driver runs CUDA up to {nvidia.cuda}, this build was made with {build.cuda}")
    lines += told
    if torch.source and torch.source != "registry":
        lines.append(f"torch comes from {torch.source.partition(':')[2]}")
    if case.environment == "venv" and build.pythons:
        asked = case.request.environment == "venv"
        lines.append(
            f"a virtual environment on this machine's Python: {'asked for' if asked else 'no conda channel answers'}"
        )
    return lines


def warnings(case: Case, torch: Torch, fallback: Case | None) -> list[str]:
    """Return what must be said loudly: a GPU that stays unused, cards left out, big fallbacks, compatibility modes."""
    build = case.build
    lines = []
    if build.cuda is None and has_nvidia(case.machine):
        lines.append(_unused_gpu(case))
    if build.cuda is not None:
        lines += [
            f"{which} below the engine's floor and {'are' if several else 'is'} left out"
            for which, several in _alike(case.devices.left_out, ("lies", "lie"))
        ]
        lines += [
            f"{which} left out: no build runs {'them' if several else 'it'} together with the others; --gpus chooses"
            for which, several in _alike(case.devices.unmatched, ("is", "are"))
        ]
        lines += _slices(case)
        lines += _caution(case)
        lines += _compatibility(case, fallback)
    if case.request.unlocked and build.locks:
        lines.append(
            "the wheels are resolved afresh (--unlocked): they are not the ones that this build was locked with"
        )
    elif build.locks and torch.python not in build.locks:
        lines.append(
            f"there is no lock for Python {torch.python} (it is for {', '.join(build.locks)}): the wheels are resolved "
            "afresh"
        )
    elif not build.locks and case.entry.kind == "wheels":
        lines.append("there is no lock for this build: the wheels are resolved afresh, which need not work as it did")
    if torch.source == "registry":
        lines.append(
            "no CPU build of torch was found: the registry's CUDA build is taken instead, "
            f"{gigabytes(torch.needs.download)} to download and {gigabytes(torch.needs.disk)} on disk"
        )
    return lines


def _caution(case: Case) -> list[str]:
    """Return what the catalogue says to whoever takes this build on such a GPU."""
    build, lowest = case.build, case.devices.lowest_capability
    concerned = build.caution_below is None or (lowest is not None and not at_least(lowest, build.caution_below))
    return [build.caution] if build.caution and concerned else []


def _slices(case: Case) -> list[str]:
    """Return what is said of MIG devices and virtual GPUs."""
    instead = case.entry.backend_virtual
    means = f": its {instead} back end is used, {case.entry.backend} fails there" if instead else ""
    told: dict[tuple[str | None, str], list[int]] = {}
    for gpu in filter(is_slice, case.devices.chosen):
        told.setdefault((gpu.name, "MIG" if gpu.mig else "vGPU"), []).append(gpu.index)
    return [
        f"GPU {indexes[0]} ({name}) is a slice of a GPU ({kind}){means}"
        if len(indexes) == 1
        else f"GPUs {', '.join(map(str, indexes))} ({name}) are slices of a GPU ({kind}){means}"
        for (name, kind), indexes in told.items()
    ]


def _alike(gpus: Sequence[Gpu], verbs: tuple[str, str]) -> list[tuple[str, bool]]:
    """Return GPUs of one name and capability in words, with the verb for one or several, and whether they are several.

    `GPU 1 (Quadro M2000, 5.2) lies`, `GPUs 1, 2 (Quadro M2000, 5.2) lie`.
    """
    kinds: dict[str, list[int]] = {}
    for gpu in gpus:
        kinds.setdefault(f"({gpu.name}, {gpu.compute_capability})", []).append(gpu.index)
    return [
        (
            f"GPU{'s' * (len(indexes) > 1)} {', '.join(map(str, indexes))} {kind} {verbs[len(indexes) > 1]}",
            len(indexes) > 1,
        )
        for kind, indexes in kinds.items()
    ]


def _compatibility(case: Case, fallback: Case | None) -> list[str]:
    """Return what is said where the driver is older than the build's CUDA, or has to compile its PTX."""
    build = case.build
    lines = [
        f"it holds PTX alone for GPU {gpu.index} ({gpu.compute_capability}): the driver compiles it at the first "
        "start, which takes its time"
        for gpu in by_ptx(case)[:1]
    ]
    if native_for(case) is False:
        lines.append(
            f"it relies on CUDA's minor-version compatibility ({_native_cuda(case)} came with driver "
            f"{build.native_driver}); should the proof end with `PTX was compiled with an unsupported toolchain`, "
            f"{_instead(case, fallback)}"
        )
    return lines


def _native_cuda(case: Case) -> str:
    """Return which CUDA decides what driver the build was made for: the engine's own, or that of its torch."""
    build, lines = case.build, case.catalogue.cuda
    deciding = [
        cuda
        for cuda in (build.cuda, build.torch_cuda)
        if cuda and cuda in lines and lines[cuda].native_driver == build.native_driver
    ]
    if not deciding:
        return "what it was made with"
    return f"its CUDA {deciding[0]}" if deciding[0] == build.cuda else f"the CUDA {deciding[0]} of its torch"


def _instead(case: Case, fallback: Case | None) -> str:
    """Return what to do should minor-version compatibility not be enough."""
    if fallback is None:
        return "only a newer driver helps: no build that fits has a CUDA which this one runs in full"
    way = command(case.entry.engine, f"--build {fallback.build.id}")
    if fallback.request == case.request:
        return f"take the older build whose CUDA this driver runs in full: {way}"
    return (
        "no build among those asked for has a CUDA which this driver runs in full; "
        f"{fallback.build.id}, which was not asked for, has one: {way}"
    )


def _unused_gpu(case: Case) -> str:
    names = ", ".join(sorted({gpu.name or "NVIDIA GPU" for gpu in nvidia_gpus(case.machine)})) or "the NVIDIA GPU"
    if case.request.cuda == "cpu":
        return f"on the CPU, as asked for with --cuda cpu; {names} stays unused"
    return f"on the CPU, because {names} cannot be used by any build (see the refusals)"
