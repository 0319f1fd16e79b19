"""Services that share a GPU or a port: what they would take together, and which of ours must make room."""

from __future__ import annotations

from collections.abc import Sequence

from firstlight.catalogue.types import EngineEntry
from firstlight.errors import FirstlightError
from firstlight.home import Home
from firstlight.serving.guard import descendants
from firstlight.serving.ports import PortHolder, port_holder, require_free_port
from firstlight.serving.services.manager import manager_for
from firstlight.serving.services.records import Record, all_services, load
from firstlight.serving.services.spec import ServiceSpec

_CARD = "/dev/nvidia"
_UP = frozenset({"running", "starting", "restarting"})


def others(home: Home, spec: ServiceSpec) -> list[Record]:
    """Return the records of the other services."""
    return [record for record in all_services(home) if record.spec.name != spec.name]


def is_up(home: Home, spec: ServiceSpec) -> bool:
    """Tell whether a service runs, or is being started."""
    return manager_for(spec.scope, home).status(spec).state in _UP


def rivals(home: Home, spec: ServiceSpec) -> list[Record]:
    """Return our other services that run on the same port, or were stopped for this one by a run that was killed.

    They make room for it.
    """
    known = load(home, spec.name)
    displaced = known.displaced if known is not None else []
    same = [record for record in others(home, spec) if record.spec.port == spec.port]
    return [record for record in same if record.spec.name in displaced or is_up(home, record.spec)]


def require_port(home: Home, spec: ServiceSpec, making_room: Sequence[Record]) -> None:
    """Make sure that the port is free, or held by what will make room: this service itself, or an older one of ours.

    Raises:
        FirstlightError: another process holds it (named).
    """
    holder = port_holder(spec.port)
    known = load(home, spec.name)
    candidates = [*([known.spec, *known.leaving] if known is not None else []), *(each.spec for each in making_room)]
    if holder is not None and any(holds(home, each, holder) for each in candidates):
        return
    require_free_port(spec.host, spec.port, home)


def holds(home: Home, spec: ServiceSpec, holder: PortHolder) -> bool:
    """Tell whether the process that holds a service's port is the service's own; one that cannot be seen may be."""
    seen = manager_for(spec.scope, home).status(spec)
    if spec.port != holder.port or seen.state not in _UP:
        return False
    if holder.pid is None:
        return seen.pid is not None
    return seen.pid is not None and (holder.pid == seen.pid or holder.pid in descendants(seen.pid))


def require_memory(home: Home, spec: ServiceSpec, entry: EngineEntry, making_room: Sequence[Record]) -> None:
    """Make sure that services which share a GPU take no more of its memory than there is.

    Raises:
        FirstlightError: together they would, with the flag that divides it.
    """
    if spec.memory_share is None:
        return
    cards = _cards(spec)
    leaving = {record.spec.name for record in making_room}
    sharing = [
        record.spec
        for record in others(home, spec)
        if record.spec.memory_share is not None and record.spec.name not in leaving and _cards(record.spec) & cards
    ]
    taken = sum(each.memory_share or 0.0 for each in sharing)
    if not sharing or taken + spec.memory_share <= 1.0:
        return
    flag = entry.service.memory_flags[0]
    told = ", ".join(f"{each.name} takes {each.memory_share:.0%}" for each in sharing)
    left = max(0.0, 0.95 - taken)
    fix = (
        f"-- {flag} {left:.2f}"
        if left >= 0.1
        else f"firstlight service.remove {sharing[0].name}, or divide it anew with {flag}"
    )
    raise FirstlightError(
        f"{spec.name} would take {spec.memory_share:.0%} of a GPU's memory that is not free",
        why=f"{told} of the same GPU",
        fix=fix,
    )


def _cards(spec: ServiceSpec) -> set[str]:
    return {node for node in spec.devices if node.removeprefix(_CARD).isdecimal()}
