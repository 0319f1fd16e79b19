"""The decision for this machine: first what needs no network, then the plan on what was heard from the sources."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from firstlight.catalogue.loading import find_build, find_engine, load_catalogue, load_mirrors
from firstlight.catalogue.types import Catalogue, EngineEntry, Mirrors
from firstlight.environments.generations import store_for
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.platforms import require_same_arch
from firstlight.environments.remembering import remembered
from firstlight.environments.supply import Finder
from firstlight.errors import FirstlightError, NetworkFailed
from firstlight.events import Step
from firstlight.home import Home
from firstlight.machine.facts import Machine
from firstlight.planning.choose import choose
from firstlight.planning.failing import nothing_fits
from firstlight.planning.plan import Plan
from firstlight.planning.request import Request


def decide(
    request: Request,
    machine: Machine,
    settings: PipSettings,
    current: Step,
    *,
    ask: bool = True,
    catalogue: Catalogue | None = None,
    mirrors: Mirrors | None = None,
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
        catalogue: the builds; firstlight's own by default.
        mirrors: the places that bytes may come from; firstlight's own by default.

    Raises:
        UsageError: the request names what the catalogue does not have, or the machine has another architecture.
        NothingFits: no build fits.
        NetworkFailed: what fits cannot be fetched, or a source that was asked for by name is silent.
    """
    catalogue = catalogue or load_catalogue()
    known = remembered(Home(request.home) if request.home else None, request) or request
    plan = choose(machine, catalogue, known)
    if plan.build is None and known is not request:
        known, plan = request, choose(machine, catalogue, request)
    if plan.build is None:
        raise nothing_fits(plan)
    store = store_for(Home(known.home), find_engine(catalogue, request.engine)) if known.home else None
    present = store.current() if store is not None else None
    if not ask or (known is not request and present is not None and present.build == plan.build.id):
        for build, reason in known.supply.silent.items() if ask else ():
            current.note(f"{build} was passed over before: {reason}; to try it again: --build {build}")
        return known, plan
    require_same_arch(machine.host)
    entry = find_engine(catalogue, request.engine)
    if entry.kind != "wheels":
        return request, choose(machine, catalogue, request)
    finder = Finder(mirrors or load_mirrors(), request, settings, machine.host.arch, current)
    return _settled(finder, machine, catalogue, entry, plan, current)


def _settled(
    finder: Finder, machine: Machine, catalogue: Catalogue, entry: EngineEntry, plan: Plan, current: Step
) -> tuple[Request, Plan]:
    """Ask for what the chosen build needs and choose anew, until one is chosen that can be fetched."""
    settled = None
    while plan.build is not None:
        build, python = find_build(entry, plan.build.id), plan.build.python
        heard = finder.settle(build, python) if settled is None else finder.heard(build, python)
        if heard == settled:
            _tell(heard.supply.silent, current)
            return heard, plan
        settled = heard
        plan = choose(machine, catalogue, settled)
        lost = _lost_to_the_cpu(plan, entry)
        if plan.build is None or lost:
            raise out_of_reach(plan, cpu=lost)
    raise nothing_fits(plan)


def _tell(silent: Mapping[str, str], current: Step) -> None:
    """Say which builds were passed over; those with one reason in one sentence."""
    for reason in dict.fromkeys(silent.values()):
        builds = [build for build, why in silent.items() if why == reason]
        current.warn(f"{', '.join(builds)} passed over: {reason}")


def _lost_to_the_cpu(plan: Plan, entry: EngineEntry) -> bool:
    """Tell whether a CPU build was chosen only because no build for the GPU can be fetched at the moment."""
    if plan.build is None or plan.build.cuda is not None:
        return False
    silent = {refusal.build for refusal in plan.refused if refusal.rule == "source"}
    return any(build.cuda is not None for build in entry.build if build.id in silent)


def out_of_reach(plan: Plan, *, cpu: bool = False) -> FirstlightError:
    """Return the error of a plan whose builds fit this machine, and cannot be fetched from here.

    Args:
        plan: the plan.
        cpu: a CPU build could be had, but would leave the GPU idle.
    """
    silent = [refusal for refusal in plan.refused if refusal.rule == "source"]
    if not silent:
        return nothing_fits(plan)
    one = silent[0].build if len(silent) == 1 else None
    fix = "check the network and the proxy, or lay the wheels into a folder and name it: --find-links DIR"
    return NetworkFailed(
        f"{one} cannot be fetched" if one else f"no build of {plan.engine} that fits this machine can be fetched",
        why="; ".join(refusal.reason if one else f"{refusal.build}: {refusal.reason}" for refusal in silent),
        fix=fix + (f"\nor leave the GPU idle for now: firstlight setup.{plan.engine} --cuda cpu" if cpu else ""),
        document={"plan": msgspec.to_builtins(plan)},
    )
