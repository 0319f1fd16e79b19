"""A release of Ollama as a version beside the others: its archives fetched or found here, unpacked, and looked at.

Nothing is switched here: `ollama.install` switches at once, `setup.ollama` when the first token has come.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from firstlight.catalogue.archives import load_archives
from firstlight.catalogue.types import Build
from firstlight.engines.ollama.offline import Local, companions, look_at
from firstlight.engines.ollama.program import PROGRAM, check_release
from firstlight.engines.ollama.releases import ENGINE, ask_sums, asset_sources
from firstlight.environments.archives import ArchivePart, ArchiveSpec, ArchiveStore
from firstlight.environments.reaching import transport_of
from firstlight.environments.spec import Generation
from firstlight.errors import FirstlightError, NetworkFailed, UsageError, VerificationFailed
from firstlight.events import Step
from firstlight.fetching.mirrors import MirrorBook, load_book
from firstlight.fetching.types import Policy, Source, Transport, Wanted

_CATALOGUE = "firstlight's catalogue"


class ReleaseWish(msgspec.Struct, frozen=True, kw_only=True):
    """What is wished for: a build, and where its archives may come from.

    `here` False: it is for another machine, its program is not run.
    """

    build: Build
    mirrors: tuple[str, ...] = ()
    only_mirrors: bool = False
    sha256: str | None = None
    """The sum of its first archive; it overrules the catalogue's."""
    require_known: bool = False
    local: Local | None = None
    """The first archive, where it is here already: then no network is used at all."""
    afresh: bool = False
    here: bool = True


class Archive(msgspec.Struct, frozen=True, kw_only=True):
    """An archive of a release, the sum that it is held against, and who said that sum."""

    name: str
    sha256: str | None = None
    size: int | None = None
    said_by: str = ""
    listed: str | None = None
    """The sum that the catalogue has for an archive of this name and release."""
    local: Path | None = None

    @property
    def known(self) -> bool:
        """Whether its sum is known from somewhere that is believed."""
        return bool(self.sha256 and self.said_by)

    @property
    def in_catalogue(self) -> bool:
        """Whether it was held against the catalogue's own sum, whoever said that sum."""
        return self.listed is not None and self.sha256 == self.listed


class Provided(msgspec.Struct, frozen=True, kw_only=True):
    """A version that stands, not switched to; its archives, and what must be said of it."""

    generation: Generation
    archives: tuple[Archive, ...]
    reused: bool = False
    notes: tuple[str, ...] = ()


def provide_release(
    wish: ReleaseWish,
    store: ArchiveStore,
    *,
    step: Step,
    book: MirrorBook | None = None,
    transport: Transport | None = None,
    policy: Policy | None = None,
    hold: int | tuple[int, ...] = (),
) -> Provided:
    """Return a whole version of a release in a store, fetched and unpacked beside the others; nothing is switched.

    Called while the store's lock is held. A whole version of the same bytes that is there already is taken.

    Raises:
        NetworkFailed: no source gave an archive; what came is kept for the next run.
        VerificationFailed: a sum does not hold, or what was unpacked does not work.
        NothingFits: the archive is for another architecture.
        FirstlightError: no room, or the folder cannot be written.
    """
    how, book = transport or transport_of(), book or load_book(store.home.root)
    known = [_from_catalogue(wish, number) for number in range(len(wish.build.assets))]
    present = None if wish.afresh else _present(wish, known, store)
    if present is not None:
        step.reused(present.id)
        return Provided(generation=present, archives=tuple(known), reused=True)
    archives = _archives(wish, known, book, how, step)
    spec = _spec(wish, archives, book)
    with _with_ways_out(wish):
        generation = store.build(spec, step=step, policy=policy, transport=how, hold=hold)
    try:
        notes = check_release(generation.prefix, wish.build, here=wish.here)
    except FirstlightError:
        store.remove(generation.id)
        raise
    for note in notes:
        step.warn(note)
    return Provided(generation=generation, archives=tuple(archives), notes=tuple(notes))


