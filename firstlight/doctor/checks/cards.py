"""The GPUs themselves: compute capability, bfloat16, slices of a card, who holds their memory, and those not used."""

from __future__ import annotations

from collections.abc import Iterable

from firstlight.doctor.check import Check
from firstlight.doctor.evidence import Evidence
from firstlight.doctor.findings import Finding, Remedy, by_hand, fail, ok, skip, warn
from firstlight.doctor.judging import Barrier, barriers, names, remedy_for
from firstlight.doctor.probes.holders import GpuHolders, GpuProcess, GpuUse
from firstlight.machine.facts import Gpu
from firstlight.planning.devices import is_slice, nvidia_gpus
from firstlight.planning.rules import gigabytes
from firstlight.planning.versions import at_least

_UNSEEN = "a process that cannot be seen from here"
_NO_GPU = "there is no NVIDIA GPU here"
IDLE = 1_500_000_000
"""Bytes that an idle GPU may have in use: the driver's own, and a desktop's."""
NEARLY_ALL = 0.9
"""Servers that take what is free at their start ask for about this part of a GPU's memory."""


def compute_capability(evidence: Evidence) -> Iterable[Finding]:
    """Hold the GPUs against the code in the engines' builds."""
    cards = nvidia_gpus(evidence.machine)
    if not cards:
        yield skip(_NO_GPU)
        return
    unknown = [card for card in cards if card.compute_capability is None]
    nvidia = evidence.machine.nvidia
    if len(unknown) == len(cards) and nvidia is not None and nvidia.problem is not None:
        yield skip("the driver does not tell what the GPUs are")
        return
    if unknown:
        shown = names([f"GPU {card.index} ({card.name or 'unnamed'})" for card in unknown])
        yield warn(
            f"{shown}: compute capability unknown",
            detail="Whether a build holds code for it cannot be said before it runs.",
            subject="unknown",
        )
    found = barriers(evidence, "compute_capability")
    for barrier in found:
        yield _without_code(barrier, cards)
    left_out = list(_left_out(evidence, cards))
    yield from left_out
    if not found and not unknown:
        without = {finding.subject for finding in left_out}
        used = [card for card in cards if not any(f"GPU {card.index}," in (subject or "") for subject in without)]
        shown = names(sorted({f"{card.name} ({card.compute_capability})" for card in used}))
        yield ok(f"{shown}: the engines' newest builds hold code for it")


def _without_code(barrier: Barrier, cards: list[Gpu]) -> Finding:
    """Tell an engine whose newest release, or every build, holds no code for the GPUs."""
    instead = f"{barrier.instead} is the newest that has it, and is taken instead." if barrier.instead else None
    remedy = remedy_for(barrier.refusal, barrier.engine)
    some = remedy is not None and bool(remedy.commands)
    what = f"{barrier.release} holds no code for a GPU here"
    if not barrier.instead:
        which = "all of the GPUs here, only for some" if some else "the GPUs here" if len(cards) > 1 else "the GPU here"
        what = f"no build of {barrier.engine} holds code for {which}"
    return warn(
        what,
        detail="It would run on the CPU." if barrier.on_cpu else instead,
        evidence=f"{barrier.refusal.build}: {barrier.refusal.reason}",
        affects=[barrier.engine],
        remedy=remedy,
        subject=barrier.engine,
    )


def _left_out(evidence: Evidence, cards: list[Gpu]) -> Iterable[Finding]:
    """Tell cards that an engine leaves out though it uses others."""
    for plan in evidence.plans:
        if plan.build is None or plan.build.cuda is None:
            continue
        out = [card for card in cards if card.index not in plan.gpus]
        for card in out:
            yield warn(
                f"GPU {card.index} ({card.name}, {card.compute_capability or 'capability unknown'}) is left out "
                f"by {plan.engine}",
                detail="It lies below what the engine's builds hold code for, and is hidden when the engine starts.",
                affects=[plan.engine],
                subject=f"GPU {card.index}, {plan.engine}",
            )


