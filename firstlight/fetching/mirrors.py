"""Sources for an address: the origin, the mirrors that are configured for it, other hosts, and what a person names.

Configured are those of envs/mirrors.toml and of the user's `<home>/mirrors.toml` (or of the file that
FIRSTLIGHT_MIRRORS names). Anybody may run a mirror of a whole site: such are taken only for bytes whose hash is known
from elsewhere.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec

from firstlight.catalogue.archives import ArchivesPage
from firstlight.catalogue.loading import CatalogueError, load_catalogue, load_mirrors, read_toml
from firstlight.catalogue.types import MirrorSet
from firstlight.errors import UsageError
from firstlight.fetching.types import Source, SourceKind
from firstlight.planning.redacting import without_credentials

FILE = "mirrors.toml"
VARIABLE = "FIRSTLIGHT_MIRRORS"


class OwnSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Mirrors of the user's: asked before firstlight's; with `only` instead of the origin and of firstlight's."""

    mirrors: list[str] = []
    only: bool = False


class OwnPage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """<home>/mirrors.toml.

    `github` are addresses that stand in place of https://github.com; `release` are, by engine, bases under which the
    archives of its releases lie as `vX.Y.Z/<asset>`.
    """

    github: OwnSet = OwnSet()
    release: dict[str, OwnSet] = {}


