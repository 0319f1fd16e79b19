"""Why a build was chosen, in words; and which of the reasons must not be overlooked."""

from __future__ import annotations

from firstlight.planning.devices import has_nvidia, nvidia_gpus
from firstlight.planning.rules import Case, gigabytes
from firstlight.planning.torch import Torch
from firstlight.planning.versions import at_least, numbers


def because(case: Case, torch: Torch) -> list[str]:
    """Return why this build, in words; the warnings are among the lines."""
    build, nvidia = case.build, case.machine.nvidia
    lines = ["the newest build whose every requirement this machine meets"]
    if build.cuda is None and not has_nvidia(case.machine):
        others = sorted({gpu.vendor for gpu in case.machine.gpus or []})
        seen = f"there is no NVIDIA GPU (seen and not used: {', '.join(others)})" if others else "there is no GPU"
        lines.append(f"on the CPU: {seen if case.machine.gpus is not None else 'no NVIDIA driver is known here'}")
    if build.cuda is not None and nvidia is not None and nvidia.driver:
        lines.append(f"driver {nvidia.driver} runs CUDA {numbers(build.cuda)[0]}.x")
    lines += warnings(case, torch)
    if torch.source and torch.source != "registry":
        lines.append(f"torch for the CPU comes from {torch.source.partition(':')[2]}")
    if case.environment == "venv":
        asked = case.request.environment == "venv"
        lines.append(
            f"a virtual environment on this machine's Python: {'asked for' if asked else 'no conda channel answers'}"
        )
    return lines


def warnings(case: Case, torch: Torch) -> list[str]:
    """Return what must be said loudly: a GPU that stays unused, cards left out, big fallbacks, compatibility modes."""
    build, nvidia = case.build, case.machine.nvidia
    lines = []
    if build.cuda is None and has_nvidia(case.machine):
        lines.append(_unused_gpu(case))
    if build.cuda is not None:
        lines += [
            f"GPU {gpu.index} ({gpu.name}, {gpu.compute_capability}) lies below the engine's floor and is left out"
            for gpu in case.devices.left_out
        ]
        native, have = build.native_driver, nvidia.driver if nvidia is not None else None
        if native and have and not at_least(have, native):
            lines.append(
                f"it relies on CUDA's minor-version compatibility (made for driver {native}): "
                "should the proof meet the PTX message, take an older build with --release"
            )
    if torch.source == "registry":
        lines.append(
            "no CPU build of torch was found: the registry's CUDA build is taken instead, "
            f"{gigabytes(torch.needs.download)} to download and {gigabytes(torch.needs.disk)} on disk"
        )
    return lines


def _unused_gpu(case: Case) -> str:
    names = ", ".join(sorted({gpu.name or "NVIDIA GPU" for gpu in nvidia_gpus(case.machine)})) or "the NVIDIA GPU"
    if case.request.cuda == "cpu":
        return f"on the CPU, as asked for with --cuda cpu; {names} stays unused"
    return f"on the CPU, because {names} cannot be used by any build (see the refusals)"
