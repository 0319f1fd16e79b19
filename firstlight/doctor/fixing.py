"""`doctor --fix`: carries out the automatic remedies, each after its question; never a driver or a base environment."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path

from firstlight.doctor.findings import Action, Finding, MakeFolder, RemovePath, RunCommand, SetMode
from firstlight.doctor.report import Mended, Outcome
from firstlight.errors import FirstlightError
from firstlight.files import remove_tree
from firstlight.home import Home
from firstlight.process import run

_SECONDS = 600.0
_NEVER = frozenset(
    {"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/root", "/run", "/sbin", "/srv"}
    | {"/sys", "/usr", "/usr/lib", "/usr/local", "/var", "/var/lib", "/mnt", "/media"}
)


def mendable(findings: list[Finding]) -> list[Finding]:
    """Return the findings that have an automatic remedy and need one."""
    return [item for item in findings if item.status in {"warn", "fail"} and item.remedy and item.remedy.actions]


def in_words(action: Action, home: Home | None) -> str:
    """Return what an action does, with the path that it changes; what lies outside firstlight's home is said to."""
    if isinstance(action, RunCommand):
        outside = f"   (changes {action.changes})" if action.changes else ""
        return f"run {shlex.join(action.argv)}{outside}"
    verb = {RemovePath: "remove", MakeFolder: "make the folder", SetMode: "change the mode of"}[type(action)]
    outside = "" if home is not None and _inside(Path(action.path), home.root) else "   (outside firstlight's home)"
    mode = f" to {action.mode:04o}" if isinstance(action, SetMode) else ""
    return f"{verb} {action.path}{mode}{outside}"


def mend(finding: Finding, agreed: Callable[[Finding], bool]) -> Mended:
    """Carry out a finding's automatic remedy when `agreed` says yes, and tell what became of it; never raises.

    The first action that fails ends the remedy.
    """
    remedy = finding.remedy
    text = remedy.text if remedy is not None else finding.summary

    def told(outcome: Outcome, why: str | None = None) -> Mended:
        return Mended(id=finding.id, subject=finding.subject, text=text, outcome=outcome, why=why)

    if remedy is None or not agreed(finding):
        return told("refused")
    if remedy.needs_root and os.geteuid() != 0:
        return told("failed", "it needs root")
    for action in remedy.actions:
        try:
            _carry_out(action)
        except (FirstlightError, OSError) as error:
            return told("failed", error.what if isinstance(error, FirstlightError) else str(error))
    return told("done")


def _carry_out(action: Action) -> None:
    if isinstance(action, RunCommand):
        ended = run(action.argv, timeout=_SECONDS)
        if ended.returncode != 0:
            last = (ended.tail.splitlines() or [f"it ended with {ended.returncode}"])[-1]
            raise FirstlightError(f"{shlex.join(action.argv)}: {last}")
        return
    path = Path(action.path)
    if not path.is_absolute() or ".." in path.parts or str(path) in _NEVER or path == Path.home():
        raise FirstlightError(f"{path} is not for a program to change")
    if isinstance(action, RemovePath):
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink(missing_ok=True)
    elif isinstance(action, MakeFolder):
        path.mkdir(mode=action.mode, parents=True, exist_ok=True)
    else:
        path.chmod(action.mode)


def _inside(path: Path, folder: Path) -> bool:
    return path.is_relative_to(folder)
