"""Generations of environments as a person reads them."""

from __future__ import annotations

import msgspec

from firstlight.environments.generations import Listed
from firstlight.ui.tables import table


def generation_lines(listed: list[Listed]) -> list[str]:
    """Return one line per generation; `*` marks the current one, `-` the one that rollback goes to."""
    if not listed:
        return ["no environment yet; make one: firstlight setup.transformers"]
    rows = [["", "engine", "generation", "kind", "Python", "state", "made", "prefix"]]
    rows += [
        [
            "*" if item.current else "-" if item.previous else "",
            item.engine,
            item.id,
            item.kind,
            item.python,
            item.state,
            item.created,
            str(item.prefix),
        ]
        for item in listed
    ]
    lines = table(rows, indent="")
    lines += [f"{item.engine}/{item.id}: {problem}" for item in listed for problem in item.problems]
    return lines


def generations_json(listed: list[Listed]) -> str:
    """Return the generations as the JSON text of schema firstlight.generations/1."""
    document = {"schema": "firstlight.generations/1", "generations": listed}
    return msgspec.json.format(msgspec.json.encode(document, enc_hook=str), indent=2).decode()
