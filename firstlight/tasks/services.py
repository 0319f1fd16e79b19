"""What the `service.*` tasks have in common: find the service, do one thing with it, show the result."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from firstlight.environments.preview import Preview
from firstlight.errors import UsageError
from firstlight.events import Reporter, step
from firstlight.home import Home, default_root, find_home
from firstlight.machine.facts import Machine
from firstlight.process import Child, Command
from firstlight.proof.receipts import Receipt
from firstlight.serving.server import RunningServer
from firstlight.serving.services.manager import manager_for
from firstlight.serving.services.records import Record, all_services, require
from firstlight.serving.services.spec import Status
from firstlight.staying.wish import Wish
from firstlight.tasks.asking import PATIENCE, asks, confirmed, home_of, this_machine
from firstlight.ui import services as screen
from firstlight.ui.progress import progress
from firstlight.ui.terminal import show, show_document, tell

if TYPE_CHECKING:
    from firstlight.goals import Goal, Site
    from firstlight.proof.receipts import Recorder
    from firstlight.staying.again import Again

_INTERVAL = 0.2


def quick_home() -> Home:
    """Return the home in use, by the mounts alone: no other fact of the machine is asked for."""
    from firstlight.machine.mounts import parse_mountinfo, real_mounts

    home = find_home([])
    if home is None:
        table = Path("/proc/self/mountinfo")
        mounts = real_mounts(parse_mountinfo(table.read_bytes())) if table.exists() else []
        home = find_home([mount.point for mount in mounts])
    return Home(home or default_root())


def install_wish(wish: Wish, machine: Machine, *, prove: bool, dry_run: bool, yes: bool, json: bool) -> int:
    """Install a service, or show what that would write and run; the exit code."""
    from firstlight.staying.installing import install_service, prepare

    home = home_of(machine)
    if dry_run:
        drafted = prepare(wish, machine, home)
        if json:
            show_document(screen.dry_run_json(drafted))
        else:
            show("\n".join(screen.dry_run_lines(drafted)))
            tell("nothing was written (--dry-run)")
        return 0
    going = [each.spec.name for each in prepare(wish, machine, home).making_room] if asks(yes=yes) else []
    instead = f" It takes the place of {', '.join(going)}, which is removed." if going else ""
    if not confirmed(f"Install {wish.engine} as the service {wish.service_name}?{instead}", yes=yes):
        raise UsageError("not confirmed; nothing was changed", fix="answer y, or add --yes")
    with progress(events=json) as reporter:
        installed = install_service(wish, machine, reporter, home, prove=prove)
    if json:
        show_document(screen.installed_json(installed))
    else:
        show("\n".join(screen.installed_lines(installed)))
    if json and installed.key is not None:
        tell(f"API key, shown this once: {installed.key}")
    return 0


def change(verb: str, name: str | None) -> None:
    """Start, stop or restart a service and say so."""
    home = quick_home()
    record = require(home, name)
    manager = manager_for(record.spec.scope, home)
    if verb != "stop":
        record = _up_to_date(home, record)
    with progress() as reporter, step(reporter, verb, f"{verb} {record.spec.name}") as current:
        if verb == "stop":
            manager.stop(record.spec, current)
            seconds = None
        else:
            work = manager.start if verb == "start" else manager.restart
            seconds = work(record.spec, current)
    show(f"{record.spec.name} stopped" if seconds is None else f"{record.spec.name} answers after {seconds:.1f} s")


def _up_to_date(home: Home, record: Record) -> Record:
    """Take a service to its engine's current environment first, where that was switched since."""
    from firstlight.staying.updating import behind

    if all(other.spec.name != record.spec.name for other in behind(home, record.spec.engine)):
        return record
    with progress() as reporter:
        follow_switch(home, record.spec.engine, this_machine(patience=PATIENCE), reporter)
    return require(home, record.spec.name)


def show_status(name: str | None, *, json: bool) -> int:
    """Show one service or all; 0 when all that are shown run."""
    home = quick_home()
    records = [require(home, name)] if name is not None else all_services(home) or [require(home, None)]
    statuses: list[Status] = [manager_for(each.spec.scope, home).status(each.spec) for each in records]
    if json:
        show_document(screen.statuses_json(statuses, one=name is not None))
    else:
        show("\n\n".join("\n".join(screen.status_lines(status)) for status in statuses))
    return 0 if all(status.state == "running" for status in statuses) else 1


def show_log(name: str | None, *, follow: bool, lines: int) -> int:
    """Show a service's log; with `follow` until Ctrl-C. The exit code of what shows it."""
    home = quick_home()
    record = require(home, name)
    manager = manager_for(record.spec.scope, home)
    manager.require_log(record.spec)
    words = manager.log_command(record.spec, follow=follow, lines=lines)
    child = Child(Command(tuple(words), {"SYSTEMD_PAGER": "", "SYSTEMD_COLORS": "0"}), on_line=_write, leash=follow)
    try:
        while (code := child.wait(_INTERVAL)) is None:
            pass
    except KeyboardInterrupt:
        child.stop(1.0)
        return 0
    return code


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def follow_switch(
    home: Home, engine: str, machine: Machine, reporter: Reporter, server: RunningServer | None = None
) -> None:
    """Take the engine's services to its current environment; one that fails takes all of it back.

    Raises:
        VerificationFailed: a service did not come up with it.
    """
    from firstlight.staying.updating import follow

    try:
        follow(home, engine, machine, reporter)
    except BaseException:
        if server is not None:
            server.stop()
        raise


