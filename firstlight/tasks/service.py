"""`service.*`: an engine that stays up, by systemd or, where that does not run, by a supervisor of our own."""

from __future__ import annotations

from invoke.collection import Collection
from invoke.context import Context

from firstlight.catalogue.names import installable_names
from firstlight.errors import UsageError
from firstlight.tasks.asking import PATIENCE, PLAN_HELP, SETUP_HELP, confirmed, home_of, this_machine
from firstlight.tasks.edge import after_dashes, command, gpu_indexes, one_of, port_number

_NAME = {"name": "which service; may be left out when one is installed"}
_INSTALL = {
    "engine": ", ".join(installable_names()),
    "model": "what to serve: a folder, owner/name, pypi:NAME",
    "name": "name of the service and its unit; the engine's by default",
    "hardening": "basic, or strict: shut in as far as CUDA allows, tried before it is switched on",
    "scope": "auto, system, user or supervisor",
    "host": "address to listen on; 127.0.0.1 is reached from this machine alone, others make an API key",
    "port": "port of the endpoint",
    "user": "system user that it runs as",
    "allow-open": "listen on a wider address though the engine knows no API key",
    "gpus": PLAN_HELP["gpus"],
    "no-proof": "do not ask for a first token",
    "dry-run": SETUP_HELP["dry-run"],
    "yes": SETUP_HELP["yes"],
    "json": PLAN_HELP["json"],
}


@command(help=_INSTALL, positional=["engine"])
def install(
    _context: Context,
    engine: str,
    model: str | None = None,
    name: str | None = None,
    hardening: str | None = None,
    scope: str | None = None,
    host: str | None = None,
    port: str | None = None,
    user: str | None = None,
    gpus: str | None = None,
    allow_open: bool = False,
    no_proof: bool = False,
    dry_run: bool = False,
    yes: bool = False,
    json: bool = False,
) -> int:
    """Install an engine as a service that outlives the terminal, the crash and the reboot."""
    from firstlight.staying.wish import Wish
    from firstlight.tasks.services import install_wish

    wish = Wish(
        engine=engine,
        model=model or "",
        name=name,
        hardening=one_of("--hardening", hardening, ("basic", "strict"), "basic"),  # type: ignore[arg-type]
        scope=one_of("--scope", scope, ("auto", "system", "user", "supervisor"), "auto"),  # type: ignore[arg-type]
        host="127.0.0.1" if host is None else host,
        port=port_number(port),
        user=user,
        allow_open=allow_open,
        gpus=gpu_indexes(gpus),
        flags=after_dashes(),
    )
    return install_wish(wish, this_machine(patience=PATIENCE), prove=not no_proof, dry_run=dry_run, yes=yes, json=json)


@command(help=_NAME)
def start(_context: Context, name: str | None = None) -> None:
    """Start a service and wait until it answers."""
    from firstlight.tasks.services import change

    change("start", name)


@command(help=_NAME)
def stop(_context: Context, name: str | None = None) -> None:
    """Stop a service until it is started, or until the next boot."""
    from firstlight.tasks.services import change

    change("stop", name)


@command(help=_NAME)
def restart(_context: Context, name: str | None = None) -> None:
    """Stop and start a service, and wait until it answers."""
    from firstlight.tasks.services import change

    change("restart", name)


@command(help={"name": "which service; all when left out", "json": PLAN_HELP["json"]})
def status(_context: Context, name: str | None = None, json: bool = False) -> int:
    """Show how services are: state, uptime, restarts, memory, endpoint, requests, and why one failed."""
    from firstlight.tasks.services import show_status

    return show_status(name, json=json)


@command(help={**_NAME, "follow": "go on as new lines come", "lines": "how many lines; 100 by default"})
def logs(_context: Context, name: str | None = None, follow: bool = False, lines: str | None = None) -> int:
    """Show a service's log."""
    from firstlight.tasks.services import show_log

    if lines is not None and not lines.isdecimal():
        raise UsageError(f'--lines does not take "{lines}"', fix="--lines 100")
    return show_log(name, follow=follow, lines=int(lines or 100))


@command(help={**_NAME, "yes": SETUP_HELP["yes"]})
def remove(_context: Context, name: str | None = None, yes: bool = False) -> None:
    """Remove a service: its unit, its folders, its key, and the user that was made for it."""
    from firstlight.serving.services.records import require
    from firstlight.staying.removing import remove_service
    from firstlight.ui.progress import progress
    from firstlight.ui.terminal import show

    home = home_of(this_machine())
    record = require(home, name)
    if not confirmed(f"Remove the service {record.spec.name}?", yes=yes):
        raise UsageError("not confirmed; nothing was changed", fix="answer y, or add --yes")
    with progress() as reporter:
        undone = remove_service(home, record, reporter)
    show("\n".join(undone))


collection = Collection("service")
for _task in (install, start, stop, restart, status, logs, remove):
    collection.add_task(_task)
