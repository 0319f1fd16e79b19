"""Why a service failed: the cause that its log tells, by the patterns of its engine and of systemd."""

from __future__ import annotations

import textwrap

from firstlight.errors import FirstlightError
from firstlight.serving.causes import find_cause, load_causes
from firstlight.serving.services.spec import Failure, ServiceSpec

LINE_LENGTH = 240


def explain(spec: ServiceSpec, log: str, what: str, *, fix: str) -> Failure:
    """Return why a service failed; where its log shows no known cause, its own telling line, and `fix`."""
    own = [cause for cause in load_causes(spec.engine) if not cause.vague]
    found = find_cause(log, [*own, *load_causes("systemd"), *load_causes(spec.engine)])
    if found is None:
        return Failure(what=what, fix=fix)
    line = textwrap.shorten(found.line, LINE_LENGTH, placeholder=" …")
    if found.cause is None:
        return Failure(what=what, why=line, line=line, fix=fix)
    remedy = found.cause.fix
    if found.cause.id.startswith("unit-"):  # of systemd's own page, whose words stand for this unit's
        remedy = remedy.replace("UNIT", f"{spec.name}.service").replace("NAME", spec.user or spec.name)
    return Failure(what=what, why=found.cause.cause, line=line, fix=remedy, cause=found.cause.id)


def as_error(failure: Failure, kind: type[FirstlightError] = FirstlightError) -> FirstlightError:
    """Return a failure as the error that a person meets."""
    why = f"{failure.why} ({failure.line})" if failure.cause and failure.line else failure.why
    return kind(failure.what, why=why, fix=failure.fix, cause=failure.cause)
