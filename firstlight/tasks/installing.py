"""What `ollama.install` does once it is decided: ask, fetch, switch, restart what runs, write the receipt."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from firstlight.engines.ollama.copies import (
    adopt,
    refuse_foreign,
    take_over,
)
from firstlight.engines.ollama.installing import Provided, provide_release
from firstlight.engines.ollama.releases import ENGINE
from firstlight.engines.ollama.rewording import speaking_of
from firstlight.environments.archives import ArchiveStore
from firstlight.environments.spec import Generation
from firstlight.errors import FirstlightError, UsageError, VerificationFailed
from firstlight.events import Note, Reporter, step
from firstlight.home import Home
from firstlight.machine.facts import Machine
from firstlight.planning.plan import Plan
from firstlight.planning.redacting import without_credentials
from firstlight.proof.receipts import EnvironmentRecord, FetchedFile, Receipt, Recorder, timestamp, write_receipt
from firstlight.serving.restarting import Swap, restart_servers
from firstlight.staying.installing import Installed as Service
from firstlight.staying.installing import install_service
from firstlight.staying.old_versions import tidy
from firstlight.staying.updating import follow
from firstlight.tasks.asking import asks, confirmed
from firstlight.tasks.release_choice import Job

WAIT = 1800.0
"""Seconds to wait for another firstlight that works on the same versions."""


class Installed(msgspec.Struct, frozen=True, kw_only=True):
    """What an install did."""

    receipt: Receipt
    generation: Generation
    before: Generation | None = None
    adopted: Generation | None = None
    """What somebody else had put into the prefix, where that was moved aside."""
    restarted: tuple[str, ...] = ()
    service: Service | None = None


def agreed(job: Job, *, yes: bool) -> None:
    """Ask where somebody is there to be asked; a foreign copy is moved aside only where that was said.

    Raises:
        UsageError: the answer was no.
        FirstlightError: a foreign copy is in the way, and nobody agreed to have it moved.
    """
    said_yes = yes or os.environ.get("FIRSTLIGHT_YES") == "1"
    if job.foreign is not None and job.prefix is not None and not said_yes and not asks(yes=yes):
        raise refuse_foreign(job.prefix, job.foreign, _words(job))
    question = f"Move {job.foreign} aside, and go on?" if job.foreign is not None else "Go on?"
    if not confirmed(question, yes=yes):
        raise UsageError("not confirmed; nothing was changed", fix="answer y, or add --yes")


def _words(job: Job) -> str:
    """Return the command that was given, as far as it says what is installed."""
    wish = job.wish
    words = ["firstlight", "ollama.install"]
    words += ["--offline", str(wish.local.file)] if wish.local is not None else ["--release", wish.build.release]
    words += ["--sha256", wish.sha256] if wish.sha256 is not None else []
    for mirror in wish.mirrors:
        words += ["--mirror", without_credentials(mirror)]
    return shlex.join([*words, *(["--only-mirrors"] if wish.only_mirrors else [])])


def carry_out(job: Job, recorder: Recorder) -> Installed:
    """Fetch, unpack, check, switch, restart what runs from it, and write the receipt."""
    job.home.prepare()
    with speaking_of(job.prefix), alone(job.store, recorder) as hold:
        before = job.store.current()
        with step(recorder, "release", f"Ollama {job.wish.build.release}") as current:
            provided = provide_release(
                job.wish, job.store, step=current, book=job.book, transport=job.transport, hold=hold
            )
            current.detail = provided.generation.id
        switched = _switch(job, provided, before, recorder)
        tidy(job.home, job.store, recorder, locked=True)
    service = _service(job, recorder)
    receipt = _receipt(job, provided, [*switched.links, *(service.outside if service is not None else [])], recorder)
    return Installed(
        receipt=receipt,
        generation=provided.generation,
        before=before,
        adopted=switched.adopted,
        restarted=switched.restarted,
        service=service,
    )


def _service(job: Job, recorder: Recorder) -> Service | None:
    """Keep its server running where that was asked for; it loads the models of its store on demand."""
    return install_service(job.service, job.machine, recorder, job.home) if job.service is not None else None


class _Switched(msgspec.Struct, frozen=True, kw_only=True):
    """What the switch did: links that were made, the copy that was taken aside, servers that were restarted."""

    links: tuple[Path, ...]
    adopted: Generation | None
    restarted: tuple[str, ...]


def _switch(job: Job, provided: Provided, before: Generation | None, recorder: Recorder) -> _Switched:
    generation, links = provided.generation, list[Path]()
    adopted: Generation | None = None
    with step(recorder, "switch", f"make {generation.id} the current version") as current:
        if job.prefix is not None and job.foreign is not None:
            adopted = adopt(job.prefix, job.foreign, job.store)
            if adopted is not None:
                job.store.switch(adopted)
            job.store.switch(generation)
            links = take_over(job.prefix, job.foreign, adopted)
        else:
            job.store.switch(generation)
            links = take_over(job.prefix, None, None) if job.prefix is not None else []
        if before is not None and before.id == generation.id and not links:
            current.reused()
    restarted = _restarted(job, before, generation, recorder)
    return _Switched(links=tuple(links), adopted=adopted, restarted=restarted)


def _restarted(job: Job, before: Generation | None, generation: Generation, recorder: Recorder) -> tuple[str, ...]:
    """Restart what runs from the version before; where it does not come up, that one is the current one again."""
    if before is None or before.id == generation.id:
        return ()
    try:
        return replaced(job.home, before, generation, job.machine, recorder)
    except FirstlightError as error:
        job.store.switch(before)
        raise VerificationFailed(
            f"{error.what}; {before.id} is current again", why=error.why, fix=error.fix, evidence=error.evidence
        ) from error


def replaced(
    home: Home, before: Generation, present: Generation, machine: Machine, reporter: Reporter
) -> tuple[str, ...]:
    """Restart the services and detached servers that run from the version before; returns their names.

    Raises:
        FirstlightError: one does not come up from the present version; it runs from the one before again.
    """
    services = follow(home, ENGINE, machine, reporter, locked=True)
    swap = Swap(engine=ENGINE, old=before.prefix, new=present.prefix, name=present.id)
    return (*services, *restart_servers(home, swap, reporter))


@contextmanager
def alone(store: ArchiveStore, recorder: Recorder) -> Iterator[int]:
    """Hold the store's lock, after waiting for another firstlight where there is one."""
    with ExitStack() as stack:
        try:
            hold = stack.enter_context(store.lock())
        except FirstlightError as busy:
            if not store.folder.is_dir():  # it could not be made
                raise
            recorder(Note(f"{busy.what}: waiting for it (Ctrl-C gives up)"))
            hold = stack.enter_context(store.lock(wait=WAIT))
        yield hold


