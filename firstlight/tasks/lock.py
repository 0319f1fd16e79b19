"""`lock.*`: maintainers make the lock files again, and hold them against the catalogue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.context import Context

from firstlight.tasks.asking import PLAN_HELP
from firstlight.tasks.edge import command

if TYPE_CHECKING:
    from firstlight.catalogue.types import Build

_HELP = {
    "engine": "only this engine's builds (repeatable)",
    "build": "only this build (repeatable)",
    "json": PLAN_HELP["json"],
}


@command(
    help={
        **_HELP,
        "index": "a package index to resolve against, instead of pip's configured one",
        "channel": "the conda channel to read; without it conda-forge, or the records that travel with firstlight",
        "dry-run": "tell what would change and write nothing",
    },
    iterable=["engine", "build"],
)
def update(
    _context: Context,
    engine: list[str] | None = None,
    build: list[str] | None = None,
    index: str | None = None,
    channel: str | None = None,
    dry_run: bool = False,
    json: bool = False,
) -> int:
    """Make the locks of the catalogue's builds again, and show what changed."""
    from firstlight.environments.locking.updating import update as make
    from firstlight.environments.pipconfig import read_pip_settings
    from firstlight.resources import data_folder
    from firstlight.ui.locks import show_updates
    from firstlight.ui.terminal import tell

    wanted = _wanted(engine, build)
    made = make(
        wanted, read_pip_settings(), envs=data_folder("envs"), index=index, channel=channel, write=not dry_run, say=tell
    )
    return show_updates(made, written=not dry_run, json=json)


@command(help=_HELP, iterable=["engine", "build"])
def check(
    _context: Context, engine: list[str] | None = None, build: list[str] | None = None, json: bool = False
) -> int:
    """Hold the locks against the catalogue; asks no network."""
    from firstlight.environments.locking.checking import check as look
    from firstlight.resources import data_folder
    from firstlight.ui.locks import show_checked

    found = look(_wanted(engine, build), envs=data_folder("envs"))
    return show_checked(list(found), json=json)


def _wanted(engines: list[str] | None, builds: list[str] | None) -> list[tuple[str, Build]]:
    from firstlight.catalogue.loading import find_build, find_engine, load_catalogue
    from firstlight.environments.locking.updating import lockable

    catalogue = load_catalogue()
    names = [find_engine(catalogue, name).engine for name in engines or ()]
    for name in builds or ():
        find_build(find_engine(catalogue, name.partition("-")[0]), name)
    return lockable(catalogue, names, builds or ())


collection = Collection("lock")
collection.add_task(update)
collection.add_task(check)
