"""Which torch goes with a release: what its metadata asks for, held against torch.toml and the index."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from proposing.reading import offers_python
from proposing.registry import Metadata, Offer, Registry, applies, newest_fitting

from firstlight.catalogue.types import TorchLine
from firstlight.errors import FirstlightError

_RUNTIME = re.compile(r"nvidia-cuda-runtime(?:-cu\d+)?|cuda-toolkit")
_TRIED = 6  # releases of torch whose metadata is looked at, newest first
PYTHONS = ("3.12", "3.11", "3.13", "3.10")
"""Minor versions that firstlight runs engines on, best first."""


class Torch(NamedTuple):
    """The torch that is proposed, its line for torch.toml, and whether the catalogue has that line already."""

    line: TorchLine
    known: bool
    remarks: tuple[str, ...]


def torch_for(
    registry: Registry, lines: Sequence[TorchLine], asked: Requirement, arch: str, cuda: str | None, local: str | None
) -> Torch:
    """Return the torch for an engine that was made with `cuda`.

    Args:
        registry: the index.
        lines: the catalogue's builds of torch.
        asked: what the engine's metadata asks for.
        arch: of the engine's wheel.
        cuda: of the engine, None where it is unknown.
        local: the local version of the engine's wheel (`cu129`): its torch comes from the index of that name.

    Raises:
        FirstlightError: no torch that the metadata allows was made with this generation of CUDA.
    """
    offers = registry.offers("torch")
    newest = newest_fitting(offers, asked, arch)
    line = _from_catalogue(lines, asked, arch, cuda, local)
    if line is not None:
        newer = [str(version) for version in newest if version > Version(line.release)]
        remark = f"its metadata also allows torch {', '.join(newer)}, of which torch.toml has no line that fits"
        return Torch(line, True, (remark,) if newer else ())
    seen = []
    for version in newest[:_TRIED]:
        wheels = [one for one in offers if one.version == version and arch in one.tags.platforms]
        made_with = _cuda_of(registry.metadata(wheels[0]), arch)
        if local or cuda is None or made_with is None or _major(made_with) == _major(cuda):
            line = _line(version, wheels, arch, cuda if local else made_with, local)
            return Torch(line, False, _open_questions(line, made_with))
        seen.append(f"{version} (CUDA {made_with})")
    raise FirstlightError(
        f"no torch that {asked} allows was made with CUDA {_major(cuda)}",
        why=f"looked at: {', '.join(seen) or 'none in the index'}",
        fix="the engine needs a torch from PyTorch's own index: write the entry by hand, after docs/catalogue.md",
    )


def _from_catalogue(
    lines: Sequence[TorchLine], asked: Requirement, arch: str, cuda: str | None, local: str | None
) -> TorchLine | None:
    """Return the newest known torch that fits: the registry's own build, else that of PyTorch's index for this CUDA."""
    locals_ = [local] if local else [None, f"cu{cuda.replace('.', '')}" if cuda else None]
    fitting = [
        line
        for line in lines
        if (line.arch, line.cuda is None) == (arch, False)
        and line.local in locals_
        and asked.specifier.contains(line.release)
        and (cuda is None or _major(line.cuda) == _major(cuda))
    ]
    return max(fitting, key=lambda line: (line.local is None, Version(line.release)), default=None)


def _major(cuda: str | None) -> str:
    return (cuda or "").partition(".")[0]


def _cuda_of(metadata: Metadata, arch: str) -> str | None:
    """Return the CUDA that torch's metadata pins: `nvidia-cuda-runtime-cu12==12.8.90`, `cuda-toolkit==13.0.3`."""
    for requirement in metadata.requirements:
        pinned = re.match(r"==(\d+\.\d+)", str(requirement.specifier))
        named = _RUNTIME.fullmatch(canonicalize_name(requirement.name))
        if named and pinned and applies(requirement, arch, PYTHONS[0]):
            return pinned[1]
    return None


def _line(version: Version, wheels: Sequence[Offer], arch: str, cuda: str | None, local: str | None) -> TorchLine:
    floor = wheels[0].tags.platforms[arch] or ""
    pythons = [python for python in PYTHONS if any(offers_python(wheel, python) for wheel in wheels)]
    of_cuda = f"PyPI: its metadata asks for CUDA {cuda}" if not local else "its local version"
    return TorchLine(
        release=str(version),
        arch=arch,
        cuda=cuda,
        local=local,
        libc=floor,
        pythons=pythons,
        sources={
            "cuda": of_cuda,
            "libc": f"wheel tag {wheels[0].name.rpartition('-')[2].removesuffix('.whl')}",
            "pythons": "wheels of the index",
        },
    )


def _open_questions(line: TorchLine, made_with: str | None) -> tuple[str, ...]:
    name = f"torch {line.release}{f'+{line.local}' if line.local else ''} for {line.arch}"
    lists = "PyTorch's build list of that release, or torch.cuda.get_arch_list() of the wheel itself"
    remarks = [f"torch.toml has no {name}: its line stands above", f"capabilities of {name}: {lists}"]
    if made_with is None and line.cuda is None:
        remarks.append(f"the CUDA of {name}: its metadata names none")
    if line.local:
        remarks.append(f"whether PyTorch's index {line.local} has {name}, and with which torchvision (companions)")
    return tuple(remarks)
