"""`setup.*`: an engine's environment, proven; and its generations."""

from __future__ import annotations

from typing import Any

import msgspec
from invoke.collection import Collection
from invoke.context import Context

from firstlight.catalogue.names import installable_names
from firstlight.errors import FirstlightError, UsageError
from firstlight.tasks.asking import PATIENCE, PLAN_HELP, SETUP_HELP, confirmed, home_of, request_of, this_machine
from firstlight.tasks.edge import command, folder

_HELP = {
    **PLAN_HELP,
    **SETUP_HELP,
    "adopt": "take an environment that is there already: its prefix",
    "no-proof": "do not start the engine; with --machine, build for another machine",
    "unlocked": "resolve the wheels afresh instead of taking the build's lock",
    "repair": "build the same environment afresh beside the current one",
}
_ENGINES = ", ".join(installable_names())
_LISTS = ["channel", "index", "find_links"]


def _setup_task(engine: str) -> Any:
    """Return the task that sets an engine up."""

    def body(
        _context: Context,
        machine: str | None = None,
        gpus: str | None = None,
        cuda: str | None = None,
        release: str | None = None,
        build: str | None = None,
        python: str | None = None,
        model: str | None = None,
        environment: str | None = None,
        channel: list[str] | None = None,
        index: list[str] | None = None,
        find_links: list[str] | None = None,
        adopt: str | None = None,
        repair: bool = False,
        unlocked: bool = False,
        no_proof: bool = False,
        dry_run: bool = False,
        yes: bool = False,
        json: bool = False,
    ) -> int:
        from firstlight.tasks.doing import apply

        facts = _facts(machine, proof=not no_proof)
        words: dict[str, Any] = {"gpus": gpus, "cuda": cuda, "release": release, "build": build, "python": python}
        words |= {"environment": environment, "channel": channel, "index": index, "find_links": find_links}
        words |= {"unlocked": unlocked}
        return apply(
            f"setup.{engine}",
            request_of(engine, facts, elsewhere=False, model=model, **words),
            facts,
            prove=not no_proof,
            adopt=folder("--adopt", adopt),
            afresh=repair,
            dry_run=dry_run,
            yes=yes,
            json=json,
        )

    body.__name__ = engine
    body.__doc__ = f"Set up {engine}: plan, environment, first token, switch."
    return command(help=_HELP, iterable=_LISTS)(body)


def _facts(machine_file: str | None, *, proof: bool) -> Any:
    """Return the facts to plan for; another machine's keep this machine's disks and Pythons, where the work is done."""
    from firstlight.tasks.asking import machine_in_question

    here = this_machine(patience=PATIENCE)
    if machine_file is None:
        return here
    if proof:
        raise UsageError(
            "another machine's environment cannot be proven here",
            why="the proof starts the engine on the machine that it is for",
            fix=f"add --no-proof, or only look: firstlight plan ENGINE --machine {machine_file}",
        )
    there = machine_in_question(machine_file)
    return msgspec.structs.replace(there, disks=here.disks, pythons=here.pythons)


@command(name="list", help={"json": PLAN_HELP["json"]})
def list_generations(_context: Context, json: bool = False) -> None:
    """List every environment: engine, generation, Python, state, and which one is current."""
    from firstlight.environments.generations import all_generations
    from firstlight.ui.generations import generation_lines, generations_json
    from firstlight.ui.terminal import show, show_document

    listed = all_generations(home_of(this_machine()))
    if json:
        show_document(generations_json(listed))
    else:
        show("\n".join(generation_lines(listed)))


@command(help={"engine": _ENGINES, "model": PLAN_HELP["model"], "json": PLAN_HELP["json"]})
def prove(_context: Context, engine: str, model: str | None = None, json: bool = False) -> int:
    """Prove the current environment of an engine again: start it and measure its first token."""
    from firstlight.tasks.doing import prove_current

    return prove_current(engine, model, json=json)


@command(help={"engine": _ENGINES, "yes": SETUP_HELP["yes"], "json": PLAN_HELP["json"]})
def repair(_context: Context, engine: str, yes: bool = False, json: bool = False) -> int:
    """Build the current environment of an engine afresh, prove it, and switch to it."""
    from firstlight.tasks.doing import repair_current

    return repair_current(engine, yes=yes, json=json)


@command(help={"engine": _ENGINES})
def rollback(_context: Context, engine: str) -> None:
    """Make the previous environment of an engine the current one again."""
    from firstlight.environments.generations import store_named
    from firstlight.tasks.services import follow_switch
    from firstlight.ui.progress import progress
    from firstlight.ui.terminal import show

    facts = this_machine()
    store = store_named(home_of(facts), engine)
    with store.lock():
        show(f"{engine}: {store.rollback().id} is current again")
    with progress() as reporter:
        follow_switch(store.home, engine, facts, reporter)


@command(help={"engine": _ENGINES, "generation": "only this one", "yes": SETUP_HELP["yes"]})
def remove(_context: Context, engine: str, generation: str | None = None, yes: bool = False) -> None:
    """Remove an engine's environments, or one generation, and undo what was written outside the home."""
    from firstlight.environments.generations import store_named
    from firstlight.serving.running import list_running
    from firstlight.serving.services.records import require_not_service
    from firstlight.ui.terminal import show

    home = home_of(this_machine())
    store = store_named(home, engine)
    for record in list_running(home):
        if record.alive and record.engine == engine and generation in {None, record.details.environment}:
            raise FirstlightError(
                f"{record.name} runs from this environment",
                why=f"it serves {record.model} at {record.endpoint} (process {record.pid})",
                fix=f"firstlight down {record.name}",
            )
    require_not_service(home, engine, generation)
    what = f"the generation {generation}" if generation else f"every {store.noun} of {engine}"
    if not confirmed(f"Remove {what}?", yes=yes):
        raise UsageError("not confirmed; nothing was changed", fix="answer y, or add --yes")
    with store.lock():
        for line in store.remove(generation):
            show(line)


collection = Collection("setup")
for _engine in installable_names():
    collection.add_task(_setup_task(_engine), name=_engine)
for _task in (list_generations, prove, repair, rollback, remove):
    collection.add_task(_task)
