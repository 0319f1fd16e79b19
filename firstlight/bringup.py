"""The one path: facts, plan, environment (examined) and model side by side, first token, switch, receipt.

`up` and every `setup.*` are this one function with another goal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import msgspec

from firstlight import engines
from firstlight.catalogue.loading import find_build, load_catalogue
from firstlight.environments.archives import locked
from firstlight.environments.conda import CondaPackage
from firstlight.environments.examining import examine, require_passed
from firstlight.environments.generation_store import GenerationStore
from firstlight.environments.generations import Generation, Store
from firstlight.environments.remembering import remember
from firstlight.environments.wheels import InstalledPackage
from firstlight.errors import FirstlightError
from firstlight.events import Note, Reporter, step
from firstlight.goals import Goal, Site, build_id, older_build_named, prepare, subject_of, variables_of, work_of
from firstlight.machine.facts import Machine
from firstlight.models.provide import ServedModel, provide_model
from firstlight.models.synthetic import write_synthetic_model
from firstlight.planning.plan import Plan
from firstlight.process import stop_children
from firstlight.proof.proving import Proven, Trial, proven
from firstlight.proof.receipts import (
    EnvironmentRecord,
    FetchedFile,
    ModelRecord,
    Receipt,
    Recorder,
    timestamp,
    write_receipt,
)
from firstlight.serving.server import RunningServer

PATIENCE = 1800.0
"""Seconds to wait for another firstlight that works on the same engine: a big install over a slow link takes long."""
_A = TypeVar("_A")
_B = TypeVar("_B")


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was reached: the receipt, and the server where the goal left it to the caller."""

    receipt: Receipt
    server: RunningServer | None = None
    stopped: bool = False
    """Whether the engine was stopped after its proof."""


def bring_up(goal: Goal, machine: Machine, reporter: Reporter) -> Result:
    """Reach a goal on a machine and return its receipt.

    Args:
        goal: what is to be reached; `goal.request.home` None lets the plan propose a home.
        machine: the facts.
        reporter: takes the progress.

    Raises:
        NothingFits: no build fits; the plan with its refusals is in the error's document.
        NetworkFailed: some bytes could not be had from any source.
        VerificationFailed: the proof did not hold; nothing was switched.
        FirstlightError: anything else; what was fetched is kept.
    """
    recorder = Recorder(reporter)
    return carry_out(prepare(goal, machine, recorder), recorder)


def carry_out(site: Site, recorder: Recorder) -> Result:
    """Do what was decided: environment and model side by side, first token, switch, receipt; see `bring_up`."""
    goal = site.goal
    site.home.prepare()
    with nullcontext(()) if goal.current else _alone(site.store, recorder) as hold:
        site = msgspec.structs.replace(site, hold=hold)
        generation, model = side_by_side(
            lambda: _examined(site, _environment(site, recorder), recorder), lambda: _model(site, recorder)
        )
        model = _taken(site, generation, model, recorder)
        if not goal.prove:
            recorder(Note("not proven, as asked for with --no-proof", "warn"))
            _switch(site, generation, recorder)
            return Result(receipt=_receipt(site, generation, model, None, recorder))
        with older_build_named(site.plan), proven(_trial(site, generation, model), recorder) as answer:
            if not goal.current:
                site.store.mark_proven(generation)
                _switch(site, generation, recorder)
    server = answer.server if goal.after == "keep" else None
    receipt = _receipt(site, generation, model, answer, recorder)
    return Result(receipt=receipt, server=server, stopped=goal.after == "stop")


@contextmanager
def _alone(store: GenerationStore, recorder: Recorder) -> Iterator[tuple[int, ...]]:
    """Hold the engine's lock, after waiting for another firstlight where there is one."""
    with ExitStack() as stack:
        try:
            hold = stack.enter_context(store.lock())
        except FirstlightError as busy:
            recorder(Note(f"{busy.what}: waiting for it (Ctrl-C gives up)"))
            hold = stack.enter_context(store.lock(wait=PATIENCE))
        yield (hold,)


def side_by_side(one: Callable[[], _A], other: Callable[[], _B]) -> tuple[_A, _B]:
    """Do two pieces of work at once and return both results; when one fails or Ctrl-C comes, the other is stopped."""
    with ThreadPoolExecutor(max_workers=2, thread_name_prefix="side") as pool:
        first, second = pool.submit(one), pool.submit(other)
        try:
            while not (first.done() and second.done()):
                for future in (first, second):
                    if future.done():
                        future.result()
                time.sleep(0.05)
            return first.result(), second.result()
        except BaseException:
            stop_children()
            raise


def _environment(site: Site, recorder: Recorder) -> Generation:
    """Return the environment of the plan: adopted, already there, or built beside the current one."""
    with step(recorder, "environment", f"environment for {site.plan.engine}") as current:
        present = site.store.current() if site.goal.current else None
        if present is not None:
            current.reused(present.id)
            return present
        engine = engines.find(site.plan.engine)
        if site.goal.adopt is not None:
            return engine.adopt(site.goal.adopt, site.home)
        return engine.environment(work_of(site), current)


