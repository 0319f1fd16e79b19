"""What is said of room and rights where versions lie below a prefix: the prefix is what must change, not the home."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from firstlight.engines.ollama.copies import Prefix
from firstlight.errors import FirstlightError
from firstlight.planning.plan import Plan, Refusal

_HOME = re.compile(r"export FIRSTLIGHT_HOME=((?:'[^']*'|\"[^\"]*\"|[^\s'\"])+)")
_OWN_NAME = "firstlight"
"""What a home is called at the top of a disk that has room."""


def in_prefix(plan: Plan, prefix: Prefix | None) -> Plan:
    """Return a plan whose remedies speak of the prefix that was asked for; the same where there is none."""
    if prefix is None:
        return plan
    refused = [_refusal(each) for each in plan.refused]
    return msgspec.structs.replace(plan, refused=refused, remedies=[*map(_reworded, plan.remedies)])


def _refusal(refusal: Refusal) -> Refusal:
    return msgspec.structs.replace(refusal, remedy=_reworded(refusal.remedy) if refusal.remedy else None)


@contextmanager
def speaking_of(prefix: Prefix | None) -> Iterator[None]:
    """Let what fails within speak of the prefix where it would name the home."""
    try:
        yield
    except FirstlightError as error:
        if prefix is not None and error.fix:
            error.fix = _reworded(error.fix)
        raise


def _reworded(text: str) -> str:
    return _HOME.sub(lambda found: f"firstlight ollama.install --prefix {_folder(found[1])}", text)


def _folder(home: str) -> str:
    place = Path(shlex.split(home)[0])
    return shlex.quote(str(place.with_name("ollama") if place.name == _OWN_NAME else place))
