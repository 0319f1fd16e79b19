"""`mirror.*`: where bytes may come from, and how these places answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invoke.collection import Collection
from invoke.context import Context

from firstlight.errors import UsageError, did_you_mean
from firstlight.tasks.asking import PLAN_HELP, home_of, this_machine
from firstlight.tasks.edge import command

if TYPE_CHECKING:
    from firstlight.fetching.answers import Ask

_OF = "only mirrors of this: github, ollama, conda, torch, pypi, hub (repeatable)"


@command(name="list", help={"of": _OF, "json": PLAN_HELP["json"]}, iterable=["of"])
def list_mirrors(_context: Context, of: list[str] | None = None, json: bool = False) -> None:
    """List every place that bytes may come from: per kind, and why it is one."""
    from firstlight.doctor.places import places
    from firstlight.fetching.mirrors import own_file
    from firstlight.ui.mirrors import listed_json, listed_lines
    from firstlight.ui.terminal import show, show_document

    home = home_of(this_machine()).root
    asks, file = _of(places(home), of), own_file(home)
    named = str(file) if file is not None else None
    if json:
        show_document(listed_json(asks, named))
    else:
        show("\n".join(listed_lines(asks, named)))


@command(help={"of": _OF, "json": PLAN_HELP["json"]}, iterable=["of"])
def probe(_context: Context, of: list[str] | None = None, json: bool = False) -> int:
    """Ask every place for a part of a file: does it answer, how long is the file, does it give parts, how fast."""
    from firstlight.doctor.places import places
    from firstlight.environments.reaching import transport_of
    from firstlight.fetching.answers import probe_all
    from firstlight.ui.mirrors import answered_json, answered_lines
    from firstlight.ui.terminal import show, show_document, tell

    home = home_of(this_machine()).root
    answers = probe_all(_of(places(home), of), transport_of())
    if json:
        show_document(answered_json(answers))
    else:
        show("\n".join(answered_lines(answers)))
    if any(each.ok for each in answers):
        return 0
    tell("no place answers; why not: firstlight doctor --network")
    return 4


def _of(asks: list[Ask], words: list[str] | None) -> list[Ask]:
    """Return the places of the kinds that were asked for.

    Raises:
        UsageError: there is no such kind; near ones are offered.
    """
    known = list(dict.fromkeys(ask.group for ask in asks))
    for word in words or ():
        if word not in known:
            raise UsageError(
                f'--of does not take "{word}"{did_you_mean(word, known)}', fix=f"--of takes: {', '.join(known)}"
            )
    return [ask for ask in asks if ask.group in (words or known)]


collection = Collection("mirror")
for _task in (list_mirrors, probe):
    collection.add_task(_task)
