"""The decision for this machine: first what needs no network, then the plan on what was heard from the sources."""

from __future__ import annotations

from firstlight.catalogue.loading import find_engine, load_catalogue, load_mirrors
from firstlight.environments.generations import Store
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.remembering import remembered
from firstlight.environments.supply import settle
from firstlight.events import Step
from firstlight.home import Home
from firstlight.machine.facts import Machine
from firstlight.planning.choose import choose
from firstlight.planning.failing import nothing_fits
from firstlight.planning.plan import Plan
from firstlight.planning.request import Request


def decide(
    request: Request, machine: Machine, settings: PipSettings, current: Step, *, ask: bool = True
) -> tuple[Request, Plan]:
    """Return the plan, which has a build, and the request with the supply that it rests on.

    Nothing is asked of the network where no answer could change the plan: words that are wrong and machines that can
    never do are told at once, and an environment that is there already, and would be chosen again, is enough.

    Args:
        request: what was asked for.
        machine: the facts.
        settings: the user's pip configuration.
        current: takes notes.
        ask: False: no environment will be built, so that nobody needs to know the sources.

    Raises:
        UsageError: the request names what the catalogue does not have.
        NothingFits: no build fits.
        NetworkFailed: a source that was asked for by name is silent.
    """
    catalogue = load_catalogue()
    known = remembered(Home(request.home) if request.home else None, request) or request
    plan = choose(machine, catalogue, known)
    if plan.build is None:
        raise nothing_fits(plan)
    present = Store(Home(known.home), request.engine).current() if known.home else None
    if not ask or (known is not request and present is not None and present.build == plan.build.id):
        return known, plan
    entry = find_engine(catalogue, request.engine)
    settled = settle(machine, entry, load_mirrors(), request, settings, current)
    plan = choose(machine, catalogue, settled)
    if plan.build is None:
        raise nothing_fits(plan)
    return settled, plan
