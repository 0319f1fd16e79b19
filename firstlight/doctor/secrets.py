"""Secrets never stand in a finding: what looks like one is taken out of command lines, addresses and log lines."""

from __future__ import annotations

import re

HIDDEN = "<secret>"
_NAME = r"[\w-]*(?:api[-_]?key|token|passw(?:or)?d|secret|access[-_]?key(?:[-_]?id)?)"
_PATTERNS = (
    # Credentials in an address.
    (re.compile(r"(?<=://)[^/@\s'\"]+@"), ""),
    # Tokens of hubs and forges know themselves by their first letters.
    (re.compile(r"\b(?:hf|sk|ghp|gho|ghs|github_pat|glpat|ms|xox[abp])[-_][A-Za-z0-9_-]{8,}"), HIDDEN),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), HIDDEN),
    (re.compile(r"\b(Bearer)\s+[^\s'\"]+", re.IGNORECASE), rf"\1 {HIDDEN}"),
    # `--api-key VALUE`; in prose (`the token was refused`) nothing is given.
    (re.compile(rf"(--?{_NAME}[= ])\s*\S+", re.IGNORECASE), rf"\1{HIDDEN}"),
    # `HF_TOKEN=VALUE`, `"password": "VALUE"`
    (
        re.compile(rf"\b({_NAME}s?[\"']?\s*[=:]\s*)(?!<)(?:\"[^\"]*\"|'[^']*'|[^\s'\"&,;]+)", re.IGNORECASE),
        rf"\1{HIDDEN}",
    ),
)


def without_secrets(text: str) -> str:
    """Return a text with passwords in addresses, tokens, and values of secret-looking flags and variables taken out."""
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text
