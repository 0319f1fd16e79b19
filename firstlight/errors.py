"""The one root of all errors that a person can meet, with what to do next and the exit code."""

from __future__ import annotations

from typing import Any


class FirstlightError(Exception):
    """The work failed: what happened, why, and what to do next.

    Args:
        what: one line saying what happened.
        why: one line saying why, where it is known.
        fix: what to do next; a command that can be pasted, where there is one.
        document: a JSON-ready document that belongs to the failure (a plan that fits nowhere, say).
        evidence: lines of a log that show the cause.
        cause: the id of the known cause, where a pattern of `causes.toml` found one.
    """

    code = 1

    def __init__(
        self,
        what: str,
        *,
        why: str | None = None,
        fix: str | None = None,
        document: dict[str, Any] | None = None,
        evidence: str | None = None,
        cause: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.fix = fix
        self.document = document or {}
        self.evidence = evidence
        self.cause = cause

    @property
    def kind(self) -> str:
        """The error's name in JSON output."""
        return type(self).__name__


class UsageError(FirstlightError):
    """The words of the command were wrong."""

    code = 2


class NothingFits(FirstlightError):  # noqa: N818 - the name is part of the JSON contract
    """This machine can run no build that was asked for."""

    code = 3


class NetworkFailed(FirstlightError):  # noqa: N818 - reads as the sentence that it stands for
    """Every source of some bytes failed."""

    code = 4


class VerificationFailed(FirstlightError):  # noqa: N818 - reads as the sentence that it stands for
    """A hash or the proof did not hold; nothing was switched."""

    code = 5


def did_you_mean(word: str, known: list[str]) -> str:
    """Return ` (did you mean "x"?)` for the known word nearest to `word`, or an empty string."""
    from difflib import get_close_matches

    near = get_close_matches(word.lower(), known, n=1, cutoff=0.5)
    return f' (did you mean "{near[0]}"?)' if near else ""