def _receipt(job: Job, provided: Provided, links: list[Path], recorder: Recorder) -> Receipt:
    generation = provided.generation
    steps = recorder.steps
    fetched = [
        FetchedFile(
            name=record.name,
            source=", ".join(record.sources) or "a local file",
            version=job.wish.build.release,
            size=record.size,
            sha256=record.sha256,
        )
        for record in generation.archives
    ]
    outside = [*map(str, links), *([str(job.store.folder)] if job.prefix is not None else [])]
    receipt = Receipt(
        what="ollama.install",
        started=timestamp(recorder.started),
        seconds=round(time.time() - recorder.started, 3),
        bytes=sum(record.bytes for record in steps),
        request=job.request,
        plan=_as_it_came(job.plan, provided),
        steps=steps,
        environment=EnvironmentRecord(
            generation=generation.id,
            kind=generation.kind,
            prefix=str(generation.prefix),
            python="",
            channel=None,
            reused=provided.reused,
        ),
        fetched=[] if provided.reused else fetched,
        outside=outside,
        notes=[*job.plan.because, *_asked(job), *_sums(provided), *provided.notes],
    )
    return write_receipt(job.home, receipt)


def _as_it_came(plan: Plan, provided: Provided) -> Plan:
    """Return the plan; its build is locked only where every archive was held against the catalogue's own sum."""
    if plan.build is None or all(archive.in_catalogue for archive in provided.archives):
        return plan
    return msgspec.structs.replace(plan, build=msgspec.structs.replace(plan.build, integrity="pinned"))


def _asked(job: Job) -> Iterator[str]:
    """Give what was asked for beside the request, and what was seen and left."""
    wish = job.wish
    if wish.local is not None:
        yield f"asked for the local archive {wish.local.file}"
    if wish.mirrors:
        places = ", ".join(text.partition("?")[0] for text in wish.mirrors)  # a query may hold a token
        yield f"asked for {'only ' if wish.only_mirrors else ''}the mirrors {places}"
    if job.prefix is not None:
        root = job.prefix.root
        yield f"asked for the prefix {root}; undone by: firstlight ollama.uninstall --prefix {shlex.quote(str(root))}"
    yield from (f"another copy, left as it is: {text}" for text in job.others)


def _sums(provided: Provided) -> Iterator[str]:
    """Give who said the sum of each archive."""
    for archive in provided.archives:
        whose = f"is known from {archive.said_by}" if archive.known else "is known nowhere"
        yield f"the sum of {archive.name} {whose}"
