"""The verdicts of an examination: pure functions from what was seen to checks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from firstlight.environments.distributions import InstalledPackage, canonical
from firstlight.environments.examination_report import Report, Subject, Told
from firstlight.environments.examined import Check, Status
from firstlight.environments.linkage import Linked
from firstlight.planning.devices import way
from firstlight.planning.versions import at_least, major

_SHOWN = 20
"""Lines of detail that a check keeps."""
_FEW = 0.05
"""Share of the model modules that may fail without the rest being in doubt: each of them is told, loudly."""
_NO_GPU = re.compile(
    r"libcuda\.so\.1|libnvidia-ml\.so\.1|no NVIDIA driver|No CUDA GPUs are available|no CUDA-capable device"
    r"|0 active drivers|CUDA driver (?:version|initialization)"
)
"""What libraries say where there is no driver: they went as far as one can go without."""
_ILLEGAL_INSTRUCTION = 4
_OF_CUDA = re.compile(r"^nvidia-.+-cu(\d+)$")
_NUMBERED_AS_CUDA = {"cuda-toolkit", "nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cuda-nvrtc", "nvidia-nvjitlink"}
_NOT_OPENED = re.compile(r"(lib\S+\.so\S*): cannot open shared object file")
_FLAG = re.compile(r"\b(sm|compute)_(\d+)(\d)(a?)")


def distributions(subject: Subject, installed: Iterable[InstalledPackage]) -> Check:
    """Judge what lies beside each other: one NVML, one NCCL, libraries of one CUDA."""
    found = {canonical(package.name): package.version for package in installed}
    problems: list[str] = []
    if {"pynvml", "nvidia-ml-py"} <= found.keys():
        problems.append(
            f"pynvml {found['pynvml']} beside nvidia-ml-py {found['nvidia-ml-py']}: both are NVML for Python"
        )
    nccl = sorted(name for name in found if name.startswith("nvidia-nccl-cu"))
    if len(nccl) > 1:
        problems.append(f"{' and '.join(nccl)}: both bring libnccl.so.2, and the one unpacked last has won")
    lines: dict[int, list[str]] = {}
    for name, version in found.items():
        match = _OF_CUDA.match(name)
        if match or name in _NUMBERED_AS_CUDA:
            lines.setdefault(int(match[1]) if match else major(version), []).append(name)
    if len(lines) > 1:
        told = [f"{len(names)} of CUDA {line} ({min(names)}, …)" for line, names in sorted(lines.items())]
        problems.append(f"libraries of more than one CUDA: {' and '.join(told)}")
    words = f"{len(found)} distributions, none of which stands in the way of another"
    return _judged("distributions", problems, words, fix=_elsewhere(subject))


def torch(subject: Subject, report: Report, installed: Iterable[InstalledPackage]) -> Check:
    """Judge torch: it imports, it is the release that the plan chose, made for the CUDA that the plan chose."""
    seen, build = report.one("torch"), subject.build
    if seen is None or seen.version is None:
        return _not_told(subject, report, "torch", "torch does not import", seen)
    base, _, local = seen.version.partition("+")
    words = f"torch {seen.version}, made for {f'CUDA {seen.cuda}' if seen.cuda else 'the CPU'}"
    problems: list[str] = []
    if build.torch is not None and not subject.adopted:
        recorded = next((item.version for item in installed if canonical(item.name) == "torch"), "")
        locals_ = {local, recorded.partition("+")[2]}
        if base != build.torch:
            problems.append(f"the plan chose torch {build.torch}, there is {seen.version}")
        elif not subject.registry_torch and build.torch_local and build.torch_local not in locals_:
            problems.append(f"the plan chose torch {build.torch_version}, there is {seen.version}")
        if not subject.registry_torch and seen.cuda != build.torch_cuda:
            wanted = f"CUDA {build.torch_cuda}" if build.torch_cuda else "the CPU"
            problems.append(f"the plan chose a torch for {wanted}; {words}")
    return _judged("torch", problems, words, fix=_again(subject), seconds=seen.seconds)


def libraries(subject: Subject, linked: Sequence[Linked], absent: Iterable[str], cuda: str | None) -> Check:
    """Judge the engine's compiled part: linked with torch's CUDA, and with nothing that is not there."""
    if not linked:
        return _no_extensions(subject, "libraries")
    problems = [f"{each.file.name} is linked with {lib}, which is not there" for lib, each in _pairs(absent, linked)]
    own = major(cuda) if cuda else None
    for each in linked:
        wrong = [line for line in each.cuda if own is None or int(line) != own]
        if wrong:
            theirs = f"torch with CUDA {own}" if own else "torch is made for the CPU"
            problems.append(f"{each.file.name} is linked with CUDA {' and '.join(wrong)}, {theirs}")
    words = (
        f"{len(linked)} shared libraries are linked with {f'the CUDA {own} of torch' if own else 'no CUDA, as torch'}"
    )
    return _judged("libraries", problems, words, fix=_again(subject))


def libc(subject: Subject, linked: Sequence[Linked]) -> Check:
    """Judge what the engine's compiled part asks of the C library: the tag of a wheel may promise too much."""
    host = subject.machine.host
    floors = [each for each in linked if each.glibc]
    if not floors or host.libc_version is None or host.libc not in {None, "glibc"}:
        why = "nothing compiled is named" if not floors else "the machine's C library is unknown"
        return Check(id="libc", status="skip", summary=why)
    problems = [
        f"{each.file.name} asks for glibc {each.glibc}, the machine has {host.libc_version}"
        for each in floors
        if not at_least(host.libc_version, each.glibc or "0")
    ]
    highest = max((each.glibc or "0" for each in floors), key=lambda text: [int(part) for part in text.split(".")])
    words = f"glibc {highest} is the newest that is asked for, the machine has {host.libc_version}"
    return _judged("libc", problems, words, fix=_elsewhere(subject))


