"""Mirrors as a person reads them: what is configured, and how each answered."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from firstlight.fetching.answers import Answered, Ask
from firstlight.fetching.words import duration, rate, size
from firstlight.ui.tables import table


def listed_lines(asks: Sequence[Ask], file: str | None) -> list[str]:
    """Return one line per place that is configured: what it is a mirror of, its kind, its address, and why.

    Args:
        asks: the places.
        file: the user's own file, where there is one.
    """
    rows = [["of", "kind", "place", "configured by"], *([ask.group, ask.kind, ask.place, ask.why] for ask in asks)]
    own = f"your own file: {file or 'none; docs/ollama.md tells what <home>/mirrors.toml holds'}"
    return [*table(rows, indent=""), "", own]


def listed_json(asks: Sequence[Ask], file: str | None) -> str:
    """Return the configured places as the JSON text of schema firstlight.mirrors/1."""
    rows = [{"of": ask.group, "kind": ask.kind, "place": ask.place, "configured_by": ask.why} for ask in asks]
    return _document({"schema": "firstlight.mirrors/1", "file": file, "mirrors": rows})


def answered_lines(answers: Sequence[Answered]) -> list[str]:
    """Return one line per place: whether it answers, length, whether it gives parts, seconds, rate, or why not."""
    rows = [["of", "kind", "place", "answers", "length", "parts", "first byte", "rate"]]
    rows += [
        [
            each.group,
            each.kind,
            each.place,
            "yes" if each.ok else "no",
            "?" if each.length is None else size(each.length),
            {True: "yes", False: "no", None: "-"}[each.ranged],
            "-" if each.seconds is None else duration(each.seconds),
            ("-" if each.rate is None else rate(each.rate)) if each.ok else each.reason,
        ]
        for each in answers
    ]
    return table(rows, indent="")


def answered_json(answers: Sequence[Answered]) -> str:
    """Return the answers as the JSON text of schema firstlight.mirrors/1."""
    rows = []
    for each in answers:
        row = msgspec.to_builtins(each)
        rows.append({"of": row.pop("group"), **row})
    return _document({"schema": "firstlight.mirrors/1", "mirrors": rows})


def _document(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
