"""Read a Python package index as pip is configured to, with the standard library alone (Python 3.7 and newer).

pip's files and `PIP_*` variables: pip documentation, "Configuration". Index pages: PEP 691 (JSON), PEP 503 (HTML).
"""

from __future__ import annotations

import base64
import configparser
import html.parser
import json
import netrc
import os
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

PYPI = "https://pypi.org/simple"
ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
ATTEMPTS = 3


class CannotFetchError(Exception):
    """What went wrong, in one line for the person at the terminal."""


class Settings:
    """pip's own settings, as far as fetching one file needs them."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        files = self._files()
        for file in files:
            self._read(file)
        for key, value in os.environ.items():
            if key.startswith("PIP_") and value:
                self.values[key[4:].lower().replace("_", "-")] = value

    @staticmethod
    def _files() -> list[Path]:
        named = os.environ.get("PIP_CONFIG_FILE", "")
        if named == os.devnull:
            return []
        shared = [Path(folder) / "pip" for folder in os.environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(":") if folder]
        home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where no home is known
        personal = [home / ".pip", Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip"]
        folders = [*shared, Path("/etc"), *personal, Path(sys.prefix)]
        return [folder / "pip.conf" for folder in folders] + ([Path(named)] if named else [])

    def _read(self, file: Path) -> None:
        parser = configparser.RawConfigParser()
        try:
            parser.read(str(file), encoding="utf-8")
        except (configparser.Error, OSError, UnicodeError) as problem:
            print(f"{file} is left out: {problem}", file=sys.stderr)
            return
        for section in ("global", "install"):
            for key, value in parser.items(section) if parser.has_section(section) else ():
                self.values[key.lower().replace("_", "-")] = value

    def words(self, key: str) -> list[str]:
        """Return the value's words: pip separates addresses by white space."""
        return self.values.get(key, "").split()

    def flag(self, key: str) -> bool:
        """Tell whether a setting is switched on."""
        return self.values.get(key, "").lower() in {"1", "true", "yes", "on", "y", "t"}

    def indexes(self) -> list[str]:
        """Return the simple indexes in pip's order."""
        if self.flag("no-index"):
            return []
        return [self.values.get("index-url", PYPI), *self.words("extra-index-url")]


class Web:
    """Reads addresses with the configured proxy, certificates and credentials."""

    def __init__(self, settings: Settings) -> None:
        self.timeout = float(settings.values.get("timeout") or settings.values.get("default-timeout") or 30)
        self.trusted = set(settings.words("trusted-host"))
        self.bundle = settings.values.get("cert") or next(
            (os.environ[key] for key in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(key)), None
        )
        self.client = settings.values.get("client-cert")
        self.proxies = urllib.request.getproxies()
        if settings.values.get("proxy"):
            self.proxies.update(dict.fromkeys(("http", "https"), settings.values["proxy"]))
        for scheme in ("http", "https"):
            self.proxies.setdefault(scheme, self.proxies.get("all", ""))
        self.proxies = {scheme: proxy for scheme, proxy in self.proxies.items() if proxy}

    def _is_trusted(self, parts: urllib.parse.SplitResult) -> bool:
        return bool({parts.hostname or "", f"{parts.hostname}:{parts.port}"} & self.trusted)

    def _context(self, parts: urllib.parse.SplitResult) -> ssl.SSLContext:
        if self.bundle and not Path(self.bundle).exists():
            raise CannotFetchError(f"the configured certificate bundle {self.bundle} does not exist (PIP_CERT)")
        folder = bool(self.bundle) and Path(str(self.bundle)).is_dir()
        context = ssl.create_default_context(
            cafile=None if folder else self.bundle, capath=self.bundle if folder else None
        )
        if self.client:
            context.load_cert_chain(self.client)
        if self._is_trusted(parts):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif not self.bundle and not has_certificates():
            raise CannotFetchError(
                "this machine has no CA certificates: install the package ca-certificates, or name a bundle in PIP_CERT"
            )
        return context

    def open(self, url: str, accept: str = "*/*", credentials_of: str = "") -> tuple[bytes, str, str]:
        """Return (body, final address, content type); an address may carry `user:password@`."""
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in {"http", "https", "file"}:
            raise CannotFetchError(f"{without_credentials(url)}: only http, https and file addresses can be read")
        local = parts.hostname in {"localhost", "127.0.0.1", "::1"}
        if parts.scheme == "http" and not local and not self._is_trusted(parts):
            # pip refuses plain http in the same way: nothing would vouch for what arrives.
            raise CannotFetchError(f"{without_credentials(url)} is plain http and not in pip's trusted-host")
        request = urllib.request.Request(
            without_credentials(url), headers={"Accept": accept, "User-Agent": "firstlight"}
        )
        user = credentials(url) or (credentials(credentials_of) if same_host(url, credentials_of) else None)
        if user:
            token = base64.b64encode(":".join(user).encode()).decode()
            # "unredirected": another host must never be handed the password.
            request.add_unredirected_header("Authorization", f"Basic {token}")
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler(self.proxies)]
        if parts.scheme == "https":
            handlers.append(urllib.request.HTTPSHandler(context=self._context(parts)))
        return self._with_patience(urllib.request.build_opener(*handlers), request)

    def _with_patience(
        self, opener: urllib.request.OpenerDirector, request: urllib.request.Request
    ) -> tuple[bytes, str, str]:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with opener.open(request, timeout=self.timeout) as answer:
                    return answer.read(), answer.geturl(), answer.headers.get("Content-Type", "")
            except urllib.error.HTTPError as problem:
                reason = f"HTTP {problem.code} {problem.reason}"
                final = problem.code < 500
                problem.close()
            except (OSError, ValueError) as problem:  # URLError, timeouts, resets, broken TLS
                cause = getattr(problem, "reason", problem)
                reason = str(cause) or type(cause).__name__
                final = isinstance(cause, (ssl.SSLCertVerificationError, FileNotFoundError))
            if final or attempt == ATTEMPTS:
                raise CannotFetchError(f"{request.full_url}: {reason}")
            time.sleep(attempt)
        raise AssertionError("the loop above returns or raises")


