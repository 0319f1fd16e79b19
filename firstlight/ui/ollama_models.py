"""Ollama's models as a person reads them."""

from __future__ import annotations

from firstlight.engines.ollama.importing import Imported
from firstlight.engines.ollama.listing import Listing
from firstlight.fetching.words import size
from firstlight.ui.tables import table


def model_lines(listing: Listing) -> list[str]:
    """Return one line per model, then what is wrong, and what a running server holds."""
    lines = [f"models in {listing.store}"]
    if listing.models:
        rows = [["name", "id", "size", "modified", "in memory"]]
        rows += [
            [model.name, model.id, size(model.size), model.modified, model.processor or "-"] for model in listing.models
        ]
        lines += table(rows)
    else:
        lines.append("  none yet; take one in: firstlight ollama.import FILE.gguf --name NAME")
    lines += [f"{model.name}: {model.problem}" for model in listing.models if model.problem]
    if listing.server is None:
        lines.append("no server of Ollama answers; what the files say is shown")
    else:
        lines.append(f"server {listing.server.version} at {listing.server.address}")
        if listing.elsewhere:
            lines.append(f"it has models of another store too: {', '.join(listing.elsewhere)}")
    return lines


def import_line(done: Imported) -> str:
    """Return what an import did, in one line."""
    what = f"{done.name}: {done.family}, {done.parameters} parameters, {done.quantization}, {size(done.size)}"
    if done.reused:
        return f"{what}; it was there already"
    ways = {
        "hard link": "linked, not copied",
        "symlink": "linked across filesystems, not copied",
        "present": "its bytes were there already",
        "copy": "copied: the store's filesystem knows no links",
    }
    through = "" if done.through == "files" else f", through the server at {done.through}"
    return f"{what}; {ways.get(done.how, done.how)}{through}"
