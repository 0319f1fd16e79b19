"""The user's pip configuration, and its translation for uv, which reads none of it."""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

_TRUE = {"y", "yes", "t", "true", "on", "1"}
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+@")
_LONGEST_TIMEOUT = 30.0  # seconds without a byte; pip's timeouts are often raised high, and uv tries several times
_PATIENT = 20.0  # seconds from which on one more try is enough: a silent index is given up within about a minute


class PipSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What pip would use to find and fetch packages."""

    index_url: str | None = None
    extra_index_urls: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    cert: str | None = None
    client_cert: str | None = None
    proxy: str | None = None
    trusted_hosts: tuple[str, ...] = ()
    timeout: float | None = None
    """Seconds."""
    retries: int | None = None


def redact(text: str) -> str:
    """Return `text` with the credentials of its URLs replaced by `***`."""
    return _CREDENTIALS.sub("***@", text)


def without_credentials(url: str) -> str:
    """Return a URL, redacted or not, without its user and password."""
    return _CREDENTIALS.sub("", url)


def _home(environment: Mapping[str, str]) -> Path:
    return Path(environment.get("HOME") or Path("~").expanduser())


def configuration_files(environment: Mapping[str, str] | None = None) -> list[Path]:
    """Return the files that pip reads, later ones overriding earlier ones.

    Source: pip's documentation, topic "Configuration": global, user, site, then PIP_CONFIG_FILE. A PIP_CONFIG_FILE that
    exists replaces the user's files, and the null device switches all files off.
    """
    variables = os.environ if environment is None else environment
    chosen = variables.get("PIP_CONFIG_FILE")
    if chosen == os.devnull:
        return []
    shared = variables.get("XDG_CONFIG_DIRS") or "/etc/xdg"
    files = [Path(folder) / "pip" / "pip.conf" for folder in shared.split(os.pathsep) if folder]
    files.append(Path("/etc/pip.conf"))
    if not (chosen and Path(chosen).exists()):
        home = _home(variables)
        files.append(home / ".pip" / "pip.conf")
        files.append(Path(variables.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf")
    files.append(Path(sys.prefix) / "pip.conf")
    if chosen:
        files.append(Path(chosen))
    return files


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-").lstrip("-")


def _file_values(files: list[Path]) -> dict[str, dict[str, str]]:
    """Return section → key → value, merged over the files; an unreadable file counts as absent, as in pip."""
    merged: dict[str, dict[str, str]] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        try:
            parser.read_string(file.read_text(errors="replace"))
        except (OSError, configparser.Error):
            continue
        for section in parser.sections():
            values = merged.setdefault(section.lower(), {})
            values.update((_normalised(key), value) for key, value in parser.items(section))
    return merged


def _values(environment: Mapping[str, str]) -> dict[str, str]:
    sections = _file_values(configuration_files(environment))
    variables = {_normalised(key[4:]): value for key, value in environment.items() if key.startswith("PIP_")}
    merged: dict[str, str] = {}
    for layer in (sections.get("global", {}), sections.get("install", {}), variables):
        merged.update((key, value) for key, value in layer.items() if value.strip())  # pip ignores empty values
    return merged


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None


def read_pip_settings(environment: Mapping[str, str] | None = None) -> PipSettings:
    """Return what `pip install` would use here, by pip's own files, variables and precedence.

    Args:
        environment: the variables to look at; this process's own when None.
    """
    variables = os.environ if environment is None else environment
    values = _values(variables)

    def many(key: str) -> tuple[str, ...]:
        return tuple(values.get(key, "").split())

    retries = _number(values.get("retries"))
    bundle = values.get("cert") or variables.get("REQUESTS_CA_BUNDLE") or variables.get("CURL_CA_BUNDLE") or None
    return PipSettings(
        index_url=values.get("index-url") or values.get("pypi-url"),
        extra_index_urls=many("extra-index-url"),
        find_links=many("find-links"),
        no_index=values.get("no-index", "").strip().lower() in _TRUE,
        cert=bundle,
        client_cert=values.get("client-cert"),
        proxy=values.get("proxy"),
        trusted_hosts=many("trusted-host"),
        timeout=_number(values.get("timeout") or values.get("default-timeout")),
        retries=None if retries is None else int(retries),
    )


def as_url(location: str) -> str:
    """Return a location as a URL: paths become `file://`, URLs stay."""
    if "://" in location or location.startswith("file:"):
        return location
    return Path(location).expanduser().absolute().as_uri()


def local_folder(location: str) -> Path | None:
    """Return the folder that a find-links value or a `file:` URL names, None where it is a web page."""
    from urllib.parse import unquote, urlsplit

    if location.startswith("file:"):
        return Path(unquote(urlsplit(location).path))
    return None if "://" in location else Path(location).expanduser().absolute()


def absolute(location: str) -> str:
    """Return a location that means the same from every folder: paths become absolute, URLs stay."""
    folder = None if location.startswith("file:") else local_folder(location)
    return location if folder is None else str(folder)


def network_variables(settings: PipSettings, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that carry pip's certificate, proxy and patience to other programs; set ones win."""
    additions: dict[str, str] = {}
    if settings.cert and not variables.get("SSL_CERT_FILE"):
        additions["SSL_CERT_DIR" if Path(settings.cert).is_dir() else "SSL_CERT_FILE"] = settings.cert
    if settings.client_cert and not variables.get("SSL_CLIENT_CERT"):
        additions["SSL_CLIENT_CERT"] = settings.client_cert
    if settings.proxy:
        # A proxy of pip's own configuration goes before the environment's, as in pip.
        proxy = settings.proxy if "://" in settings.proxy else f"http://{settings.proxy}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            additions[name] = additions[name.lower()] = proxy
    if not variables.get("UV_HTTP_TIMEOUT") and settings.timeout:
        additions["UV_HTTP_TIMEOUT"] = str(max(1, round(min(settings.timeout, _LONGEST_TIMEOUT))))
    if not variables.get("UV_HTTP_RETRIES") and settings.retries is not None:
        additions["UV_HTTP_RETRIES"] = str(settings.retries)
    elif not variables.get("UV_HTTP_RETRIES") and (settings.timeout or 0.0) > _PATIENT:
        additions["UV_HTTP_RETRIES"] = "1"
    return additions


