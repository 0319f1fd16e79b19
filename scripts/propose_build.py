"""Proposes the catalogue's entry of a new release, from its registry's metadata and a few megabytes of its wheel.

    .venv/bin/python scripts/propose_build.py vllm 0.33.0 [--arch aarch64] [--deep] [--check]
    .venv/bin/python scripts/propose_build.py vllm 0.33.0 --asset https://…/vllm-0.33.0+cu129-….whl
    .venv/bin/python scripts/propose_build.py ollama 0.36.0 --sums https://…/v0.36.0/sha256sum.txt

Prints the entry with a source for each figure that was read, where it differs from the entry that it is like, and what
a person must still decide. docs/catalogue.md tells what to do with it.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from packaging.version import Version
from proposing.archives import Files, patch, read_sums
from proposing.entries import Proposal, changed_requirements, compiled, with_sizes, without_cuda
from proposing.reading import Reading, read_asset, read_release
from proposing.registry import Registry, offer_of
from proposing.resolving import Places, resolve
from proposing.torches import PYTHONS, torch_for
from proposing.web import Web
from proposing.writing import differences, entry_of, torch_entry_of

from firstlight.catalogue.checking_builds import build_faults
from firstlight.catalogue.completing import completed
from firstlight.catalogue.loading import load_cuda, load_mirrors, load_torch, parse_toml, read_toml
from firstlight.catalogue.releases import ReleasesPage
from firstlight.catalogue.types import Build, EngineEntry, TorchLine
from firstlight.environments.pipconfig import PipSettings, read_pip_settings
from firstlight.errors import FirstlightError, UsageError
from firstlight.resources import data_folder


def words(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description="Proposes the catalogue's entry of a new release of an engine.")
    parser.add_argument("engine", help="the engine's page: vllm, lmdeploy, transformers, ollama")
    parser.add_argument("release", help="the release, for instance 0.33.0")
    parser.add_argument("--arch", default="x86_64", choices=["x86_64", "aarch64"])
    parser.add_argument("--distribution", metavar="NAME", help="the distribution's name, where it is not the engine's")
    parser.add_argument("--index", metavar="URL", help="the package index, instead of pip's own")
    parser.add_argument("--asset", metavar="URL", help="the address of a wheel that no index has")
    parser.add_argument("--sums", metavar="URL|FILE", help="the sha256sum.txt of a release that is archives")
    parser.add_argument("--deep", action="store_true", help="read the whole wheel: GPU architectures, hash")
    parser.add_argument("--check", action="store_true", help="resolve the entry's requirements, and sum up their sizes")
    parser.add_argument("--catalogue", metavar="FOLDER", type=Path, help="another envs/ to compare with")
    return parser.parse_args(arguments)


class Program:
    """One run: what was asked, and what it is held against."""

    def __init__(self, asked: argparse.Namespace) -> None:
        self.asked = asked
        self.folder: Path = asked.catalogue or data_folder("envs")
        self.settings: PipSettings = read_pip_settings()
        self.web = Web(self.settings)
        mirrors = load_mirrors(self.folder)
        self.torch_index = mirrors.torch.canonical
        own = [self.settings.index_url or mirrors.pypi.canonical, *self.settings.extra_index_urls]
        self.registry = Registry(self.web, [asked.index] if asked.index else own)
        path = self.folder / asked.engine / "builds.toml"
        self.page = read_toml(path, EngineEntry) if path.is_file() else None
        self.readings: list[Reading] = []

    def proposals(self) -> list[Proposal]:
        """Return the entries that are proposed."""
        asked = self.asked
        reading = self._read(asked.release)
        self.readings.append(reading)
        if not any(library.linked.cuda_major() for library in reading.libraries):
            return without_cuda(self._page(), asked.release, reading)
        needs = reading.metadata.needs("torch", asked.arch, PYTHONS[0])
        if needs is None:
            raise FirstlightError(f"{reading.offer.name} asks for no torch", why="its metadata has no such requirement")
        cuda = reading.cuda[0] if reading.cuda else reading.cuda_major[0] if reading.cuda_major else None
        local = reading.offer.version.local
        torch = torch_for(self.registry, load_torch(self.folder), needs, asked.arch, cuda, local)
        return [compiled(self.page, asked.engine, asked.release, reading, torch)]

    def patched(self) -> Iterator[str]:
        """Yield the lines that are printed for a release that is archives."""
        asked, page = self.asked, self._page()
        if not asked.sums:
            needed = "--sums URL of the release's sha256sum.txt"
            raise UsageError(f"{asked.engine} comes in archives: their sums are needed", fix=needed)
        sums = read_sums(self.web, asked.sums)
        sizes = self._sizes(asked.sums, {asset.name for build in page.build for asset in build.assets} & set(sums))
        folder = self.folder / asked.engine
        known = folder / "releases.toml"
        listed = read_toml(known, ReleasesPage) if known.is_file() else ReleasesPage(sources={})
        proposed = patch(page, folder, asked.release, Files(sums, sizes), listed)
        yield proposed.text
        after = parse_toml(folder / "builds.toml", proposed.builds, EngineEntry)
        new = [build for build in after.build if build.release == asked.release]
        rules = [f"the catalogue's rules: {build.id}, {text}" for build in new for text in self.faults(after, build)]
        yield from comments([*proposed.decide, *rules])

    def _sizes(self, sums: str, names: AbstractSet[str]) -> dict[str, int]:
        """Return the bytes of a release's files, which lie beside the list of their sums; none for a list in a file."""
        found = {}
        for name in sorted(names) if "://" in sums else ():
            with contextlib.suppress(FirstlightError):
                found[name] = self.web.total(f"{sums.rpartition('/')[0]}/{name}")
        return found

    def _page(self) -> EngineEntry:
        if self.page is None:
            raise UsageError(f"there is no page of {self.asked.engine} in {self.folder}", fix="see docs/catalogue.md")
        return self.page

    def _read(self, release: str) -> Reading:
        asked = self.asked
        if asked.asset is None:
            return read_release(self.registry, self._distribution(), release, asked.arch, deep=asked.deep)
        offer = offer_of(asked.asset)
        if offer is None or Version(offer.version.public) != Version(release):
            raise UsageError(f"{asked.asset} is no wheel of {release} for Linux", fix="look at the address")
        return read_asset(self.registry, offer, asked.arch, deep=asked.deep)

    def _distribution(self) -> str:
        return str(self.asked.distribution or self.asked.engine)

    def checked(self, proposal: Proposal) -> Proposal:
        """Return the proposal after a resolution of its requirements."""
        try:
            whole = completed(proposal.build, load_cuda(self.folder), self._torches(proposal.torch))
            places = Places(self.web, self.asked.index, self.torch_index, self.settings)
            found = resolve(proposal.build, whole.libc, places)
        except (ValueError, FirstlightError) as error:
            why = " ".join((error.why or "").split()) if isinstance(error, FirstlightError) else ""
            return proposal._replace(decide=(*proposal.decide, f"--check: {error}: {why}"))
        sized = with_sizes(proposal, found.download, len(found.packages), proposal.build.pythons[0])
        return sized._replace(decide=(*sized.decide, *found.remarks(proposal.build)))

    def changes(self, like_release: str) -> list[str]:
        """Return in what the release's requirements differ from those of the one before; none where that is gone."""
        try:
            offers = self.registry.offers(self._distribution())
            before = next(one for one in offers if one.version == Version(like_release))
            return changed_requirements(self.registry.metadata(before), self.readings[0].metadata)
        except (FirstlightError, StopIteration):
            return []

    def faults(self, page: EngineEntry, build: Build, torch: TorchLine | None = None) -> list[str]:
        """Return what the catalogue's own rules say of an entry."""
        try:
            whole = completed(build, load_cuda(self.folder), self._torches(torch))
        except ValueError as error:
            return [str(error)]
        return [what for _keys, what in build_faults(page, build, whole)]

    def _torches(self, new: TorchLine | None) -> list[TorchLine]:
        return [*load_torch(self.folder), *([new] if new is not None else [])]