@contextmanager
def _with_ways_out(wish: ReleaseWish) -> Iterator[None]:
    """Let what went wrong with the sources of a release end in commands that help."""
    try:
        yield
    except NetworkFailed as failed:
        failed.fix = (
            f"{failed.fix}\nwho answers: firstlight mirror.probe --of {ENGINE} --of github\n"
            "from your own mirror: firstlight ollama.install --mirror https://HOST/FOLDER\n"
            "from a file, with no network: firstlight ollama.install --offline FILE"
        )
        raise
    except VerificationFailed as failed:
        if wish.local is None:
            again = f"firstlight ollama.install --release {wish.build.release}"
            failed.fix = f"from another source: {again} --mirror https://HOST/FOLDER"
            if wish.sha256 is not None:
                failed.fix += f"\nwith the sum that the release itself tells: {again}"
        raise


def _present(wish: ReleaseWish, known: list[Archive], store: ArchiveStore) -> Generation | None:
    """Return a whole version of the same archives, whichever of their builds it was unpacked for.

    Where no sum is known, that of the release is taken: its own sum was seen when it was unpacked.
    """
    local = wish.local.sha256 if wish.local is not None else None
    wanted = {archive.name: archive.sha256 or (local if archive.local else None) for archive in known}
    whole = [item for item in store.list() if item.state != "building" and not item.problems]
    fitting = [
        item
        for item in whole
        if item.kind == "archive"
        and item.release == wish.build.release
        and {record.name for record in item.archives} == set(wanted)
        and all(wanted[record.name] in {None, record.sha256} for record in item.archives)
    ]
    current = store.current()
    return next((item for item in fitting if current is not None and item.id == current.id), next(iter(fitting), None))


def _from_catalogue(wish: ReleaseWish, number: int) -> Archive:
    """Return an archive of the build with the sum that was given, or that the catalogue has."""
    asset = wish.build.assets[number]
    first = number == 0
    local = wish.local.file if wish.local is not None and first else None
    if first and wish.sha256 is not None:
        return Archive(name=asset.name, sha256=wish.sha256, said_by="--sha256", listed=asset.sha256, local=local)
    said_by = _CATALOGUE if asset.sha256 else ""
    return Archive(
        name=asset.name, sha256=asset.sha256, size=asset.size, said_by=said_by, listed=asset.sha256, local=local
    )


def _archives(
    wish: ReleaseWish, known: list[Archive], book: MirrorBook, transport: Transport, step: Step
) -> list[Archive]:
    """Return the archives with all that can be known of their sums; says loudly where that is nothing."""
    if wish.local is not None:
        return _local_archives(wish, wish.local, known, step)
    found = []
    for archive in known:
        settled = archive if archive.known else _from_lists(wish, archive, book, transport, step)
        if not settled.known:
            _unknown(wish, settled.name, step, told=settled.sha256 is not None)
        found.append(settled)
    return found


def _from_lists(wish: ReleaseWish, archive: Archive, book: MirrorBook, transport: Transport, step: Step) -> Archive:
    release, given = wish.build.release, wish.mirrors
    sums = ask_sums(release, archive.name, book, transport, given=given, only_given=wish.only_mirrors)
    if sums.believed:
        step.note(f"the sum of {archive.name} {release} comes from {sums.where}: {load_archives(ENGINE).origin.sums}")
        return msgspec.structs.replace(archive, sha256=sums.believed, said_by=sums.where)
    for failed in sums.failed:
        step.note(f"no list of sums from {failed}")
    if sums.told:
        step.warn(f"only {sums.where} says what the sum of {archive.name} {release} is: damage is seen, a lie is not")
    return msgspec.structs.replace(archive, sha256=sums.told)


def _unknown(wish: ReleaseWish, name: str, step: Step, *, told: bool = False) -> None:
    """Say that no sum is known, or refuse where one was required; `told`: a single mirror's word was told already.

    Raises:
        VerificationFailed: with --require-known.
    """
    if wish.require_known:
        raise unknown_sum(f"{name} of release {wish.build.release}", here=wish.local is not None)
    if not told:
        taken = "the file is taken as it is" if wish.local is not None else "whatever the source sends is taken"
        step.warn(f"the SHA-256 of {name} of release {wish.build.release} is known nowhere: {taken}")


