"""What folders, pages of links and package indexes hold: the files' names, addresses and hashes, and whom they fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html.parser import HTMLParser
from urllib.parse import parse_qs, unquote, urljoin, urlsplit

import msgspec

from firstlight.environments.asking import fetch_page, reason_of
from firstlight.environments.pipconfig import PipSettings, as_url, local_folder

_CPYTHON = re.compile(r"cp3(\d+)")  # not cp313t, the free-threaded build
_MANYLINUX = re.compile(r"manylinux_2_(\d+)_(\w+)")
_OLD_TAGS = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}  # PEP 600: glibc 2.5, 2.12, 2.17


class ListedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a listing."""

    name: str
    url: str
    sha256: str | None = None


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """What a place holds; `reason` is why it did not say."""

    files: list[ListedFile] = []
    reason: str = ""


class _Links(HTMLParser):
    """Collects the addresses that a page links to; yanked files are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take one link."""
        values = dict(attrs)
        if tag == "a" and values.get("href") and "data-yanked" not in values:
            self.links.append(str(values["href"]))


def page_of(source: str, project: str) -> str:
    """Return where the files of a project are listed: a page of an index (`index:URL`) or a `find-links:PLACE`."""
    kind, _, place = source.partition(":")
    return f"{as_url(place).rstrip('/')}/{project}/" if kind == "index" else place


def read_listing(location: str, settings: PipSettings, timeout: float) -> Listing:
    """Return what a folder, a `file:` URL or a page of links holds."""
    import requests

    folder = local_folder(location)
    try:
        if folder is None:
            return Listing(files=_linked(*fetch_page(location, settings, timeout)))
        page = folder / "index.html" if folder.is_dir() else folder
        files = [ListedFile(name=e.name, url=e.as_uri()) for e in sorted(folder.iterdir())] if folder.is_dir() else []
        if page.is_file():
            files += _linked(page.read_text(errors="replace"), page.as_uri())
        elif not folder.exists():
            return Listing(reason="it is not there")
    except (requests.RequestException, OSError, ValueError) as error:
        return Listing(reason=reason_of(error, timeout))
    return Listing(files=files)


def _linked(page: str, base: str) -> list[ListedFile]:
    parser = _Links()
    parser.feed(page)
    found = []
    own = urlsplit(base).netloc
    user, _, host = own.rpartition("@")
    for link in parser.links:
        url, _, fragment = urljoin(base, link).partition("#")
        if user and urlsplit(url).netloc == host:  # the user's credentials hold for the host's files too
            url = url.replace(host, own, 1)
        name = unquote(urlsplit(url).path).rpartition("/")[2]
        found.append(ListedFile(name=name, url=url, sha256=next(iter(parse_qs(fragment).get("sha256", [])), None)))
    return found


def pythons_of(files: Sequence[ListedFile], project: str, version: str, arch: str) -> list[str]:
    """Return the CPython minor versions that wheels of an exact version for `arch` are there for, newest first."""
    found: set[int] = set()
    for file in files:
        for interpreter, abi, platform in _tags(file.name, project, (version,)):
            cpython = _CPYTHON.fullmatch(interpreter)
            if cpython and abi == interpreter and _libc(platform, arch) is not None:
                found.add(int(cpython[1]))
    return [f"3.{minor}" for minor in sorted(found, reverse=True)]


def best_wheel(
    files: Sequence[ListedFile], project: str, version: str, *, python: str, arch: str, libc: str | None
) -> ListedFile | None:
    """Return the file of a listing that is a version of a project for a machine, None where there is none.

    Where no file has the version's local part one without any counts: wheels for aarch64 often lie in the index of a
    CUDA line under a plain version.

    Args:
        files: the listing.
        project: the distribution's name.
        version: exact, local part included.
        python: the minor version, such as `3.12`.
        arch: `x86_64` or `aarch64`.
        libc: the machine's glibc; None: any.
    """
    minor, newest = int(python.partition(".")[2]), None if libc is None else int(libc.split(".")[1])
    for wanted in dict.fromkeys((version, version.partition("+")[0])):
        for file in files:
            for interpreter, abi, platform in _tags(file.name, project, (wanted,)):
                floor = 0 if platform == "any" else _libc(platform, arch)
                if floor is not None and (newest is None or floor <= newest) and _runs(interpreter, abi, minor):
                    return file
    return None


def _tags(name: str, project: str, versions: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return the tags of a wheel, none when it is no wheel of that project in one of those exact versions."""
    from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
    from packaging.version import InvalidVersion, Version

    stem = name.partition("-")[0]
    if not name.endswith(".whl") or canonicalize_name(stem) != canonicalize_name(project):
        return []
    try:
        _name, version, _build, tags = parse_wheel_filename(name)
    except (InvalidWheelFilename, InvalidVersion):
        return []
    if version not in map(Version, versions):
        return []
    return [(tag.interpreter, tag.abi, tag.platform) for tag in tags]


def _runs(interpreter: str, abi: str, minor: int) -> bool:
    cpython = _CPYTHON.fullmatch(interpreter)
    if cpython is None:
        return interpreter.startswith("py3") and abi == "none"
    return (int(cpython[1]) == minor and abi in {interpreter, "none"}) or (int(cpython[1]) <= minor and abi == "abi3")


def _libc(platform: str, arch: str) -> int | None:
    """Return the y of the glibc 2.y that a platform tag asks for, None when it is for another machine."""
    modern = _MANYLINUX.fullmatch(platform)
    if modern:
        return int(modern[1]) if modern[2] == arch else None
    kind = platform.removesuffix(f"_{arch}")
    return None if kind == platform else 0 if kind == "linux" else _OLD_TAGS.get(kind)