def told(program: Program, proposal: Proposal) -> Iterator[str]:
    """Yield the lines that are printed for a proposal: TOML, and comments for people."""
    if proposal.torch is not None:
        yield "# for envs/torch.toml"
        yield torch_entry_of(proposal.torch)
    yield f"# for envs/{program.asked.engine}/builds.toml"
    like = proposal.like if proposal.like is not None and proposal.like.id != proposal.build.id else None
    yield entry_of(proposal.build, like)
    page = program.page.build if program.page is not None else []
    existing = next((build for build in page if build.id == proposal.build.id), None)
    if existing is not None:
        found = differences(proposal.build, existing)
        same = "; it says otherwise:" if found else ", with these figures."
        yield f"# The catalogue has {existing.id} already{same}"
        yield from (f"#   {text}" for text in found)
    if like is not None and program.readings:
        changed = program.changes(like.release)
        yield f"# Requirements that changed since {like.release}: {len(changed) or 'none'}"
        yield from (f"#   {text}" for text in changed)
    empty = EngineEntry(engine=program.asked.engine, rank=0, summary="", cpu="never", port=0, build=[])
    rules = program.faults(program.page or empty, proposal.build, proposal.torch)
    yield from comments([*proposal.decide, *(f"the catalogue's rules: {text}" for text in rules)])


def comments(decide: Sequence[str]) -> Iterator[str]:
    """Yield the lines that say what is left to a person."""
    yield "# To decide or to add:" if decide else "# Nothing is left to decide."
    yield from (f"#   * {text}" for text in decide)
    yield ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the proposals; returns the exit code."""
    began = time.monotonic()
    try:
        program = Program(words(arguments))
        if program.asked.sums or (program.page is not None and program.page.kind == "archive"):
            print("\n".join(program.patched()))
        else:
            for proposal in program.proposals():
                print("\n".join(told(program, program.checked(proposal) if program.asked.check else proposal)))
    except FirstlightError as error:
        for text in (error.what, error.why, f"try: {error.fix}" if error.fix else None):
            if text:
                print(text, file=sys.stderr)
        return error.code
    size = sum(reading.size for reading in program.readings)
    of = f" of a wheel of {size / 1e6:.0f} MB" if size else ""
    read = f"{program.web.transferred / 1e6:.1f} MB read{of}, {program.web.requests} requests"
    print(f"# {read}, {time.monotonic() - began:.1f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
