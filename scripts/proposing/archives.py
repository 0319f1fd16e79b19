"""Proposes a release that is archives: the new release in the place of the last one, as a patch of the page.

The last release's entries become the new release's, which then cover the last one too: true where its build files are
the same. Hashes come from the release's own list of SHA-256 sums.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from packaging.version import Version
from proposing.web import Web

from firstlight.catalogue.releases import ReleasesPage
from firstlight.catalogue.types import EngineEntry
from firstlight.errors import FirstlightError

_SUM = re.compile(r"([0-9a-f]{64})[ \t]+\*?(?:\./)?(\S+)")
_SUFFIX = re.compile(r"\.(?:tgz|tar\.gz|tar\.zst|tar\.xz|zip)$")
_FILE = re.compile(r'\{ name = "([^"]+)"(?:, sha256 = "[0-9a-f]*")?(?:, size = [0-9_]+)? \}')
_HEAD = "[[build]]"
_KEY = "sums"


class Files(NamedTuple):
    """A release's files: their SHA-256 sums, and their bytes as far as they are known."""

    sums: Mapping[str, str]
    sizes: Mapping[str, int]

    def named(self, name: str) -> str | None:
        """Return the file that stands for `name` of an older release; its compression may be another."""
        if name in self.sums:
            return name
        stem = _SUFFIX.sub("", name)
        return next((other for other in self.sums if _SUFFIX.search(other) and _SUFFIX.sub("", other) == stem), None)

    def entry(self, name: str) -> str:
        """Return the inline table of an asset."""
        size = f", size = {self.sizes[name]:_}" if name in self.sizes else ""
        return f'{{ name = "{name}", sha256 = "{self.sums[name]}"{size} }}'


class Patch(NamedTuple):
    """What is to be changed, as a unified diff, and what a person must still decide."""

    text: str
    builds: str
    """The page as it is then."""
    decide: tuple[str, ...]


def read_sums(web: Web, place: str) -> dict[str, str]:
    """Return name → SHA-256 of a list as `sha256sum` writes it, at an address or in a file.

    Raises:
        FirstlightError: there is no such line in it.
    """
    if "://" in place:
        text = web.get(place)[0].decode(errors="replace")
    else:
        try:
            text = Path(place).read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise FirstlightError(f"{place} cannot be read", why=str(error), fix="name the sha256sum.txt") from error
    sums = {match[2]: match[1] for line in text.splitlines() if (match := _SUM.fullmatch(line.strip()))}
    if not sums:
        raise FirstlightError(f"{place} holds no SHA-256 sums", why="a line is 64 hexadecimal digits and a name")
    return sums


def patch(page: EngineEntry, folder: Path, release: str, files: Files, known: ReleasesPage) -> Patch:
    """Return the patch that puts a release in the place of the newest one before it.

    Args:
        page: the engine's page.
        folder: where the page lies.
        release: the new one.
        files: of the new one.
        known: the releases that are known by name.

    Raises:
        FirstlightError: the page has no release before it.
    """
    older = sorted({Version(build.release) for build in page.build if Version(build.release) < Version(release)})
    if not older:
        raise FirstlightError(
            f"{page.engine}'s page has no release before {release} to be like",
            fix="write the first entries by hand, after docs/catalogue.md",
        )
    last = next(build.release for build in page.build if Version(build.release) == older[-1])
    before = (folder / "builds.toml").read_text(encoding="utf-8")
    decide: list[str] = []
    after = _replaced(before, page.engine, last, release, files, decide)
    texts = [("builds.toml", before, after)]
    if release not in {one.version for one in known.release}:
        listed = (folder / "releases.toml").read_text(encoding="utf-8") if known.sources else "[sources]\n"
        source = "" if _KEY in known.sources else f'{_KEY} = "the release\'s own sha256sum.txt"\n'
        entry = _release_entry(release, last, page, files)
        texts.append(("releases.toml", listed, listed.replace("[sources]\n", f"[sources]\n{source}", 1) + entry))
    figures = "CUDA, architectures, drivers"
    decide.append(
        f"whether its build files are those of {last} ({figures}): where not, the old entries stay as they are"
    )
    lines = [line for name, old, new in texts for line in _diff(f"envs/{page.engine}/{name}", old, new)]
    return Patch("".join(lines), after, tuple(decide))


def _diff(name: str, old: str, new: str) -> list[str]:
    return list(
        difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{name}", f"b/{name}")
    )


def _replaced(text: str, engine: str, last: str, release: str, files: Files, decide: list[str]) -> str:
    """Return the page with the new release in the place of the last one, in its entries alone."""
    head, *entries = text.split(_HEAD)
    used: set[str] = set()

    def renewed(match: re.Match[str]) -> str:
        name = files.named(match[1])
        if name is None:
            decide.append(f"{match[1]} is not in the list: what took its place?")
            return match[0]
        used.add(name)
        return files.entry(name)

    for number, entry in enumerate(entries):
        if f'\nid = "{engine}-{last}-' in entry:
            entries[number] = _FILE.sub(renewed, _renumbered(entry, last, release))
        else:  # an older one may be like one of these
            entries[number] = entry.replace(f'\nlike = "{engine}-{last}-', f'\nlike = "{engine}-{release}-')
    strange = sorted(name for name in set(files.sums) - used if "linux" in name)
    if strange:
        decide.append(f"files for Linux that no entry names: {', '.join(strange)}")
    decide[:] = list(dict.fromkeys(decide))
    return _HEAD.join([head, *entries])


def _renumbered(entry: str, last: str, release: str) -> str:
    """Return an entry of the new release: its id, what it is like, its release, and the range that it covers."""
    entry = re.sub(rf'^((?:id|like) = "[^"]*?-){re.escape(last)}(?=-)', rf"\g<1>{release}", entry, flags=re.MULTILINE)
    entry = re.sub(rf'^(release = "){re.escape(last)}(?=")', rf"\g<1>{release}", entry, flags=re.MULTILINE)
    return re.sub(rf'^(covers = "[^"]*<){re.escape(last)}(?=[,"])', rf"\g<1>{release}", entry, flags=re.MULTILINE)


def _release_entry(release: str, last: str, page: EngineEntry, files: Files) -> str:
    """Return the `[[release]]` of releases.toml, with the files that the page's entries name."""
    named = [asset.name for build in page.build if build.release == last for asset in build.assets]
    known = list(dict.fromkeys(name for old in named if (name := files.named(old))))
    lines = "".join(f"    {files.entry(name)},\n" for name in known)
    return f'\n[[release]]\nversion = "{release}"\nseen = ["{_KEY}"]\nassets = [\n{lines}]\n'
