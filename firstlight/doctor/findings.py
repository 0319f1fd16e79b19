"""What a check says: the finding, and the remedy that mends it (schema firstlight.doctor/1)."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from firstlight.machine.facts import Machine

Status = Literal["ok", "warn", "fail", "skip", "crash"]
STATUSES: tuple[Status, ...] = ("ok", "warn", "fail", "skip", "crash")


class RunCommand(msgspec.Struct, frozen=True, kw_only=True, tag="run", tag_field="kind"):
    """Run a program: its words, and every place outside firstlight's home that it changes, in words."""

    argv: list[str]
    changes: str


class RemovePath(msgspec.Struct, frozen=True, kw_only=True, tag="remove", tag_field="kind"):
    """Remove a file, a link or a folder with all that it holds."""

    path: str


class MakeFolder(msgspec.Struct, frozen=True, kw_only=True, tag="mkdir", tag_field="kind"):
    """Make a folder with this mode."""

    path: str
    mode: int = 0o755


class SetMode(msgspec.Struct, frozen=True, kw_only=True, tag="chmod", tag_field="kind"):
    """Change the mode of a file or folder."""

    path: str
    mode: int


Action = RunCommand | RemovePath | MakeFolder | SetMode


class Remedy(msgspec.Struct, frozen=True, kw_only=True):
    """What mends a finding.

    `commands` are lines to paste. `actions` are what `doctor --fix` does by itself; `automatic` says that there are
    some. A remedy that touches a driver or a base environment never has any.
    """

    text: str
    commands: list[str] = []
    needs_root: bool = False
    automatic: bool = False
    actions: list[Action] = []


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One result of one check. `id` and `group` are the check's own and are filled in by whoever runs it."""

    id: str = ""
    status: Status
    group: str = ""
    summary: str
    """One line: what was found, with the figure that matters."""
    detail: str | None = None
    """Why, and what it does to an engine."""
    evidence: str | None = None
    """What was seen, as the machine tells it: a line of a file, a pair of versions."""
    affects: list[str] = []
    """Names of engines."""
    remedy: Remedy | None = None
    source: str | None = None
    """The document, issue or measurement that the judgement rests on."""
    subject: str | None = None
    """What it is about, where one check looks at several things: a port, an environment, a service."""


def by_hand(text: str, *commands: str, root: bool = False) -> Remedy:
    """Return a remedy that a person carries out: what to do, and the lines to paste."""
    return Remedy(text=text, commands=list(commands), needs_root=root)


def by_itself(text: str, *actions: Action, commands: tuple[str, ...] = (), root: bool = False) -> Remedy:
    """Return a remedy that `doctor --fix` carries out; `commands` are the same work as lines to paste."""
    return Remedy(text=text, commands=list(commands), needs_root=root, automatic=True, actions=list(actions))


def without_sudo(finding: Finding, machine: Machine) -> Finding:
    """Return the finding with lines that can be pasted: root needs no sudo, and a bare container has none."""
    remedy = finding.remedy
    if remedy is None or machine.host.sudo not in {"root", "absent"}:
        return finding
    plain = [re.sub(r"(?<![\w/-])sudo (?!-)", "", line) for line in remedy.commands]
    return msgspec.structs.replace(finding, remedy=msgspec.structs.replace(remedy, commands=plain))


def ok(summary: str, *, detail: str | None = None, evidence: str | None = None, subject: str | None = None) -> Finding:
    """Return the finding that something is as it should be."""
    return Finding(status="ok", summary=summary, detail=detail, evidence=evidence, subject=subject)


def warn(
    summary: str,
    *,
    detail: str | None = None,
    evidence: str | None = None,
    affects: list[str] | None = None,
    remedy: Remedy | None = None,
    source: str | None = None,
    subject: str | None = None,
) -> Finding:
    """Return the finding that something will hurt some uses of the machine."""
    return Finding(
        status="warn",
        summary=summary,
        detail=detail,
        evidence=evidence,
        affects=affects or [],
        remedy=remedy,
        source=source,
        subject=subject,
    )


def fail(
    summary: str,
    *,
    detail: str | None = None,
    evidence: str | None = None,
    affects: list[str] | None = None,
    remedy: Remedy | None = None,
    source: str | None = None,
    subject: str | None = None,
) -> Finding:
    """Return the finding that something is broken: an engine cannot run, or runs wrongly, until it is mended."""
    found = warn(
        summary,
        detail=detail,
        evidence=evidence,
        affects=affects,
        remedy=remedy,
        source=source,
        subject=subject,
    )
    return msgspec.structs.replace(found, status="fail")


def skip(summary: str, *, detail: str | None = None, subject: str | None = None) -> Finding:
    """Return the finding that something was not looked at, and why."""
    return Finding(status="skip", summary=summary, detail=detail, subject=subject)
