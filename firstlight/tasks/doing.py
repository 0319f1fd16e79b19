"""What `up`, `setup.*` and `serve.*` have in common: ask, bring up, show, and stay where a server is left to us."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Literal

import msgspec

from firstlight import engines
from firstlight.bringup import Result, bring_up, carry_out
from firstlight.catalogue.loading import find_engine, known_build, load_catalogue
from firstlight.catalogue.names import installable_names
from firstlight.environments.generations import store_named
from firstlight.errors import FirstlightError, UsageError
from firstlight.events import silent
from firstlight.goals import Goal, Site, foresee, prepare, require_servable
from firstlight.machine.facts import Machine
from firstlight.planning.choose import choose
from firstlight.planning.request import Request
from firstlight.proof.receipts import Receipt, Recorder, to_json
from firstlight.staying.old_versions import tidy
from firstlight.staying.wish import Wish
from firstlight.tasks.asking import PATIENCE, asks, confirmed, home_of, request_of, this_machine
from firstlight.tasks.services import (
    asked_again,
    follow_switch,
    install_proven,
    prepare_beside,
    renew_running,
    with_service,
)
from firstlight.ui.ending import next_steps, summary
from firstlight.ui.progress import progress
from firstlight.ui.terminal import show, show_document, speaks_unicode, tell, width
from firstlight.ui.views import plan_lines


def pick_engine(machine: Machine, asked: str | None, model: str | None = None) -> str:
    """Return the engine for `up`: what was asked for, else the first of the catalogue that can use this machine's GPU.

    Without a usable GPU that is the engine that is always there on the CPU. Engines that can never serve the model are
    left out.
    """
    if asked is not None:
        return asked
    catalogue, installable = load_catalogue(), installable_names()
    able = [
        name for name in catalogue.engines if name in installable and (model is None or _serves(name, model, machine))
    ]
    pages = {name: page for name, page in catalogue.engines.items() if name in (able or installable)}
    plans = {name: choose(machine, catalogue, Request(engine=name)) for name in pages}
    on_gpu = [name for name, plan in plans.items() if plan.build is not None and plan.build.cuda is not None]
    anywhere = [name for name, page in pages.items() if page.cpu == "always" and plans[name].build]
    fitting = [name for name, plan in plans.items() if plan.build is not None]
    last = [name for name, page in pages.items() if page.cpu == "always"]
    return next(iter([*on_gpu, *anywhere, *fitting, *last, *pages]))


def _serves(engine: str, model: str, machine: Machine) -> bool:
    """Tell whether an engine may be able to serve a model; whether it is there at all shows later.

    A word without a tag that only an engine's own registry could know is more likely a hub's id that lacks its owner.
    """
    home, found = home_of(machine), engines.find(engine)
    try:
        require_servable(Request(engine=engine, model=model, default_home=home.root))
        return ":" in model or not found.fetches(model) or found.own_model(model, home) is not None
    except FirstlightError:
        return False


def apply(
    what: str,
    request: Request,
    machine: Machine,
    *,
    talk: bool = False,
    prove: bool = True,
    adopt: Path | None = None,
    afresh: bool = False,
    after: Literal["stop", "keep", "detach"] = "stop",
    host: str | None = None,
    flags: tuple[str, ...] = (),
    service: Wish | None = None,
    dry_run: bool = False,
    yes: bool = False,
    json: bool = False,
) -> int:
    """Reach a goal and show what was reached; returns the exit code.

    Raises:
        UsageError: there is no such engine, or it can only be planned for; and whatever the work raises.
    """
    engines.find(request.engine)
    again = None if service is None else asked_again(service, machine, host)
    if again is not None:  # what the service has, and was not named again, stays
        service, host, flags = again.wish, again.wish.host, again.wish.flags
        request = msgspec.structs.replace(
            request, port=service.port, gpus=service.gpus, model=service.model or request.model
        )
    goal = Goal(
        what=what,
        request=request,
        talk=talk,
        prove=prove,
        adopt=adopt,
        afresh=afresh,
        after=after,
        host=host or "127.0.0.1",
        flags=flags,
    )
    recorder = Recorder(silent)
    with progress(events=json) as reporter:
        recorder.reporter = silent if dry_run else reporter
        beside = again is not None and again.running
        site = prepare_beside(goal, machine, recorder) if beside else prepare(goal, machine, recorder)
    if dry_run:
        return _dry_run(site, service, json=json)
    if asks(yes=yes):
        tell("\n".join(plan_lines(site.plan, explain=False)))
    if not confirmed("Go on?", yes=yes):
        raise UsageError("not confirmed; nothing was changed", fix="answer y, or add --yes")
    if service is not None and beside:
        return renew_running(service, site, recorder, json=json)
    return _reach(site, service, recorder, json=json)


def _reach(site: Site, service: Wish | None, recorder: Recorder, *, json: bool) -> int:
    """Carry out what was decided, and keep it running where that was asked for."""
    with progress(events=json) as reporter:
        recorder.reporter = reporter
        result = carry_out(site, recorder)
        follow_switch(site.home, site.plan.engine, site.machine, reporter, result.server)
        tidy(site.home, site.store, reporter)
    if service is not None:
        return install_proven(service, result.receipt, site.machine, site.home, json=json)
    return _ending(result, json=json)


def _dry_run(site: Site, service: Wish | None, *, json: bool) -> int:
    foreseen = foresee(site)
    if service is not None:
        foreseen = with_service(foreseen, service, site.machine, site.home)
    if json:
        head = {"schema": "firstlight.dryrun/1"}
        document = {**head, "files": foreseen.files, "commands": foreseen.commands, "plan": site.plan}
        show_document(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    else:
        show("\n".join(plan_lines(site.plan, explain=False)))
        show("would write:\n" + "\n".join(f"  {file.path}" for file in foreseen.files))
        show("would run:\n" + "\n".join(f"  {shlex.join(words)}" for words in foreseen.commands))
        tell("nothing was written (--dry-run)")
    return 0


def _ending(result: Result, *, json: bool) -> int:
    receipt, server = result.receipt, result.server
    if json:
        show_document(to_json(receipt))
    else:
        show("\n".join(["", *summary(receipt, width(), unicode=speaks_unicode(sys.stdout))]))
        if receipt.endpoint and receipt.model_id:
            if result.stopped:
                show("\nThe engine was stopped after its proof; `firstlight up --detach` leaves it running:")
            show(f"\n{next_steps(receipt.endpoint, receipt.model_id, _python_of(receipt))}")
    if server is None:
        return 0
    tell("\nserving; Ctrl-C ends it")
    with server:
        try:
            status = server.wait()
        except KeyboardInterrupt:
            tell("stopping")
            return 0
    if status:
        raise FirstlightError(
            f"{receipt.plan.engine} ended by itself with status {status}",
            fix=f"read its log: less {server.spec.log}",
        )
    return 0


def _python_of(receipt: Receipt) -> str:
    own = Path(receipt.environment.prefix) / "bin" / "python" if receipt.environment else None
    return str(own) if own is not None and own.exists() else "python3"


def prove_current(engine: str, model: str | None, *, json: bool) -> int:
    """Start the current environment's engine and measure its first token; the exit code."""
    return _with_current("setup.prove", engine, model, after="stop", json=json)


