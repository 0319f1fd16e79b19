"""Checks of Ollama: copies and their libraries, whether it uses the GPU, its store of models, and its unit."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from firstlight.doctor.check import Check
from firstlight.doctor.evidence import Evidence, seen
from firstlight.doctor.findings import Finding, Remedy, by_hand, fail, ok, skip, warn
from firstlight.doctor.probes.ollama import Copy, OllamaSeen
from firstlight.doctor.probes.ollama_store import Store
from firstlight.doctor.secrets import without_secrets
from firstlight.doctor.story import remedy_of
from firstlight.planning.devices import nvidia_gpus

_ENGINE = "ollama"
_USERS = ("/home", "/root")
"""Where people write; elsewhere only root can."""
_MUCH = 1_000_000_000
_NOT_HERE = "Ollama is not installed"
_OPEN_HOSTS = ("0.0.0.0", "[::]", "::", ":")  # noqa: S104 - looked for, not bound to
_FROZEN = ("conda", "/envs/", "venv", "virtualenv", "/.pyenv/")
"""Words of folders that belong to somebody's shell."""


def _in_use(ollama: OllamaSeen, copy: Copy) -> bool:
    unit = ollama.unit.program if ollama.unit is not None else None
    return copy.on_path or copy.ours or unit in {copy.program, copy.real}


def _again(copy: Copy) -> Remedy:
    """Return how a copy is made whole again: a release beside it, switched to; what is there is moved aside."""
    if copy.ours:
        return by_hand("unpack its release afresh", "firstlight ollama.install --repair")
    prefix = Path(copy.real).parent.parent
    root = not any(prefix.is_relative_to(place) for place in _USERS)
    command = f"firstlight ollama.install --prefix {shlex.quote(str(prefix))} --yes"
    words = f"put a whole release into {prefix}: what is there is moved aside, and ollama.rollback gives it back"
    return by_hand(words, f"sudo {command}" if root else command, root=root)


def copies(evidence: Evidence) -> Iterable[Finding]:
    """Tell more than one copy of the program, and which of them a shell and the service start."""
    ollama = seen(evidence.ollama)
    foreign = [copy for copy in ollama.copies if not copy.ours]
    if len(foreign) < 2:
        yield ok(", ".join(copy.program for copy in ollama.copies) or "its program is not here")
        return
    first = next((copy for copy in foreign if copy.on_path), foreign[0])
    program = ollama.unit.program if ollama.unit is not None else None
    unit = f" The service starts {program}." if program else ""
    others = [copy for copy in foreign if copy is not first and program not in {copy.program, copy.real}]
    lines = [f"{copy.program}  libraries: {copy.library or 'none'}" for copy in foreign]
    doomed = [path for copy in others for path in (copy.program, copy.library) if path]
    yield warn(
        f"{len(foreign)} copies of Ollama: {' and '.join(copy.program for copy in foreign)}",
        detail=f"A shell starts {first.program}.{unit} Updates reach one of them only, and a program that finds the "
        "other one's libraries leaves the GPU alone.",
        evidence="\n".join(lines),
        affects=[_ENGINE],
        remedy=by_hand("keep one", f"sudo rm -r {' '.join(doomed)}", root=True)
        if doomed
        else by_hand("keep one: the one that the service starts"),
    )


def libraries(evidence: Evidence) -> Iterable[Finding]:
    """Tell programs without their folder of libraries, and folders with libraries of more than one release."""
    ollama = seen(evidence.ollama)
    for copy in ollama.copies:
        tell = fail if _in_use(ollama, copy) else warn
        if copy.library is None and not copy.self_contained:
            yield tell(
                f"{copy.program} has no libraries beside it",
                detail="Before 0.30 it then runs models on its slowest CPU code, from 0.30 on it runs none.",
                evidence=f"looked for {' and '.join(copy.looked_at)}",
                affects=[_ENGINE],
                remedy=_again(copy),
                source="Ollama ml/path.go; ollama/ollama#10798, #9842",
                subject=copy.program,
            )
        elif copy.mixed:
            yield tell(
                f"{copy.library} holds libraries of more than one release",
                detail="An update was unpacked over the one before it: the GPU is not used, or models fail to load.",
                evidence="\n".join(copy.mixed),
                affects=[_ENGINE],
                remedy=_again(copy),
                source="ollama/ollama#10369, #11848; Ollama's Dockerfiles by release",
                subject=copy.program,
            )


