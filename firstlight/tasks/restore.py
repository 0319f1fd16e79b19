"""`restore`: a home on a disk that stayed is made usable again after the machine around it was lost."""

from __future__ import annotations

from invoke.context import Context

from firstlight.tasks.asking import PLAN_HELP, this_machine
from firstlight.tasks.edge import command, folder


@command(
    help={
        "home": "the folder on the disk that stayed; the one in use by default",
        "no-start": "put everything back, and start no service",
        "json": PLAN_HELP["json"],
    }
)
def restore(_context: Context, home: str | None = None, no_start: bool = False, json: bool = False) -> int:
    """Put back the command, conda's list, users and services after the root disk was lost; no network."""
    from functools import partial

    import msgspec

    from firstlight.events import step
    from firstlight.home import Home
    from firstlight.serving.restoring import restore as put_back
    from firstlight.staying.converting import convert
    from firstlight.tasks.services import quick_home
    from firstlight.ui.progress import progress
    from firstlight.ui.restored import restored_lines
    from firstlight.ui.terminal import show, show_document

    chosen = folder("--home", home)
    place = Home(chosen) if chosen else quick_home()
    with progress() as reporter, step(reporter, "restore", "put back what stood outside the home") as current:
        done = put_back(place, current, start=not no_start, convert=partial(convert, place, machine=this_machine))
    if json:
        show_document(msgspec.json.format(msgspec.json.encode(done, enc_hook=str), indent=2).decode())
    else:
        show("\n".join(restored_lines(done)))
    return 0 if all(each.outcome != "failed" for each in done.services) else 1
