"""The user's tokens for model hubs: as headers for hubs that are trusted, and nowhere else."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from firstlight.models.hubs import HubEndpoint

Headers = tuple[tuple[str, str], ...]

VARIABLES = {"huggingface": "HF_TOKEN", "modelscope": "MODELSCOPE_API_TOKEN"}
"""The variable that a person sets, for messages."""

_TRUE = {"1", "true", "yes", "on"}


def token_headers(endpoint: HubEndpoint, environment: Mapping[str, str] | None = None) -> Headers:
    """Return the headers that carry the user's token to a hub, or a password; none for one that is not trusted.

    Hugging Face: HF_TOKEN, HUGGING_FACE_HUB_TOKEN, or the file that `hf auth login` writes (huggingface_hub's
    documentation, "Environment variables"). ModelScope: MODELSCOPE_API_TOKEN, sent as its own client does, as a bearer
    token and as a cookie (modelscope-hub 0.5.1).
    """
    variables = os.environ if environment is None else environment
    password = password_headers(endpoint.url)
    if password:
        return password
    if not endpoint.trusted:
        return ()
    token = _huggingface(variables) if endpoint.source == "huggingface" else variables.get(VARIABLES["modelscope"], "")
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable():
        return ()
    bearer = ("Authorization", f"Bearer {token}")
    return (bearer,) if endpoint.source == "huggingface" else (bearer, ("Cookie", f"m_session_id={token}"))


def password_headers(url: str) -> Headers:
    """Return the header for the name and password that stand in an address, if any do."""
    parts = urlsplit(url)
    if parts.username is None:
        return ()
    words = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return (("Authorization", f"Basic {b64encode(words.encode()).decode()}"),)


def without_password(url: str) -> str:
    """Return an address without the name and password that may stand in it."""
    place = urlsplit(url).netloc
    return url.replace(place, place.rpartition("@")[2], 1)


def _huggingface(variables: Mapping[str, str]) -> str:
    if variables.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").lower() in _TRUE:
        return ""
    given = variables.get("HF_TOKEN") or variables.get("HUGGING_FACE_HUB_TOKEN")
    if given:
        return given
    home = variables.get("HF_HOME") or f"{variables.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    try:
        return Path(variables.get("HF_TOKEN_PATH") or f"{home}/token").expanduser().read_text()
    except (OSError, RuntimeError, UnicodeDecodeError):
        return ""