def install_proven(wish: Wish, receipt: Receipt, machine: Machine, home: Home, *, json: bool) -> int:
    """Install what `up` has just proven as a service; prints the receipt with `json`, else how to reach it."""
    from firstlight.proof.receipts import to_json
    from firstlight.staying.installing import install_service

    model = wish.model or (receipt.model.path if receipt.model is not None else "")
    with progress() as reporter:
        installed = install_service(msgspec.structs.replace(wish, model=model), machine, reporter, home)
    if not json:
        show("\n".join(screen.installed_lines(installed)))
        return 0
    endpoint = f"{installed.spec.base_url}/v1"
    outside = [*receipt.outside, *map(str, installed.outside)]
    show_document(to_json(msgspec.structs.replace(receipt, endpoint=endpoint, outside=outside)))
    if installed.key is not None:
        tell(f"API key, shown this once: {installed.key}")
    return 0


def asked_again(wish: Wish, machine: Machine, host: str | None) -> Again:
    """Return what `up --service` asks for in the light of the service that is there; what stays is said."""
    from firstlight.catalogue.loading import find_engine, load_catalogue
    from firstlight.staying.again import seen_again

    port = wish.port or find_engine(load_catalogue(), wish.engine).port
    again = seen_again(wish, home_of(machine), port=port, host=host)
    if again.kept:
        name = again.wish.service_name
        tell(f"the service {name} is there and keeps: {', '.join(again.kept)} (service.install says all of it anew)")
    return again


def prepare_beside(goal: Goal, machine: Machine, recorder: Recorder) -> Site:
    """Decide as ever where our own service holds the port and the GPU: what is proven beside it stays out of its way.

    The engine is proven on another port, on its small model and without the service's flags; the model itself is proven
    once the service has taken its place.
    """
    from firstlight.catalogue.loading import find_engine, load_catalogue
    from firstlight.goals import prepare
    from firstlight.serving.ports import free_port

    change = msgspec.structs.replace
    site = prepare(change(goal, request=change(goal.request, port=free_port())), machine, recorder)
    port = goal.request.port or find_engine(load_catalogue(), goal.request.engine).port
    launch = None if site.plan.launch is None else change(site.plan.launch, port=port)
    return change(
        site,
        goal=change(goal, talk=False, flags=(), after="stop"),
        request=change(site.request, port=goal.request.port, model=None),
        plan=change(site.plan, launch=launch),
    )


def renew_running(wish: Wish, site: Site, recorder: Recorder, *, json: bool) -> int:
    """Bring a service that runs to what is asked for: its environment where that changed, then itself."""
    from firstlight.bringup import carry_out
    from firstlight.catalogue.loading import find_engine, load_catalogue
    from firstlight.staying.again import stands
    from firstlight.staying.installing import install_service, prepare

    if not find_engine(load_catalogue(), wish.engine).service.on_demand:
        wish = _with_model(wish, site.home)
    prepare(wish, site.machine, site.home)  # what cannot be is refused before anything is built
    with progress(events=json) as reporter:
        recorder.reporter = reporter
        if not stands(site):
            carry_out(site, recorder)
            follow_switch(site.home, wish.engine, site.machine, reporter)
        installed = install_service(wish, site.machine, reporter, site.home)
    if json and installed.receipt is not None:
        show_document(Path(installed.receipt).read_text(encoding="utf-8"))
    else:
        show("\n".join(screen.installed_lines(installed)))
    if json and installed.key is not None:
        tell(f"API key, shown this once: {installed.key}")
    return 0


def with_service(foreseen: Preview, wish: Wish, machine: Machine, home: Home) -> Preview:
    """Return what `up --service` would write and run: the service's files beside its own."""
    from firstlight.environments.preview import PlannedFile
    from firstlight.staying.installing import prepare

    drafted = prepare(_with_model(wish, home), machine, home)
    files = [
        PlannedFile(path=str(file.path), mode=f"{file.mode:04o}", content=None if file.secret else file.content)
        for file in drafted.files
    ]
    return Preview(files=[*foreseen.files, *files], commands=[*foreseen.commands, *drafted.commands])


def _with_model(wish: Wish, home: Home) -> Wish:
    """Return what is asked for with a default model where none is named: one that is here, or that of the packages."""
    from firstlight.models.defaults import default_model, default_models
    from firstlight.models.fetch import find_fetched

    if wish.model:
        return wish
    here = (each for each in default_models() if find_fetched(each, home) is not None)
    return msgspec.structs.replace(wish, model=str(next(here, default_model(None))))
