"""Where a build gets its torch, and the Python that follows from it."""

from __future__ import annotations

import msgspec

from firstlight.planning.case import Case
from firstlight.planning.plan import Needs
from firstlight.planning.rules import usable_pythons


class Torch(msgspec.Struct, frozen=True, kw_only=True):
    """Where a build gets its torch (`index:…`, `find-links:…`, `registry`) and the Python that it is for."""

    source: str | None
    python: str
    needs: Needs


def torch_for(case: Case) -> Torch:
    """Return the Python and the torch of a build: the first source that has its torch for a usable Python.

    A CPU build may fall back to the registry's CUDA build of torch, where no source has the one for the CPU.
    """
    build = case.build
    pythons = usable_pythons(case) or build.pythons
    python = pythons[0] if pythons else ""
    needs = Needs(download=build.sizes.download, disk=build.sizes.disk)
    found = (case.request.supply.torch or {}).get(build.torch_version or "")
    if build.torch_local is None or found is None:
        return Torch(source=None, python=python, needs=needs)
    instead = build.registry_torch
    for source, minors in found.items():
        for minor in pythons:
            if minor in minors:
                local = source.startswith(("find-links:/", "find-links:file:"))
                less = instead.instead_of if local and instead else 0  # it lies on this machine already
                return Torch(source=source, python=minor, needs=Needs(download=needs.download - less, disk=needs.disk))
    if instead is None:
        return Torch(source=None, python=python, needs=needs)
    bigger = Needs(download=needs.download - instead.instead_of + instead.download, disk=needs.disk + instead.disk)
    return Torch(source="registry", python=python, needs=bigger)
