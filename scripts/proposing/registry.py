"""What an index says of a project: its wheels (PEP 503 and PEP 691) and their metadata (PEP 658, or the wheel)."""

from __future__ import annotations

import email.parser
import json
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import NamedTuple
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version
from proposing.web import Web
from proposing.wheels import Archive, Tags, tags_of

from firstlight.environments.pipconfig import as_url, redact
from firstlight.errors import FirstlightError, NetworkFailed

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


class Offer(NamedTuple):
    """A wheel that an index (or a release page) offers."""

    name: str
    url: str
    version: Version
    tags: Tags
    sha256: str | None = None
    size: int | None = None
    requires_python: str | None = None
    metadata: bool = False
    """Whether its metadata lies beside it."""
    build: tuple[int, str] | tuple[()] = ()
    """The build number of a wheel that was made again."""


class Metadata(NamedTuple):
    """What a wheel's METADATA says."""

    requires_python: str | None
    requirements: tuple[Requirement, ...]

    def needs(self, name: str, arch: str, python: str, extras: Sequence[str] = ()) -> Requirement | None:
        """Return what is asked of a distribution on Linux, with these extras; None where nothing is."""
        for requirement in self.requirements:
            if canonicalize_name(requirement.name) == name and applies(requirement, arch, python, extras):
                return requirement
        return None


def applies(requirement: Requirement, arch: str, python: str, extras: Sequence[str] = ()) -> bool:
    """Tell whether a requirement counts on Linux with these extras."""
    if requirement.marker is None:
        return True
    here = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "platform_machine": arch}
    here |= {"python_version": python, "python_full_version": f"{python}.0"}
    return any(requirement.marker.evaluate({**here, "extra": extra}) for extra in ("", *extras))


class Registry:
    """The indexes that are asked, in their order; each project is asked for once."""

    def __init__(self, web: Web, indexes: Sequence[str]) -> None:
        self.web = web
        self._indexes = list(indexes)
        self._offers: dict[str, list[Offer]] = {}

    def offers(self, project: str) -> list[Offer]:
        """Return the wheels of a project for Linux.

        Raises:
            NetworkFailed: no index has the project.
        """
        if project not in self._offers:
            found: list[Offer] = []
            problems = []
            for index in self._indexes:
                try:
                    found += self._ask(f"{as_url(index).rstrip('/')}/{canonicalize_name(project)}/")
                except NetworkFailed as error:
                    problems.append(f"{redact(index)}: {error.why}")
            if not found:
                raise NetworkFailed(
                    f"no index has wheels of {project} for Linux",
                    why="; ".join(problems),
                    fix="--index URL names another",
                )
            self._offers[project] = found
        return self._offers[project]

    def _ask(self, page: str) -> list[Offer]:
        body, address, kind = self.web.get(page, _ACCEPT)
        if "json" not in kind and not body.lstrip().startswith(b"{"):
            return _Page(body.decode(errors="replace"), address).offers
        found = []
        for file in json.loads(body).get("files", []):
            hashes = file.get("hashes", {}).get("sha256")
            metadata = bool(file.get("core-metadata") or file.get("data-dist-info-metadata"))
            offer = offer_of(
                urljoin(address, file["url"]), hashes, file.get("size"), file.get("requires-python"), metadata
            )
            if offer is not None and not file.get("yanked"):
                found.append(offer)
        return found

    def metadata(self, offer: Offer, archive: Archive | None = None) -> Metadata:
        """Return a wheel's metadata: the file beside it, else the member of the wheel, by ranged reads."""
        if offer.metadata:
            try:
                return parse_metadata(self.web.get(f"{offer.url}.metadata")[0])
            except NetworkFailed:
                pass  # an index may promise it and have none
        return parse_metadata((archive or Archive(self.web, offer.url)).metadata())


def offer_of(
    url: str, sha256: str | None = None, size: int | None = None, python: str | None = None, metadata: bool = False
) -> Offer | None:
    """Return the offer that an address stands for, None where it is no wheel for Linux."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    try:
        _project, version, build, tags = parse_wheel_filename(name)
    except (InvalidWheelFilename, InvalidVersion):
        return None
    linux = tags_of(tags)
    if not linux.platforms:
        return None
    return Offer(name, url, version, linux, sha256, size, python or None, metadata, build)


class _Page(HTMLParser):
    """The wheels of a PEP 503 page."""

    def __init__(self, text: str, address: str) -> None:
        super().__init__()
        self.offers: list[Offer] = []
        self._base = address
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        target = values.get("href")
        if tag == "base" and target:
            self._base = urljoin(self._base, target)
        elif tag == "a" and target and "data-yanked" not in values:
            url, fragment = urldefrag(urljoin(self._base, target))
            sha256 = fragment[7:] if fragment.startswith("sha256=") else None
            beside = bool({"data-core-metadata", "data-dist-info-metadata"} & set(values))
            offer = offer_of(url, sha256, None, values.get("data-requires-python"), beside)
            if offer is not None:
                self.offers.append(offer)


def parse_metadata(text: bytes) -> Metadata:
    """Return what a METADATA file says.

    Raises:
        FirstlightError: it is no metadata.
    """
    message = email.parser.BytesParser().parsebytes(text, headersonly=True)
    if not message.get("Name"):
        raise FirstlightError("the wheel's METADATA names no distribution")
    requirements = []
    for line in message.get_all("Requires-Dist", []):
        try:
            requirements.append(Requirement(line))
        except InvalidRequirement:  # old forms such as `torch (>=2)`: none of the engines' releases has them
            continue
    return Metadata(message.get("Requires-Python"), tuple(requirements))


def newest_fitting(offers: Sequence[Offer], requirement: Requirement, arch: str) -> list[Version]:
    """Return the versions for an arch that a requirement allows, newest first; no pre-releases."""
    versions = {offer.version for offer in offers if arch in offer.tags.platforms}
    return sorted(requirement.specifier.filter(versions, prereleases=False), reverse=True)
