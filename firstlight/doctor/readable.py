"""The catalogue without its damaged pages: a doctor that dies of what it should report is none."""

from __future__ import annotations

import msgspec

from firstlight.catalogue.loading import load_catalogue
from firstlight.catalogue.names import engine_names
from firstlight.catalogue.types import Catalogue, EngineEntry
from firstlight.doctor.evidence import DAMAGED, Unseen
from firstlight.errors import FirstlightError


def readable_catalogue() -> tuple[Catalogue, list[Unseen]]:
    """Return the catalogue with the pages that can be read, and why the others cannot."""
    damaged: list[Unseen] = []
    pages: list[EngineEntry] = []
    try:
        whole = load_catalogue()
        names = engine_names()
    except (FirstlightError, OSError) as error:
        return Catalogue({}), [_damage("all engines", error)]
    for name in names:
        try:
            pages.append(whole.engines[name])
        except (FirstlightError, OSError) as error:
            damaged.append(_damage(name, error))
    engines = {page.engine: page for page in sorted(pages, key=lambda page: page.rank)}
    return msgspec.structs.replace(whole, engines=engines), damaged


def _damage(name: str, error: FirstlightError | OSError) -> Unseen:
    told = f"{error.what}: {error.why}" if isinstance(error, FirstlightError) else str(error)
    return Unseen(name=f"{DAMAGED}{name}", reason=told, broke=True)