def capability(subject: Subject, report: Report) -> Check:
    """Judge torch's list of architectures: each GPU must be run by its machine code, or by its PTX."""
    seen = report.one("torch")
    flags = [(kind, f"{high}.{low}{alone}") for kind, high, low, alone in _FLAG.findall((seen and seen.flags) or "")]
    codes = [text for kind, text in flags if kind == "sm"]
    ptx = next((text for kind, text in flags if kind == "compute"), None)
    return _run(subject, "capability", "torch", codes, ptx)


def kernels(subject: Subject, codes: list[str], ptx: str | None) -> Check:
    """Judge the architectures that the engine's compiled part holds code for, as `capability` does torch's."""
    return _run(subject, "kernels", "the engine's compiled part", codes, ptx)


def _run(subject: Subject, check: str, who: str, codes: list[str], ptx: str | None) -> Check:
    known = [gpu for gpu in subject.gpus if gpu.compute_capability]
    if not known or not (codes or ptx):
        why = "no GPU is to be used" if not known else f"{who} names no architectures"
        return Check(id=check, status="skip", summary=why)
    held = ", ".join([*codes, *([f"PTX of {ptx}"] if ptx else [])])
    problems, ways = [], []
    for gpu in known:
        wanted = gpu.compute_capability or ""
        by = way(codes, ptx, wanted, subject.tegra)
        ways.append(f"{wanted} by {'PTX' if by == 'ptx' else 'machine code'}")
        if by is None:
            problems.append(f"{gpu.name or 'the GPU'} has compute capability {wanted}, {who} holds code for {held}")
    return _judged(check, problems, f"{who} runs {', '.join(dict.fromkeys(ways))}", fix=_elsewhere(subject))


