"""`ollama.*`: Ollama's releases on this machine; its models are in the modules beside this one."""

from __future__ import annotations

from invoke.collection import Collection
from invoke.context import Context

from firstlight.tasks.asking import PLAN_HELP, SETUP_HELP
from firstlight.tasks.edge import command
from firstlight.tasks.ollama_models import import_, list_
from firstlight.tasks.ollama_pull import pull

_HELP = {
    **{word: PLAN_HELP[word] for word in ("machine", "gpus", "cuda", "build", "json")},
    "release": "only this release (0.6.2), or latest: what the project calls its newest",
    "offline": "a local archive; tgz: find one here, in the home's downloads/ or in the user's Downloads",
    "mirror": "a base that holds vX.Y.Z/<asset>, or the very file; tried beside the others (repeatable)",
    "only-mirrors": "no source but those given with --mirror",
    "sha256": "the sum that the archive must have; overrules the catalogue",
    "require-known": "refuse an archive whose sum is known nowhere",
    "prefix": "a folder whose bin/ollama and lib/ollama lead to it: /usr/local with root, ~/.local without",
    "service": "keep it running: as a service of this machine",
    "host": "address that the service listens on; 127.0.0.1 is reached from this machine alone",
    "port": "port of the service",
    "allow-open": "let the service listen on a wider address though Ollama knows no API key",
    "repair": "unpack it afresh beside the version that is there",
    "dry-run": SETUP_HELP["dry-run"],
    "yes": SETUP_HELP["yes"],
}
_PREFIX = "the prefix that it was installed for"


@command(help=_HELP, iterable=["mirror"])
def install(
    _context: Context,
    machine: str | None = None,
    gpus: str | None = None,
    cuda: str | None = None,
    release: str | None = None,
    build: str | None = None,
    offline: str | None = None,
    mirror: list[str] | None = None,
    only_mirrors: bool = False,
    sha256: str | None = None,
    require_known: bool = False,
    prefix: str | None = None,
    service: bool = False,
    host: str | None = None,
    port: str | None = None,
    allow_open: bool = False,
    repair: bool = False,
    dry_run: bool = False,
    yes: bool = False,
    json: bool = False,
) -> int:
    """Install a release that fits this machine, beside the one in use, and switch to it when it works."""
    from firstlight.tasks.release_choice import Options
    from firstlight.tasks.releases import install as do

    options = Options(
        machine=machine,
        gpus=gpus,
        cuda=cuda,
        release=release,
        build=build,
        offline=offline,
        mirrors=tuple(mirror or ()),
        only_mirrors=only_mirrors,
        sha256=sha256,
        require_known=require_known,
        prefix=prefix,
        service=service,
        host=host,
        port=port,
        allow_open=allow_open,
        repair=repair,
        dry_run=dry_run,
        yes=yes,
    )
    return do(options, json=json)


@command(help={"prefix": _PREFIX, "json": PLAN_HELP["json"]})
def rollback(_context: Context, prefix: str | None = None, json: bool = False) -> int:
    """Go back to the version before, also to a copy that was moved aside, and restart what runs."""
    from firstlight.tasks.releases import rollback as do

    return do(prefix, json=json)


@command(
    help={
        "release": "only this version",
        "prefix": _PREFIX,
        "models": "the models in firstlight's home as well",
        "yes": SETUP_HELP["yes"],
        "json": PLAN_HELP["json"],
    }
)
def uninstall(
    _context: Context,
    release: str | None = None,
    prefix: str | None = None,
    models: bool = False,
    yes: bool = False,
    json: bool = False,
) -> int:
    """Remove the versions, or one of them, and undo what was written outside the home; models stay."""
    from firstlight.tasks.releases import uninstall as do

    return do(release, prefix, models=models, yes=yes, json=json)


collection = Collection("ollama")
for _task in (install, rollback, uninstall, pull, import_, list_):
    collection.add_task(_task)