class MirrorBook(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is configured: GitHub's mirrors of envs/mirrors.toml, and the user's own page."""

    github: MirrorSet
    own: OwnPage = OwnPage()
    file: str | None = None
    """The user's file, where there is one."""

    def own_bases(self, engine: str) -> OwnSet:
        """Return the user's bases for the archives of an engine."""
        return self.own.release.get(engine, OwnSet())


def own_file(home: Path | None, environment: Mapping[str, str] | None = None) -> Path | None:
    """Return the user's file of mirrors; one that FIRSTLIGHT_MIRRORS names must be there.

    Raises:
        UsageError: FIRSTLIGHT_MIRRORS names no file.
    """
    named = (os.environ if environment is None else environment).get(VARIABLE)
    if named:
        if not Path(named).is_file():
            raise UsageError(f"{VARIABLE} names {named}, which is no file", fix=f"unset {VARIABLE}")
        return Path(named)
    usual = home / FILE if home is not None else None
    return usual if usual is not None and usual.is_file() else None


def load_book(home: Path | None, environment: Mapping[str, str] | None = None) -> MirrorBook:
    """Return the mirrors that are configured: firstlight's and the user's.

    Raises:
        UsageError: the user's file is wrong; the line is named.
    """
    github, file = load_mirrors().github, own_file(home, environment)
    if file is None:
        return MirrorBook(github=github)
    try:
        own = read_toml(file, OwnPage)
        _require_archives(own)
        for place in [*own.github.mirrors, *(base for each in own.release.values() for base in each.mirrors)]:
            _checked(place)
    except CatalogueError as error:
        at = f", line {error.line}" if error.line else ""
        raise UsageError(
            f"your file of mirrors {file}{at} is wrong", why=error.why, fix=f"correct it: {file}"
        ) from error
    except UsageError as error:
        raise UsageError(f"your file of mirrors {file} is wrong", why=error.what, fix=f"correct it: {file}") from error
    return MirrorBook(github=github, own=own, file=str(file))


def _require_archives(own: OwnPage) -> None:
    """Refuse bases for what does not come as archives: a slip of the pen would mean no mirror, without a word.

    Raises:
        UsageError: an engine is not known, or comes otherwise.
    """
    known = sorted(entry.engine for entry in load_catalogue().engines.values() if entry.kind == "archive")
    for name in own.release:
        if name not in known:
            raise UsageError(f"[release.{name}] is for no engine that comes as archives: {', '.join(known)}")


def sources_for(
    url: str,
    book: MirrorBook,
    *,
    given: Sequence[str] = (),
    bases: OwnSet | None = None,
    below: str | None = None,
    hosted: Sequence[Source] = (),
    only_given: bool = False,
    hash_known: bool = True,
) -> tuple[Source, ...]:
    """Return where the bytes of an address may come from, best first: given, the user's, origin, hosted, community.

    Args:
        url: the canonical address.
        book: what is configured.
        given: what a person named for this download: bases, the very file, paths.
        bases: the user's configured bases for it.
        below: its path under a base; the last part of the address by default.
        hosted: others that host it.
        only_given: nothing but `given`.
        hash_known: whether its hash is known from elsewhere; community mirrors are left out where it is not.

    Raises:
        UsageError: something given is no address and no path, or `only_given` without any.
    """
    path = below or unquote(urlsplit(url).path).rpartition("/")[2]
    if only_given and not given:
        raise UsageError(
            "--only-mirrors without a mirror leaves no source", fix="name one as well: --mirror https://HOST/FOLDER"
        )
    mine = bases or OwnSet()
    found = [given_source(text, path) for text in (*given, *(() if only_given else mine.mirrors))]
    if only_given or (mine.only and found):
        return _named_apart(found)
    canonical, github = book.github.canonical, book.own.github
    on_github = url.startswith(f"{canonical}/")
    own = [in_place(url, canonical, mirror) for mirror in github.mirrors] if on_github else []
    found += own
    if not (own and github.only):
        found += [source("origin", url), *hosted]
        if on_github and hash_known:
            found += [in_place(url, canonical, mirror) for mirror in book.github.mirrors]
    return _named_apart(found)


def hosted_sources(
    page: ArchivesPage, release: str, asset: str, environment: Mapping[str, str] | None = None
) -> tuple[Source, ...]:
    """Return the sources of others that host an archive of a release."""
    urls = [(hosting, hosting.url(release, asset, environment)) for hosting in page.hosting]
    return tuple(source(hosting.kind, url) for hosting, url in urls if url is not None)


def in_place(url: str, canonical: str, mirror: str) -> Source:
    """Return the source of an address at a mirror: behind a proxy that it is put behind, or at another host."""
    return source(kind_of(mirror), f"{mirror.rstrip('/')}{url.removeprefix(canonical)}")


def kind_of(mirror: str) -> SourceKind:
    """Return `prefix` for `https://HOST/https://github.com`, else `host`."""
    return "prefix" if "://" in mirror.partition("://")[2] else "host"


def given_source(text: str, below: str) -> Source:
    """Return the source that a person means: the very file where the text ends in its name, else a base.

    A base that is another address of GitHub (`https://HOST/https://github.com`) is no base of ours: the layout below
    `…/releases/download` is, so that that much has to be written.

    Raises:
        UsageError: it is neither an address nor a path.
    """
    name = below.rpartition("/")[2]
    whole = _checked(text)
    if not whole.startswith(("http://", "https://")):
        place = Path(unquote(whole.removeprefix("file://"))).expanduser().absolute()
        file = place if place.name == name or place.is_file() else place / below
        return source("file", file.as_uri())
    parts = urlsplit(whole)
    if unquote(whole).endswith(name) or unquote(parts.path).endswith(f"/{name}"):
        return source("user", whole)
    return source("user", urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{below}")))


def source(kind: SourceKind, url: str) -> Source:
    """Return a source whose name and address carry no credentials: they go into a header that is never shown.

    Source: RFC 7617 (Basic authentication).
    """
    parts = urlsplit(url)
    if kind == "file":
        return Source(url=url, name=unquote(parts.path), kind=kind)
    account, at, host = parts.netloc.rpartition("@")
    headers: tuple[tuple[str, str], ...] = ()
    if at:
        token = base64.b64encode(unquote(account).encode()).decode()
        headers = (("Authorization", f"Basic {token}"),)
    return Source(url=urlunsplit(parts._replace(netloc=host)), name=host, kind=kind, headers=headers)


def _checked(text: str) -> str:
    """Return an address or a path as it was given.

    Raises:
        UsageError: it is neither.
    """
    shown = without_credentials(text)
    fix = "name an address, https://HOST/FOLDER, or a path, /FOLDER"
    if text.startswith(("file:///", "/", "./", "../", "~")):
        return text
    try:
        parts = urlsplit(text)
        _port = parts.port
    except ValueError as error:
        raise UsageError(f"{shown} is no address of a mirror", why=str(error), fix=fix) from error
    if parts.scheme in {"http", "https"} and parts.hostname and not any(sign.isspace() for sign in text):
        return text
    raise UsageError(f'"{shown}" is no address of a mirror', fix=fix)


def _named_apart(sources: Sequence[Source]) -> tuple[Source, ...]:
    """Return the sources, each address once; two of one host are named by their addresses, without queries."""
    single: list[Source] = []
    for each in sources:
        if each.url not in {other.url for other in single}:
            single.append(each)
    hosts = [each.name for each in single]
    return tuple(
        msgspec.structs.replace(each, name=without_credentials(each.url.partition("?")[0]))
        if hosts.count(each.name) > 1
        else each
        for each in single
    )
