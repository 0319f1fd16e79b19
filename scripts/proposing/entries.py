"""Makes the entries that are proposed for a release, from what was read of it and from the entries of the last one."""

from __future__ import annotations

import datetime as dt
import re
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from proposing.reading import Reading
from proposing.registry import Metadata
from proposing.torches import PYTHONS, Torch

from firstlight.catalogue.types import Build, EngineEntry, Sizes, TorchLine, Wheel
from firstlight.planning.versions import numbers

_DISK = 1.85  # bytes on the disk for each downloaded, measured at vLLM 0.7.3 (6.8 GB for 3.68 GB)


class Proposal(NamedTuple):
    """An entry that is proposed, the one that it is like, and what a person must still decide."""

    build: Build
    like: Build | None
    torch: TorchLine | None
    """A line that torch.toml lacks."""
    decide: tuple[str, ...]


def today() -> str:
    """Return the date, as sources have it."""
    return dt.datetime.now(dt.timezone.utc).date().isoformat()


def compiled(page: EngineEntry | None, engine: str, release: str, reading: Reading, torch: Torch) -> Proposal:
    """Return the entry of a release whose wheel holds code for GPUs."""
    cuda, decide = _cuda(reading, torch.line)
    suffix = "" if reading.arch == "x86_64" else f"-{reading.arch}"
    build_id = f"{engine}-{release}-cu{cuda.replace('.', '')}{suffix}"
    like = previous(page, release, reading.arch, cuda, torch.line.local)
    libc, libc_source = _libc(reading)
    sources = {
        "release": f"{_place(reading.offer.url)}, {today()}",
        "cuda": reading.cuda[1] if reading.cuda else f"that of its torch {torch.line.release}",
        "libc": libc_source,
        "pythons": _pythons_source(reading, torch.line),
    }
    build = Build(
        id=build_id,
        release=release,
        arch=reading.arch,
        cuda=cuda,
        torch=torch.line.release,
        torch_local=torch.line.local,
        pythons=[python for python in torch.line.pythons or PYTHONS if reading.runs_on(python)],
        libc=libc,
        requirements=_requirements(like, engine, reading),
        sizes=like.sizes if like is not None else Sizes(download=reading.size, disk=round(reading.size * _DISK)),
        sources=sources,
    )
    build = _with_code(build, reading, like, decide)
    build = _with_wheel(build, reading, decide)
    build = _with_inherited(build, like, decide)
    decide += torch.remarks
    return Proposal(build, like, None if torch.known else torch.line, tuple(decide))


def _cuda(reading: Reading, torch: TorchLine) -> tuple[str, list[str]]:
    linked = reading.cuda_major
    if reading.cuda is not None:
        made_with = reading.cuda[0]
        if torch.cuda is not None and torch.cuda != made_with:
            return made_with, [f"whether CUDA {made_with} of the engine goes with CUDA {torch.cuda} of its torch"]
        return made_with, []
    known = f"libcudart.so.{linked[0]}" if linked else "no CUDA runtime at all"
    return torch.cuda or "?", [
        f"cuda: its libraries are linked with {known} and name no compiler; {torch.cuda} is its torch's: look it up"
    ]


def _libc(reading: Reading) -> tuple[str | None, str]:
    tag, symbols = reading.tag_floor, reading.symbol_floor
    told = f"wheel tag {reading.offer.name.removesuffix('.whl').rpartition('-')[2]}"
    if symbols is None:
        return tag, told
    if tag is not None and numbers(tag) >= numbers(symbols[0]):
        return tag, f"{told}; its libraries use symbols up to GLIBC_{symbols[0]}"
    return symbols[0], f"GLIBC_{symbols[0]} in {symbols[1]}; {told} asks for less"


def _place(url: str) -> str:
    host = urlsplit(url).hostname or "a folder"
    return {"files.pythonhosted.org": "PyPI", "pypi.org": "PyPI"}.get(host, host)


def _pythons_source(reading: Reading, torch: TorchLine) -> str:
    asked = reading.metadata.requires_python or reading.offer.requires_python
    words = [f"Requires-Python {asked} of the wheel"] if asked else ["no Requires-Python"]
    exact = sorted({python for offer in reading.all_offers for python in offer.tags.pythons}, key=numbers)
    words += [f"wheels for {', '.join(exact)}"] if exact else []
    return f"{', '.join(words)}; wheels of torch {torch.release}{f'+{torch.local}' if torch.local else ''}"


def _requirements(like: Build | None, engine: str, reading: Reading) -> list[str]:
    """Return the requirements of the entry before with the new release; a wheel at an address is none of them."""
    own = f"{canonicalize_name(reading.offer.name.partition('-')[0])}=={reading.offer.version.public}"
    others = [text for text in like.requirements if not _names(text, engine)] if like is not None else []
    return others if reading.offer.version.local is not None else [own, *others]


def _names(requirement: str, engine: str) -> bool:
    return canonicalize_name(Requirement(requirement).name) in {engine, f"{engine}-cpu"}


def _with_code(build: Build, reading: Reading, like: Build | None, decide: list[str]) -> Build:
    held, ptx, words = reading.capabilities()
    if held:
        decide.append("whether each of its libraries is needed on each GPU: " + "; ".join(words))
        told = f"fatbin headers of the {reading.arch} wheel, {today()}"
        return msgspec.structs.replace(
            build, capabilities=held, ptx=ptx, sources={**build.sources, "capabilities": told, **_ptx_source(ptx, told)}
        )
    same = like if like is not None and like.cuda == build.cuda else None
    from_like = f"those of {same.id}" if same is not None and same.capabilities else "unknown"
    decide.append(f"capabilities: {from_like}; --deep reads them from the wheel ({_mega(reading.size)})")
    return msgspec.structs.replace(
        build, capabilities=same.capabilities if same is not None else None, ptx=same.ptx if same is not None else None
    )


