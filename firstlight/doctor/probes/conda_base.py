"""The base environment of conda: what was installed into it, who may write it, and whether shells know of it."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from firstlight.doctor.looking import Look
from firstlight.doctor.probes.environments import installed
from firstlight.machine.conda import known_roots
from firstlight.machine.mounts import parse_mountinfo
from firstlight.machine.system import System, exists, is_file, printable

_HEAVY = frozenset({"torch", "torchvision", "torchaudio", "triton", "xformers", "flash-attn", "tensorflow"})
"""What pulls gigabytes of libraries behind it, and disagrees with every second engine about its release."""
_RC_FILES = (".bashrc", ".bash_profile", ".profile", ".zshrc", ".config/fish/config.fish")
_INIT = re.compile(r"conda initialize|etc/profile\.d/conda\.sh|\bconda(?:\.exe)?['\"]? ['\"]?shell\.|mamba shell hook")
_KEPT = (
    "/root/autodl-tmp",
    "/root/autodl-fs",
    "/mnt/workspace",
    "/workspace",
    "/openbayes/home",
    "/kaggle/working",
    "/notebooks",
)
"""Where rented instances mount the disk that outlives them (their own documentation)."""


class CondaBase(msgspec.Struct, frozen=True, kw_only=True):
    """A conda installation as far as it concerns people who did not mean to use it."""

    root: str | None = None
    """The base prefix; None: there is no conda."""
    polluted: tuple[str, ...] = ()
    """Engines and heavy libraries that pip or uv put into it, with their versions."""
    python: str | None = None
    writable: bool = True
    owner: str | None = None
    active: bool = False
    """Whether base is activated in this shell."""
    by_itself: bool = False
    """Whether every new shell activates it."""
    known: bool = False
    """Whether this shell finds conda."""
    init_files: tuple[str, ...] = ()
    """The shell's files that set conda up."""
    shell: str = "bash"
    kept: tuple[str, ...] = ()
    """Mounts of this machine that outlive it, where the rest does not."""


def read(look: Look) -> CondaBase:
    """Return the base environment of the first conda here."""
    system = look.system
    root = next(iter(known_roots(system)), None)
    if root is None:
        return CondaBase()
    files = tuple(printable(path) for path in _init_files(system))
    return CondaBase(
        root=printable(root),
        polluted=tuple(_polluted(root, {*_HEAVY, *look.catalogue.engines})),
        python=_python(root),
        writable=os.access(root / "conda-meta", os.W_OK),
        owner=_owner(root),
        active=_active(system, root),
        by_itself=bool(files) and _activates(system, root),
        known=bool(system.environment.get("CONDA_EXE")) or system.which("conda") is not None,
        init_files=files,
        shell=Path(system.environment.get("SHELL") or "bash").name,
        kept=tuple(_kept(system)),
    )


def _polluted(root: Path, wanted: set[str]) -> Iterator[str]:
    for packages in sorted(root.glob("lib/python3.*/site-packages")):
        for name, version in installed(packages).items():
            if name in wanted and _by_pip(packages, name):
                yield f"{name} {version}"


def _by_pip(packages: Path, name: str) -> bool:
    """Tell whether pip or uv installed a distribution; conda writes `conda`."""
    spelled = name.replace("-", "[-_]")
    for metadata in packages.glob(f"{spelled}-*.dist-info/INSTALLER"):
        try:
            return metadata.read_text(errors="replace").strip() != "conda"
        except OSError:
            return False
    return False


def _python(root: Path) -> str | None:
    found = sorted(path.parent.name.removeprefix("python") for path in root.glob("lib/python3.*/site-packages"))
    return found[-1] if found else None


def _owner(root: Path) -> str | None:
    try:
        uid = root.stat().st_uid
    except OSError:
        return None
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _active(system: System, root: Path) -> bool:
    prefix = system.environment.get("CONDA_PREFIX")
    return bool(prefix) and Path(str(prefix)) == root


def _activates(system: System, root: Path) -> bool:
    """Tell whether conda's settings let new shells activate base, which is what they do by default."""
    folders = [root, *([system.home] if system.home is not None else [])]
    for folder in reversed(folders):
        found = re.search(r"^\s*auto_activate(?:_base)?\s*:\s*(\w+)", _text(folder / ".condarc"), re.MULTILINE)
        if found:
            return found[1].lower() not in {"false", "no", "off"}
    return True


def _init_files(system: System) -> list[Path]:
    if system.home is None:
        return []
    files = [system.home / name for name in _RC_FILES]
    return [file for file in files if is_file(file) and _INIT.search(_text(file))]


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.read(1 << 20)
    except OSError:
        return ""


def _kept(system: System) -> list[str]:
    table = system.bytes_of("/proc/self/mountinfo") or b""
    mounts = {mount.point for mount in parse_mountinfo(table)}
    return [path for path in _KEPT if path in mounts and exists(system.path(path))]
