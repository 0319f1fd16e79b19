"""`machine` and `plan`: what is here, and what would be chosen."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from invoke.context import Context

from firstlight.catalogue.names import engine_names
from firstlight.tasks.asking import PLAN_HELP, machine_in_question, request_of, this_machine
from firstlight.tasks.edge import command


@command(help={"json": PLAN_HELP["json"]})
def machine(_context: Context, json: bool = False) -> None:
    """Show the facts of this machine: system, GPUs, driver, disks, Pythons."""
    from firstlight.machine.facts import to_json
    from firstlight.ui.terminal import show, show_document
    from firstlight.ui.views import machine_lines

    facts = this_machine()
    if json:
        show_document(to_json(facts))
    else:
        show("\n".join(machine_lines(facts)))


@command(
    help={**PLAN_HELP, "engine": ", ".join(engine_names()), "explain": "every build, with the rule that refused it"}
)
def plan(
    _context: Context,
    engine: str,
    machine: str | None = None,
    gpus: str | None = None,
    cuda: str | None = None,
    release: str | None = None,
    build: str | None = None,
    python: str | None = None,
    model: str | None = None,
    json: bool = False,
    explain: bool = False,
) -> int:
    """Decide which build of an engine fits, and why not the others; touches nothing."""
    words: dict[str, Any] = {"gpus": gpus, "cuda": cuda, "release": release, "build": build, "python": python}
    with _uncollected():
        return _plan(engine, {**words, "model": model}, machine, json=json, explain=explain)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Let no cycles be looked for: reading the catalogue makes none, and looking costs a third of its time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _plan(engine: str, words: dict[str, Any], machine: str | None, *, json: bool, explain: bool) -> int:
    from firstlight.catalogue.loading import load_catalogue
    from firstlight.planning.choose import choose
    from firstlight.planning.plan import to_json
    from firstlight.ui.terminal import show, show_document

    facts = machine_in_question(machine)
    request = request_of(engine, facts, elsewhere=machine is not None, **words)
    if machine is None and request.home is not None:
        from firstlight.environments.remembering import remembered
        from firstlight.home import Home

        request = remembered(Home(request.home), request) or request
    catalogue = load_catalogue()
    decision = choose(facts, catalogue, request)
    if json:
        show_document(to_json(decision))
    else:
        from firstlight.ui.views import plan_lines

        builds = catalogue.engines[decision.engine].build
        show("\n".join(plan_lines(decision, explain=explain, builds=builds, machine=machine)))
    return 0 if decision.build else 3
