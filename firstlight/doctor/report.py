"""The result of an examination: findings, counts, a verdict per engine, and the next command (firstlight.doctor/1)."""

from __future__ import annotations

from typing import Literal

import msgspec

from firstlight.doctor.findings import Finding
from firstlight.machine.facts import Machine

SCHEMA = "firstlight.doctor/1"


THERE_ALONE = "only the machine itself can tell"
"""Why a check is skipped of which facts in a file say nothing."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How many findings there are of each status."""

    ok: int = 0
    warn: int = 0
    fail: int = 0
    skip: int = 0
    crash: int = 0


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine can do on this machine: it is ready, can be set up, or cannot be, and why."""

    engine: str
    state: Literal["ready", "broken", "possible", "limited", "impossible"]
    """`limited`: it can be used with a restriction: on the processor, on some GPUs, or with a failure to mend."""
    build: str | None
    text: str
    command: str | None = None


Outcome = Literal["done", "refused", "failed"]


class Mended(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one automatic remedy."""

    id: str
    subject: str | None
    text: str
    outcome: Outcome
    why: str | None = None


class Examination(msgspec.Struct, frozen=True, kw_only=True):
    """All that `doctor` tells."""

    schema: str = SCHEMA
    machine: Machine | None
    counts: Counts
    findings: list[Finding]
    verdicts: list[Verdict] = []
    next: str | None = None
    """What to do next: a command to paste, or words where there is none."""
    mended: list[Mended] = []
    """What `--fix` has done before this examination."""
    seconds: float = 0.0


def counted(findings: list[Finding]) -> Counts:
    """Return how many findings there are of each status."""
    return Counts(**{name: sum(finding.status == name for finding in findings) for name in Counts.__struct_fields__})


def exit_code(examination: Examination, *, strict: bool) -> int:
    """Return 0 when no finding is `fail` (with `strict` also none is `warn`), else 1."""
    bad = examination.counts.fail + (examination.counts.warn if strict else 0)
    return 1 if bad else 0


def to_json(examination: Examination) -> str:
    """Return an examination as the JSON text of schema firstlight.doctor/1."""
    return msgspec.json.format(msgspec.json.encode(examination), indent=2).decode()
