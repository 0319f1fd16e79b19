"""Which release `ollama.install` installs, from where and whereto: decided before anything is written."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from firstlight.catalogue.loading import load_catalogue
from firstlight.catalogue.types import Build, Catalogue
from firstlight.engines.ollama.copies import (
    ForeignCopy,
    Prefix,
    foreign_copy,
    other_copies,
    prefix_at,
)
from firstlight.engines.ollama.installing import ReleaseWish, given_for, unknown_sum
from firstlight.engines.ollama.offline import Local, archive_file, look_at, release_inside
from firstlight.engines.ollama.releases import ENGINE, NEWEST, newest_release, release_name, with_release
from firstlight.engines.ollama.rewording import in_prefix, speaking_of
from firstlight.environments.archives import ArchiveStore
from firstlight.environments.reaching import transport_of
from firstlight.errors import NetworkFailed, NothingFits, UsageError, VerificationFailed
from firstlight.events import Note, Step, step
from firstlight.fetching.mirrors import MirrorBook, given_source, load_book
from firstlight.fetching.types import Transport
from firstlight.home import Home
from firstlight.machine.facts import Machine
from firstlight.planning.asking import entry_for
from firstlight.planning.choose import choose
from firstlight.planning.failing import nothing_fits
from firstlight.planning.plan import Plan
from firstlight.planning.request import Request
from firstlight.proof.receipts import Recorder
from firstlight.staying.installing import prepare
from firstlight.staying.wish import Wish, check_wish
from firstlight.tasks.asking import PATIENCE, home_of, machine_in_question, request_of, this_machine
from firstlight.tasks.edge import port_number


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The words of `ollama.install`."""

    machine: str | None = None
    gpus: str | None = None
    cuda: str | None = None
    release: str | None = None
    build: str | None = None
    offline: str | None = None
    mirrors: tuple[str, ...] = ()
    only_mirrors: bool = False
    sha256: str | None = None
    require_known: bool = False
    prefix: str | None = None
    service: bool = False
    host: str | None = None
    port: str | None = None
    allow_open: bool = False
    repair: bool = False
    dry_run: bool = False
    yes: bool = False


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """An install that is decided: what, where, from where."""

    machine: Machine
    request: Request
    plan: Plan
    wish: ReleaseWish
    home: Home
    store: ArchiveStore
    book: MirrorBook
    transport: Transport
    service: Wish | None = None
    prefix: Prefix | None = None
    foreign: ForeignCopy | None = None
    others: tuple[str, ...] = ()


def decide(options: Options, recorder: Recorder) -> Job:
    """Return what an install would do; reads, asks for the newest release where that is wished, and writes nothing.

    Raises:
        UsageError: a word cannot be.
        NothingFits: no build fits this machine.
        VerificationFailed: a local file is no archive.
        FirstlightError: the prefix cannot be written.
    """
    _checked(options)
    facts = _facts(options.machine)
    home, how = home_of(facts), transport_of()
    prefix = prefix_at(options.prefix) if options.prefix is not None else None
    book = load_book(home.root)
    scratch = prefix.home if prefix is not None else home
    with speaking_of(prefix):
        local, release = _release(options, facts, home, scratch, how, recorder)
    request, plan, build = _planned(options, release_name(release) if release else None, facts, prefix, recorder)
    if plan.home is None:
        raise nothing_fits(plan)
    home = home if prefix is not None else Home(Path(plan.home))
    store = ArchiveStore(prefix.home if prefix is not None else home, ENGINE)
    service = _service(options)
    if service is not None:
        prepare(service, facts, home)  # what can be known to fail is refused before anything is fetched
    return Job(
        machine=facts,
        request=request,
        plan=plan,
        wish=_wish(options, build, local),
        home=home,
        store=store,
        book=book,
        transport=how,
        service=service,
        prefix=prefix,
        foreign=foreign_copy(prefix) if prefix is not None else None,
        others=tuple(other_copies(store)),
    )


def _service(options: Options) -> Wish | None:
    """Return the service that is wished for.

    Raises:
        UsageError: the API would be open to everyone, or a word of it cannot be.
    """
    if not options.service:
        return None
    host = "127.0.0.1" if options.host is None else options.host
    wish = Wish(engine=ENGINE, host=host, port=port_number(options.port), allow_open=options.allow_open)
    check_wish(wish, load_catalogue().engines[ENGINE])
    return wish


def _release(
    options: Options, facts: Machine, home: Home, scratch: Home, how: Transport, recorder: Recorder
) -> tuple[Local | None, str | None]:
    """Return the local archive, where one is to be used, and the release that is asked for; None: what fits best."""
    if options.offline is None:
        return None, _newest(how, recorder) if options.release == NEWEST else options.release
    with step(recorder, "archive", "look at the local archive") as current:
        local = _chosen(options, facts, home, current)
        what = local.known.release if local.known else "a sum that the catalogue does not have"
        current.detail = f"{local.file}: {what}"
        _held_against(options, local)
        return local, options.release or _release_of(local, scratch, current, writes=not options.dry_run)


def _held_against(options: Options, local: Local) -> None:
    """Hold a local archive against the sum that was asked for, before the program inside it is run for its release.

    Raises:
        VerificationFailed: it has another sum, or none that is known where --require-known asks for that.
    """
    if options.sha256 is not None and options.sha256.lower() != local.sha256:
        raise VerificationFailed(
            f"{local.file} has another SHA-256 than --sha256 says",
            why=f"its SHA-256 is {local.sha256}; nothing of it was unpacked",
            fix="fetch it again, or name the sum of this file if you trust where it comes from",
        )
    if options.require_known and options.sha256 is None and local.known is None:
        raise unknown_sum(str(local.file), here=True)


