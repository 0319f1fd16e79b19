"""Makes clear errors of what uv says when it fails (uv 0.9 to 0.13: `error:` with `cause:`, or `×` with `╰─▶`)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from firstlight.environments.pipconfig import redact
from firstlight.errors import FirstlightError, NetworkFailed, VerificationFailed
from firstlight.machine.space import free_bytes, no_room, says_full

_BEGIN = re.compile(r"^\s*(error:|×|\u2570|Caused by:|cause:)")
_MARK = re.compile(r"^\s*(?:error:|×|cause:|Caused by:|\d+:|[\u2502\u251c\u2570\u2500\u25b6\s]+)\s*")
_URL = re.compile(r"(?:https?|file)://[^\s)`]+")
_HASH = re.compile(r"Hash mismatch for `([^`]+)`.*?Expected:\s*(\S+).*?Computed:\s*(\S+)", re.DOTALL)
_FILE = re.compile(r"Failed to (?:download|read|fetch)(?: and build)? `([^`]+)`")
_NO_WHEELS = re.compile(r"(\S+) has no (?:usable )?wheels")
_DAMAGED = re.compile(
    r"Bad CRC|Failed to extract|invalid package format|Failed to read from zip|corrupt|unpack", re.IGNORECASE
)
_NETWORK = re.compile(
    r"Failed to fetch|error sending request|Request failed|timed out|network timeout|Connection re|dns error|"
    r"certificate|client error \(|HTTP status|error decoding response body|connection closed|network connectivity",
    re.IGNORECASE,
)
_TIMEOUT = re.compile(r"timed out|network timeout", re.IGNORECASE)
_LONGEST = 600


def causes(messages: Sequence[str]) -> list[str]:
    """Return what uv named as error and causes, outermost first, each in one line."""
    found: list[str] = []
    begun = False
    for line in messages:
        if line.lstrip().startswith(("hint:", "help:")):
            begun = False
        elif _BEGIN.match(line):
            begun = True
            found.append(_MARK.sub("", line, count=1).strip())
        elif begun and found and line.startswith((" ", "\u2502")):
            found[-1] += " " + _MARK.sub("", line, count=1).strip()
    return [cause for cause in found if cause]


def failed_address(messages: Sequence[str]) -> str | None:
    """Return the URL that a network failure is about."""
    text = " ".join(causes(messages))
    match = _URL.search(text)
    return match[0].rstrip("/.,") if match else None


def failed_wheel(messages: Sequence[str]) -> str | None:
    """Return the requirement or the address whose file came damaged, in part, or with another hash than promised."""
    found = _HASH.search("\n".join(messages)) or _FILE.search(" ".join(causes(messages)))
    return found[1] if found else None


def is_network_failure(messages: Sequence[str]) -> bool:
    """Tell whether uv failed because a source did not deliver."""
    text = " ".join(causes(messages))
    return bool(_NETWORK.search(text)) and not _HASH.search(text) and not says_full(text)


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST].rpartition(' ')[0]} …"


def explain(
    messages: Sequence[str], *, what: str, sources: Sequence[str], prefix: Path, cache: Path, needed: int | None
) -> FirstlightError:
    """Return the error for a failed uv.

    Args:
        messages: what it said.
        what: what was to be installed, for the message.
        sources: indexes and folders that were asked, in order.
        prefix: where it was to be installed.
        cache: uv's cache.
        needed: bytes that the installation takes on disk, where that is known.
    """
    found = causes(messages)
    text = "\n".join(found)
    evidence = redact("\n".join(messages[-30:]))
    mismatch = _HASH.search("\n".join(messages))
    if mismatch:
        error: FirstlightError = _other_file(mismatch)
    elif says_full(text):
        fuller = min((prefix, cache), key=free_bytes)
        error = no_room(fuller, f"the wheels of {what}", needed)
    elif _TIMEOUT.search(text):
        error = _network(messages, what, sources)
    elif "No solution found" in text and _NO_WHEELS.search(text):
        error = _only_source(found, sources)
    elif "No solution found" in text and not _DAMAGED.search(text):
        reason = " ".join(found[1:]) or found[0]
        error = FirstlightError(
            f"no set of wheels fits for {what}",
            why=f"{_shortened(reason)} (asked: {', '.join(sources)})",
            fix="name an index that has it, with --index URL, or another release with --release",
        )
    elif _DAMAGED.search(text):
        error = VerificationFailed(
            f"a wheel of {what} arrived damaged",
            why=_shortened("; ".join(dict.fromkeys(found))),
            fix="run the same command again; if it stays, name another source with --index URL",
        )
    elif _NETWORK.search(text):
        error = _network(messages, what, sources)
    else:
        error = FirstlightError(
            f"uv could not install {what}",
            why=_shortened("; ".join(found) or (messages[-1] if messages else "it said nothing")),
            fix="run the same command again; the log has every word of uv",
        )
    error.evidence = evidence if evidence.strip() != error.why else None
    return error


def _other_file(mismatch: re.Match[str]) -> VerificationFailed:
    name, _, address = " ".join(mismatch[1].split()).partition(" @ ")
    fix = "the source is damaged or stale; name another one: --index https://pypi.org/simple"
    if address:
        fix = "fetch that file on a network that delivers it whole, and name its folder: --find-links DIR"
    came = f" from {redact(address.partition('#')[0])}" if address else ""
    return VerificationFailed(
        f"the wheel of {name} is not the one that was promised",
        why=f"expected {mismatch[2]}, got {mismatch[3]}{came}; nothing of it was installed",
        fix=fix,
    )


def _only_source(found: Sequence[str], sources: Sequence[str]) -> FirstlightError:
    """Return the error for what has no wheel for this machine; it is never compiled here."""
    reason = " ".join(found[1:]) or found[0]
    match = _NO_WHEELS.search(reason)
    name = (match[1] if match else "a package").partition("=")[0].partition("<")[0].partition(">")[0]
    return FirstlightError(
        f"{name} has no wheel for this machine, and nothing is compiled here",
        why=f"{_shortened(reason)} (asked: {', '.join(sources)})",
        fix=f"make one elsewhere: python -m pip wheel --no-deps {name}; then name its folder: --find-links DIR",
    )


def _network(messages: Sequence[str], what: str, sources: Sequence[str]) -> NetworkFailed:
    found = causes(messages)
    address = failed_address(messages)
    host = urlsplit(address).netloc.rpartition("@")[2] if address else ""
    reason = next((cause for cause in reversed(found) if not cause.startswith("Failed to fetch")), found[-1])
    if "HTTP status" in reason:
        reason = re.sub(r"^.*\((\d{3} [^)]*)\).*$", r"HTTP \1", reason)
    told = [f"{source}: {reason if host and host in source else 'asked too'}" for source in sources]
    if not any(host and host in source for source in sources):
        told.insert(0, f"{address or 'the network'}: {reason}")
    fix = "check the network and the proxy, or name a source that answers: --index URL"
    if "certificate" in " ".join(found).lower():
        fix = "let it know your network's certificates: export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"
    return NetworkFailed(f"the wheels of {what} could not be fetched", why=redact("; ".join(told)), fix=fix)
