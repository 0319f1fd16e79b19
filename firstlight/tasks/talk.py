"""`chat` and `ask`: talk to an endpoint."""

from __future__ import annotations

import os
import sys
from typing import Any

from invoke.context import Context

from firstlight.tasks.asking import home_of, this_machine
from firstlight.tasks.edge import command

_HELP = {
    "url": "endpoint, such as http://127.0.0.1:8000/v1; the running server when left out",
    "model": "model name; the endpoint's only one when left out",
    "system": "system message",
}


@command(help=_HELP)
def chat(_context: Context, url: str | None = None, model: str | None = None, system: str | None = None) -> int:
    """Chat with a model; Ctrl-D or exit leaves."""
    from firstlight.ui import chat as screen

    client, name = _client(url, model)
    return screen.chat(client, name, system=system, stdin=sys.stdin, stdout=sys.stdout)


@command(help={"url": _HELP["url"], "model": _HELP["model"], "text": "what to ask"})
def ask(_context: Context, text: str, url: str | None = None, model: str | None = None) -> int:
    """Ask one question and print the answer as it comes."""
    from firstlight.ui import chat as screen

    client, name = _client(url, model)
    return screen.ask(client, name, text, stdout=sys.stdout)


def _client(url: str | None, model: str | None) -> tuple[Any, str | None]:
    """Return a client for an endpoint (else for the server that runs here), and the model's name where it is known.

    The key comes from OPENAI_API_KEY, never from the command line; that of a service of ours from its own file, where
    this user may read it.
    """
    from firstlight.proof.client import OpenAIClient
    from firstlight.proof.receipts import model_at
    from firstlight.serving.running import list_running
    from firstlight.serving.services.records import all_services
    from firstlight.staying.proving import key_of

    home = home_of(this_machine())
    if url is None:
        here = [record.endpoint for record in list_running(home) if record.alive]
        here += [record.spec.base_url for record in all_services(home)]
        url = f"{here[0]}/v1" if here else os.environ.get("OPENAI_BASE_URL") or "http://127.0.0.1:8000/v1"
    base = OpenAIClient(url).base_url
    recorded = base.replace("://localhost", "://127.0.0.1", 1)
    known = next((each.spec for each in all_services(home) if each.spec.base_url == recorded), None)
    key = os.environ.get("OPENAI_API_KEY") or (key_of(known) if known is not None else None)
    model = model or (known.model_id or None if known is not None else None)
    return OpenAIClient(base, api_key=key), model or model_at(home, f"{recorded}/v1")
