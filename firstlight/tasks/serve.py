"""`serve.*`: an engine in the foreground, from its current environment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from invoke.collection import Collection
from invoke.context import Context

from firstlight.catalogue.names import installable_names
from firstlight.errors import UsageError
from firstlight.tasks.edge import after_dashes, command, port_number

_HELP = {
    "model": "what to serve: a folder, owner/name, pypi:NAME",
    "host": "address to listen on; 127.0.0.1 is reached from this machine alone",
    "port": "port of the endpoint",
    "api-key-file": "a file with the key that every request must carry; it is shown nowhere",
}


def _serve_task(engine: str) -> Any:
    """Return the task that serves with an engine."""

    def body(
        _context: Context,
        model: str | None = None,
        host: str | None = None,
        port: str | None = None,
        api_key_file: str | None = None,
    ) -> int:
        from firstlight.catalogue.loading import find_engine, load_catalogue
        from firstlight.serving.keys import take_key
        from firstlight.tasks.doing import serve_current
        from firstlight.ui.terminal import tell

        if model is None:
            raise UsageError("no model was named", fix=f"firstlight serve.{engine} --model MODEL")
        if api_key_file is not None:
            take_key(Path(api_key_file), find_engine(load_catalogue(), engine))
            tell("every request needs the key; ask and chat of firstlight read it from OPENAI_API_KEY")
        return serve_current(engine, model, host=host, port=port_number(port), flags=after_dashes())

    body.__name__ = engine
    body.__doc__ = f"Serve a model with {engine} in the foreground; words after -- go to the engine."
    return command(help=_HELP)(body)


collection = Collection("serve")
for _engine in installable_names():
    collection.add_task(_serve_task(_engine), name=_engine)
