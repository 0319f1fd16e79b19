"""The words of a request that narrow the choice, and the same request without them."""

from __future__ import annotations

import msgspec

from firstlight.planning.request import Request

_OF_BUILDS = ("build", "release", "cuda")
_NARROWING = (*_OF_BUILDS, "python", "gpus", "environment")


def asked(request: Request) -> list[str]:
    """Return the options that narrow the choice, as they are typed: `--cuda 12.1`."""
    return [_typed(request, name) for name in _given(request)]


def without_one(request: Request) -> list[tuple[str, Request]]:
    """Return the request less each narrowing option, and less all of them, with what was left out."""
    given = _given(request)
    wider = [(_typed(request, name), _less(request, (name,))) for name in given]
    return wider if len(given) < 2 else [*wider, (" ".join(asked(request)), _less(request, given))]


def of_any_build(request: Request) -> Request | None:
    """Return the request less the options that name builds; None: it has none of them."""
    given = [name for name in _given(request) if name in _OF_BUILDS]
    return _less(request, given) if given else None


def _given(request: Request) -> list[str]:
    return [name for name in _NARROWING if getattr(request, name) not in {None, "auto"}]


def _typed(request: Request, name: str) -> str:
    value = getattr(request, name)
    return f"--{name} {','.join(map(str, value)) if name == 'gpus' else value}"


def _less(request: Request, names: list[str] | tuple[str, ...]) -> Request:
    bare = {name: "auto" if name == "environment" else None for name in names}
    return msgspec.structs.replace(request, **bare)
