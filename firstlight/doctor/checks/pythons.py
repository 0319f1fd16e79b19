"""Pythons, the compiler that GPU kernels need at the start, and variables that leak into every environment."""

from __future__ import annotations

from collections.abc import Iterable

from firstlight.doctor.check import Check
from firstlight.doctor.evidence import Evidence, seen
from firstlight.doctor.findings import Finding, Remedy, by_hand, ok, skip, warn
from firstlight.doctor.judging import names
from firstlight.machine.facts import Machine

_INSTALL = {
    "ubuntu": "sudo apt-get install -y gcc g++",
    "debian": "sudo apt-get install -y gcc g++",
    "fedora": "sudo dnf install -y gcc gcc-c++",
    "rhel": "sudo dnf install -y gcc gcc-c++",
    "centos": "sudo yum install -y gcc gcc-c++",
    "rocky": "sudo dnf install -y gcc gcc-c++",
    "almalinux": "sudo dnf install -y gcc gcc-c++",
    "arch": "sudo pacman -S gcc",
    "alpine": "sudo apk add build-base",
}


def versions(evidence: Evidence) -> Iterable[Finding]:
    """Hold the machine's Pythons against what the chosen builds run on; conda environments bring their own."""
    here = evidence.machine.pythons
    if here is None:
        yield skip("which Pythons there are is unknown")
        return
    minors = sorted({_minor(found.version) for found in here}, key=lambda word: [int(part) for part in word.split(".")])
    without = []
    for plan in evidence.plans:
        build = next(
            (b for b in evidence.catalogue.engines[plan.engine].build if plan.build and b.id == plan.build.id), None
        )
        if build is not None and build.pythons and not set(build.pythons) & set(minors):
            without.append(f"{build.id} runs on {', '.join(build.pythons)}")
    have = f"Python {names(minors)}" if minors else "no Python"
    if without:
        yield ok(
            f"{have} on this machine: too old or too new for {len(without)} of the builds that fit",
            detail="Conda environments bring their own Python. Only where no conda channel answers is a Python of this "
            "machine needed.",
            evidence="\n".join(without),
        )
    else:
        yield ok(f"{have} on this machine, in the range of every build that fits")


def _minor(version: str) -> str:
    parts = [part for part in version.split(".")[:2] if part.isdigit()]
    return ".".join(parts) or "0"


def compiler(evidence: Evidence) -> Iterable[Finding]:
    """Tell when the C compiler is missing that kernels are compiled with when an engine starts on a GPU."""
    found = seen(evidence.compiler)
    affected = _compiling(evidence)
    if found.compiler is not None:
        yield ok(f"C compiler: {found.compiler}")
    elif not affected:
        yield skip("no engine would run on a GPU here, so nothing is compiled at its start")
    else:
        named = f"CC names {found.named}, which is not there" if found.named else "no gcc, clang or cc on PATH"
        yield warn(
            f"there is no C compiler: {named}",
            detail="Triton compiles GPU kernels when an engine starts, and fails with `Failed to find C compiler`.",
            affects=affected,
            remedy=_compiler_remedy(evidence.machine, found.named),
        )


def _compiler_remedy(machine: Machine, named: str | None) -> Remedy:
    if named:
        return by_hand("name one that is there, or none", "unset CC")
    command = _INSTALL.get(machine.host.os or "")
    return by_hand("install one", *([command] if command else []), root=True)


def headers(evidence: Evidence) -> Iterable[Finding]:
    """Tell when a virtual environment would be made of a Python without its headers."""
    found = seen(evidence.compiler)
    affected = [plan for plan in evidence.plans if plan.engine in _compiling(evidence)]
    by_venv = [plan for plan in affected if plan.environment == "venv"]
    if not affected:
        yield skip("no engine would run on a GPU here, so nothing is compiled at its start")
        return
    if not by_venv:
        yield ok("conda environments bring Python's headers along")
        return
    for plan in by_venv:
        minor = plan.build.python if plan.build is not None else ""
        bare = [item for item in found.headers if _minor(item.version) == minor and not item.present]
        if bare and not any(item.present for item in found.headers if _minor(item.version) == minor):
            yield warn(
                f"Python {minor} has no headers (Python.h), which {plan.engine} compiles its kernels with",
                detail="Triton's launcher is compiled against them at the first start.",
                evidence=bare[0].python,
                affects=[plan.engine],
                remedy=by_hand(
                    "install them, or let a conda environment bring them",
                    f"sudo apt-get install -y python{minor}-dev",
                    root=True,
                ),
                subject=plan.engine,
            )


def _compiling(evidence: Evidence) -> list[str]:
    """Return the engines whose chosen build runs on a GPU through torch, and so through Triton."""
    return [plan.engine for plan in evidence.plans if plan.build is not None and plan.build.cuda and plan.build.torch]


def library_path(evidence: Evidence) -> Iterable[Finding]:
    """Tell CUDA libraries that LD_LIBRARY_PATH puts before those of the wheels."""
    found = seen(evidence.libraries).shadows
    for shadow in found:
        yield warn(
            f"LD_LIBRARY_PATH puts the CUDA libraries of {shadow.folder} before those of every environment",
            detail="Wheels bring the exact libraries that they were built with; another release in front of them ends "
            "in `undefined symbol`, or in wrong answers of cuDNN. firstlight starts engines without that variable.",
            evidence=", ".join(shadow.libraries),
            affects=[page.engine for page in evidence.catalogue.engines.values() if page.kind == "wheels"],
            remedy=by_hand("take it out of your shell's start-up files", "unset LD_LIBRARY_PATH"),
            subject=shadow.folder,
        )


def python_variables(evidence: Evidence) -> Iterable[Finding]:
    """Tell variables that make every Python import foreign packages."""
    variables = seen(evidence.variables)
    for name in ("PYTHONHOME", "PYTHONPATH"):
        value = variables.get(name)
        if value is not None:
            yield warn(
                f"{name} is set: every Python looks there first, those of isolated environments too",
                evidence=f"{name}={value}",
                affects=[page.engine for page in evidence.catalogue.engines.values() if page.kind == "wheels"],
                remedy=by_hand("take it out of your shell's start-up files", f"unset {name}"),
                subject=name,
            )


CHECKS: tuple[Check, ...] = (
    Check(id="python-range", group="python", title="a Python of this machine suits the builds that fit", look=versions),
    Check(
        id="compiler",
        group="python",
        title="a C compiler for GPU kernels is there",
        look=compiler,
        needs=("compiler",),
        source="vllm-project/vllm#2997 and #15329",
    ),
    Check(
        id="python-headers",
        group="python",
        title="the headers of Python are there",
        look=headers,
        needs=("compiler",),
        source="vllm-project/vllm#2997",
    ),
    Check(
        id="library-path",
        group="python",
        title="LD_LIBRARY_PATH puts no CUDA libraries before those of the environments",
        look=library_path,
        needs=("libraries",),
        source="vllm-project/vllm#10300 and #35608",
    ),
    Check(
        id="python-variables",
        group="python",
        title="no variable makes Pythons import foreign packages",
        look=python_variables,
        needs=("variables",),
        source="Python documentation, command line and environment",
    ),
)