def _examined(site: Site, generation: Generation, recorder: Recorder) -> Generation:
    """Look closely at an environment that was not examined yet; one that does not pass is proven and switched to never.

    A model that tokenises is written for it, so that it need not wait for the one that is being fetched.
    """
    entry = load_catalogue().engines[site.plan.engine]
    if entry.examination is None or site.goal.current:
        return generation
    with step(recorder, "examine", f"examine the environment of {site.plan.engine}") as current:
        before = generation.examination
        if before is not None and not before.failed and generation.kind != "adopted":
            current.reused(f"on {before.at}")
            return generation
        subject = subject_of(site, generation, entry.examination)
        with TemporaryDirectory(prefix="firstlight-examination-") as scratch:
            model = write_synthetic_model(Path(scratch) / "model")
            variables = {**variables_of(site, generation), "HOME": scratch}
            examined = examine(subject, model, step=current, log=site.log, variables=variables, hold=site.hold)
        generation = Store(site.home, site.plan.engine).mark_examined(generation, examined)
        current.detail = examined.summary
        for check in examined.checks:
            if check.status == "warn":
                current.warn(f"{check.id}: {check.summary}")
        require_passed(examined, subject, site.log)
    return generation


def _model(site: Site, recorder: Recorder) -> ServedModel:
    with step(recorder, "model", f"model {site.request.model or ''}".rstrip()) as current:
        engine = engines.find(site.plan.engine)
        own = engine.own_model(site.request.model, site.home) if site.request.model else None
        if own is not None:
            current.reused(own.name)
            return own
        if site.request.model and engine.fetches(site.request.model):
            return engine.fetch_model(site.request.model, site.home, current)
        model = provide_model(
            site.request.model,
            talk=site.goal.talk,
            home=site.home,
            uv=site.uv,
            step=current,
            log=site.log,
            hold=site.hold,
            layouts=engine.layouts,
        )
        current.detail = current.detail or model.name
        return model


def _taken(site: Site, generation: Generation, model: ServedModel, recorder: Recorder) -> ServedModel:
    """Bring the model into the form that the engine's server reads."""
    engine = engines.find(site.plan.engine)
    words = engine.taking(model)
    if words is None:
        return model
    with step(recorder, "convert", words) as current:
        return engine.take(model, generation, work_of(site), current)


def _trial(site: Site, generation: Generation, model: ServedModel) -> Trial:
    entry = load_catalogue().engines[site.plan.engine]
    return Trial(
        engine=engines.find(site.plan.engine),
        entry=entry,
        build=find_build(entry, build_id(site.plan)),
        generation=generation.id,
        prefix=generation.prefix,
        launch=site.launch,
        model=model.path,
        model_bytes=model.bytes,
        name=model.name,
        speaks=model.speaks,
        host=site.goal.host,
        port=site.launch.port,
        home=site.home,
        log=site.home.root / "logs" / f"{site.plan.engine}-server.log",
        flags=site.goal.flags,
        after=site.goal.after,
    )


def _switch(site: Site, generation: Generation, recorder: Recorder) -> None:
    """Make the environment the current one, the last act: whatever failed before has changed nothing."""
    with step(recorder, "switch", f"make {generation.id} the current environment") as current:
        present = site.store.current()
        if present is not None and present.id == generation.id:
            current.reused()
            return
        site.store.switch(generation)
        remember(site.home, site.request)


def _as_it_came(plan: Plan, generation: Generation) -> Plan:
    """Return the plan; archives that were taken by a sum other than the catalogue's make no locked build."""
    if generation.kind != "archive" or plan.build is None or plan.build.integrity != "locked":
        return plan
    if locked(generation, find_build(load_catalogue().engines[plan.engine], plan.build.id)):
        return plan
    return msgspec.structs.replace(plan, build=msgspec.structs.replace(plan.build, integrity="pinned"))


def _receipt(
    site: Site, generation: Generation, model: ServedModel, answer: Proven | None, recorder: Recorder
) -> Receipt:
    steps = recorder.steps
    built = next((record for record in steps if record.id == "environment"), None)
    reused = built is None or built.outcome == "reused"
    packages: list[CondaPackage | InstalledPackage] = [] if reused else [*generation.conda, *generation.wheels]
    fetched = [
        FetchedFile(
            name=item.name, source=item.source or "unknown", version=item.version, size=item.size, sha256=item.sha256
        )
        for item in packages
    ]
    fetched += [
        FetchedFile(name=item.name, source=", ".join(item.sources) or "here", size=item.size, sha256=item.sha256)
        for item in ([] if reused else generation.archives)
    ]
    fetched += [
        FetchedFile(name=item.name, source=", ".join(item.sources) or model.source, size=item.size, sha256=item.sha256)
        for item in ([] if model.reused else model.files)
    ]
    receipt = Receipt(
        what=site.goal.what,
        started=timestamp(recorder.started),
        seconds=round(time.time() - recorder.started, 3),
        bytes=sum(record.bytes for record in steps),
        request=site.request,
        plan=_as_it_came(site.plan, generation),
        steps=steps,
        environment=EnvironmentRecord(
            generation=generation.id,
            kind=generation.kind,
            prefix=str(generation.prefix),
            python=generation.python,
            channel=generation.channel,
            reused=reused,
        ),
        examination=generation.examination,
        model=ModelRecord(
            name=model.name, path=str(model.path), source=model.source, bytes=model.bytes, reused=model.reused
        ),
        fetched=fetched,
        outside=[str(generation.registered)] if generation.registered and not reused else [],
        notes=[*site.plan.because, *generation.problems],
        proof=answer.proof if answer else None,
        endpoint=answer.endpoint if answer and site.goal.talk else None,
        model_id=answer.model_id if answer else None,
    )
    return write_receipt(site.home, receipt)