def extensions(subject: Subject, report: Report) -> Check:
    """Judge whether the engine's compiled part can be loaded: engines hide that it cannot, and fail much later."""
    seen, unfinished = report.every("extension"), report.unfinished("extensions")
    if unfinished is not None:
        return unfinished
    if not seen:
        return _no_extensions(subject, "extensions")
    problems, excused = [], []
    for each in seen:
        name = each.path.rpartition("/")[2]
        if each.signal == _ILLEGAL_INSTRUCTION:
            excused.append(f"{name}: for another processor")
        elif each.error and _for_want_of_a_gpu(subject, report, each.error):
            excused.append(f"{name}: no NVIDIA driver is here")
        elif each.error or each.signal:
            problems.append(f"{name}: {each.error or f'signal {each.signal} ended the process that loaded it'}")
    took = round(sum(each.seconds for each in seen), 3)
    loaded = len(seen) - len(excused)
    words = f"{loaded} of {len(seen)} shared libraries load{_in_brackets(excused)}"
    if not loaded and not problems:
        return Check(id="extensions", status="skip", summary=words, seconds=took)
    return _judged("extensions", problems, words, fix=_library_fix(subject, problems), seconds=took)


def tokenizer(subject: Subject, report: Report) -> Check:
    """Judge whether a tokenizer loads and makes tokens, the first thing that a server does."""
    seen = report.one("tokenizer")
    if seen is None or seen.error is not None:
        return _not_told(subject, report, "tokenizer", "a tokenizer cannot be loaded", seen)
    words = f"{seen.function} loads one, and it makes {seen.tokens} tokens"
    problems = [] if seen.tokens else [f"{seen.function} loads a tokenizer that makes no tokens"]
    return _judged("tokenizer", problems, words, fix=_again(subject), seconds=seen.seconds)


def command(subject: Subject, report: Report) -> Check:
    """Judge whether the engine's own command line runs."""
    seen, words = report.one("command"), f"python {' '.join(subject.wish.command)}"
    if seen is None:
        return _not_told(subject, report, "command", f"{words} does not end", seen)
    if seen.status == 0 and seen.error is None:
        return Check(id="command", status="ok", summary=f"{words} runs", seconds=seen.seconds)
    last = seen.error or (report.said[-1] if report.said else "it printed nothing")
    if _for_want_of_a_gpu(subject, report, last):
        return Check(id="command", status="skip", summary=f"{words}: {last}", seconds=seen.seconds)
    return Check(
        id="command",
        status="fail",
        summary=f"{words} ends with {seen.status or 1}: {last}",
        detail=[*([seen.error, *seen.where] if seen.error else []), *report.said],
        fix=_again(subject),
        seconds=seen.seconds,
    )


def modules(subject: Subject, report: Report) -> Check:
    """Judge whether every model module imports. A few that fail leave the others usable, and are told loudly."""
    seen, packages = report.every("module"), report.every("package")
    names = [name for told in report.every("modules") for name in told.names]
    unfinished = report.unfinished("modules")
    if unfinished is not None and unfinished.status == "skip":
        return unfinished
    if not packages and unfinished is None:
        return Check(id="modules", status="skip", summary="no package of models is named")
    broken = [f"{each.name}: {each.error}" for each in packages if each.error]
    if unfinished is not None:
        broken.append(unfinished.summary + (f" at {names[len(seen)]}" if len(seen) < len(names) else ""))
    failed, excused = [], Counter[str]()
    for each in seen:
        reason = _excuse(subject, each, report) if each.error else None
        if reason:
            excused[reason] += 1
        elif each.error:
            failed.append(f"{each.name}: {each.error}")
    known = [f"{count} not: {reason}" for reason, count in excused.most_common()]
    imported = len(seen) - excused.total() - len(failed)
    words = f"{imported} of {len(names)} modules import{_in_brackets(known)}"
    problems = [*broken, *failed]
    status: Status = "ok"
    if problems:
        status = "fail" if broken or len(failed) > _FEW * len(names) else "warn"
    return Check(
        id="modules",
        status=status,
        summary=f"{words}; {problems[0]}" if problems else words,
        detail=problems[:_SHOWN],
        fix=_again(subject) if problems else None,
        seconds=round(sum(each.seconds for each in (*packages, *seen)), 3),
    )


