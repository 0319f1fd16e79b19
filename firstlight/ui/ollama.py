"""What `ollama.*` and `mirror.*` show."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from firstlight.fetching.words import duration, size
from firstlight.proof.receipts import Receipt
from firstlight.ui.tables import sheet


def installed_lines(
    receipt: Receipt,
    program: Path,
    *,
    before: str | None,
    restarted: Sequence[str],
    others: Sequence[str],
    prefix: Path | None = None,
    aside: str | None = None,
) -> list[str]:
    """Return what an install of a release tells at its end.

    Args:
        receipt: its receipt.
        program: what a shell starts.
        before: the version that was in use before.
        restarted: the servers that were restarted.
        others: other copies on this machine, in words.
        prefix: the folder that it was installed for.
        aside: what somebody else had put there, in words.
    """
    where, build = receipt.environment, receipt.plan.build
    pairs: list[tuple[str, str | None]] = [
        ("version", f"{where.generation}{' (it was there already)' if where.reused else ''}" if where else None),
        (
            "GPU libraries",
            (f"CUDA {build.cuda}, {build.id}" if build.cuda else f"none used: {build.id}") if build else None,
        ),
        ("program", str(program)),
    ]
    if before is not None and where is not None and before != where.generation:
        at = f" --prefix {shlex.quote(str(prefix))}" if prefix is not None else ""
        pairs.append(("before", f"{before}   (back to it: firstlight ollama.rollback{at})"))
    if aside is not None:
        pairs.append(("moved aside", aside))
    pairs += [("fetched", f"{file.name}, {size(file.size or 0)}, from {file.source}") for file in receipt.fetched]
    pairs += [("restarted", name) for name in restarted]
    pairs += [("outside", path) for path in receipt.outside]
    pairs += [("left as it is", text) for text in others]
    moved = f", {size(receipt.bytes)} moved" if receipt.bytes else ""
    pairs += [("took", f"{duration(receipt.seconds)}{moved}"), ("receipt", receipt.path)]
    return ["Ollama", *sheet(pairs)]


def path_hint(program: Path, search_path: Sequence[str]) -> str | None:
    """Return the line that lets a shell find the program, None where it does already."""
    if str(program.parent) in search_path:
        return None
    return f"export PATH={shlex.quote(str(program.parent))}:$PATH"
