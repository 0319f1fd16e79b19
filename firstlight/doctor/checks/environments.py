"""Checks of the home's environments: what they were built for against this machine, and what became of them since."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from firstlight.catalogue.types import Build
from firstlight.doctor.check import Check
from firstlight.doctor.evidence import Evidence, seen
from firstlight.doctor.findings import Finding, Remedy, RemovePath, by_hand, by_itself, fail, ok, skip, warn
from firstlight.doctor.probes.environments import EnvironmentSeen
from firstlight.planning.versions import major, numbers

_NONE = "no environment is set up yet"


def _repair(item: EnvironmentSeen, text: str = "build it again") -> Remedy:
    if item.kind == "adopted":
        return by_hand(f"{text}: firstlight never writes into an environment that it was given")
    if item.current:
        return by_hand(text, f"firstlight setup.repair {item.engine}")
    return by_hand("remove it", f"firstlight setup.remove {item.engine} --generation {item.id}")


def _build(evidence: Evidence, item: EnvironmentSeen) -> Build | None:
    page = evidence.catalogue.engines.get(item.engine)
    return next((build for build in page.build if build.id == item.build), None) if page is not None else None


def links(evidence: Evidence) -> Iterable[Finding]:
    """Tell engines whose link to the environment in use leads nowhere, and environments that cannot be used."""
    found = seen(evidence.environments)
    for folder in found.folders:
        if not folder.current_there:
            whole = next((item for item in found.found if item.engine == folder.engine and not item.problems), None)
            yield fail(
                f"{folder.engine}: the environment in use is gone",
                evidence=f"{folder.path}/current leads to {folder.current}",
                affects=[folder.engine],
                remedy=by_hand("go back to the one before it", f"firstlight setup.rollback {folder.engine}")
                if whole is not None and whole.previous
                else by_hand("build it again", f"firstlight setup.{folder.engine}"),
                subject=folder.engine,
            )
    for item in found.found:
        if item.problems and item.state != "building":
            tell = fail if item.current else warn
            yield tell(
                f"{item.engine}: {item.id} cannot be used",
                detail="; ".join(item.problems),
                affects=[item.engine] if item.current else [],
                remedy=_repair(item),
                subject=item.id,
            )
    whole_ones = [item for item in found.current if not item.problems]
    if whole_ones:
        yield ok(", ".join(f"{item.engine}: {item.id}" for item in whole_ones), subject="current")


def libraries(evidence: Evidence) -> Iterable[Finding]:
    """Tell engines that are linked with another CUDA than their torch was made for."""
    for item in seen(evidence.environments).current:
        own = major(item.torch_cuda) if item.torch_cuda else None
        for file in item.linked:
            wrong = [line for line in file.cuda if own is None or int(line) != own]
            if wrong:
                torch = f"torch CUDA {own}" if own is not None else "torch is made for the CPU"
                yield fail(
                    f"{item.engine}: {file.name} needs CUDA {' and '.join(wrong)}, {torch}",
                    detail="The server dies at its start: libcudart cannot be opened, or two of them are mixed.",
                    evidence=f"libcudart.so.{wrong[0]} is among what {file.name} is linked with",
                    affects=[item.engine],
                    remedy=_repair(item),
                    subject=f"{item.id}:{file.name}",
                )
            elif file.absent:
                yield fail(
                    f"{item.engine}: {file.name} is linked with {file.absent[0]}, which is not in the environment",
                    evidence=", ".join(file.absent),
                    affects=[item.engine],
                    remedy=_repair(item),
                    subject=f"{item.id}:{file.name}",
                )


def nccl(evidence: Evidence) -> Iterable[Finding]:
    """Tell environments in which two packages write one libnccl.so.2."""
    for item in seen(evidence.environments).current:
        both = sorted(name for name in item.distributions if name.startswith("nvidia-nccl-cu"))
        if len(both) > 1:
            yield fail(
                f"{item.engine}: {' and '.join(both)} write the same libnccl.so.2",
                detail="The one that was unpacked last has won: with several GPUs the other one's CUDA does not go "
                "with it.",
                evidence=", ".join(f"{name} {item.distributions[name]}" for name in both),
                affects=[item.engine],
                remedy=_repair(item),
                subject=item.id,
            )


def pynvml(evidence: Evidence) -> Iterable[Finding]:
    """Tell environments with the old pynvml beside nvidia-ml-py."""
    for item in seen(evidence.environments).current:
        if {"pynvml", "nvidia-ml-py"} <= item.distributions.keys():
            yield warn(
                f"{item.engine}: pynvml {item.distributions['pynvml']} stands beside nvidia-ml-py",
                detail="Both are NVML for Python: some releases of an engine take the wrong one, and then find no GPU.",
                affects=[item.engine],
                remedy=_repair(item),
                subject=item.id,
            )


def changed(evidence: Evidence) -> Iterable[Finding]:
    """Tell environments that somebody has changed since they were built."""
    for item in seen(evidence.environments).found:
        if item.changed:
            yield warn(
                f"{item.engine}: {item.id} was changed after it was built ({len(item.changed)} packages)",
                detail="Something was installed into it by hand; what was proven is no longer what is there.",
                evidence="\n".join(item.changed[:10]),
                affects=[item.engine] if item.current else [],
                remedy=_repair(item, "build it again as it was"),
                subject=item.id,
            )


def files(evidence: Evidence) -> Iterable[Finding]:
    """Tell environments with shared libraries that are gone or cut short; with --deep, every file is hashed."""
    for item in seen(evidence.environments).current:
        wrong = [*item.not_whole, *(item.damaged or ())]
        if wrong:
            yield fail(
                f"{item.engine}: {item.id} is damaged: {wrong[0]}",
                detail="A disk that was full, a removal by hand, or an edited file; files of environments are hard "
                "links to the cache, so that a repair checks every one of them.",
                evidence="\n".join(wrong),
                affects=[item.engine],
                remedy=_repair(item),
                subject=item.id,
            )
        elif item.damaged is not None:
            yield ok(f"{item.engine}: every file of {item.id} has its hash", subject=item.id)


def examinations(evidence: Evidence) -> Iterable[Finding]:
    """Tell what did not hold when an environment was examined after its install."""
    for item in seen(evidence.environments).current:
        if item.examination:
            yield warn(
                f"{item.engine}: {item.id} did not pass its examination: {item.examination[0]}",
                evidence="\n".join(item.examination),
                affects=[item.engine],
                remedy=_repair(item),
                subject=item.id,
            )


def leftovers(evidence: Evidence) -> Iterable[Finding]:
    """Tell what killed builds and removals have left."""
    for folder in seen(evidence.environments).folders:
        paths = [str(Path(folder.path) / name) for name in folder.leftovers]
        if paths:
            yield warn(
                f"{folder.engine}: {len(paths)} unfinished environment{'s' if len(paths) > 1 else ''} take up room",
                detail="A build or a removal was killed; the next setup clears them away too.",
                evidence="\n".join(paths),
                remedy=by_itself(
                    "remove them" if len(paths) > 1 else "remove it", *(RemovePath(path=path) for path in paths)
                ),
                subject=folder.engine,
            )


def builds(evidence: Evidence) -> Iterable[Finding]:
    """Tell environments whose build the catalogue no longer has, and those for which there is a newer one."""
    for item in seen(evidence.environments).current:
        if item.kind == "adopted" or item.engine not in evidence.catalogue.engines:
            continue
        build = _build(evidence, item)
        if build is None and item.kind == "archive":
            yield Finding(
                status="ok",
                summary=f"{item.engine} {item.id} is a release that the catalogue does not know: it was asked for",
                subject=item.id,
            )
            continue
        if build is None:
            yield warn(
                f"{item.engine}: the catalogue no longer has the build {item.build}",
                detail="It works as before, but nothing is known of it any more: a repair builds the same again, a "
                "setup takes a build of today.",
                affects=[item.engine],
                remedy=by_hand("take a build of today", f"firstlight setup.{item.engine}"),
                subject=item.id,
            )
            continue
        plan = next((plan for plan in evidence.plans if plan.engine == item.engine), None)
        chosen = plan.build if plan is not None else None
        if chosen is not None and numbers(chosen.release) > numbers(build.release):
            yield Finding(
                status="ok",
                summary=f"{item.engine} {build.release} is installed; {chosen.release} fits this machine too",
                remedy=by_hand("when it suits", f"firstlight setup.{item.engine}"),
                subject=item.id,
            )


def locks(evidence: Evidence) -> Iterable[Finding]:
    """Tell environments that were made from another lock than the one that their build has now."""
    for item in seen(evidence.environments).current:
        if item.behind:
            yield warn(
                f"{item.engine}: the lock of {item.build} has changed since {item.id} was made from it",
                detail="It works as before. Locks are made again where a set of wheels has turned out wrong, or lags "
                "behind; the new one is built beside this environment, which stays until it is removed.",
                evidence="\n".join(item.behind[:10]),
                affects=[item.engine],
                remedy=by_hand("take what the lock holds now", f"firstlight setup.{item.engine}"),
                subject=item.id,
            )


def conda_base(evidence: Evidence) -> Iterable[Finding]:
    """Tell what pip has put into conda's base environment, and who can mend it."""
    base = seen(evidence.conda_base)
    if base.root is None:
        yield skip("there is no conda")
        return
    if not base.polluted:
        yield ok(f"nothing heavy was put into conda's base ({base.root})")
        return
    every = " It is activated in every new shell, so that a plain `pip install` goes there." if base.by_itself else ""
    owner = "" if base.writable else f" Only {base.owner} can mend it."
    yield warn(
        f"conda's base holds {', '.join(base.polluted[:3])}{' and more' if len(base.polluted) > 3 else ''}",
        detail=f"Programs of base see these libraries, conda itself among them.{every} firstlight's own environments "
        f"are apart from it and not concerned.{owner}",
        evidence=f"{base.root}: {', '.join(base.polluted)}",
        remedy=by_hand(
            "keep base for conda itself: make an environment for the rest, and let shells start without base",
            "conda create -n work python=3.12",
            "conda config --set auto_activate_base false",
        ),
    )