def unknown_sum(what: str, *, here: bool) -> VerificationFailed:
    """Return the error for an archive whose sum is known nowhere, where it had to be; `here`: it is a local file."""
    lists = "neither the catalogue nor the project's own list of sums tells it, and no two mirrors agree on one"
    return VerificationFailed(
        f"the SHA-256 of {what} is known nowhere",
        why="the catalogue does not have it, and --offline asks nobody" if here else lists,
        fix="give it: --sha256 HEX, or take a release that is known: firstlight plan ollama --explain",
    )


def _local_archives(wish: ReleaseWish, local: Local, known: list[Archive], step: Step) -> list[Archive]:
    """Return the archives of a build whose first one is a local file, the others those that lie beside it."""
    first, others = known[0], known[1:]
    if first.sha256 is not None and first.sha256 != local.sha256:
        raise _not_that_one(wish, local, first)
    if not first.known:
        _unknown(wish, local.file.name, step)
    found = [msgspec.structs.replace(first, sha256=local.sha256, size=local.size)]
    beside = companions(local, [archive.name for archive in others])
    for archive in others:
        if archive.name not in beside:
            step.warn(f"{archive.name} is not beside {local.file}: without it the GPU is not used")
            continue
        seen = look_at(beside[archive.name], step)
        if archive.sha256 is not None and archive.sha256 != seen.sha256:
            raise _not_that_one(wish, seen, archive)
        if not archive.known:
            _unknown(wish, archive.name, step)
        found.append(msgspec.structs.replace(archive, sha256=seen.sha256, size=seen.size, local=seen.file))
    return found


def _not_that_one(wish: ReleaseWish, local: Local, archive: Archive) -> VerificationFailed:
    is_another = f"; it is {local.known.asset} of release {local.known.release}" if local.known is not None else ""
    return VerificationFailed(
        f"{local.file} is not {archive.name} of release {wish.build.release}",
        why=f"its SHA-256 is {local.sha256}, and {archive.said_by} says {archive.sha256}{is_another}",
        fix=f"fetch it again: firstlight ollama.install --release {wish.build.release}   "
        f"(if you know better where it comes from: --sha256 {local.sha256})",
    )


def _spec(wish: ReleaseWish, archives: list[Archive], book: MirrorBook) -> ArchiveSpec:
    return ArchiveSpec(
        build=wish.build.id,
        release=wish.build.release,
        program=PROGRAM,
        parts=tuple(_part(wish, archive, book) for archive in archives),
        expected_disk=wish.build.sizes.disk,
    )


def _part(wish: ReleaseWish, archive: Archive, book: MirrorBook) -> ArchivePart:
    sources: tuple[Source, ...] = ()
    if archive.local is None:
        sources = asset_sources(
            wish.build.release,
            archive.name,
            book,
            given=given_for(wish, archive.name),
            only_given=wish.only_mirrors,
            hash_known=archive.known,
        )
    wanted = Wanted(name=archive.name, sources=sources, size=archive.size, sha256=archive.sha256)
    return ArchivePart(wanted=wanted, local=archive.local)


def given_for(wish: ReleaseWish, name: str) -> list[str]:
    """Return those of the given mirrors that can have an archive: a file's own address has only that one.

    Raises:
        UsageError: with --only-mirrors none of them can.
    """
    others = [asset.name for asset in wish.build.assets if asset.name != name]
    fitting = [text for text in wish.mirrors if not any(text.endswith(other) for other in others)]
    if wish.only_mirrors and not fitting:
        raise UsageError(
            f"no mirror that was given has {name}",
            why=f"{wish.build.id} is made of {', '.join(asset.name for asset in wish.build.assets)}",
            fix=f"add one: --mirror https://HOST/FOLDER/{name}",
        )
    return fitting
