"""Everything that can be read of one release of an engine: from its index, its metadata and its shared libraries."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from packaging.specifiers import SpecifierSet
from packaging.version import Version
from proposing.registry import Metadata, Offer, Registry
from proposing.wheels import Archive, Library

from firstlight.environments.fatbins import Code, capabilities
from firstlight.errors import FirstlightError
from firstlight.planning.versions import numbers

_BEST = "3.12"  # the Python whose wheel is looked at where each Python has its own


class Reading(NamedTuple):
    """What was read of a release for one arch."""

    offer: Offer
    """The wheel that was looked at."""
    all_offers: tuple[Offer, ...]
    """The wheels of the release for this arch, one per Python where it has several."""
    metadata: Metadata
    size: int
    sha256: str | None
    libraries: tuple[Library, ...]
    toolkit: str | None
    arch: str
    deep: bool

    @property
    def tag_floor(self) -> str | None:
        """The lowest glibc that the wheel's tag asks for."""
        return self.offer.tags.platforms[self.arch]

    @property
    def symbol_floor(self) -> tuple[str, str] | None:
        """The newest glibc whose symbols a library uses, and that library."""
        known = [(library.linked.glibc, library.name) for library in self.libraries if library.linked.glibc]
        return max(known, key=lambda pair: numbers(pair[0])) if known else None

    @property
    def cuda_major(self) -> tuple[str, str] | None:
        """The major version of the CUDA runtime that the libraries are linked with, and one of them."""
        known = [(library.linked.cuda_major(), library.name) for library in self.libraries]
        found = {major: name for major, name in reversed(known) if major}
        if len(found) > 1:
            raise FirstlightError(f"{self.offer.name} is linked with several CUDA runtimes: {found}")
        return next(iter(found.items()), None)

    @property
    def cuda(self) -> tuple[str, str] | None:
        """The CUDA that it was made with and how that is known; None: none, or it is not to be known."""
        local = re.fullmatch(r"cu(\d+)(\d)", self.offer.version.local or "")
        linked = self.cuda_major
        words = [f"libcudart.so.{linked[0]} in {linked[1]}"] if linked else []
        if self.toolkit:
            words.append(f"its GPU code was compiled by CUDA {self.toolkit}")
        if local:
            return f"{local[1]}.{local[2]}", "; ".join([f"its local version {local[0]}", *words])
        return (self.toolkit, "; ".join(words)) if self.toolkit else None

    def capabilities(self) -> tuple[list[str], str | None, list[str]]:
        """Return the capabilities of the main library, its PTX, and what every library holds, in words.

        The main one is the largest of those that know nearly all GPUs: some hold kernels for one or two alone.
        """
        held = [(library, *capabilities(library.code)) for library in self.libraries if library.code]
        if not held:
            return [], None, []
        most = max(len(best) for _library, best, _ptx in held)
        wide = [one for one in held if len(one[1]) * 3 >= most * 2]
        _library, best, ptx = max(wide, key=lambda one: sum(one[0].code.values()))
        return best, ptx, [_told(library.name, library.code) for library, *_figures in held]

    def runs_on(self, python: str) -> bool:
        """Tell whether a minor version of Python has a wheel and is allowed by Requires-Python."""
        asked = SpecifierSet(self.metadata.requires_python or self.offer.requires_python or "")
        if not any(asked.contains(f"{python}.{patch}") for patch in (0, 20)):
            return False
        return any(offers_python(offer, python) for offer in self.all_offers)


def _told(name: str, code: Counter[Code]) -> str:
    return f"{name}: {', '.join(f'{one} ({count})' for one, count in sorted(code.items()))}"


def offers_python(offer: Offer, python: str) -> bool:
    """Tell whether a wheel's tags admit a minor version of Python."""
    tags = offer.tags
    if tags.pythons:
        return python in tags.pythons
    return tags.oldest is None or numbers(python) >= numbers(tags.oldest)


def read_release(registry: Registry, distribution: str, release: str, arch: str, *, deep: bool) -> Reading:
    """Return what can be read of a release that an index has.

    Raises:
        FirstlightError: the index has no such wheel.
    """
    offers = registry.offers(distribution)
    fitting = [one for one in offers if one.version == Version(release) and arch in one.tags.platforms]
    if not fitting:
        newest = sorted({one.version for one in offers if arch in one.tags.platforms}, reverse=True)[:5]
        known = ", ".join(map(str, newest)) or "none for this arch"
        raise FirstlightError(
            f"the index has no wheel of {distribution} {release} for {arch}",
            why=f"the newest there: {known}",
            fix="name another release, --arch, --index, or the wheel itself with --asset URL",
        )
    best = max(fitting, key=lambda one: (offers_python(one, _BEST), one.build))
    return _read(registry, best, fitting, arch, deep=deep)


def read_asset(registry: Registry, offer: Offer, arch: str, *, deep: bool) -> Reading:
    """Return what can be read of a wheel at an address."""
    if arch not in offer.tags.platforms:
        raise FirstlightError(f"{offer.name} is not for {arch}", fix=f"--arch {next(iter(offer.tags.platforms))}")
    return _read(registry, offer, [offer], arch, deep=deep)


def _read(registry: Registry, offer: Offer, offers: Sequence[Offer], arch: str, *, deep: bool) -> Reading:
    archive = Archive(registry.web, offer.url)
    sha256 = offer.sha256
    if deep:
        came = archive.fetch()
        if sha256 not in {None, came}:
            raise FirstlightError(
                f"{offer.name} is not the file that the index promises", why=f"sha256 {came}, promised {sha256}"
            )
        sha256 = came
    libraries = tuple(archive.libraries(deep=deep))
    linked = any(library.linked.cuda_major() for library in libraries)
    metadata = registry.metadata(offer, archive)
    toolkit = archive.toolkit(deep=deep) if linked else None
    return Reading(offer, tuple(offers), metadata, archive.size, sha256, libraries, toolkit, arch, deep)
