"""The work behind `ollama.install`, `ollama.rollback` and `ollama.uninstall`, and what is shown of it."""

from __future__ import annotations

import os

import msgspec

from firstlight.engines.ollama.copies import Prefix, give_back, prefix_at, take_over
from firstlight.engines.ollama.program import PROGRAM
from firstlight.engines.ollama.releases import ENGINE, release_name
from firstlight.engines.ollama.rewording import speaking_of
from firstlight.environments.archives import ArchiveStore
from firstlight.environments.preview import PlannedFile
from firstlight.environments.spec import Generation
from firstlight.errors import FirstlightError, UsageError
from firstlight.events import silent
from firstlight.files import remove_tree
from firstlight.home import Home
from firstlight.machine.facts import Machine
from firstlight.proof.receipts import Recorder, to_json
from firstlight.staying.installing import prepare
from firstlight.staying.old_versions import processes, running_from
from firstlight.tasks.asking import asks, confirmed, home_of, this_machine
from firstlight.tasks.installing import Installed, agreed, carry_out, replaced
from firstlight.tasks.release_choice import Job, Options, decide
from firstlight.ui import services as service_screen
from firstlight.ui.ollama import installed_lines, path_hint
from firstlight.ui.progress import progress
from firstlight.ui.terminal import show, show_document, tell
from firstlight.ui.views import plan_lines


def install(options: Options, *, json: bool) -> int:
    """Install a release and show what was done; the exit code."""
    recorder = Recorder(silent)
    with progress(events=json) as reporter:
        recorder.reporter = silent if options.dry_run else reporter
        job = decide(options, recorder)
    if options.dry_run:
        return _dry_run(job, json=json)
    if asks(yes=options.yes):
        tell("\n".join(_decision(job)))
    agreed(job, yes=options.yes)
    with progress(events=json) as reporter:
        recorder.reporter = reporter
        done = carry_out(job, recorder)
    _show(job, done, json=json)
    return 0


def _decision(job: Job) -> list[str]:
    """Return which build was chosen and why; the plan's steps are those of a whole set-up."""
    return plan_lines(msgspec.structs.replace(job.plan, steps=[]), explain=False)


def _show(job: Job, done: Installed, *, json: bool) -> None:
    if json:
        show_document(to_json(done.receipt))
        return
    program = job.prefix.program if job.prefix is not None else job.store.folder / "current" / PROGRAM
    back = done.before or done.adopted
    lines = installed_lines(
        done.receipt,
        program,
        before=_called(back) if back is not None else None,
        restarted=done.restarted,
        others=job.others,
        prefix=job.prefix.root if job.prefix is not None else None,
        aside=str(job.foreign) if job.foreign is not None else None,
    )
    show("\n".join(lines))
    if done.service is not None:
        show("\n".join(["", *service_screen.installed_lines(done.service)]))
    hint = path_hint(program, os.environ.get("PATH", "").split(os.pathsep))
    if hint is not None:
        show(f"\nfor this shell:\n  {hint}")


def _called(version: Generation) -> str:
    """Return what a person calls a version; the name of a copy that was moved aside says nothing to anybody."""
    return f"{version.release}, the copy that was here before" if version.kind == "adopted" else version.id


