"""Holds the whole catalogue against what must be true of it: the tests do so, and `lock.check`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from firstlight.catalogue.archives import ArchivesPage, archive_faults
from firstlight.catalogue.checking_builds import build_faults
from firstlight.catalogue.completing import completed
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
from firstlight.catalogue.loading import CatalogueError, CudaPage, TorchPage, parse_toml, read_text
from firstlight.catalogue.locating import Lines
from firstlight.catalogue.releases import ReleasesPage, covers
from firstlight.catalogue.types import Build, Cause, CudaLine, EngineEntry, Mirrors, Platforms, TorchLine
from firstlight.resources import data_folder

_T = TypeVar("_T")
_SHARED = ("cuda", "torch", "platforms", "mirrors")


class Defect(msgspec.Struct, frozen=True):
    """Something in the catalogue that is not as it must be; `line` is None where it is about a whole file."""

    file: Path
    line: int | None
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line or 1}: {self.what}"


class _CausesPage(msgspec.Struct, frozen=True):
    """The part of a causes.toml that is data of the catalogue; `serving` reads all of it."""

    signs: list[str] = []
    starts: list[str] = []
    cause: list[Cause] = []


class _File:
    """One file of the catalogue while it is looked at: its lines, and what is wrong with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.defects: list[Defect] = []
        self._lines: Lines | None = None

    def read(self, kind: type[_T]) -> _T | None:
        """Return the file's value, None where it cannot be read, which is a defect then."""
        try:
            text = read_text(self.path)
            value = parse_toml(self.path, text, kind)
        except CatalogueError as error:
            self.defects.append(Defect(self.path, error.line, error.why or error.what))
            return None
        self._lines = Lines(text)
        return value

    def tell(self, faults: Iterator[Fault], *above: str | int) -> None:
        """Take note of faults whose keys stand under the path `above`."""
        for keys, what in faults:
            line = self._lines.of(*above, *keys) if self._lines is not None else None
            self.defects.append(Defect(self.path, line, what))


def check_catalogue(folder: Path | None = None) -> list[Defect]:
    """Return everything that is wrong in the catalogue under `folder` (firstlight's own by default), file by file."""
    root = folder or data_folder("envs")
    cuda, torch, platforms, mirrors = shared = [_File(root / f"{name}.toml") for name in _SHARED]
    cuda_page, torch_page = cuda.read(CudaPage), torch.read(TorchPage)
    lines = cuda_page.line if cuda_page is not None else []
    torches = torch_page.build if torch_page is not None else []
    cuda.tell(_cuda_faults(lines), "line")
    torch.tell(_torch_faults(torches, lines), "build")
    platforms.tell(_platform_faults(platforms.read(Platforms)))
    mirrors.tell(_mirror_faults(mirrors.read(Mirrors)))
    pages = [_File(path) for path in sorted(root.glob("*/builds.toml"))]
    entries = {page.path.parent.name: page.read(EngineEntry) for page in pages}
    for page in pages:
        entry = entries[page.path.parent.name]
        if entry is not None:
            page.tell(_page_faults(page.path, entry, {line.version: line for line in lines}, torches))
    if None not in entries.values():  # a page that cannot be read may be the one that uses them
        builds = [build for entry in entries.values() if entry is not None for build in entry.build]
        torch.tell(_unused_torches(torches, builds), "build")
        cuda.tell(_unused_lines(lines, torches, builds), "line")
    releases = [_releases(path, entries) for path in sorted(root.glob("*/releases.toml"))]
    known = {*root.glob("*/causes.toml"), *(page.path.with_name("causes.toml") for page in pages)}
    causes = [_causes(path) for path in sorted(known)]
    archives = [_archives(path) for path in sorted(root.glob("*/archives.toml"))]
    return [defect for file in (*shared, *pages, *releases, *archives, *causes) for defect in file.defects]


def _cuda_faults(lines: Sequence[CudaLine]) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for number, line in enumerate(lines):
        if seen.setdefault(line.version, number) != number:
            yield (number, "version"), f"CUDA {line.version} stands here twice"
        bad = [key for key in ("version", "driver", "native_driver") if bad_version(getattr(line, key))]
        for key in bad:
            yield (number, key), f'CUDA {line.version}, {key}: "{getattr(line, key)}" is no version'
        if not bad and numbers(line.native_driver) < numbers(line.driver):
            yield (number, "native_driver"), f"CUDA {line.version}: the driver made for it is older than the lowest"
        for keys, what in unsourced(line, ("driver", "native_driver"), line.sources):
            yield (number, *keys), f"CUDA {line.version}, {what}"