def _excuse(subject: Subject, told: Told, report: Report) -> str | None:
    """Return why a module that does not import is no harm, None where there is no such reason."""
    own = told.name.rpartition(".")[2]
    for pattern, reason in subject.build.tolerated.items():
        if fnmatchcase(told.name, pattern) or fnmatchcase(own, pattern):
            return reason
    left_out = {canonical(name) for name in subject.build.excludes}
    for name in told.missing:
        top = name.partition(".")[0]
        if top in subject.wish.optional:
            return f"{top} is no part of a plain install ({subject.wish.optional[top]})"
        if canonical(top) in left_out:
            return f"{top} is left out of this build"
    if _for_want_of_a_gpu(subject, report, told.error or ""):
        return "no NVIDIA driver is here"
    return None


def _not_told(subject: Subject, report: Report, check: str, words: str, seen: Told | None) -> Check:
    """Return the check of what failed, of what took the worker with it, or of what was not reached."""
    unfinished = report.unfinished(check)
    if unfinished is not None and unfinished.status == "skip":
        return unfinished
    why = seen.error if seen is not None and seen.error else report.death or "nothing was told"
    detail = [f"{seen.function}: {why}" if seen.function else why, *seen.where] if seen is not None else []
    seconds = seen.seconds if seen is not None else 0.0
    return Check(
        id=check, status="fail", summary=f"{words}: {why}", detail=detail, fix=_again(subject), seconds=seconds
    )


def _for_want_of_a_gpu(subject: Subject, report: Report, text: str) -> bool:
    """Tell whether a failure only says that this machine has no NVIDIA driver."""
    patterns = [_NO_GPU, *map(re.compile, subject.wish.without_gpu)]
    return report.no_driver and any(pattern.search(text) for pattern in patterns)


def _judged(check: str, problems: list[str], words: str, *, fix: str, seconds: float = 0.0) -> Check:
    if not problems:
        return Check(id=check, status="ok", summary=words, seconds=seconds)
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return Check(
        id=check, status="fail", summary=problems[0] + more, detail=problems[:_SHOWN], fix=fix, seconds=seconds
    )


def _in_brackets(words: Sequence[str]) -> str:
    return f" ({'; '.join(words)})" if words else ""


def _pairs(absent: Iterable[str], linked: Sequence[Linked]) -> list[tuple[str, Linked]]:
    return [(name, each) for name in absent for each in linked if name in each.needed]


def _no_extensions(subject: Subject, check: str) -> Check:
    globs = subject.wish.extensions
    if not globs:
        return Check(id=check, status="skip", summary="the engine has no compiled part of its own")
    missing = f"the engine's compiled part is not there: {', '.join(globs)}"
    return Check(id=check, status="fail", summary=missing, fix=_again(subject))


def _library_fix(subject: Subject, problems: Sequence[str]) -> str:
    """Return the fix for libraries that do not load: a package of the distribution, where one is what lacks."""
    lacking = {found for text in problems for found in _NOT_OPENED.findall(text)}
    for library in subject.build.system_libraries:
        if library.name in lacking:
            commands = [f"{manager} install -y {package}" for manager, package in library.packages.items()]
            return f"as root: {commands[0]}" + "".join(f"   (or: {command})" for command in commands[1:])
    return _again(subject)


def _again(subject: Subject) -> str:
    """Return the fix for an environment that is not what it should be."""
    if subject.adopted:
        return f"mend it, or let firstlight build one: firstlight setup.{subject.engine}"
    return f"firstlight setup.{subject.engine} --repair   (should it come again: {_elsewhere(subject)})"


def _elsewhere(subject: Subject) -> str:
    """Return the fix for a build that cannot do here: another one."""
    return f"choose another build: firstlight plan {subject.engine} --explain, then setup.{subject.engine} --build ID"
