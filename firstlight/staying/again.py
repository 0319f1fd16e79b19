"""A service that is asked for a second time: what of it stays, and whether anything has to be done at all."""

from __future__ import annotations

import msgspec

from firstlight import engines
from firstlight.goals import Site, work_of
from firstlight.home import Home
from firstlight.serving.services.manager import Manager
from firstlight.serving.services.records import Record, all_services, load
from firstlight.serving.services.spec import ServiceSpec
from firstlight.serving.services.systemctl import runs
from firstlight.staying.sharing import is_up
from firstlight.staying.whom import wished_user
from firstlight.staying.wish import Wish


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """A wish in the light of what is there already."""

    wish: Wish
    kept: list[str]
    """In words: what the service has that was not named, and stays."""
    running: bool
    """Whether a service of ours runs under its name or on its port: no second engine is started beside it there."""


def seen_again(wish: Wish, home: Home, *, port: int, host: str | None) -> Again:
    """Return a wish whose unnamed words are those of the service that is there.

    Args:
        wish: what was named; its host is the default one where none was.
        home: where services are kept.
        port: the port that the wish stands for.
        host: the address, where it was named.
    """
    before = load(home, wish.service_name)
    if before is not None and before.spec.engine == wish.engine:
        wish, kept = _completed(wish, before.spec, host)
        port = wish.port or port
    else:
        kept = []
    near = [each for each in all_services(home) if each.spec.name == wish.service_name or each.spec.port == port]
    return Again(wish=wish, kept=kept, running=any(is_up(home, each.spec) for each in near))


def _completed(wish: Wish, spec: ServiceSpec, host: str | None) -> tuple[Wish, list[str]]:
    lost = spec.scope != "supervisor" and not runs()
    found = msgspec.structs.replace(
        wish,
        model=wish.model or spec.model,
        port=wish.port or spec.port,
        host=host or spec.host,
        allow_open=wish.allow_open or (host is None and not spec.loopback),
        flags=wish.flags or spec.flags,
        gpus=wish.gpus if wish.gpus is not None else spec.gpus,
        hardening="basic" if lost else spec.hardening,
        scope="auto" if lost else spec.scope,
        user=wished_user(spec),
    )
    told = [
        f"model {spec.model}" if spec.model and not wish.model else "",
        f"port {spec.port}" if wish.port is None else "",
        f"address {spec.host}" if host is None and not spec.loopback else "",
        f"flags {' '.join(spec.flags)}" if spec.flags and not wish.flags else "",
        f"GPUs {','.join(map(str, spec.gpus))}" if spec.gpus is not None and wish.gpus is None else "",
        f"hardening {found.hardening}" if found.hardening != "basic" else "",
        f"user {found.user}" if found.user is not None else "",
    ]
    return found, [each for each in told if each]


def stands(site: Site) -> bool:
    """Tell whether the environment that a goal asks for is the current one already, whole and proven."""
    current = site.store.current()
    if site.goal.current:
        return current is not None
    if current is None or current.problems:
        return False
    build = site.plan.build.id if site.plan.build is not None else None
    if any(each.build == build and each.id != current.id for each in site.store.list()):
        return False  # which of them is meant, building finds out
    return current.state == "proven" and not engines.find(site.plan.engine).foresee(work_of(site)).files


def unchanged(manager: Manager, before: Record, spec: ServiceSpec) -> bool:
    """Tell whether a service runs exactly as it would be installed: by its description, its files, and what runs."""
    if before.leaving or msgspec.structs.replace(before.spec, model=spec.model) != spec:
        return False
    for file in manager.files(spec):
        try:
            if file.path.read_text(encoding="utf-8") != file.content:
                return False
        except (OSError, UnicodeDecodeError):
            return False
    seen = manager.status(spec)
    return seen.state == "running" and (bool(seen.enabled) or spec.scope == "supervisor")
