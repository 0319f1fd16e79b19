"""`doctor`: what is wrong with this machine, why, and what mends it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from invoke.context import Context

from firstlight.errors import UsageError
from firstlight.tasks.edge import command

if TYPE_CHECKING:
    from firstlight.doctor.examine import Wish
    from firstlight.doctor.report import Examination

_HELP = {
    "only": "only this check (repeatable; the ids: --list-checks)",
    "json": "one JSON document on standard output",
    "strict": "warnings count as failures",
    "redact": "leave out names, addresses, paths in homes, tokens and GPU UUIDs",
    "machine": "facts of another machine, from `firstlight machine --json`",
    "network": "ask mirrors and hubs too",
    "deep": "read big files too, to hold their hashes against what they should be",
    "log": "find the true cause in this log of an engine",
    "list-checks": "list the checks and do nothing else",
    "fix": "carry out the automatic remedies, one by one, with a question each",
    "dry-run": "with --fix: say what would be done and change nothing",
    "yes": "do not ask",
}


@command(help=_HELP, iterable=["only"])
def doctor(
    _context: Context,
    only: list[str] | None = None,
    json: bool = False,
    strict: bool = False,
    redact: bool = False,
    machine: str | None = None,
    network: bool = False,
    deep: bool = False,
    log: str | None = None,
    list_checks: bool = False,
    fix: bool = False,
    dry_run: bool = False,
    yes: bool = False,
) -> int:
    """Say what is wrong with this machine, why, and what mends it; changes nothing without --fix."""
    from firstlight.doctor.examine import Wish, chosen_checks
    from firstlight.doctor.report import exit_code

    words = tuple(word.strip() for given in only or () for word in given.split(",") if word.strip())
    _refuse({"--only": only and not words, "--machine": machine == "", "--log": log == ""}, "has no value")
    far = {"--network": network, "--deep": deep}
    if not fix:
        _refuse({"--dry-run": dry_run, "--yes": yes}, "says how to mend: it goes with --fix")
    if dry_run:
        _refuse({"--yes": yes, "--strict": strict, "--redact": redact}, "does not go with --dry-run")
    if log:
        _refuse({"--only": only, "--machine": machine, **far, "--list-checks": list_checks}, "is not for a log")
    if machine:
        _refuse(far, "asks the machine itself, not a file about it")
    if list_checks:
        _refuse({"--fix": fix, "--machine": machine, "--strict": strict}, "does not go with --list-checks")
    wish = Wish(only=words, network=network, deep=deep)
    if list_checks:
        return _list(wish, json=json)
    chosen_checks(wish)  # a wrong id is told before anything is looked at
    if fix and (machine or log):
        raise UsageError("--fix mends this machine, not a file", fix="firstlight doctor --fix")
    examination = _examined(wish, machine, log)
    if fix:
        from firstlight.tasks.mending import dry_run_of, mended

        if dry_run:
            return dry_run_of(examination, json=json)
        examination = mended(examination, wish, yes=yes)
    _show(examination, json=json, redact=redact, everything=bool(words))
    return exit_code(examination, strict=strict)


def _refuse(given: Mapping[str, object], why: str) -> None:
    """Refuse options that would be dropped without a word.

    Raises:
        UsageError: one of them is given; it is named with the reason.
    """
    for option, value in given.items():
        if value:
            raise UsageError(f"{option} {why}", fix="firstlight doctor --help")


def _examined(wish: Wish, machine: str | None, log: str | None) -> Examination:
    """Return the examination of a log, of a described machine, or of this one."""
    from firstlight.doctor.examine import examine_described, examine_log, examine_this_machine
    from firstlight.machine.facts import load

    if log is not None:
        return examine_log(Path(log))
    return examine_described(wish, load(Path(machine))) if machine is not None else examine_this_machine(wish)


def _list(wish: Wish, *, json: bool) -> int:
    from firstlight.doctor.examine import chosen_checks
    from firstlight.doctor.report import SCHEMA
    from firstlight.ui.doctor import list_of_checks
    from firstlight.ui.terminal import show, show_document, width

    checks = chosen_checks(wish)
    if json:
        rows = [{"id": check.id, "group": check.group, "title": check.title, "when": check.speed} for check in checks]
        show_document(msgspec.json.format(msgspec.json.encode({"schema": SCHEMA, "checks": rows}), indent=2).decode())
    else:
        show("\n".join(list_of_checks(checks, width())))
    return 0


def _show(examination: Examination, *, json: bool, redact: bool, everything: bool) -> None:
    from firstlight.doctor.report import to_json
    from firstlight.ui.doctor import page
    from firstlight.ui.terminal import show, show_document, speaks_unicode, width

    if redact:
        from firstlight.doctor.redacting import redacted

        examination = redacted(examination)
    if json:
        show_document(to_json(examination))
    else:
        lines = page(examination, width(), unicode=speaks_unicode(sys.stdout), everything=everything)
        show("\n".join(lines))