def conda_shell(evidence: Evidence) -> Iterable[Finding]:
    """Tell a conda that shells have forgotten, as after the restart of a rented instance."""
    base = seen(evidence.conda_base)
    if base.root is None:
        yield skip("there is no conda")
    elif base.init_files:
        yield ok(f"shells know of conda by {base.init_files[0]}")
    elif base.known:
        yield ok("this shell knows of conda; no file of the shell sets it up")
    else:
        yield from _forgotten(evidence)


def _forgotten(evidence: Evidence) -> Iterator[Finding]:
    base = seen(evidence.conda_base)
    shell = base.shell if base.shell in {"bash", "zsh", "fish"} else "bash"
    lost = (
        f" On this instance only {', '.join(base.kept)} outlives a restart: the shell's files are the image's again."
        if base.kept
        else ""
    )
    yield warn(
        f"conda is at {base.root}, and no shell knows of it",
        detail=f"`conda activate` fails with `command not found`.{lost} firstlight needs no activation: it runs each "
        "environment by its path.",
        evidence="no `conda initialize` in the shell's files, and conda is not on PATH",
        remedy=by_hand("set the shell up again, and open a new one", f"{base.root}/bin/conda init {shell}"),
    )


def _check(name: str, title: str, look: Callable[[Evidence], Iterable[Finding]], source: str | None = None) -> Check:
    """Return a check of environments, which is skipped where there is none."""

    def guarded(evidence: Evidence) -> Iterable[Finding]:
        return look(evidence) if seen(evidence.environments).folders else [skip(_NONE)]

    return Check(id=name, group="environments", title=title, look=guarded, needs=("environments",), source=source)


