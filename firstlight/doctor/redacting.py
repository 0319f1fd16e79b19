"""An examination that can be shown to strangers: no user, host or address, no path of a home, no token, no GPU UUID."""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import PurePosixPath
from typing import Any

import msgspec

from firstlight.catalogue.names import engine_names
from firstlight.doctor.report import Examination
from firstlight.doctor.secrets import without_secrets
from firstlight.resources import data_folder

USER, HOST, ADDRESS, UUID = "<user>", "<host>", "<address>", "<uuid>"
_UUID = re.compile(
    r"\b(?:(?:GPU|MIG)-)?[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b(?:GPU|MIG)-[\w-]*[0-9][\w-]*", re.IGNORECASE
)
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]*\d)(?!\+|-(?:cu|cpu|rocm))")
"""Not before a local version or the end of a build's id (`-cu128`)."""
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?:%\w+)?(?![\w:])", re.IGNORECASE)
_URL_HOST = re.compile(r"(?<=://)[^/\s:@'\"]+")
_OTHER_HOMES = re.compile(r"(?<![\w.])/(?:home|Users)/(?!<user>)([^/\s'\":,]+)")
_BELOW_HOME = re.compile(r"(?<![\w.])~((?:/[^/\s'\":,;)]+)+)")
_EVERYBODYS = re.compile(
    r"\.(?:local|cache|config|conda|condarc|docker|nv|triton|bashrc|bash_profile|profile|zshrc)"
    r"|share|lib|state|bin|tmp|[Dd]ownloads|systemd|user|environment\.d|firstlight"
    r"|pip|uv|torch|huggingface|modelscope|conda|envs|pkgs|(?:mini|ana)conda3|miniforge3|mambaforge"
)
"""Names of folders in a home that tell nothing of whose it is."""
_NOT_TEXT = frozenset(
    {"schema", "status", "id", "group", "affects", "kind", "state", "vendor", "problem", "os", "arch", "libc", "system"}
)
"""Keys whose values are words of a schema."""
_NO_NETWORK = ipaddress.ip_network("0.0.0.0/8")
"""Addresses that no machine has (RFC 6890); versions begin so."""
_NOBODY = frozenset({"root", ""})
_PROXY = re.compile(r"((?:https?|all|no)_proxy=[\"']?)([^\s\"']+)", re.IGNORECASE)
_MAIL = re.compile(r"(?<![\w/:])[\w.+-]+@(?:[\w-]+\.)+(?!service\b|socket\b|slice\b)[A-Za-z]{2,}\b")
"""An address of mail; `user@1000.service` is a unit."""
_LOOPBACK = frozenset({"localhost", "::1", "*"})
_PUBLIC = frozenset({"docs.nvidia.com", "github.com", "localhost", "ollama.com"})
"""Hosts that our own remedies name."""


def redacted(examination: Examination, environment: Mapping[str, str] | None = None) -> Examination:
    """Return an examination in which nothing names a person, a machine or a secret.

    Args:
        examination: what is to be shown.
        environment: this process's variables by default; their USER and HOME are what is looked for.
    """
    variables = os.environ if environment is None else environment
    clean = _cleaner(examination, variables)
    raw = msgspec.to_builtins(examination)
    return msgspec.convert(_walk(raw, clean), Examination)


def _cleaner(examination: Examination, variables: Mapping[str, str]) -> Callable[[str], str]:
    host = examination.machine.host if examination.machine is not None else None
    home = variables.get("HOME", "").rstrip("/")
    users = {variables.get(name, "") for name in ("USER", "LOGNAME", "SUDO_USER")} | {PurePosixPath(home).name}
    users |= {host.user or ""} if host is not None else set()
    users |= {found for text in _texts(msgspec.to_builtins(examination)) for found in _OTHER_HOMES.findall(text)}
    hosts = {socket.gethostname(), (host.hostname if host is not None else None) or ""}
    hosts |= {name.partition(".")[0] for name in hosts}
    people = _words(users - _NOBODY)
    machines = _words(hosts - {"", "localhost"})

    def clean(text: str) -> str:
        text = without_secrets(text)
        if home and home != "/":
            text = re.sub(rf"{re.escape(home)}(?=/|$|[\s'\":,;)])", "~", text)
        text = _OTHER_HOMES.sub("~", text)
        text = _BELOW_HOME.sub(_below, text)
        text = _UUID.sub(UUID, text)
        text = _PROXY.sub(_proxy, text)
        text = _URL_HOST.sub(_url_host, text)
        text = _MAIL.sub(f"{USER}@{HOST}", text)
        text = _IPV6.sub(_address, _IPV4.sub(_address, text))
        for pattern, instead in ((machines, HOST), (people, USER)):
            text = pattern.sub(instead, text) if pattern is not None else text
        return text

    return clean


def _words(words: set[str]) -> re.Pattern[str] | None:
    if not words:
        return None
    longest_first = sorted(words, key=len, reverse=True)
    return re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, longest_first))})(?![A-Za-z0-9])")


def _below(found: re.Match[str]) -> str:
    """Keep of a path in a home what is the same for everybody, up to the first name that is not."""
    kept: list[str] = []
    for part in found[1].strip("/").split("/"):
        if not _EVERYBODYS.fullmatch(part) and part.removeprefix(".") not in _engines():
            return "/".join(["~", *kept, "…"])
        kept.append(part)
    return "/".join(["~", *kept])


@cache
def _engines() -> frozenset[str]:
    return frozenset(engine_names())


def _address(found: re.Match[str]) -> str:
    word = found[0].partition("%")[0]
    try:
        address = ipaddress.ip_address(word)
    except ValueError:  # a version with four parts, a time of the day
        return found[0]
    release = address.version == 4 and (word in _releases() or address in _NO_NETWORK)
    return found[0] if release or address.is_loopback or address.is_unspecified else ADDRESS


@cache
def _releases() -> frozenset[str]:
    """Return the releases of the catalogue that look like an address: those of four parts."""
    texts = [path.read_text(encoding="utf-8") for path in data_folder("envs").glob("*/builds.toml")]
    return frozenset(word for text in texts for word in re.findall(r'"(\d+(?:\.\d+){3})"', text))


def _proxy(found: re.Match[str]) -> str:
    """Hide the hosts of a proxy variable."""
    parts = (part if part in _LOOPBACK or part.startswith("127.") else HOST for part in found[2].split(","))
    return f"{found[1]}{','.join(parts)}"


@cache
def _known_hosts() -> frozenset[str]:
    """Return the hosts that are no secret: those of the catalogue."""
    texts = [path.read_text(encoding="utf-8") for path in data_folder("envs").glob("*.toml")]
    return _PUBLIC | {host.lower() for text in texts for host in _URL_HOST.findall(text)}


def _url_host(found: re.Match[str]) -> str:
    return found[0] if found[0].lower() in _known_hosts() or found[0].startswith(("<", "[", "127.")) else HOST


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for child in children for text in _texts(child)]


def _walk(value: Any, clean: Callable[[str], str], key: str = "") -> Any:
    if isinstance(value, str):
        return value if key in _NOT_TEXT else clean(value)
    if isinstance(value, list):
        return [_walk(item, clean, key) for item in value]
    if isinstance(value, dict):
        return {name: _walk(item, clean, name) for name, item in value.items()}
    return value