def _ptx_source(ptx: str | None, told: str) -> dict[str, str]:
    return {"ptx": told} if ptx else {}


def _with_wheel(build: Build, reading: Reading, decide: list[str]) -> Build:
    if reading.offer.version.local is None:
        return build
    if reading.sha256 is None:
        decide.append("wheel: its sha256 is unknown; --deep fetches all of it and tells")
    return msgspec.structs.replace(
        build,
        wheel=Wheel(url=reading.offer.url, sha256=reading.sha256, size=reading.size),
        sources={**build.sources, "wheel": f"{_place(reading.offer.url)}, {today()}"},
    )


def _with_inherited(build: Build, like: Build | None, decide: list[str]) -> Build:
    if like is None:
        decide.append("pins, excludes and overrides: the page has no entry like it yet")
        decide.append("sizes: those of the engine's wheel alone; --check sums up a resolution")
        return build
    taken = ("pins", "excludes", "overrides", "environment", "flags", "tolerated", "system_libraries")
    stated = [key for key in taken if getattr(like, key)]
    if stated:
        decide.append(f"{', '.join(stated)}: those of {like.id}; a real install shows whether they still hold")
    decide.append(f"sizes: those of {like.id}; --check sums up a resolution")
    build = msgspec.structs.replace(build, **{key: getattr(like, key) for key in taken})
    sources = {key: text for key, text in {**like.sources, **build.sources}.items() if getattr(build, key, True)}
    return msgspec.structs.replace(build, sources=sources)


def _mega(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def previous(page: EngineEntry | None, release: str, arch: str, cuda: str | None, local: str | None) -> Build | None:
    """Return the entry that a new one is most like: same arch, nearest CUDA and torch, then the newest before it."""
    if page is None:
        return None
    head = f"-{release}-"

    def nearness(build: Build) -> tuple[bool, bool, bool, Version]:
        same_major = (build.cuda or "").partition(".")[0] == (cuda or "").partition(".")[0]
        return build.cuda == cuda, same_major, build.torch_local == local, Version(build.release)

    fitting = [
        build
        for build in page.build
        if build.arch == arch and (build.cuda is None) == (cuda is None) and head not in build.id
    ]
    older = [build for build in fitting if Version(build.release) < Version(release)]
    return max(older or fitting, key=nearness, default=None)


def with_sizes(proposal: Proposal, download: int, packages: int, python: str) -> Proposal:
    """Return the proposal with the sizes of a resolution."""
    resolution = f"sum of the {packages} wheels of a resolution for Python {python} on {today()}"
    told = f"download: {resolution}; disk: {_DISK} times that"
    build = msgspec.structs.replace(
        proposal.build,
        sizes=Sizes(download=download, disk=int(round(download * _DISK, -7))),
        sources={**proposal.build.sources, "sizes": told},
    )
    decide = tuple(text for text in proposal.decide if not text.startswith("sizes:"))
    return proposal._replace(build=build, decide=(*decide, "sizes.disk: measure it at the real install"))


def without_cuda(page: EngineEntry, release: str, reading: Reading) -> list[Proposal]:
    """Return the entries of a release whose wheel holds no code for GPUs.

    In pure Python it is one for each entry of the release before it; a wheel for the CPU replaces the CPU's alone.
    """
    kin = [build for build in page.build if not reading.libraries or (build.cuda, build.arch) == (None, reading.arch)]
    versions = {Version(build.release) for build in kin if Version(build.release) <= Version(release)}
    older = versions - {Version(release)} or versions
    before = [build for build in kin if older and Version(build.release) == max(older)]
    return [_successor(page.engine, build, release, reading) for build in before]


def _successor(engine: str, build: Build, release: str, reading: Reading) -> Proposal:
    extras = [extra for text in build.requirements if _names(text, engine) for extra in Requirement(text).extras]
    asked = reading.metadata.needs("torch", build.arch, PYTHONS[0], extras)
    pythons = [python for python in build.pythons if reading.runs_on(python)]
    decide = []
    if asked is not None and build.torch_version and not asked.specifier.contains(build.torch_version):
        decide.append(f"{build.id} stays the newest with torch {build.torch_version}: {release} asks for {asked}")
    if not pythons:
        decide.append(f"{build.id} stays the newest for Python {', '.join(build.pythons)}")
    same = re.compile(rf"(?<===){re.escape(build.release)}(?![\w.])")
    sources = {**build.sources, "release": f"{_place(reading.offer.url)}, {today()}"}
    if pythons != build.pythons:
        sources["pythons"] = f"Requires-Python {reading.metadata.requires_python} of the wheel"
    libc = build.libc
    if reading.libraries:
        libc, sources["libc"] = _libc(reading)
    successor = msgspec.structs.replace(
        build,
        id=build.id.replace(f"-{build.release}-", f"-{release}-"),
        release=release,
        requirements=[same.sub(release, text) if _names(text, engine) else text for text in build.requirements],
        pythons=pythons,
        libc=libc,
        metadata_shims=[
            msgspec.structs.replace(shim, version=shim.version.replace(build.release, release))
            for shim in build.metadata_shims
        ],
        sources=sources,
    )
    return Proposal(successor, build, None, tuple(decide))


def changed_requirements(old: Metadata, new: Metadata) -> list[str]:
    """Return in words what a release asks for otherwise than the one before it."""
    before, after = ({str(one) for one in metadata.requirements if not _extra(one)} for metadata in (old, new))
    return [f"- {text}" for text in sorted(before - after)] + [f"+ {text}" for text in sorted(after - before)]


def _extra(requirement: Requirement) -> bool:
    return requirement.marker is not None and "extra" in str(requirement.marker)
