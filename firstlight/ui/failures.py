"""Errors as people and programs read them: what happened, why, what to do next."""

from __future__ import annotations

import contextlib
import json
import sys

from firstlight.errors import FirstlightError
from firstlight.planning.redacting import without_credentials
from firstlight.ui.terminal import OutputFailed, as_typed, show_document, styled, write

SCHEMA = "firstlight.error/1"


def as_json(error: FirstlightError) -> str:
    """Return the error document of schema firstlight.error/1; commands in it are spelled as this person types them."""
    why, fix = (text and as_typed(text) for text in (error.why, error.fix))
    body = {"code": error.code, "kind": error.kind, "message": error.what, "why": why, "fix": fix}
    return json.dumps({"schema": SCHEMA, "error": body, **error.document}, indent=2, ensure_ascii=False)


def show_failure(error: FirstlightError, *, as_document: bool) -> None:
    """Tell an error on standard error; with `as_document` its JSON is what standard output holds.

    A standard output that fails is told as well, and is no error of its own: the first one counts.
    """
    if as_document:
        show_error_document(error)
    stream = sys.stderr
    write(stream, f"{styled('error:', 'red', stream)} {styled(without_credentials(error.what), 'bold', stream)}")
    for label, text in (("why", error.why), ("log", error.evidence), ("fix", error.fix)):
        if text:
            first, *rest = without_credentials(as_typed(text)).rstrip().splitlines()
            write(stream, f"  {label}: {first}")
            for line in rest:
                write(stream, f"       {line}")


def show_error_document(error: FirstlightError) -> None:
    """Write an error's JSON to standard output; where that fails, it is told on standard error."""
    with contextlib.suppress(BrokenPipeError):
        try:
            show_document(as_json(error))
        except OutputFailed as failed:
            show_failure(failed, as_document=False)
