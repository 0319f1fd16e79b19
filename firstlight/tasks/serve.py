"""`serve.*`: an engine in the foreground, from its current environment."""

from __future__ import annotations

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
}


def _serve_task(engine: str) -> Any:
    """Return the task that serves with an engine."""

    def body(_context: Context, model: str | None = None, host: str | None = None, port: str | None = None) -> int:
        from firstlight.tasks.doing import serve_current

        if model is None:
            raise UsageError("no model was named", fix=f"firstlight serve.{engine} --model MODEL")
        return serve_current(engine, model, host=host, port=port_number(port), flags=after_dashes())

    body.__name__ = engine
    body.__doc__ = f"Serve a model with {engine} in the foreground; words after -- go to the engine."
    return command(help=_HELP)(body)


collection = Collection("serve")
for _engine in installable_names():
    collection.add_task(_serve_task(_engine), name=_engine)
