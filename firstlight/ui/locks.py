"""What a person sees of the locks: what changed in them, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from firstlight.environments.locking.checking import Checked
from firstlight.environments.locking.updating import Updated
from firstlight.ui.tables import table
from firstlight.ui.terminal import show, show_document, tell

_LISTED = 40
"""Changes that are shown one by one; of a new lock only the number is of interest."""


def show_updates(made: Iterable[Updated], *, written: bool, json: bool) -> int:
    """Show each build as soon as it is made, and in the end what could not be; returns the exit code."""
    seen: list[Updated] = []
    for update in made:
        seen.append(update)
        (tell if json else show)("\n".join(update_lines(update)))
    failed = [update for update in seen if update.problem]
    if json:
        document = {"schema": "firstlight.lock-update/1", "written": written, "builds": seen}
        show_document(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    else:
        changed = sum(bool(update.changes) for update in seen)
        show(f"\n{len(seen) - len(failed)} locks made, {changed} changed, {len(failed)} could not be made")
        if not written:
            tell("nothing was written (--dry-run)")
    return 1 if failed else 0


def update_lines(update: Updated) -> list[str]:
    """Return a build's line and the table of the versions that changed."""
    name = f"{update.build} (Python {update.python})"
    if update.problem:
        return [f"{name}: {update.problem}"]
    head = f"{name}: {update.integrity}, {update.wheels} wheels by their hashes"
    if not update.changes:
        return [f"{head}; as before"]
    if all(change.before is None for change in update.changes) or len(update.changes) > _LISTED:
        return [f"{head}; {len(update.changes)} versions are new"]
    rows = [[change.name, change.before or "-", "→", change.after or "gone"] for change in update.changes]
    return [head, *table(rows, indent="    ")]


def show_checked(found: Sequence[Checked], *, json: bool) -> int:
    """Show the table of the locks and what is wrong with them; returns the exit code."""
    faults = [fault for each in found for fault in each.faults]
    if json:
        document = {"schema": "firstlight.lock-check/1", "ok": not faults, "builds": list(found)}
        show_document(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
        return 1 if faults else 0
    rows = [["build", "kind", "Python", "wheels", "pinned", "conda", ""]]
    rows += [
        [
            each.build,
            each.integrity,
            " ".join(each.pythons),
            str(each.wheels),
            str(each.pinned or ""),
            str(each.conda),
            "WRONG" if each.faults else "ok",
        ]
        for each in found
    ]
    show("\n".join(table(rows, indent="")))
    for fault in faults:
        show(f"\n{fault.path}\n  {fault.why}")
    locked = sum(each.integrity == "locked" for each in found)
    show(f"\n{len(found)} builds: {locked} locked, {len(found) - locked} pinned; {len(faults) or 'no'} faults")
    return 1 if faults else 0