def _dry_run(job: Job, *, json: bool) -> int:
    store, build = job.store, job.wish.build
    files = [PlannedFile(path=str(store.folder / build.release), mode="0755")]
    files += [PlannedFile(path=str(store.folder / name), mode="0777") for name in ("current", "previous")]
    if job.wish.local is None:
        kept = store.home.downloads / ENGINE / build.release
        files += [PlannedFile(path=str(kept / asset.name)) for asset in build.assets]
    if job.prefix is not None:
        files += [PlannedFile(path=str(place), mode="0777") for place in job.prefix.links]
    if job.foreign is not None and job.prefix is not None:
        files.append(PlannedFile(path=str(job.prefix.aside), mode="0755"))
    files.append(PlannedFile(path=str(job.home.receipts / "TIME-ollama.install.json")))
    commands = [[str(store.folder / build.release / PROGRAM), "-v"]]
    if job.service is not None:
        drafted = prepare(job.service, job.machine, job.home)
        files += [
            PlannedFile(path=str(file.path), mode=f"{file.mode:04o}", content=file.content) for file in drafted.files
        ]
        commands += drafted.commands
    if json:
        head = {"schema": "firstlight.dryrun/1"}
        document = {**head, "files": files, "commands": commands, "plan": job.plan}
        show_document(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
        return 0
    show("\n".join(_decision(job)))
    if job.wish.local is not None:
        show(f"would unpack:\n  {job.wish.local.file}")
    show("would write:\n" + "\n".join(f"  {file.path}" for file in files))
    show("would run:\n" + "\n".join(f"  {' '.join(words)}" for words in commands))
    if job.foreign is not None:
        show(f"would move aside: {job.foreign}")
    if going := _going(job):
        show(f"would remove, where nothing uses them: {', '.join(going)}")
    tell("nothing was written (--dry-run)")
    return 0


def _going(job: Job) -> list[str]:
    """Return the old versions that are neither the current one nor the one before once this is installed."""
    current, previous = job.store.current(), job.store.previous()
    kept = {job.wish.build.release}
    if current is not None:
        kept.add(current.id)
        if previous is not None and current.release == job.wish.build.release and not job.wish.afresh:
            kept.add(previous.id)
    return [item.id for item in job.store.list() if item.kind == "archive" and item.id not in kept]


def _place(machine: Machine, prefix: str | None) -> tuple[Home, Prefix | None, ArchiveStore]:
    home = home_of(machine)
    place = prefix_at(prefix) if prefix is not None else None
    return home, place, ArchiveStore(place.home if place is not None else home, ENGINE)


def rollback(prefix: str | None, *, json: bool) -> int:
    """Go back to the version before, and show it; the exit code."""
    machine = this_machine()
    home, place, store = _place(machine, prefix)
    with speaking_of(place), progress(events=json) as reporter, store.lock():
        before = store.current()
        present = store.rollback()
        if place is not None:
            take_over(place, None, None)
        restarted: tuple[str, ...] = ()
        if before is not None:
            restarted = replaced(home, before, present, machine, reporter)
    if json:
        told = {"current": present.id, "before": before.id if before else None, "restarted": restarted}
        show_document(msgspec.json.encode({"schema": "firstlight.rollback/1", **told}).decode())
    else:
        show(f"Ollama: {_called(present)} is current again" + "".join(f"\nrestarted: {name}" for name in restarted))
    return 0


def uninstall(release: str | None, prefix: str | None, *, models: bool, yes: bool, json: bool) -> int:
    """Remove versions, and show what was undone; the exit code.

    Raises:
        FirstlightError: a server runs from what would be removed.
        UsageError: there is no such version, or the answer was no.
    """
    home, place, store = _place(this_machine(), prefix)
    named = _version(store, release)
    doomed = [item for item in store.list() if named in {None, item.id}]
    _refuse_running(home, store, doomed)
    mine = home.models / ENGINE
    if not doomed and not (models and mine.is_dir()):
        raise UsageError(
            f"there is no Ollama of firstlight's in {store.folder}",
            fix="one in a prefix: firstlight ollama.uninstall --prefix DIR\nall in this home: firstlight setup.list",
        )
    what = ", ".join(item.id for item in doomed) or "no version"
    if not confirmed(f"Remove {what}{' and the models' if models else ''}?", yes=yes):
        raise UsageError("not confirmed; nothing was changed", fix="answer y, or add --yes")
    with speaking_of(place), store.lock():
        undone = _undone(store, place, named, doomed)
        if place is not None and named is None:
            place.leave()
    if models and mine.is_dir():
        remove_tree(mine)
        undone.append(f"removed the models in {mine}")
    elif mine.is_dir():
        undone.append(f"the models in {mine} stay; with --models they go too")
    if json:
        show_document(msgspec.json.encode({"schema": "firstlight.removed/1", "undone": undone}).decode())
    else:
        show("\n".join(undone))
    return 0


def _version(store: ArchiveStore, release: str | None) -> str | None:
    if release is None:
        return None
    known = [item.id for item in store.list()]
    return release if release in known else release_name(release)


def _undone(store: ArchiveStore, place: Prefix | None, named: str | None, doomed: list[Generation]) -> list[str]:
    undone: list[str] = []
    adopted = next((item for item in reversed(doomed) if item.kind == "adopted"), None)
    if place is not None and named is None:
        undone += give_back(place, adopted)
    return undone + [
        line.partition("; ")[0] if adopted is not None and not adopted.prefix.exists() else line
        for line in store.remove(named)
    ]


def _refuse_running(home: Home, store: ArchiveStore, doomed: list[Generation]) -> None:
    """Refuse to take away what something runs from.

    Raises:
        FirstlightError: a service, a server or a process of its own does.
    """
    seen = list(processes())
    for version in doomed:
        use = next(running_from(version, home, store, seen), None)
        if use is not None:
            raise FirstlightError(f"{version.id} is in use", why=use.what, fix=f"end that first: {use.end}")
