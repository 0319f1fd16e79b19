"""Errors as people and programs read them: what happened, why, what to do next."""

from __future__ import annotations

import json
import sys

from firstlight.errors import FirstlightError
from firstlight.ui.terminal import as_typed, show_document, styled, write

SCHEMA = "firstlight.error/1"


def as_json(error: FirstlightError) -> str:
    """Return the error document of schema firstlight.error/1."""
    body = {"code": error.code, "kind": error.kind, "message": error.what, "why": error.why, "fix": error.fix}
    return json.dumps({"schema": SCHEMA, "error": body, **error.document}, indent=2, ensure_ascii=False)


def show_failure(error: FirstlightError, *, as_document: bool) -> None:
    """Tell an error on standard error; with `as_document` its JSON is what standard output holds."""
    if as_document:
        show_document(as_json(error))
    stream = sys.stderr
    write(stream, f"{styled('error:', 'red', stream)} {styled(error.what, 'bold', stream)}")
    for label, text in (("why", error.why), ("log", error.evidence), ("fix", error.fix)):
        if text:
            first, *rest = as_typed(text).rstrip().splitlines()
            write(stream, f"  {label}: {first}")
            for line in rest:
                write(stream, f"       {line}")