CHECKS: tuple[Check, ...] = (
    _check("environments", "each engine's environment is where it belongs", links),
    _check(
        "environment-cuda",
        "engines and their torch have one CUDA",
        libraries,
        "vllm-project/vllm#52300, #43435, #44335; ELF headers of the wheels",
    ),
    _check(
        "nccl-twice",
        "one NCCL to an environment",
        nccl,
        "file lists of nvidia-nccl-cu12 2.32.3 and nvidia-nccl-cu13 2.29.7",
    ),
    _check("pynvml", "one NVML to an environment", pynvml, "pypi.org/project/pynvml; vLLM 0.7.2 platforms"),
    _check("environment-changed", "environments are as they were built", changed),
    _check("environment-files", "no shared library is gone or cut short", files, "RECORD (PEP 376)"),
    _check("environment-examination", "environments passed their examination", examinations),
    _check("environment-leftovers", "no unfinished environment takes up room", leftovers),
    _check("environment-build", "what is installed is in the catalogue", builds),
    _check("environment-lock", "environments were made from the locks of today", locks),
    Check(
        id="conda-base",
        group="environments",
        title="nothing heavy was put into conda's base",
        look=conda_base,
        needs=("conda_base",),
        source="vllm-project/vllm#1498, #34224, #9701",
    ),
    Check(
        id="conda-shell",
        group="environments",
        title="shells know of conda",
        look=conda_shell,
        needs=("conda_base",),
        source="conda init --help",
    ),
)
