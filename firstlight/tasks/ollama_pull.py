"""`ollama.pull`: a model from a registry into Ollama's store."""

from __future__ import annotations

from invoke.context import Context

from firstlight.tasks.asking import PLAN_HELP, home_of, this_machine
from firstlight.tasks.edge import command


@command(
    help={
        "name": "llama3.2:1b, owner/model:tag, hf.co/owner/repository:Q4_K_M, modelscope.cn/..., host:port/...",
        "mirror": "a registry that answers in place of the one in the name (repeatable)",
        "insecure": "reach the registry of the name by plain http",
        "json": PLAN_HELP["json"],
    },
    iterable=["mirror"],
)
def pull(
    _context: Context, name: str, mirror: list[str] | None = None, insecure: bool = False, json: bool = False
) -> None:
    """Pull a model into Ollama's store; a pull that broke off goes on from its bytes."""
    import msgspec

    from firstlight.engines.ollama.pulling import pull as pull_model
    from firstlight.events import step
    from firstlight.ui.progress import progress
    from firstlight.ui.terminal import show_document

    home = home_of(this_machine())
    home.prepare()
    with progress(events=json) as reporter, step(reporter, "pull", f"pull {name}") as current:
        pulled = pull_model(name, home, step=current, mirrors=tuple(mirror or ()), insecure=insecure)
    show_document(msgspec.json.encode(pulled).decode() if json else f"{pulled.name}  {pulled.id}  {pulled.store}")


TASKS = (pull,)