def _wish(options: Options, build: Build, local: Local | None) -> ReleaseWish:
    """Return what is wished for, and refuse what cannot be had.

    Raises:
        NothingFits: the local archive is none of those that the build is made of.
        UsageError: only mirrors were given that do not have every archive.
    """
    names = [asset.name for asset in build.assets]
    if local is not None and local.known is not None and local.known.asset not in names:
        raise NothingFits(
            f"{local.file} is {local.known.asset} of release {local.known.release}",
            why=f"{build.id} is made of {', '.join(names)}",
            fix="name that one, or leave --offline out: firstlight ollama.install",
        )
    wish = ReleaseWish(
        build=build,
        mirrors=options.mirrors,
        only_mirrors=options.only_mirrors,
        sha256=options.sha256.lower() if options.sha256 else None,
        require_known=options.require_known,
        local=local,
        afresh=options.repair,
        here=options.machine is None,
    )
    for name in names if local is None else ():
        given_for(wish, name)
    return wish


def _facts(machine_file: str | None) -> Machine:
    """Return the facts to plan for; another machine's keep this machine's disks, where the work is done."""
    here = this_machine(patience=PATIENCE)
    if machine_file is None:
        return here
    return msgspec.structs.replace(machine_in_question(machine_file), disks=here.disks)


def _checked(options: Options) -> None:
    if options.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", options.sha256):
        raise UsageError(
            f"--sha256 does not take {len(options.sha256)} signs",
            why="a SHA-256 sum is written as 64 hexadecimal digits",
            fix="sha256sum FILE   (shows the sum of a file)",
        )
    if options.offline is not None and options.release == NEWEST:
        raise UsageError("--offline asks nobody which release is the newest", fix="leave --release or --offline out")
    if options.offline is not None and (options.mirrors or options.only_mirrors):
        raise UsageError("--offline uses no mirror", fix="leave --mirror or --offline out")
    if options.service and (options.prefix is not None or options.machine is not None):
        raise UsageError(
            "--service runs the version in firstlight's home, on this machine",
            fix="leave --prefix and --machine out: firstlight ollama.install --service",
        )
    if not options.service and (options.host is not None or options.port is not None or options.allow_open):
        raise UsageError(
            "--host, --port and --allow-open belong to a service",
            why="an install alone starts no server",
            fix="add --service, or say it where the server is started: firstlight serve.ollama --model M --port N",
        )
    _service(options)
    if options.only_mirrors and not options.mirrors:
        raise UsageError(
            "--only-mirrors without a mirror leaves no source", fix="name one as well: --mirror https://HOST/FOLDER"
        )
    for text in options.mirrors:
        given_source(text, "x")
    if options.release not in {None, NEWEST}:
        release_name(options.release or "")


def _chosen(options: Options, facts: Machine, home: Home, current: Step) -> Local:
    """Return the local archive: of several that were found, the first that is of the release that was asked for."""
    files = archive_file(options.offline or "", facts.host.arch or "", home)
    if len(files) > 1:
        current.note(f"found {len(files)} archives: {', '.join(map(str, files))}")
    wanted = release_name(options.release) if options.release not in {None, NEWEST} else None
    seen = [look_at(files[0], current)]
    if wanted is not None and len(files) > 1:
        seen = [look_at(file, current) for file in files]
    for local in seen:
        if wanted is None or (local.known.release if local.known else local.named) == wanted:
            return local
    return seen[0]


def _release_of(local: Local, scratch: Home, current: Step, *, writes: bool) -> str:
    """Return which release a local archive is; where only its program knows, that one is unpacked for a moment."""
    if local.known is not None:
        return local.known.release
    if not writes:
        if local.named is None:
            raise UsageError(
                f"which release {local.file} is can only be told by unpacking it", fix="say it: --release X.Y.Z"
            )
        return local.named
    return release_inside(local.file, scratch.downloads, current)


def _newest(how: Transport, recorder: Recorder) -> str | None:
    with step(recorder, "newest", "ask which release is the newest") as current:
        try:
            current.detail = newest_release(how)
        except NetworkFailed as failed:
            current.warn(f"{failed.what} ({failed.why}): the newest that is known here is taken")
            return None
        return current.detail


def _planned(
    options: Options, release: str | None, facts: Machine, prefix: Prefix | None, recorder: Recorder
) -> tuple[Request, Plan, Build]:
    """Return the request, the plan and the build; room is asked of the disk that the versions will lie on."""
    words = {"gpus": options.gpus, "cuda": options.cuda, "release": release, "build": options.build}
    request = request_of(ENGINE, facts, elsewhere=False, **words)
    catalogue: Catalogue = load_catalogue()
    if release is not None:
        catalogue, known = with_release(catalogue, release)
        if not known:
            recorder(
                Note(f"release {release} is not in the catalogue: its files are named like those next to it", "warn")
            )
    place = msgspec.structs.replace(request, home=prefix.home.root) if prefix is not None else request
    plan = in_prefix(choose(facts, catalogue, place), prefix)
    if plan.build is None:
        raise nothing_fits(plan)
    chosen = plan.build.id
    build = next(build for build in entry_for(catalogue, request).build if build.id == chosen)
    return request, _held(plan, build, options.sha256), build


def _held(plan: Plan, build: Build, sha256: str | None) -> Plan:
    """Return the plan; a sum that overrules the catalogue's makes no locked build of an archive."""
    first = build.assets[0].sha256 if build.assets else None
    if plan.build is None or sha256 is None or sha256.lower() == first:
        return plan
    return msgspec.structs.replace(plan, build=msgspec.structs.replace(plan.build, integrity="pinned"))