def has_certificates() -> bool:
    """Tell whether OpenSSL's default places hold any CA certificate."""
    paths = ssl.get_default_verify_paths()
    if paths.cafile and Path(paths.cafile).stat().st_size:
        return True
    return bool(paths.capath) and any(Path(paths.capath).iterdir())


def without_credentials(url: str) -> str:
    """Return the address as it may be shown and sent: no `user:password@`."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def same_host(one: str, other: str) -> bool:
    """Tell whether two addresses name the same scheme, host and port."""
    first, second = (urllib.parse.urlsplit(without_credentials(url)) for url in (one, other))
    return first[:2] == second[:2]


def credentials(url: str) -> tuple[str, str] | None:
    """Return (user, password) from the address, else from the user's netrc file."""
    parts = urllib.parse.urlsplit(url)
    if parts.username is not None:
        return urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
    try:
        known = netrc.netrc(os.environ.get("NETRC")).authenticators(parts.hostname or "")
    except (OSError, netrc.NetrcParseError):
        return None
    return (known[0] or "", known[2] or "") if known else None


class Link:
    """One file that an index or a folder offers."""

    def __init__(self, url: str, sha256: str | None, requires: str, index: str) -> None:
        self.url, self.sha256, self.requires, self.index = url, sha256, requires, index
        self.filename = urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])


class Page(html.parser.HTMLParser):
    """The links of a PEP 503 page."""

    def __init__(self, text: str, address: str) -> None:
        super().__init__()
        self.base = self.address = address
        self.found: list[Link] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep `<a href>` that is not yanked, and `<base href>`."""
        values = dict(attrs)
        target = values.get("href")
        if not target:
            return
        if tag == "base":
            self.base = urllib.parse.urljoin(self.base, target)
        elif tag == "a" and "data-yanked" not in values:
            url, fragment = urllib.parse.urldefrag(urllib.parse.urljoin(self.base, target))
            sha256 = fragment[7:] if fragment.startswith("sha256=") else None
            self.found.append(Link(url, sha256, values.get("data-requires-python") or "", self.address))


def links_of(body: bytes, address: str, kind: str) -> list[Link]:
    """Return what an index page offers, JSON or HTML by its content type."""
    if "json" not in kind:
        return Page(body.decode("utf-8", "replace"), address).found
    return [
        Link(
            urllib.parse.urljoin(address, file["url"]),
            file.get("hashes", {}).get("sha256"),
            file.get("requires-python") or "",
            address,
        )
        for file in json.loads(body).get("files", [])
        if not file.get("yanked")
    ]


def offers(name: str, settings: Settings, web: Web) -> tuple[list[Link], list[str]]:
    """Return every file that the configured places offer, and why other places gave none."""
    found: list[Link] = []
    problems: list[str] = []
    pages = [f"{index.rstrip('/')}/{name}/" for index in settings.indexes()]
    for place in settings.words("find-links"):
        folder = Path(urllib.request.url2pathname(place[7:]) if place.startswith("file://") else place).expanduser()
        if folder.is_dir():
            found += [Link(file.resolve().as_uri(), None, "", place) for file in sorted(folder.iterdir())]
        elif "://" in place:
            pages.append(place)
        else:
            problems.append(f"{place}: no such folder")
    for page in pages:
        address = page + "index.html" if page.startswith("file:") and page.endswith("/") else page
        try:
            body, final, kind = web.open(address, ACCEPT)
            found += [Link(link.url, link.sha256, link.requires, page) for link in links_of(body, final, kind.lower())]
        except (CannotFetchError, ValueError) as problem:
            problems.append(str(problem))
    return found, problems