def _index_sources(
    settings: PipSettings, variables: Mapping[str, str], additions: dict[str, str], arguments: list[str]
) -> None:
    own_default = variables.get("UV_DEFAULT_INDEX") or variables.get("UV_INDEX_URL")
    own_extra = variables.get("UV_INDEX") or variables.get("UV_EXTRA_INDEX_URL")
    if settings.no_index and not (own_default or own_extra):
        arguments.append("--no-index")
        return
    if not settings.no_index:
        if settings.index_url and not own_default:
            additions["UV_DEFAULT_INDEX"] = as_url(settings.index_url)
        if settings.extra_index_urls and not own_extra:
            additions["UV_INDEX"] = " ".join(as_url(url) for url in settings.extra_index_urls)
    if (own_extra or additions.get("UV_INDEX")) and not variables.get("UV_INDEX_STRATEGY"):
        arguments += ["--index-strategy", "unsafe-best-match"]


def _link_sources(settings: PipSettings, additions: dict[str, str], arguments: list[str]) -> None:
    secret = []
    for location in settings.find_links:
        folder = local_folder(location)
        if folder is None and _CREDENTIALS.search(location):
            secret.append(location)
        elif folder is None or folder.exists():
            arguments += ["--find-links", location if folder is None else str(folder)]
    if secret:
        additions["UV_FIND_LINKS"] = ",".join(secret)


def uv_arguments(
    settings: PipSettings, environment: Mapping[str, str] | None = None
) -> tuple[list[str], dict[str, str]]:
    """Return the arguments and the variables that make uv use the same sources as pip; the user's own UV_* win.

    URLs of indexes travel as variables, because they may hold credentials and arguments are visible to everyone. With
    more than one index uv must merge them as pip does: its default, the first index that knows a name, takes a stale
    extra index for the truth. Folders of find-links that do not exist are left out: pip passes over them, uv stops.
    """
    variables = os.environ if environment is None else environment
    arguments: list[str] = []
    additions = network_variables(settings, variables)
    _index_sources(settings, variables, additions, arguments)
    if not variables.get("UV_FIND_LINKS"):
        _link_sources(settings, additions, arguments)
    if not variables.get("UV_INSECURE_HOST"):
        for host in settings.trusted_hosts:
            arguments += ["--allow-insecure-host", host]
    return arguments, additions
