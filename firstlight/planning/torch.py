"""Where a build gets its torch, and the Python that follows from it."""

from __future__ import annotations

import msgspec

from firstlight.planning.plan import Needs
from firstlight.planning.rules import Case, usable_pythons


class Torch(msgspec.Struct, frozen=True, kw_only=True):
    """Where a CPU build gets its torch (`index:…`, `find-links:…`, `registry`) and the Python that it is for."""

    source: str | None
    python: str
    needs: Needs


def torch_for(case: Case) -> Torch:
    """Return the Python and the torch of a build: for a CPU build the first source that has one for a usable Python."""
    build = case.build
    pythons = usable_pythons(case) or build.pythons
    needs = Needs(download=build.sizes.download, disk=build.sizes.disk)
    supply = case.request.supply.cpu_torch
    if build.cpu_torch is None or supply is None:
        return Torch(source=None, python=pythons[0], needs=needs)
    for source, minors in supply.items():
        for minor in pythons:
            if minor in minors:
                local = source.startswith(("find-links:/", "find-links:file:"))
                less = build.cpu_torch.download if local else 0  # it lies on this machine already
                return Torch(
                    source=source,
                    python=minor,
                    needs=Needs(download=needs.download - less, disk=needs.disk),
                )
    torch = build.cpu_torch
    bigger = Needs(
        download=needs.download - torch.download + torch.fallback_download, disk=needs.disk + torch.fallback_disk
    )
    return Torch(source="registry", python=pythons[0], needs=bigger)
