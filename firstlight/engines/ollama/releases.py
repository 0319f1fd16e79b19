"""Releases of Ollama: names, builds, and the sums of their archives, also where the catalogue lacks them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import msgspec

from firstlight.catalogue.archives import ArchivesPage, load_archives
from firstlight.catalogue.loading import load_catalogue
from firstlight.catalogue.releases import builds_as, covers, known_releases
from firstlight.catalogue.types import Catalogue, EngineEntry
from firstlight.errors import NetworkFailed, UsageError
from firstlight.fetching.answers import asked
from firstlight.fetching.mirrors import MirrorBook, sources_for
from firstlight.fetching.transport import host_of
from firstlight.fetching.trouble import Refused
from firstlight.fetching.types import Source, Transport
from firstlight.planning.versions import release_key

ENGINE = "ollama"
NEWEST = "latest"

_VERSION = re.compile(r"v?(\d+\.\d+\.\d+(?:-?rc-?\d+)?)")
_SUM_LINE = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(?:\./)?(\S.*)")
_LARGEST_LIST = 1 << 20
"""Bytes: a list of sums has a few kB; what is larger is none."""
_PATIENCE = 10.0
"""Seconds for a list of sums."""


class KnownArchive(msgspec.Struct, frozen=True, kw_only=True):
    """An archive whose sum the catalogue has."""

    release: str
    asset: str
    sha256: str
    size: int | None = None


class Sums(msgspec.Struct, frozen=True, kw_only=True):
    """What lists of sums say about one archive.

    `believed` is the sum that the origin gave, or that two hosts independently gave; `told` one that a single other
    host gave, which shows damage and no lie; `where` names who said it; `failed` says who did not answer, and why.
    """

    believed: str | None = None
    told: str | None = None
    where: str = ""
    failed: tuple[str, ...] = ()


def release_name(text: str) -> str:
    """Return a release as the catalogue writes it: `v0.6.2` is 0.6.2.

    Raises:
        UsageError: it is no version.
    """
    found = _VERSION.fullmatch(text.strip())
    if found is None:
        raise UsageError(
            f'--release does not take "{text}"', fix=f"--release takes a version, --release 0.6.2, or {NEWEST}"
        )
    return found[1]


def with_release(catalogue: Catalogue, release: str) -> tuple[Catalogue, bool]:
    """Return the catalogue with builds of a release that it does not know, and whether it knew the release.

    Their figures are those of the builds that cover the release by its number, else of the newest ones. A release that
    is older than all that is covered adds nothing: asking for it is an error then.
    """
    entry = catalogue.engines[ENGINE]
    if release in known_releases(ENGINE) or any(build.release == release for build in entry.build):
        return catalogue, True
    newest = max((build.release for build in entry.build), key=release_key)
    like = [build for build in entry.build if covers(build, release)]
    if not like and release_key(release) >= release_key(newest):
        like = [build for build in entry.build if build.release == newest]
    page = msgspec.structs.replace(entry, build=[*entry.build, *builds_as(like, release)])
    return msgspec.structs.replace(catalogue, engines={**catalogue.engines, ENGINE: page}), False


def known_archive(sha256: str, entry: EngineEntry | None = None) -> KnownArchive | None:
    """Return the archive of that sum, None where the catalogue has no such sum."""
    for build in (entry or load_catalogue().engines[ENGINE]).build:
        for asset in build.assets:
            if asset.sha256 == sha256:
                return KnownArchive(release=build.release, asset=asset.name, sha256=sha256, size=asset.size)
    for release in known_releases(ENGINE).values():
        for asset in release.assets:
            if asset.sha256 == sha256:
                return KnownArchive(release=release.version, asset=asset.name, sha256=sha256, size=asset.size)
    return None


def known_sum(release: str, asset: str) -> str | None:
    """Return the sum that the catalogue has for an archive of a release, None where it has none."""
    listed = known_releases(ENGINE).get(release)
    assets = [*(listed.assets if listed is not None else [])]
    assets += [
        each for build in load_catalogue().engines[ENGINE].build if build.release == release for each in build.assets
    ]
    return next((each.sha256 for each in assets if each.name == asset and each.sha256), None)


def parse_sums(text: str) -> dict[str, str]:
    """Return sum by name from a `sha256sum.txt`: names with or without `./`, in any order, other lines passed over."""
    found = (_SUM_LINE.fullmatch(line.strip()) for line in text.splitlines())
    return {line[2].strip(): line[1].lower() for line in found if line is not None}


def asset_sources(
    release: str,
    asset: str,
    book: MirrorBook,
    *,
    given: Sequence[str] = (),
    only_given: bool = False,
    hash_known: bool = True,
    page: ArchivesPage | None = None,
) -> tuple[Source, ...]:
    """Return where an archive of a release, or its list of sums, may come from; see `mirrors.sources_for`."""
    from firstlight.fetching.mirrors import hosted_sources

    known = page or load_archives(ENGINE)
    return sources_for(
        known.url(release, asset),
        book,
        given=given,
        bases=book.own_bases(ENGINE),
        below=known.path(release, asset),
        hosted=hosted_sources(known, release, asset),
        only_given=only_given,
        hash_known=hash_known,
    )


def ask_sums(
    release: str,
    asset: str,
    book: MirrorBook,
    transport: Transport,
    *,
    given: Sequence[str] = (),
    only_given: bool = False,
) -> Sums:
    """Return what the release's own lists of sums say about an archive, every source asked at once.

    The origin is believed, and so are two hosts that agree: a mirror that lies about a file lies about its sum too.
    """
    page = load_archives(ENGINE)
    bases = [text for text in given if not text.rstrip("/").endswith(asset)]
    sources: tuple[Source, ...] = ()
    if bases or not only_given:
        sources = asset_sources(release, page.origin.sums, book, given=bases, only_given=only_given, page=page)
    with ThreadPoolExecutor(max_workers=max(1, len(sources))) as pool:
        answers = list(pool.map(partial(_listed, asset=asset, transport=transport), sources))
    failed = tuple(
        f"{each.name}: {answer.reason}" for each, answer in zip(sources, answers, strict=True) if answer.reason
    )
    said = [(each, answer) for each, answer in zip(sources, answers, strict=True) if answer.sha256]
    for each, answer in said:
        if each.kind == "origin":
            return Sums(believed=answer.sha256, where=each.name, failed=failed)
    hosts = {answer.host: answer.sha256 for _each, answer in said}
    if not hosts:
        return Sums(failed=failed)
    often = Counter(hosts.values()).most_common(2)
    best, votes = often[0]
    names = ", ".join(each.name for each, answer in said if answer.sha256 == best)
    if votes > 1 and (len(often) == 1 or often[1][1] < votes):
        return Sums(believed=best, where=names, failed=failed)
    return Sums(told=best if len(often) == 1 else None, where=names, failed=failed)


class _Answer(msgspec.Struct, frozen=True):
    """What one list of sums says: the sum, the host that it came from in the end, or why there is none."""

    sha256: str | None = None
    host: str = ""
    reason: str = ""


def _listed(source: Source, *, asset: str, transport: Transport) -> _Answer:
    try:
        text, host = _text_of(source, transport)
    except Refused as refused:
        return _Answer(reason=refused.reason)
    sums = parse_sums(text)
    if asset not in sums:
        return _Answer(reason=f"its list has no {asset}" if sums else "what it sends is no list of sums")
    return _Answer(sums[asset], host)


def _text_of(source: Source, transport: Transport) -> tuple[str, str]:
    """Return what a small file of a source holds, and the host that gave it in the end."""
    if source.kind == "file":
        try:
            return Path(source.name).read_text(encoding="utf-8", errors="replace"), source.name
        except OSError as error:
            raise Refused(error.strerror or str(error)) from error
    body = b""
    with asked(source.url, {}, dict(source.headers), transport, _PATIENCE) as answer:
        while len(body) < _LARGEST_LIST and (chunk := answer.read(1 << 16)):
            body += chunk
        return body.decode(errors="replace"), host_of(answer.url)


def newest_release(transport: Transport) -> str:
    """Return the release that the project calls its newest one: its page redirects to the page of that release.

    Raises:
        NetworkFailed: its page does not lead to any.
    """
    url = load_archives(ENGINE).origin.newest
    why = f"{url} leads to no release"
    try:
        with asked(url, {}, {}, transport, _PATIENCE) as answer:
            found = _VERSION.fullmatch(answer.url.rpartition("/")[2])
        if found is not None:
            return found[1]
    except Refused as refused:
        why = f"{host_of(url)}: {refused.reason}"
    raise NetworkFailed(
        "which release is the newest cannot be found out", why=why, fix="firstlight ollama.install   (the newest known)"
    )