def bfloat16(evidence: Evidence) -> Iterable[Finding]:
    """Tell GPUs that have no bfloat16."""
    cards = nvidia_gpus(evidence.machine)
    if not cards:
        yield skip(_NO_GPU)
        return
    pages = [page for page in evidence.catalogue.engines.values() if page.dtype_half]
    floor = max((page.bf16_floor for page in pages), default="8.0")
    old = [card for card in cards if card.compute_capability and not at_least(card.compute_capability, floor)]
    if not old:
        unknown = any(card.compute_capability is None for card in cards)
        yield skip("compute capability unknown, and so bfloat16") if unknown else ok("every GPU has bfloat16")
        return
    shown = names(sorted({f"{card.name} ({card.compute_capability})" for card in old}))
    halves = {page.engine for page in pages}
    indexes = {card.index for card in old}
    using = [plan for plan in evidence.plans if plan.build and plan.build.cuda and indexes & set(plan.gpus)]
    asking = [plan for plan in using if plan.engine in halves]
    if not asking:
        yield ok(f"{shown}: no bfloat16, and no engine that asks for it would use it here")
        return
    told = [plan for plan in asking if plan.launch is not None and plan.launch.dtype]
    flags = names([f"{plan.engine} with dtype {plan.launch.dtype}" for plan in told if plan.launch is not None])
    start = f" firstlight starts {flags} here; by hand, say it yourself." if flags else ""
    yield warn(
        f"{shown}: no bfloat16",
        detail=f"It begins with compute capability {floor}.{start} "
        "A model that needs bfloat16's range may answer nonsense in float16: take a quantised one.",
        affects=[plan.engine for plan in asking],
        source="vllm/platforms/cuda.py, check_if_supports_dtype",
    )


def slices(evidence: Evidence) -> Iterable[Finding]:
    """Tell slices of a GPU: MIG instances and virtual GPUs."""
    cards = nvidia_gpus(evidence.machine)
    cut = [card for card in cards if is_slice(card)]
    if not cards:
        yield skip(_NO_GPU)
        return
    if not cut:
        yield ok("the GPUs are whole: no MIG, no vGPU")
        return
    mig = [card for card in cut if card.mig]
    kinds = "; ".join(
        f"GPU {names([str(card.index) for card in group])} {'are' if len(group) > 1 else 'is'} {words}"
        for group, words in ((mig, "cut by MIG"), ([card for card in cut if not card.mig], _virtual(cut, mig)))
        if group
    )
    others = [page for page in evidence.catalogue.engines.values() if page.backend_virtual]
    starts = names([f"{page.engine} with its back end {page.backend_virtual}" for page in others])
    memory = names([*dict.fromkeys(gigabytes(card.memory_total) for card in cut if card.memory_total is not None)])
    each = " each" if len(cut) > 1 and ", " not in memory and " and " not in memory else ""
    detail = "A program sees one instance of a MIG card, named by its UUID in CUDA_VISIBLE_DEVICES. " if mig else ""
    detail += f"firstlight starts {starts}: the other one fails with `operation not supported`." if starts else ""
    yield warn(
        f"{kinds}{f' ({memory}{each})' if memory else ''}",
        detail=detail.strip() or None,
        affects=[page.engine for page in others],
        source="InternLM/lmdeploy#2414; NVIDIA MIG user guide, CUDA visible devices",
    )


def _virtual(cut: list[Gpu], mig: list[Gpu]) -> str:
    return "virtual GPUs" if len(cut) - len(mig) > 1 else "a virtual GPU"


def memory(evidence: Evidence) -> Iterable[Finding]:
    """Tell who holds memory of the GPUs."""
    cards = nvidia_gpus(evidence.machine)
    holders = evidence.holders
    if not cards:
        yield skip(_NO_GPU)
        return
    broke = next((item.reason for item in evidence.unseen if item.name == "holders" and item.broke), None)
    if broke is not None:
        yield Finding(status="crash", summary="who holds the GPUs' memory could not be looked at", evidence=broke)
    known = [card for card in cards if card.memory_total is not None and card.memory_free is not None]
    for card in known:
        used = (card.memory_total or 0) - (card.memory_free or 0)
        if used > IDLE:
            yield _held(evidence, card, used, holders)
    free = [card for card in known if (card.memory_total or 0) - (card.memory_free or 0) <= IDLE]
    if free:
        indexes = ", ".join(str(card.index) for card in free)
        yield ok(f"GPU {indexes}: memory is free", subject="free")
    if not known:
        yield skip("how much memory of the GPUs is free is unknown", detail=holders.problem if holders else None)