def on_gpu(evidence: Evidence) -> Iterable[Finding]:
    """Tell an Ollama that runs models on the CPU though there is a GPU."""
    ollama = seen(evidence.ollama)
    if not nvidia_gpus(evidence.machine):
        yield skip("there is no NVIDIA GPU here")
        return
    slow = [item for item in ollama.story.causes if item.found.cause] if ollama.story is not None else []
    why = next((item.found for item in slow if item.found.cause is not None and not item.found.cause.fatal), None)
    loaded = ollama.server.loaded if ollama.server is not None else ()
    on_cpu = [model.name for model in loaded if model.vram == 0 and model.size > 0]
    if on_cpu or (why is not None and why.cause is not None and why.cause.id in _ON_CPU):
        cause = why.cause if why is not None else None
        what = f"{on_cpu[0]} runs on the CPU" if on_cpu else "it runs models on the CPU"
        yield fail(
            f"Ollama does not use the GPU: {cause.cause if cause is not None else what}",
            detail=f"{what}; a restart after the remedy shows whether it helped: ollama ps",
            evidence=without_secrets(why.line) if why is not None else None,
            affects=[_ENGINE],
            remedy=remedy_of(cause, evidence.machine)
            if cause is not None
            else by_hand("see what it said", "journalctl -u ollama -n 200"),
            source=cause.source if cause is not None else None,
        )
    elif loaded:
        yield ok(f"{loaded[0].name} runs on the GPU")


_ON_CPU = frozenset(
    {
        "cpu-only",
        "driver-too-old",
        "driver-library-mismatch",
        "cuda-init-failed",
        "no-devices",
        "gpu-too-old",
        "libraries-not-found",
    }
)
"""Causes of its page that end on the CPU."""


def log(evidence: Evidence) -> Iterable[Finding]:
    """Tell what the log of the running service complains of."""
    ollama = seen(evidence.ollama)
    failed = evidence.services is not None and any(unit.failed for unit in evidence.services.units)
    if ollama.story is None or failed:  # what failed is told with the services
        return
    for item in ollama.story.causes:
        cause = item.found.cause
        if cause is not None and cause.id not in _ON_CPU and not item.earlier:
            yield warn(
                f"its log: {cause.cause}",
                evidence=without_secrets(item.found.excerpt),
                affects=[_ENGINE],
                remedy=remedy_of(cause, evidence.machine),
                source=cause.source,
                subject=cause.id,
            )


def folder(evidence: Evidence) -> Iterable[Finding]:
    """Tell folders of models that the service's user cannot read or reach."""
    for store in seen(evidence.ollama).stores:
        if store.closed:
            paths = [text.partition(" (")[0] for text in store.closed]
            ways = [path for path in paths if path != store.path]
            commands = [f"sudo chmod o+x {' '.join(ways)}"] if ways else []
            commands += [f"sudo chown -R {store.user}: {store.path}"] if store.path in paths else []
            yield fail(
                f"{store.user} cannot read the models in {store.path}",
                detail="Every folder on the way must let the service's user through; it says only `permission denied`.",
                evidence="\n".join(store.closed),
                affects=[_ENGINE],
                remedy=by_hand("let it through", *commands, root=True),
                source="ollama/ollama#2147, #2701, #10672",
                subject=store.path,
            )
        elif store.unreadable is not None:
            yield skip(f"{store.path} cannot be looked into: {store.unreadable}", subject=store.path)


def _pull(store: Store, model: str) -> str:
    """Return the command that pulls a model into this very store, where it goes on from its bytes."""
    root = "" if any(Path(store.path).is_relative_to(place) for place in _USERS) else "sudo "
    return f"{root}OLLAMA_MODELS={shlex.quote(store.path)} firstlight ollama.pull {shlex.quote(model)}"


def manifests(evidence: Evidence) -> Iterable[Finding]:
    """Tell models whose manifest does not parse."""
    for store in seen(evidence.ollama).stores:
        for bad in store.broken:
            yield warn(
                f"the manifest of {bad.model} cannot be read",
                detail="The model cannot be used, and the server no longer cleans up old files at its start.",
                evidence=f"{bad.path}: {bad.why}",
                affects=[_ENGINE],
                remedy=by_hand("remove it and pull the model again", f"sudo rm {bad.path}", _pull(store, bad.model)),
                source="Ollama server/routes.go: `corrupt manifests detected`",
                subject=bad.path,
            )


def blobs(evidence: Evidence) -> Iterable[Finding]:
    """Tell models of which files are gone, cut short, or (with --deep) of other bytes than their names say."""
    ollama = seen(evidence.ollama)
    for store in ollama.stores:
        for bad in store.missing:
            yield fail(
                f"{bad.model} is not whole: {bad.why}",
                detail="`ollama list` shows it all the same; a request answers that the model was not found.",
                evidence=bad.path,
                affects=[_ENGINE],
                remedy=by_hand("pull it again", _pull(store, bad.model)),
                subject=bad.path,
            )
        for bad in store.wrong or ():
            yield fail(
                f"a file of {bad.model} is damaged: {bad.why}",
                detail="Ollama compares the hash right after a download and never again: it answers `invalid file "
                "magic`, or nonsense.",
                evidence=bad.path,
                affects=[_ENGINE],
                remedy=by_hand("remove it and pull the model again", f"sudo rm {bad.path}", _pull(store, bad.model)),
                subject=bad.path,
            )
        yield from _whole(store)


