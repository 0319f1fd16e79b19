"""`up` and `down`: the whole job, and its end."""

from __future__ import annotations

import sys
from typing import Any, Literal

from invoke.context import Context

from firstlight.catalogue.names import installable_names
from firstlight.errors import UsageError
from firstlight.planning.request import Request
from firstlight.tasks.asking import PATIENCE, PLAN_HELP, SETUP_HELP, home_of, request_of, this_machine
from firstlight.tasks.edge import after_dashes, command, port_number

_HELP = {
    **{name: PLAN_HELP[name] for name in ("gpus", "cuda", "release", "build", "python", "model", "json")},
    **SETUP_HELP,
    "engine": f"{' or '.join(installable_names())}; chosen by the machine when left out",
    "port": "port of the endpoint",
    "host": "address to listen on; 127.0.0.1 is reached from this machine alone",
    "detach": "leave it running in the background (`firstlight down` stops it)",
    "service": "install it as a service that outlives crashes and reboots (`service.install` has more options)",
    "once": "prove it and stop (the default without a terminal)",
}


@command(help=_HELP, iterable=["channel", "index", "find_links"])
def up(
    _context: Context,
    engine: str | None = None,
    model: str | None = None,
    port: str | None = None,
    host: str | None = None,
    detach: bool = False,
    once: bool = False,
    service: bool = False,
    gpus: str | None = None,
    cuda: str | None = None,
    release: str | None = None,
    build: str | None = None,
    python: str | None = None,
    environment: str | None = None,
    channel: list[str] | None = None,
    index: list[str] | None = None,
    find_links: list[str] | None = None,
    dry_run: bool = False,
    yes: bool = False,
    json: bool = False,
) -> int:
    """Bring a model up: environment, model, engine, first token, endpoint."""
    from firstlight.tasks.doing import apply, pick_engine

    if host is not None and not host.strip():
        raise UsageError("--host was given without an address", fix="--host 127.0.0.1")
    if detach + once + service > 1:
        raise UsageError("--detach, --once and --service exclude each other", fix="leave all but one of them out")
    keep = sys.stdout.isatty() and not json
    after: Literal["stop", "keep", "detach"] = (
        "detach" if detach else "keep" if keep and not (once or service) else "stop"
    )
    words: dict[str, Any] = {"gpus": gpus, "cuda": cuda, "release": release, "build": build, "python": python}
    words |= {"port": port, "environment": environment, "channel": channel, "index": index, "find_links": find_links}
    facts = this_machine(patience=PATIENCE)
    request = request_of(pick_engine(facts, engine, model), facts, elsewhere=False, model=model, **words)
    return apply(
        "up",
        request,
        facts,
        talk=True,
        after=after,
        host=host,
        flags=after_dashes(),
        service=_wish(request, host, port) if service else None,
        dry_run=dry_run,
        yes=yes,
        json=json,
    )


def _wish(request: Request, host: str | None, port: str | None) -> Any:
    """Return the service that `--service` asks for; `service.install` knows more options."""
    from firstlight.staying.wish import Wish

    return Wish(
        engine=request.engine,
        model=request.model or "",
        host=host or "127.0.0.1",
        port=port_number(port),
        gpus=request.gpus,
        flags=after_dashes(),
    )


@command(help={"name": "which server; may be left out when one runs", "json": PLAN_HELP["json"]})
def down(_context: Context, name: str | None = None, json: bool = False) -> None:
    """Stop a server that `up --detach` left running."""
    import msgspec

    from firstlight.serving.running import stop_running
    from firstlight.ui.terminal import show, show_document

    ended = stop_running(home_of(this_machine()), name)
    if json:
        document = {"schema": "firstlight.down/1", "name": ended.record.name, "ran": ended.ran}
        show_document(msgspec.json.encode(document).decode())
    else:
        word = "stopped" if ended.ran else "was not running any more; its record is removed"
        show(f"{ended.record.name} {word}")