def _torch_faults(torches: Sequence[TorchLine], lines: Sequence[CudaLine]) -> Iterator[Fault]:
    seen: dict[tuple[str, str | None, str], int] = {}
    versions = {line.version for line in lines}
    for number, torch in enumerate(torches):
        name = f"torch {torch.release}{f'+{torch.local}' if torch.local else ''} for {torch.arch}"
        if seen.setdefault((torch.release, torch.local, torch.arch), number) != number:
            yield (number, "release"), f"{name} stands here twice"
        for keys, what in _one_torch(torch, versions):
            yield (number, *keys), f"{name}, {what}"


def _one_torch(torch: TorchLine, versions: set[str]) -> Iterator[Fault]:
    if torch.cuda is not None and torch.cuda not in versions:
        yield ("cuda",), f"cuda: cuda.toml has no line {torch.cuda}"
    of_cuda = f"cu{torch.cuda.replace('.', '')}" if torch.cuda else "cpu"
    if torch.local not in {None, of_cuda}:
        yield ("local",), f"local: +{torch.local} is not made with {f'CUDA {torch.cuda}' if torch.cuda else 'no CUDA'}"
    if torch.local is None and torch.cuda is None and torch.arch == "x86_64":
        yield ("cuda",), "cuda: the registry's own build has one on x86_64"
    if torch.cuda is not None and not torch.capabilities:
        yield ("capabilities",), "capabilities: a CUDA build must say which GPUs it holds code for"
    if bad_version(torch.libc):
        yield ("libc",), f'libc: "{torch.libc}" is no version'
    yield from bad_capabilities(torch.capabilities, torch.ptx)
    yield from bad_pythons(torch.pythons)
    if not torch.pythons:
        yield ("pythons",), "pythons: there is none"
    stated = ("cuda", "capabilities", "ptx", "libc", "pythons", "companions")
    yield from unsourced(torch, stated, torch.sources)


def _platform_faults(platforms: Platforms | None) -> Iterator[Fault]:
    if platforms is None:
        return
    for keys, what in bad_capabilities(platforms.tegra, None):
        yield ("tegra", *keys[1:]), f"tegra: {what}"
    yield from unsourced(platforms, ("tegra",), platforms.sources)
    for number, jetpack in enumerate(platforms.jetpack):
        for keys, what in unsourced(jetpack, ("release",), jetpack.sources):
            yield ("jetpack", number, *keys), f"JetPack {jetpack.release}, {what}"
    for number, kernel in enumerate(platforms.kernel):
        for keys, what in unsourced(kernel, ("kernel",), kernel.sources):
            yield ("kernel", number, *keys), f"driver {kernel.driver}, {what}"


def _mirror_faults(mirrors: Mirrors | None) -> Iterator[Fault]:
    for kind in mirrors.__struct_fields__ if mirrors is not None else ():
        group = getattr(mirrors, kind)
        places: list[tuple[tuple[str | int, ...], str]] = [((kind, "canonical"), group.canonical)]
        places += [((kind, "mirrors", number), url) for number, url in enumerate(group.mirrors)]
        counted = Counter(group.all)
        for keys, url in places:
            if not url.startswith("https://"):
                yield keys, f"{url}: a mirror's address must begin with https://"
            if url.endswith("/"):
                yield keys, f"{url}: a mirror's address must not end in a slash"
            if counted[url] > 1 and keys[-1] != "canonical":
                yield keys, f"{url} stands here twice"
        for number, url in enumerate(group.flat):
            if url not in group.mirrors:
                yield (kind, "flat", number), f"{url} is not among the mirrors"


