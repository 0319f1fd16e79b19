"""What `ollama.import` does: judge the words, ask where another model has the name, take the file in, show it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from firstlight.engines.ollama.blobs import models_folder
from firstlight.engines.ollama.importing import Extras, Imported, import_gguf, require_whole_model
from firstlight.engines.ollama.listing import servers
from firstlight.engines.ollama.names import ModelName, parse_name
from firstlight.engines.ollama.store import find_model
from firstlight.errors import FirstlightError, UsageError
from firstlight.events import step
from firstlight.home import Home
from firstlight.tasks.asking import asks, confirmed, home_of, this_machine
from firstlight.ui.ollama_models import import_line
from firstlight.ui.progress import progress
from firstlight.ui.terminal import show_document


def import_model(
    file: Path, text: str, *, template: str | None, system: str | None, context: str | None, yes: bool, json: bool
) -> None:
    """Take a GGUF file into the store under a name and show what was done.

    Raises:
        UsageError: the file is none, or a word is wrong; or nobody agreed to replace a model.
        FirstlightError: the file is damaged, or the store cannot be written.
    """
    name, path = parse_name(text), file.expanduser().absolute()
    extras = Extras(template=_read(template), system=system, context=_context_length(context))
    require_whole_model(path)
    home = home_of(this_machine())
    home.prepare()
    done = _imported(path, name, home, extras, yes=yes)
    show_document(msgspec.json.format(msgspec.json.encode(done), indent=2).decode() if json else import_line(done))


def _imported(path: Path, name: ModelName, home: Home, extras: Extras, *, yes: bool) -> Imported:
    folder = models_folder(home)
    running = tuple(servers(home))
    agreed = not asks(yes=yes)
    while True:
        try:
            with progress() as reporter, step(reporter, "import", f"import {name}") as current:
                return import_gguf(path, name, folder, step=current, extras=extras, running=running, replace=agreed)
        except FirstlightError:
            if agreed or find_model(folder, name) is None:
                raise
            if not confirmed(f"There is a model {name} already. Replace it?", yes=yes):
                raise UsageError(
                    "not confirmed; nothing was changed", fix="answer y, add --yes, or another --name"
                ) from None
            agreed = True


def _read(template: str | None) -> str | None:
    if template is None:
        return None
    try:
        return Path(template).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"--template: {template} cannot be read", why=str(error), fix="name a text file with the template"
        ) from error


def _context_length(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or not 0 < int(text) <= 1 << 27:
        raise UsageError(f'--context "{text}" is no number of tokens', fix="--context 8192")
    return int(text)
