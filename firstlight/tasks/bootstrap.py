"""`bootstrap.*`: the first boot of a machine that is not there yet."""

from __future__ import annotations

from pathlib import Path

from invoke.collection import Collection
from invoke.context import Context

from firstlight.catalogue.names import installable_names
from firstlight.errors import UsageError
from firstlight.tasks.edge import after_dashes, command, one_of, port_number

_HELP = {
    "engine": ", ".join(installable_names()),
    "model": "what to serve: owner/name, pypi:NAME, or a folder of the new machine",
    "name": "name of the service; the engine's by default",
    "port": "port of the endpoint",
    "host": "address to listen on; 127.0.0.1 by default",
    "hardening": "basic or strict",
    "scope": "auto, system or supervisor",
    "source": "where the new machine gets the tool: a URL or a path of its own; without one it travels inside",
    "sha256": "SHA-256 of what lies at --source",
    "pack": "write the tool's archive there, to be uploaded to --source; its SHA-256 is pinned",
    "hf-token-file": "a Hugging Face token to take along; it stands in the user-data",
    "output": "write the user-data there instead of to standard output",
}


@command(name="cloud-init", help=_HELP)
def cloud_init(
    _context: Context,
    engine: str | None = None,
    model: str | None = None,
    name: str | None = None,
    port: str | None = None,
    host: str | None = None,
    hardening: str | None = None,
    scope: str | None = None,
    source: str | None = None,
    sha256: str | None = None,
    pack: str | None = None,
    hf_token_file: str | None = None,
    output: str | None = None,
) -> None:
    """Write user-data that brings a fresh cloud machine to a proven service at its first boot."""
    from firstlight.serving.first_boot import FirstBoot
    from firstlight.tasks.first_boot import make, token_in

    for what, given in (("engine", engine), ("model", model)):
        if given is None:
            raise UsageError(
                f"no {what} was named", fix="firstlight bootstrap.cloud-init --engine ENGINE --model MODEL"
            )
    wish = FirstBoot(
        engine=one_of("--engine", engine, installable_names(), ""),
        model=model or "",
        name=name,
        port=port_number(port),
        host=host,
        hardening=None if hardening is None else one_of("--hardening", hardening, ("basic", "strict"), "basic"),
        scope=None if scope is None else one_of("--scope", scope, ("auto", "system", "supervisor"), "auto"),
        source=source,
        sha256=sha256,
        token=token_in(hf_token_file),
        flags=after_dashes(),
    )
    make(wish, pack=Path(pack) if pack else None, output=Path(output) if output else None)


@command(help={"file": "user-data that somebody has edited"})
def check(_context: Context, file: str) -> int:
    """Look for what cloud-init's own schema lets pass: misspelt keys, keys that stand there twice."""
    from firstlight.tasks.first_boot import check_file

    return check_file(Path(file))


collection = Collection("bootstrap")
collection.add_task(cloud_init)
collection.add_task(check)
