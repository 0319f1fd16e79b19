"""The check: a named, pure function from evidence to findings, with what it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from firstlight.doctor.evidence import Evidence
from firstlight.doctor.findings import Finding
from firstlight.doctor.looking import Speed

GROUPS = ("host", "gpu", "disk", "python", "environments", "engines", "services", "network")
"""The groups in the order in which they are shown."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check.

    `look` gives any number of findings; none means that all is well, and `title` is then what is said. `needs` names
    fields of the evidence: when one of them was not looked at, the check is skipped (or, when its probe broke, told as
    a crash) without being asked.
    """

    id: str
    group: str
    title: str
    """What is as it should be when nothing is found: `no other process holds GPU memory`."""
    look: Callable[[Evidence], Iterable[Finding]]
    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    """Fields of the evidence that it looks at where they are there, and goes on without."""
    speed: Speed = "normal"
    source: str | None = None
    """The source of its findings that name none of their own."""
