"""What `doctor --fix` does at the edge: a question per remedy, the work, and a second look."""

from __future__ import annotations

import msgspec

from firstlight.doctor.examine import Wish, examine_this_machine
from firstlight.doctor.findings import Finding, RunCommand
from firstlight.doctor.fixing import in_words, mend, mendable
from firstlight.doctor.report import Examination, exit_code
from firstlight.home import Home, find_home
from firstlight.machine.facts import Machine
from firstlight.tasks.asking import confirmed
from firstlight.ui.doctor import work_lines
from firstlight.ui.terminal import show, show_document, tell


def mended(examination: Examination, wish: Wish, *, yes: bool) -> Examination:
    """Carry out the automatic remedies, each after its question, and return what a second look finds."""
    home = _home(examination.machine)

    def agreed(finding: Finding) -> bool:
        tell("\n".join(work_lines([_work(finding, home)])))
        return confirmed("Do it?", yes=yes)

    done = [mend(finding, agreed) for finding in mendable(examination.findings)]
    if not done:
        tell("nothing here has an automatic remedy")
        return examination
    return msgspec.structs.replace(examine_this_machine(wish), mended=done)


def dry_run_of(examination: Examination, *, json: bool) -> int:
    """Show what `--fix` would do; returns the exit code."""
    home = _home(examination.machine)
    findings = mendable(examination.findings)
    if json:
        actions = [action for finding in findings for action in (finding.remedy.actions if finding.remedy else [])]
        commands = [action.argv for action in actions if isinstance(action, RunCommand)]
        head = {"schema": "firstlight.dryrun/1", "files": [], "commands": commands, "plan": None}
        document = {**head, "actions": actions, "findings": findings}
        show_document(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    else:
        rows = [_work(finding, home) for finding in findings]
        show("\n".join(work_lines(rows)) or "nothing here has an automatic remedy")
        tell("nothing was changed (--dry-run)")
    return exit_code(examination, strict=False)


def _work(finding: Finding, home: Home | None) -> tuple[str, list[str]]:
    remedy = finding.remedy
    actions = [in_words(action, home) for action in remedy.actions] if remedy is not None else []
    return f"{finding.summary}: {remedy.text if remedy is not None else ''}", actions


def _home(machine: Machine | None) -> Home | None:
    mounts = [disk.mount for disk in (machine.disks if machine is not None else None) or []]
    found = find_home(mounts)
    return Home(found) if found is not None else None
