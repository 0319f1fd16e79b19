"""Which sources answer: conda channels, and the places that may hold a CPU build of torch. All are asked at once."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from firstlight.environments.pipconfig import PipSettings, as_url, local_folder, redact

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

_OFFICIAL = "https://conda.anaconda.org"
_REPODATA = ("repodata.json.zst", "repodata.json")
_LARGEST_PAGE = 32 << 20
_CHUNK = 1 << 16
_CPYTHON = re.compile(r"cp3(\d+)")  # not cp313t, the free-threaded build


class ChannelProbe(msgspec.Struct, frozen=True, kw_only=True):
    """How a conda channel answered, in seconds; `reason` is why it did not."""

    url: str
    ok: bool
    seconds: float
    reason: str = ""


def channel_url(channel: str) -> str:
    """Return the URL of a channel: names are those of anaconda.org, paths become `file://`."""
    if "://" in channel or channel.startswith("file:"):
        return channel.rstrip("/")
    if channel.startswith(("/", "./", "../", "~")):
        return as_url(channel)
    return f"{_OFFICIAL}/{channel}"


def _at_once(work: Sequence[Callable[[], T]], deadline: float, late: Callable[[int], T]) -> list[T]:
    """Run every piece of work in a daemon thread; what is not done at the deadline counts as `late`.

    A name server that never answers cannot be interrupted: such a thread is left behind and holds up nobody.
    """
    results: dict[int, T] = {}

    def run(index: int) -> None:
        result = work[index]()
        results[index] = result

    threads = [threading.Thread(target=run, args=(index,), daemon=True) for index in range(len(work))]
    for thread in threads:
        thread.start()
    ends = time.monotonic() + deadline
    for thread in threads:
        thread.join(max(0.0, ends - time.monotonic()))
    return [results[index] if index in results else late(index) for index in range(len(work))]


def probe_channels(channels: Sequence[str], *, timeout: float = 4.0) -> list[ChannelProbe]:
    """Return how each channel answered to a request for one byte of its noarch repodata, best first.

    Args:
        channels: URLs, `file://` URLs, folders, or names of anaconda.org.
        timeout: seconds after which a channel counts as silent.
    """
    urls = list(dict.fromkeys(channel_url(channel) for channel in channels))
    probes = _at_once(
        [partial(_probe_channel, url, timeout) for url in urls],
        timeout + 0.5,
        lambda index: ChannelProbe(url=urls[index], ok=False, seconds=timeout, reason=f"no answer in {timeout:g} s"),
    )
    return sorted(probes, key=lambda probe: (not probe.ok, probe.seconds))


def _probe_channel(url: str, timeout: float) -> ChannelProbe:
    started = time.monotonic()
    folder = local_folder(url)
    if folder is not None:
        ok = any((folder / "noarch" / name).is_file() for name in _REPODATA)
        reason = "" if ok else f"{folder / 'noarch' / _REPODATA[1]} is not there"
    else:
        reason = _ask_for_repodata(url, timeout)
    return ChannelProbe(url=url, ok=not reason, seconds=time.monotonic() - started, reason=reason)


def _ask_for_repodata(url: str, timeout: float) -> str:
    """Return an empty text when the channel has repodata, else why not."""
    import requests

    reason = ""
    try:
        with requests.Session() as session:
            for name in _REPODATA:
                headers = {"Range": "bytes=0-0", "Accept-Encoding": "identity"}
                address = f"{url}/noarch/{name}"
                with session.get(address, headers=headers, timeout=timeout, stream=True) as answer:
                    if answer.status_code in {200, 206}:
                        return ""
                    reason = f"HTTP {answer.status_code} for noarch/{name}"
                if answer.status_code != 404:
                    break
    except (requests.RequestException, ValueError, OSError) as error:
        return reason_of(error)
    return reason


def reason_of(error: BaseException) -> str:
    """Return why a request failed, in a few words and without credentials."""
    import requests

    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate is not trusted"
    if isinstance(error, requests.exceptions.ProxyError):
        return "the proxy does not let us through"
    text = str(error)
    for sign, words in (
        ("Name or service not known", "its name is unknown"),
        ("name resolution", "its name is unknown"),
        ("No address associated", "its name is unknown"),
        ("Connection refused", "connection refused"),
        ("Network is unreachable", "the network is unreachable"),
    ):
        if sign in text:
            return words
    return redact(text.rpartition("Caused by ")[2] or type(error).__name__)[:200]


class _Links(HTMLParser):
    """Collects the file names that a page links to; yanked ones are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take one link."""
        values = dict(attrs)
        if tag == "a" and values.get("href") and "data-yanked" not in values:
            self.names.append(unquote(urlsplit(str(values["href"])).path).rpartition("/")[2])


def probe_cpu_torch(
    version: str,
    indexes: Sequence[str],
    find_links: Sequence[str],
    *,
    arch: str,
    settings: PipSettings,
    timeout: float = 4.0,
) -> dict[str, list[str]]:
    """Return the sources that hold `torch-<version>+cpu`, with the CPython minor versions that it is there for.

    The keys are `index:URL` and `find-links:FOLDER`, folders first, then in the order given; what holds none or does
    not answer is absent. The user's own find-links and indexes (never pypi.org, which takes no local versions) count.

    Args:
        version: the release without a local part, such as `2.13.0`.
        indexes: PEP 503 indexes to ask.
        find_links: folders, or pages of links.
        arch: `x86_64` or `aarch64`.
        settings: the user's pip configuration (certificates, proxy, trusted hosts).
        timeout: seconds.
    """
    links = list(dict.fromkeys([*find_links, *settings.find_links]))
    own = [url for url in (settings.index_url, *settings.extra_index_urls) if url and "pypi.org" not in url]
    asked = [] if settings.no_index else list(dict.fromkeys([*indexes, *own]))
    places = [(f"find-links:{link}", link) for link in links]
    places += [(f"index:{index}", f"{as_url(index).rstrip('/')}/torch/") for index in asked]

    def look(location: str) -> list[str]:
        return _pythons(_file_names(location, settings, timeout), version, arch)

    work = [partial(look, location) for _key, location in places]
    answers = _at_once(work, timeout + 0.5, lambda _index: [])
    return {key: minors for (key, _location), minors in zip(places, answers, strict=True) if minors}


def _file_names(location: str, settings: PipSettings, timeout: float) -> list[str]:
    """Return the file names that a folder or a page holds; none when it cannot be had."""
    import requests

    folder = local_folder(location)
    try:
        if folder is not None:
            page = folder / "index.html" if folder.is_dir() else folder
            listed = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
            return listed + (_linked(page.read_text(errors="replace")) if page.is_file() else [])
        with requests.Session() as session:
            return _linked(_page(session, location, settings, timeout))
    except (requests.RequestException, OSError, ValueError):
        return []


def _linked(page: str) -> list[str]:
    parser = _Links()
    parser.feed(page)
    return parser.names


def _page(session: requests.Session, url: str, settings: PipSettings, timeout: float) -> str:
    host = urlsplit(url).netloc.rpartition("@")[2]
    if host in settings.trusted_hosts or host.partition(":")[0] in settings.trusted_hosts:
        from urllib3 import disable_warnings, exceptions

        disable_warnings(exceptions.InsecureRequestWarning)  # the user has said that this host is trusted
        session.verify = False
    elif settings.cert and Path(settings.cert).exists():
        session.verify = settings.cert
    if settings.proxy:
        session.trust_env = False
        session.proxies = {"http": settings.proxy, "https": settings.proxy}
    session.cert = settings.client_cert
    with session.get(url, headers={"Accept": "text/html"}, timeout=timeout, stream=True) as answer:
        answer.raise_for_status()
        body = bytearray()
        for chunk in answer.iter_content(_CHUNK):
            body += chunk
            if len(body) > _LARGEST_PAGE:
                break
    return body.decode(errors="replace")


def _pythons(names: Sequence[str], version: str, arch: str) -> list[str]:
    """Return the CPython minor versions that wheels `torch-<version>+cpu` for `arch` are there for, newest first."""
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename
    from packaging.version import InvalidVersion

    found: set[int] = set()
    for name in names:
        if not (name.startswith("torch-") and name.endswith(".whl")):
            continue
        try:
            _name, release, _build, tags = parse_wheel_filename(name)
        except (InvalidWheelFilename, InvalidVersion):
            continue
        if release.public != version or release.local != "cpu":
            continue
        for tag in tags:
            fits = "linux" in tag.platform and tag.platform.endswith(f"_{arch}")
            cpython = _CPYTHON.fullmatch(tag.interpreter)
            if fits and cpython and tag.abi == tag.interpreter:
                found.add(int(cpython[1]))
    return [f"3.{minor}" for minor in sorted(found, reverse=True)]
