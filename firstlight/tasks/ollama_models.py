"""`ollama.import` and `ollama.list`: the models of Ollama's store."""

from __future__ import annotations

from pathlib import Path

from invoke.context import Context

from firstlight.errors import UsageError
from firstlight.tasks.asking import PLAN_HELP, SETUP_HELP, home_of, this_machine
from firstlight.tasks.edge import command


@command(
    name="import",
    help={
        "file": "a *.gguf file: it is linked into the store, never copied",
        "name": "what the model will be called: name, name:tag, owner/name:tag",
        "template": "a file with its prompt template, in Go's language; without it the one inside the GGUF is used",
        "system": "its system prompt",
        "context": "its context length in tokens",
        "yes": SETUP_HELP["yes"],
        "json": PLAN_HELP["json"],
    },
)
def import_(
    _context: Context,
    file: str,
    name: str | None = None,
    template: str | None = None,
    system: str | None = None,
    context: str | None = None,
    yes: bool = False,
    json: bool = False,
) -> None:
    """Take a GGUF file into Ollama's store, by a link; a running server sees it at once."""
    from firstlight.tasks.importing import import_model

    if name is None:
        from firstlight.engines.ollama.names import usable

        near = usable(Path(file).stem).lower() or "NAME"
        raise UsageError("the model has no name", fix=f"firstlight ollama.import {file} --name {near}")
    import_model(Path(file), name, template=template, system=system, context=context, yes=yes, json=json)


@command(name="list", help={"json": PLAN_HELP["json"]})
def list_(_context: Context, json: bool = False) -> None:
    """List the models of Ollama's store, whole or not, and what a running server has in memory."""
    import msgspec

    from firstlight.engines.ollama.listing import listing
    from firstlight.ui.ollama_models import model_lines
    from firstlight.ui.terminal import show, show_document

    listed = listing(home_of(this_machine()))
    if json:
        show_document(msgspec.json.format(msgspec.json.encode(listed), indent=2).decode())
    else:
        show("\n".join(model_lines(listed)))


TASKS = (import_, list_)
