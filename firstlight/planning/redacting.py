"""Secrets in addresses: what is written down or shown names the place and keeps the key to itself."""

from __future__ import annotations

import re
from typing import TypeVar, cast

_T = TypeVar("_T")
_CREDENTIALS = re.compile(r"""(?<=://)[^/\s"'?#]+@""")
_TOKEN = re.compile(r"""(://[^/\s"']+/t/)[^/\s"']+""")
"""The token of a private conda channel: `https://host/t/TOKEN/channel` (Anaconda's documentation, "Tokens")."""


def without_credentials(text: str) -> str:
    """Return a text, JSON too, with users, passwords and tokens of its addresses replaced by `***`."""
    if "://" not in text:
        return text
    return _TOKEN.sub(r"\1***", _CREDENTIALS.sub("***@", text))


def without_secrets(value: _T) -> _T:
    """Return a value with every text inside it, keys of dicts too, as `without_credentials` gives it."""
    return cast("_T", _redacted(value))


def _redacted(value: object) -> object:
    import msgspec

    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.replace(
            value, **{name: _redacted(getattr(value, name)) for name in value.__struct_fields__}
        )
    if isinstance(value, dict):
        return {_redacted(key): _redacted(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_redacted(inner) for inner in value]
    if isinstance(value, tuple):
        return tuple(_redacted(inner) for inner in value)
    return value
