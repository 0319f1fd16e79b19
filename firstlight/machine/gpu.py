"""The NVIDIA driver and all GPUs: asks NVML, then libcuda and nvidia-smi, then the kernel's files and the PCI bus."""

from __future__ import annotations

import msgspec

from firstlight.machine import pci
from firstlight.machine.driver import NVML, Traces, library_version, read_proc_gpus, read_toolkit, read_traces
from firstlight.machine.facts import Gpu, Nvidia, NvidiaProblem
from firstlight.machine.nvidia_report import Report, ask_libcuda, ask_nvml
from firstlight.machine.nvidia_smi import MISMATCH, ask_smi
from firstlight.machine.system import Background, System

NVML_MISMATCH = 18
"""NVML_ERROR_LIB_RM_VERSION_MISMATCH (nvml.h)."""
NVML_NOT_LOADED = 9
"""NVML_ERROR_DRIVER_NOT_LOADED."""
NVML_NO_LIBRARY = 12
"""NVML_ERROR_LIBRARY_NOT_FOUND."""
CUDA_NOT_READY = 802
"""CUDA_ERROR_SYSTEM_NOT_READY: the fabric manager has not set the NVSwitches up (cuda.h)."""
LONGEST = 60.0


class Answers(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked and what came back; None for what was not asked."""

    nvml: Report | None = None
    libcuda: Report | None = None
    smi: Report | None = None

    @property
    def all(self) -> list[Report]:
        """The answers in the order in which they are believed."""
        return [report for report in (self.nvml, self.libcuda, self.smi) if report is not None]

    @property
    def best(self) -> Report | None:
        """The first complete list of GPUs, else the longest part of one."""
        listing = [report for report in self.all if report.gpus is not None]
        whole = [report for report in listing if report.complete]
        longest_first = sorted(listing, key=lambda report: -len(report.gpus or []))
        return next(iter(whole or longest_first), None)


def read(system: System) -> tuple[Nvidia | None, list[Gpu] | None]:
    """Return the NVIDIA driver (None without one) and all GPUs: NVIDIA's first by NVML's index, then other makers'."""
    devices = system.attempt("gpu.pci", lambda: pci.read_devices(system), ())
    cards = [device for device in devices if pci.is_nvidia(device)]
    traces = read_traces(system)
    nvidia: Nvidia | None = None
    gpus: list[Gpu] | None = []
    if traces.any:
        answers = ask(system, traces)
        nvidia, gpus = assemble(system, traces, answers, len(cards))
    if not gpus and cards:
        gpus = [pci.describe(system, card, place) for place, card in enumerate(cards)]
    others = [device for device in devices if not pci.is_nvidia(device)]
    if gpus is not None or others:
        start = 1 + max((gpu.index for gpu in gpus or []), default=-1)
        gpus = (gpus or []) + [pci.describe(system, device, start + place) for place, device in enumerate(others)]
    return nvidia, gpus


def ask(system: System, traces: Traces) -> Answers:
    """Ask NVML; where it fails or is late, libcuda and nvidia-smi at the same time."""
    budget = max(0.5, system.remaining(LONGEST) - 0.6)  # what is left belongs to the files' facts
    nvml_report: Report | None = None
    if traces.nvml is not None:
        nvml_report = ask_nvml(system, budget / 2, traces.nvml)
        if nvml_report.complete and not _fabric_in_doubt(traces, nvml_report):
            return Answers(nvml=nvml_report)
    rest = max(0.5, system.remaining(LONGEST) - 0.6)
    libcuda = smi = None
    if traces.cuda is not None:
        libcuda = Background("libcuda", lambda: ask_libcuda(system, rest, traces.cuda))
    program = traces.smi
    if program is not None and not (nvml_report and nvml_report.complete):
        smi = Background("nvidia-smi", lambda: ask_smi(system, rest, program))
    for work in (libcuda, smi):
        if work is not None:
            work.wait(system.remaining(LONGEST) - 0.3)
    return Answers(
        nvml=nvml_report,
        libcuda=libcuda.outcome(Report(source="libcuda", reason="libcuda did not answer")) if libcuda else None,
        smi=smi.outcome(Report(source="nvidia-smi", reason="nvidia-smi did not answer")) if smi else None,
    )


def _fabric_in_doubt(traces: Traces, report: Report) -> bool:
    """Tell whether only CUDA itself can say if the NVSwitch fabric is up (A100 machines have no fabric state)."""
    return report.fabric_ready is False or (traces.nvswitch and report.fabric_ready is None)


def assemble(system: System, traces: Traces, answers: Answers, cards: int) -> tuple[Nvidia | None, list[Gpu] | None]:
    """Return driver and NVIDIA GPUs out of all that was found; `cards` counts NVIDIA GPUs on the PCI bus."""
    best = answers.best
    for report in answers.all:
        if report.reason is not None:
            system.failed(f"gpu.{report.source}", report.reason)
        for note in report.notes:
            system.failed(f"gpu.{report.source}", note)
    if _no_driver(traces, answers, cards):
        return None, []
    gpus = _filled(best.gpus, answers.all) if best is not None and best.gpus is not None else None
    if not gpus:
        gpus = read_proc_gpus(system) or gpus
    if not gpus and traces.tegra:
        gpus = [Gpu(index=0, name=traces.tegra, mig=False)]
    problem, detail = diagnose(traces, answers)
    told = next((report for report in answers.all if report.driver), None)
    driver, source = (told.driver, told.source) if told else (traces.kernel_driver, traces.kernel_source)
    toolkit = system.attempt("nvidia.toolkit", lambda: read_toolkit(system), None)
    cuda = next((report.cuda for report in answers.all if report.cuda), None)
    if cuda is None and traces.tegra:
        cuda = toolkit  # a Jetson's CUDA belongs to its JetPack, driver and toolkit together
    nvidia = Nvidia(
        driver=driver,
        cuda=cuda,
        toolkit=toolkit,
        problem=problem,
        problem_detail=detail,
        source=source or (best.source if best else None),
    )
    return nvidia, gpus


def _filled(gpus: list[Gpu], reports: list[Report]) -> list[Gpu]:
    """Return the GPUs with what their source could not tell (libcuda: free memory, MIG) taken from other answers."""
    others = [gpu for report in reports if report.complete for gpu in report.gpus or []]
    for other in others:
        gpus = [_completed(gpu, other) if (gpu.index, gpu.name) == (other.index, other.name) else gpu for gpu in gpus]
    return gpus


def _completed(gpu: Gpu, other: Gpu) -> Gpu:
    missing = [name for name in gpu.__struct_fields__ if getattr(gpu, name) is None]
    return msgspec.structs.replace(gpu, **{name: getattr(other, name) for name in missing})


def _no_driver(traces: Traces, answers: Answers, cards: int) -> bool:
    """Tell whether only libraries or programs lie around: no kernel module, no device, and nobody lists a GPU."""
    if traces.kernel_driver or traces.nodes or traces.tegra or any(report.gpus for report in answers.all):
        return False
    nvml = answers.nvml
    if _versions_differ(traces, answers):
        return False
    if nvml is None:
        return True
    absent = nvml.code in {NVML_NOT_LOADED, NVML_NO_LIBRARY} or (nvml.complete and not nvml.gpus and not nvml.driver)
    return absent and not cards and not traces.wsl


def diagnose(traces: Traces, answers: Answers) -> tuple[NvidiaProblem | None, str | None]:
    """Return what is wrong with the driver, in a word of the schema and in a sentence; (None, None) when nothing is."""
    reports = answers.all
    codes = {report.code for report in reports}
    lists = any(report.complete and report.gpus for report in reports)
    desktop = not (traces.wsl or traces.tegra)  # those two have no nodes and no module of this kind
    checks: tuple[tuple[NvidiaProblem, bool], ...] = (
        ("driver_library_mismatch", _versions_differ(traces, answers)),
        ("no_device_nodes", bool(traces.kernel_driver) and not traces.nodes and desktop and not lists),
        ("nvml_missing", traces.nvml is None and not traces.tegra),
        ("uvm_not_loaded", traces.nodes and not traces.unified_memory and desktop),
        ("fabric_manager", CUDA_NOT_READY in codes or _fabric_down(answers)),
    )
    for problem, found in checks:
        if found:
            return problem, _in_words(problem, traces)
    reason = next((report.reason for report in reports if report.reason), None)
    # A Jetson without NVML is whole when libcuda lists its GPU.
    return ("other", reason) if reason is not None and not (traces.tegra and lists) else (None, None)


def _in_words(problem: NvidiaProblem, traces: Traces) -> str:
    loaded, library = traces.kernel_driver or "unknown", library_version(traces.nvml) or "unknown"
    return {
        "driver_library_mismatch": "the loaded kernel module and the driver's libraries are of different versions "
        f"(module {loaded}, library {library}): reboot, or reload the module",
        "no_device_nodes": f"the kernel has the NVIDIA driver {loaded}, but there is no /dev/nvidia0 here: "
        "a container started without its GPUs, or nodes that nobody made",
        "nvml_missing": f"{NVML} is not here: the driver's libraries are not installed, or not mounted",
        "uvm_not_loaded": "/dev/nvidia-uvm is missing: the kernel module nvidia-uvm is not loaded",
        "fabric_manager": "the NVSwitch fabric is not set up: the service nvidia-fabricmanager does not run",
    }[problem]


def _versions_differ(traces: Traces, answers: Answers) -> bool:
    if any(report.code == NVML_MISMATCH or MISMATCH.search(report.reason or "") for report in answers.all):
        return True
    library = library_version(traces.nvml)
    failed = answers.nvml is not None and not answers.nvml.complete
    return bool(failed and library and traces.kernel_driver and library != traces.kernel_driver)


def _fabric_down(answers: Answers) -> bool:
    """Tell whether NVML misses the fabric and CUDA does not prove the contrary (a card passed to a virtual machine)."""
    works = answers.libcuda is not None and answers.libcuda.complete
    return answers.nvml is not None and answers.nvml.fabric_ready is False and not works
