"""What `up` and `setup` say at the end: the answer, the endpoint, lines to paste, and the timeline."""

from __future__ import annotations

import json
import shlex

from firstlight.environments.examined import Examined
from firstlight.fetching.words import duration, size
from firstlight.models.provide import MADE_HERE
from firstlight.proof.receipts import Receipt
from firstlight.resources import data_folder
from firstlight.ui.tables import sheet, wrapped
from firstlight.ui.timeline import timeline

_HELD = {
    "locked": "locked: every file is held by its hash",
    "pinned": "pinned: exact versions, hashes as far as they are known",
}
_RANDOM = "random weights"
_CHECK = 23
"""Columns before what a check says."""


def next_steps(endpoint: str, model: str, python: str = "python") -> str:
    """Return the endpoint, the model's name, and a curl, a Python and a chat line to paste.

    `python` is an interpreter that has the client library `openai`: the engine's own.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(data_folder("templates")),
        autoescape=False,  # noqa: S701 - plain text for a terminal; every value goes through a quoting filter
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["shell"] = shlex.quote
    environment.filters["quoted"] = lambda text: text.replace("\\", "\\\\").replace("'", "\\'")
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}]}
    template = environment.get_template("endpoint.txt.j2")
    words = json.dumps(body, ensure_ascii=False)
    return template.render(endpoint=endpoint, model=model, python=python, body=words).strip("\n")


def summary(receipt: Receipt, columns: int, *, unicode: bool) -> list[str]:
    """Return the lines that tell what a receipt proves, with its timeline."""
    lines: list[str] = []
    proof = receipt.proof
    if proof is not None:
        rate = f", {proof.tokens_per_second:.1f} tokens/s" if proof.tokens_per_second else ""
        said: list[tuple[str, str | None]] = [("asked", proof.prompt), ("answer", _answer(receipt, proof.text.strip()))]
        lines += ["First token", *sheet(said)]
        lines += [f"  first token after {duration(proof.first_token_seconds)} on {proof.device}{rate}", ""]
    elif receipt.examination is not None:
        lines += ["Examination", *_checks(receipt.examination, columns), ""]
    facts: list[tuple[str, str | None]] = []
    if receipt.environment is not None:
        where = receipt.environment
        facts.append((f"{where.kind} environment", where.prefix))
    if receipt.plan.build is not None:
        facts.append(("build", f"{receipt.plan.build.id}, {_HELD[receipt.plan.build.integrity]}"))
    if receipt.examination is not None:
        facts.append(("examined", receipt.examination.summary))
    if receipt.model is not None:
        source = f"made here: {_RANDOM}" if _made_here(receipt) else f"from {receipt.model.source}"
        facts.append(("model", f"{receipt.model.path} ({size(receipt.model.bytes)}, {source})"))
    facts.append(("receipt", receipt.path))
    moved = f", {size(receipt.bytes)} fetched" if receipt.bytes else ""
    lines += [*sheet(facts), "", f"Timeline ({duration(receipt.seconds)}{moved})"]
    return lines + timeline(receipt.steps, receipt.seconds, columns, unicode=unicode)


def _made_here(receipt: Receipt) -> bool:
    return receipt.model is not None and receipt.model.source == MADE_HERE


def _answer(receipt: Receipt, text: str) -> str:
    """Return the answer; that of the proof model, whose letters make no sense, with the reason."""
    if not _made_here(receipt):
        return text
    return f"{text}   ({_RANDOM} make no words)" if text else f"({_RANDOM} make no words)"


def _checks(examined: Examined, columns: int) -> list[str]:
    """Return the lines of an examination: it is all that there is to show where nothing was proven."""
    lines: list[str] = []
    for check in examined.checks:
        first, *rest = wrapped(check.summary, columns - _CHECK, indent="")
        lines.append(f"  {check.status:<4}  {check.id:<13}  {first}")
        lines += [f"{'':{_CHECK}}{line}" for line in rest]
    return lines