def _held(evidence: Evidence, card: Gpu, used: int, holders: GpuHolders | None) -> Finding:
    seen_uses = holders.gpus if holders is not None else ()
    use = next((gpu for gpu in seen_uses if gpu.index == card.index), GpuUse(index=card.index, processes=None))
    processes = use.processes or ()
    ours = sorted({process.ours for process in processes if process.ours})
    total = card.memory_total or 0
    subject = f"GPU {card.index}"
    summary = f"{subject}: {gigabytes(used)} of {gigabytes(total)} in use"
    told = "\n".join(_words(process) for process in processes)
    if ours and len(ours) == len({process.ours for process in processes}):
        return ok(f"{summary}, by our server {names(ours)}", evidence=told, subject=subject)
    if holders is None:
        return warn(
            f"{summary}, by whom only the machine itself can tell",
            detail="Servers that reserve most of a GPU's memory at their start may refuse to.",
            affects=_fillers(evidence),
            remedy=by_hand("see who it is, on that machine", "nvidia-smi"),
            subject=subject,
        )
    if not processes:
        return warn(
            f"{summary}, by {_UNSEEN}",
            detail="Another container or another user has it, or a process that died and was not cleaned up.",
            evidence=holders.problem,
            affects=_fillers(evidence),
            remedy=by_hand("see it on the host", "nvidia-smi"),
            subject=subject,
        )
    biggest = max(processes, key=lambda process: process.bytes or 0)
    how = fail if used > NEARLY_ALL * total else warn
    return how(
        f"{summary}, by {biggest.command or _UNSEEN} (process {biggest.pid})",
        detail="Servers that reserve most of a GPU's memory at their start refuse to: "
        "`Free memory … is less than desired GPU memory utilization`.",
        evidence=told,
        affects=_fillers(evidence),
        remedy=_stop(biggest),
        subject=subject,
    )


def _stop(process: GpuProcess) -> Remedy:
    if process.ours:
        return by_hand("stop our server", f"firstlight down {process.ours}")
    if process.command is None or process.pid == 1:
        return by_hand("see what it is where it runs (the host), and stop it there", "nvidia-smi")
    return by_hand(
        "look what it is, and stop it if it is yours and not needed", f"ps -fp {process.pid}", f"kill {process.pid}"
    )


def _words(process: GpuProcess) -> str:
    size = f", {gigabytes(process.bytes)}" if process.bytes is not None else ""
    who = f" (user {process.user})" if process.user else ""
    return f"process {process.pid}{who}{size}: {process.command or _UNSEEN}"


def _fillers(evidence: Evidence) -> list[str]:
    """Return the engines that reserve a part of the GPU's memory when they start: those that serve many at once."""
    return [page.engine for page in evidence.catalogue.engines.values() if page.tensor_parallel]


def others(evidence: Evidence) -> Iterable[Finding]:
    """Tell GPUs of other makers, which are seen and not used."""
    gpus = evidence.machine.gpus
    if gpus is None:
        yield skip("what GPUs there are is unknown")
        return
    if not gpus:
        yield skip("there is no GPU here")
        return
    unused = [gpu for gpu in gpus if gpu.vendor != "nvidia"]
    if not unused:
        yield ok("no GPU of another maker stays unused")
        return
    shown = names([gpu.name or f"a GPU by {gpu.vendor}" for gpu in unused])
    if nvidia_gpus(evidence.machine):
        yield ok(f"{shown}: seen and not used, beside the NVIDIA GPU")
    else:
        yield warn(
            f"{shown}: seen and not used",
            detail="The engines' builds here are for NVIDIA GPUs and for processors; what runs, runs on the processor.",
        )


CHECKS: tuple[Check, ...] = (
    Check(
        id="compute-capability",
        group="gpu",
        title="the engines' newest builds hold code for the GPUs",
        look=compute_capability,
        source="CUDA C++ programming guide, binary compatibility; code lists of the wheels in envs/",
    ),
    Check(id="bfloat16", group="gpu", title="every GPU has bfloat16", look=bfloat16),
    Check(id="gpu-slices", group="gpu", title="the GPUs are whole: no MIG, no vGPU", look=slices),
    Check(
        id="gpu-memory",
        group="gpu",
        title="no other process holds the GPUs' memory",
        look=memory,
        uses=("holders",),
        source="vllm-project/vllm#42017",
    ),
    Check(
        id="other-gpus",
        group="gpu",
        title="no GPU of another maker stays unused",
        look=others,
        source="display devices on the PCI bus; builds in envs/",
    ),
)
