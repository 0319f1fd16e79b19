"""Remembers which sources the current environment was made from, so that the second run asks nobody."""

from __future__ import annotations

import contextlib
import hashlib

import msgspec

from firstlight.files import write_atomic
from firstlight.home import Home
from firstlight.planning.redacting import without_credentials
from firstlight.planning.request import Request, Supply

_RECORD = "supply.json"


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    """The supply that the current environment was built from, and a digest of the wishes that it answered."""

    wishes: str
    supply: Supply


def remembered(home: Home | None, request: Request) -> Request | None:
    """Return the request with the supply that this home's environment was built from; None: it has to be asked for.

    An environment that is there needs no network: the second run must not wait for silent mirrors. A request without
    wishes of its own about sources takes whatever the current environment was made from.
    """
    if home is None:
        return None
    with contextlib.suppress(OSError, msgspec.DecodeError):
        record = msgspec.json.decode((home.environments / request.engine / _RECORD).read_bytes(), type=_Record)
        if record.wishes == _wishes(request) or not _wishes_for_sources(request):
            return msgspec.structs.replace(request, supply=record.supply)
    return None


def remember(home: Home, request: Request) -> None:
    """Keep the supply of the environment that was just made current; addresses with credentials for this user alone."""
    text = msgspec.json.encode(_Record(wishes=_wishes(request), supply=request.supply)).decode()
    mode = 0o644 if without_credentials(text) == text else 0o600
    write_atomic(home.environments / request.engine / _RECORD, text, mode)


def _wishes(request: Request) -> str:
    wishes = [request.environment, request.channels, request.indexes, request.find_links, request.cuda]
    return hashlib.sha256(msgspec.json.encode(wishes)).hexdigest()  # addresses may hold credentials


def _wishes_for_sources(request: Request) -> bool:
    return request.environment != "auto" or bool(request.channels or request.indexes or request.find_links)