def serve_current(engine: str, model: str, *, host: str | None, port: int | None, flags: tuple[str, ...]) -> int:
    """Serve a model from the current environment in the foreground; the exit code."""
    return _with_current(f"serve.{engine}", engine, model, after="keep", talk=True, host=host, port=port, flags=flags)


def _with_current(
    what: str,
    engine: str,
    model: str | None,
    *,
    after: Literal["stop", "keep"],
    talk: bool = False,
    host: str | None = None,
    port: int | None = None,
    flags: tuple[str, ...] = (),
    json: bool = False,
) -> int:
    facts, request = _request_for_current(engine, model, port)
    goal = Goal(what=what, request=request, current=True, talk=talk, after=after, host=host or "127.0.0.1", flags=flags)
    with progress(events=json) as reporter:
        result = bring_up(goal, facts, reporter)
    return _ending(result, json=json)


def _request_for_current(engine: str, model: str | None, port: int | None) -> tuple[Machine, Request]:
    """Return the facts, and the request that leads the plan to the build of the engine's current environment."""
    engines.find(engine)
    facts = this_machine(patience=PATIENCE)
    request = request_of(engine, facts, elsewhere=False, model=model)
    present = store_named(home_of(facts), engine).current()
    build = known_build(find_engine(load_catalogue(), engine), present.build) if present is not None else None
    if build is None:
        return facts, msgspec.structs.replace(request, port=port)
    return facts, msgspec.structs.replace(request, build=build.id, cuda=build.cuda or "cpu", port=port)


def repair_current(engine: str, *, yes: bool, json: bool) -> int:
    """Build the engine's current environment afresh, prove it and switch to it; the exit code."""
    facts, request = _request_for_current(engine, None, None)
    store = store_named(home_of(facts), engine)
    if not store.list() and not (store.folder / "current").is_symlink():
        raise FirstlightError(
            f"{engine} is not set up",
            why=f"{store.home.root} has no environment of it to repair",
            fix=f"firstlight setup.{engine}",
        )
    return apply("setup.repair", request, facts, afresh=True, yes=yes, json=json)
