"""What would help: other GPUs of the same machine, and the remedies of what came nearest to fitting."""

from __future__ import annotations

import msgspec

from firstlight.machine.facts import Gpu
from firstlight.planning.case import Case, command
from firstlight.planning.devices import has_nvidia
from firstlight.planning.plan import Refusal
from firstlight.planning.rules import judge, made_with
from firstlight.planning.versions import numbers

_BY_GPU = frozenset({"compute_capability", "driver"})
"""Rules that may refuse a build for one GPU and not for another."""


class Judged(msgspec.Struct, frozen=True):
    """A case, the refusal that it met, if any, and how many rules it had passed."""

    case: Case
    refusal: Refusal | None
    passed: int


def gpus_that_fit(judged: Judged) -> list[Gpu]:
    """Return those of the chosen GPUs that the build would fit on alone, where it does not fit on all of them."""
    chosen = judged.case.devices.chosen
    if judged.refusal is None or judged.refusal.rule not in _BY_GPU or len(chosen) < 2:
        return []
    verdicts: dict[str | None, bool] = {}
    for gpu in chosen:
        if gpu.compute_capability not in verdicts:
            devices = judged.case.devices.only([gpu])
            alone = msgspec.structs.replace(judged.case, devices=devices, assumed=[])
            verdicts[gpu.compute_capability] = judge(alone)[0] is None
    return [gpu for gpu in chosen if verdicts[gpu.compute_capability]]


def best_subset(judged: list[Judged]) -> list[Gpu]:
    """Return those of the chosen GPUs that the newest build which fits some of them fits on; none: it is all or none.

    Args:
        judged: every build, newest first.
    """
    return next((fit for each in judged if (fit := gpus_that_fit(each))), [])


def with_other_gpus(judged: Judged) -> Refusal | None:
    """Return the refusal, with the choice of GPUs that would clear it where there is one."""
    fit = gpus_that_fit(judged)
    if not fit or judged.refusal is None:
        return judged.refusal
    return msgspec.structs.replace(judged.refusal, remedy=f"choose other GPUs: --gpus {_indexes(fit)}")


def remedies(judged: list[Judged]) -> list[str]:
    """Return what would help where nothing fits: a choice of GPUs, then a remedy for each rule, the nearest first.

    Args:
        judged: every build, newest first.
    """
    together = best_subset(judged)
    engine = judged[0].case.entry.engine if judged else ""
    lines = [f"use some of the GPUs: {command(engine, f'--gpus {_indexes(together)}')}"] if together else []
    lines += _other_cuda(judged)
    first: dict[str, str] = {}
    for refusal in nearest(judged):
        if refusal.remedy:
            first.setdefault(refusal.rule, refusal.remedy)
    return list(dict.fromkeys([*lines, *first.values()]))


def _other_cuda(judged: list[Judged]) -> list[str]:
    """Return the CUDA releases to choose from where no build was made with the one that was asked for."""
    wish = judged[0].case.request.cuda if judged else None
    here = [each.case.build for each in judged if each.refusal is None or each.refusal.rule not in {"arch", "cpu"}]
    if wish is None or not here or any(made_with(build, wish) for build in here):
        return []
    made = sorted({build.cuda for build in here if build.cuda}, key=numbers, reverse=True)
    names = ", ".join([*made, *(["cpu"] if any(build.cuda is None for build in here) else [])])
    return [f"choose a CUDA that {judged[0].case.entry.engine} has builds for: --cuda {names}"]


def nearest(judged: list[Judged]) -> list[Refusal]:
    """Return the refusals in the order of how far their builds came.

    What needs a GPU where there is none comes only for engines without a CPU build: it helps nobody who has none.
    """
    far = [each for each in judged if each.refusal is not None]
    on_cpu = any(each.case.build.cuda is None for each in far)
    order = sorted(far, key=lambda each: -each.passed)
    return [each.refusal for each in order if each.refusal and not (on_cpu and _wants_a_gpu(each))]


def _wants_a_gpu(judged: Judged) -> bool:
    refusal = judged.refusal
    needs = refusal is not None and refusal.rule == "device" and judged.case.build.cuda is not None
    return needs and not has_nvidia(judged.case.machine)


def _indexes(gpus: list[Gpu]) -> str:
    return ",".join(str(gpu.index) for gpu in gpus)