def _page_faults(
    path: Path, page: EngineEntry, lines: Mapping[str, CudaLine], torches: Sequence[TorchLine]
) -> Iterator[Fault]:
    if page.engine != path.parent.name:
        yield ("engine",), f"it stands in the folder of {path.parent.name} and is the page of {page.engine}"
    if not page.build:
        yield ("build",), "build: there is none"
    for key in page.sources:
        if key not in {*Build.__struct_fields__, *EngineEntry.__struct_fields__}:
            yield ("sources", key), f"sources: `{key}` is no key of a page or of an entry"
    if page.kind == "wheels" and page.examination is None:
        yield (), "an engine of wheels must say what is examined after an install: [examination]"
    for number, build in enumerate(page.build):
        whole = None
        try:
            whole = completed(build, lines, torches)
        except ValueError as error:
            yield ("build", number), f"{build.id}: {error}"
        for keys, what in build_faults(page, build, whole):
            yield ("build", number, *keys), f"{build.id}, {what}"


def _unused_torches(torches: Sequence[TorchLine], builds: Sequence[Build]) -> Iterator[Fault]:
    used = {(build.torch, build.torch_local, build.arch) for build in builds}
    for number, torch in enumerate(torches):
        if (torch.release, torch.local, torch.arch) not in used:
            local = f"+{torch.local}" if torch.local else ""
            yield (number,), f"no build uses torch {torch.release}{local} for {torch.arch}"


def _unused_lines(lines: Sequence[CudaLine], torches: Sequence[TorchLine], builds: Sequence[Build]) -> Iterator[Fault]:
    used = {build.cuda for build in builds} | {torch.cuda for torch in torches}
    for number, line in enumerate(lines):
        if line.version not in used:
            yield (number,), f"no build and no torch uses CUDA {line.version}"


def _archives(path: Path) -> _File:
    file = _File(path)
    page = file.read(ArchivesPage)
    if page is not None:
        file.tell(archive_faults(page))
    return file


def _releases(path: Path, entries: Mapping[str, EngineEntry | None]) -> _File:
    file = _File(path)
    page, entry = file.read(ReleasesPage), entries.get(path.parent.name)
    if page is not None:
        file.tell(_release_faults(page), "release")
        file.tell(_cover_faults(page, entry.build if entry is not None else []), "release")
    return file


def _release_faults(page: ReleasesPage) -> Iterator[Fault]:
    seen: dict[str, int] = {}
    for number, release in enumerate(page.release):
        if seen.setdefault(release.version, number) != number:
            yield (number, "version"), f"release {release.version} stands here twice"
        for source in release.seen or [""]:
            if not page.sources.get(source, "").strip():
                yield (number, "seen"), f'release {release.version}, seen: "{source}" is none of the sources above'
        for at, asset in enumerate(release.assets):
            if bad_sha256(asset.sha256):
                what = f"the sha256 of {asset.name} is not 64 hexadecimal digits"
                yield (number, "assets", at), f"release {release.version}, {what}"


def _cover_faults(page: ReleasesPage, builds: Sequence[Build]) -> Iterator[Fault]:
    """Yield the releases for which two entries of one kind stand: it would be in doubt which one counts."""
    own = {build.release for build in builds}
    covering = [build for build in builds if build.covers is not None and not bad_specifier(build.covers)]
    for number, release in enumerate(page.release):
        kinds = Counter(
            build.id.partition(f"-{build.release}-")[2]
            for build in covering
            if release.version not in own and covers(build, release.version)
        )
        for kind in (kind for kind, count in kinds.items() if count > 1):
            yield (number, "version"), f"release {release.version} is covered by several entries for {kind}"


def _causes(path: Path) -> _File:
    file = _File(path)
    page = file.read(_CausesPage)
    if page is not None:
        file.tell(_cause_faults(page))
    return file


def _cause_faults(page: _CausesPage) -> Iterator[Fault]:
    patterns = [(("cause", number, "pattern"), cause.pattern) for number, cause in enumerate(page.cause)]
    patterns += [(("signs", number, ""), pattern) for number, pattern in enumerate(page.signs)]
    patterns += [(("starts", number, ""), pattern) for number, pattern in enumerate(page.starts)]
    for keys, pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            yield keys, f"{pattern} is no regular expression: {error}"
    if not page.cause:
        yield (), "there is no cause in it"
    for number, cause in enumerate(page.cause):
        for key in ("pattern", "cause", "fix", "source"):
            if not getattr(cause, key).strip():
                yield ("cause", number, key), f"{cause.id}: its {key} is empty"