def _whole(store: Store) -> Iterator[Finding]:
    if store.models and not store.missing and not store.wrong:
        hashed = "not hashed: --deep" if store.wrong is None else "and every hash is right"
        if store.unhashed:
            hashed = f"{store.unhashed} not hashed for want of time"
        yield ok(f"{store.models} models in {store.path}, all files there ({hashed})", subject=store.path)


def partials(evidence: Evidence) -> Iterable[Finding]:
    """Tell unfinished downloads that take up much room."""
    for store in seen(evidence.ollama).stores:
        if store.partial_bytes > _MUCH:
            yield warn(
                f"{store.partial_files} unfinished downloads take up {store.partial_bytes / 1e9:.1f} GB",
                detail="`ollama pull` goes on with them. Releases before 0.21 throw them away when the server starts.",
                evidence=f"{store.path}/blobs/sha256-…-partial",
                affects=[_ENGINE],
                remedy=by_hand("finish them, or remove them", f"rm {store.path}/blobs/*-partial*"),
                source="Ollama server/images.go; run of 0.6.2",
                subject=store.path,
            )


def unit(evidence: Evidence) -> Iterable[Finding]:
    """Tell a unit that cannot start it, or that carries somebody's shell or an open address in it."""
    ollama = seen(evidence.ollama)
    found = ollama.unit
    if found is None:
        yield skip("Ollama does not run as a service")
        return
    if found.user is None and not found.variables.get("HOME"):
        yield fail(
            "the unit sets neither User= nor HOME: Ollama ends with `$HOME is not defined`",
            evidence=found.path,
            affects=[_ENGINE],
            remedy=by_hand(
                "add the lines [Service] and Environment=HOME=/usr/share/ollama",
                "sudo systemctl edit ollama",
                root=True,
            ),
            source="run of Ollama 0.6.2 without HOME; systemd.exec(5): HOME is set where User= is",
            subject="HOME",
        )
    frozen = [part for part in found.variables.get("PATH", "").split(":") if any(word in part for word in _FROZEN)]
    if frozen or "$PATH" in found.variables.get("PATH", ""):
        yield warn(
            f"the unit's PATH is {'that of a shell' if frozen else 'the text $PATH'}",
            detail="The installer writes the PATH of the shell that ran it into the unit: libraries of a conda "
            "environment may come before the driver's. systemd does not expand $PATH.",
            evidence=f"{found.path}: PATH={found.variables['PATH']}",
            affects=[_ENGINE],
            remedy=by_hand(
                "add the lines [Service] and Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
                "sudo systemctl edit ollama",
                root=True,
            ),
            source="Ollama scripts/install.sh; systemd.exec(5)",
            subject="PATH",
        )
    yield from _open_host(evidence, found.path, found.variables.get("OLLAMA_HOST", ""))


def _open_host(evidence: Evidence, path: str, host: str) -> Iterator[Finding]:
    bare = host.rpartition("://")[2].rstrip("/")
    told = any(server.engine == _ENGINE for server in evidence.services.open) if evidence.services else False
    if not told and any(bare == name or bare.startswith(f"{name.rstrip(':')}:") for name in _OPEN_HOSTS):
        yield warn(
            "the unit opens Ollama to the network, and Ollama asks nobody for a key",
            detail="Whoever reaches the port can chat, fetch and delete models.",
            evidence=f"{path}: OLLAMA_HOST={host}",
            affects=[_ENGINE],
            remedy=by_hand(
                "let it listen here alone: the lines [Service] and Environment=OLLAMA_HOST=127.0.0.1:11434",
                "sudo systemctl edit ollama",
                root=True,
            ),
            source="Ollama docs/api/authentication.mdx",
            subject="OLLAMA_HOST",
        )


def _check(name: str, title: str, look: Callable[[Evidence], Iterable[Finding]], source: str | None = None) -> Check:
    """Return a check of Ollama, which is skipped where there is nothing of it."""

    def guarded(evidence: Evidence) -> Iterable[Finding]:
        ollama = seen(evidence.ollama)
        here = ollama.copies or ollama.unit or ollama.server or any(store.there for store in ollama.stores)
        return look(evidence) if here else [skip(_NOT_HERE)]

    return Check(id=name, group="engines", title=title, look=guarded, needs=("ollama",), source=source)


CHECKS: tuple[Check, ...] = (
    _check("ollama-copies", "there is one Ollama", copies, "ollama/ollama#13844, #10798"),
    _check("ollama-libraries", "Ollama's libraries are beside it, and of one release", libraries),
    _check("ollama-gpu", "Ollama uses the GPU", on_gpu, "Ollama's log; /api/ps, size_vram"),
    _check("ollama-log", "Ollama's log complains of nothing that is known", log),
    _check("ollama-models-folder", "Ollama's user can read its models", folder),
    _check("ollama-manifests", "Ollama's manifests can be read", manifests),
    _check("ollama-blobs", "every file of Ollama's models is there", blobs, "run of Ollama 0.6.2 with broken stores"),
    _check("ollama-partials", "no unfinished download takes up much room", partials),
    _check("ollama-unit", "Ollama's unit sets what it needs", unit),
)
