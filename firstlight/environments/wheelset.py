"""A set of wheels: what is asked for, who owns what, and the words of uv that follow from it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

import msgspec

from firstlight.environments.distributions import prefix_of
from firstlight.environments.listings import page_of
from firstlight.environments.origins import Sources
from firstlight.environments.owning import DirectWheel, Owned, is_flat, owner_credentials, project_file
from firstlight.environments.pipconfig import PipSettings, redact, uv_arguments, without_credentials

_PYPI = "https://pypi.org/simple"
_PATIENCE = {"UV_HTTP_TIMEOUT": "20", "UV_HTTP_RETRIES": "2"}


class WheelSet(msgspec.Struct, frozen=True, kw_only=True):
    """The pip layer of an environment: what is asked for and where it may come from."""

    requirements: tuple[str, ...]
    """Lines of a requirements file; they may end in `--hash=sha256:…`."""
    constraints: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    owned: tuple[Owned, ...] = ()
    """Distributions that come from their owner, and from nowhere else."""
    direct: tuple[DirectWheel, ...] = ()
    """Wheels that are fetched by their address."""
    default_index: str | None = None
    """Replaces the user's index."""
    find_links: tuple[str, ...] = ()
    python_version: str | None = None
    """The minor version that it is for."""
    platform: str | None = None
    """Whom it is for, in uv's words, where that is not this machine: `x86_64-manylinux_2_28`."""
    locked: tuple[str, ...] = ()
    """Lines of a lock, each with its hashes: they are installed first, and nothing is resolved for them."""
    lock: str | None = None
    """The digest of the catalogue's lock that the lines are from, or that the ones which this home holds grew from."""
    lock_file: str | None = None
    """The catalogue's lock in words, for messages: the folder of the build and the file's name."""
    locked_platform: str | None = None
    """The platform of the lock: wheels for a newer C library than its own are other files, with other hashes."""
    whole: bool = False
    """Whether the lock holds everything, so that nothing else is to be installed."""

    @property
    def asked(self) -> tuple[Owned, ...]:
        """The owned distributions that are asked for."""
        return tuple(item for item in self.owned if item.asked)

    @property
    def companions(self) -> tuple[Owned, ...]:
        """The owned distributions that only others may ask for."""
        return tuple(item for item in self.owned if not item.asked)

    @property
    def wishes(self) -> list[str]:
        """What is asked for, in words, the engine's own wheel first."""
        lines = [re.split(r"\s--hash|\s;|\s#", line, maxsplit=1)[0].strip() for line in self.requirements]
        return [*(item.name for item in self.direct), *lines, *(f"{item.name}=={item.version}" for item in self.asked)]


class WishFile(msgspec.Struct, frozen=True):
    """A file for uv in the folder `wish` of an environment; `content` None is known only when owners are asked."""

    option: str
    file: Path
    content: str | None


def needs_no_index(wheels: WheelSet, settings: PipSettings) -> bool:
    """Tell whether uv looks into no index at all, as the user wants; owners, all folders, are then like other folders.

    Source: uv 0.13.9: with `--no-index` it passes over explicit indexes, flat ones too.
    """
    return settings.no_index and not wheels.default_index and all(is_flat(item.places[0]) for item in wheels.owned)


def sources_of(wheels: WheelSet, settings: PipSettings, silent: Sequence[str] = ()) -> Sources:
    """Lay the wishes of a wheel set over the user's configuration; indexes in `silent` are left out."""
    own = dict(os.environ)
    if wheels.default_index:
        own.pop("UV_DEFAULT_INDEX", None)
        own.pop("UV_INDEX_URL", None)
    merged = msgspec.structs.replace(
        settings,
        no_index=needs_no_index(wheels, settings),
        index_url=wheels.default_index or settings.index_url,
        extra_index_urls=tuple(url for url in settings.extra_index_urls if redact(url) not in silent),
        find_links=tuple(at for at in (*wheels.find_links, *settings.find_links) if redact(at) not in silent),
    )
    arguments, variables = uv_arguments(merged, own)
    if "UV_FIND_LINKS" in own and wheels.find_links:
        arguments += [word for folder in wheels.find_links for word in ("--find-links", folder)]
    variables = {
        **{key: value for key, value in _PATIENCE.items() if key not in own},
        **variables,
        **owner_credentials(wheels.asked, settings),
    }
    default = variables.get("UV_DEFAULT_INDEX") or own.get("UV_DEFAULT_INDEX") or own.get("UV_INDEX_URL") or _PYPI
    indexes = [default, *(variables.get("UV_INDEX") or own.get("UV_INDEX") or "").split()]
    names = [] if "--no-index" in arguments else indexes
    owners = [item.places[0].partition(":")[2] for item in wheels.asked]
    owners += [item.urls[0].rpartition("/")[0] for item in wheels.direct]
    return Sources(
        arguments,
        variables,
        [redact(name) for name in (*names, *merged.find_links)],
        [redact(owner) for owner in dict.fromkeys(owners)],
        wheels.asked,
    )


def wish_files(wheels: WheelSet, prefix: Path, *, without_index: bool = False) -> list[WishFile]:
    """Return what is asked for, as it stands in the folder `wish` of the environment.

    Args:
        wheels: the set.
        prefix: the environment.
        without_index: uv looks into no index, see `needs_no_index`.
    """
    folder = prefix / "wish"
    if wheels.whole:
        return []
    wishes = {
        "--requirements": wheels.requirements,
        "--constraints": wheels.constraints,
        "--excludes": wheels.excludes,
        "--overrides": wheels.overrides,
    }
    files = [
        WishFile(option, folder / f"{option.strip('-')}.txt", "".join(f"{line}\n" for line in lines))
        for option, lines in wishes.items()
        if lines
    ]
    if wheels.asked or wheels.direct:
        text = project_file(wheels.asked, wheels.direct, without_owners=without_index)
        files.append(WishFile("--requirements", folder / "pyproject.toml", text))
    if wheels.companions:
        files.append(WishFile("--constraints", folder / "companions.txt", None))
    return files


def locked_words(python: Path, wheels: WheelSet) -> list[str]:
    """Return the words of uv that install the lines of a lock: no resolver, and every byte is checked."""
    words = ["pip", "install", "--python", str(python), "--break-system-packages", "--no-build"]
    words += ["--python-platform", wheels.locked_platform] if wheels.locked_platform else []
    return [*words, "--no-deps", "--require-hashes", "--requirements", str(locked_file(prefix_of(python)))]


def locked_file(prefix: Path) -> Path:
    """Return where the lines of a lock stand in an environment, with the addresses of what others own."""
    return prefix / "wish" / "locked.txt"


def install_words(python: Path, wheels: WheelSet) -> list[str]:
    """Return the words of uv that install a wheel set from its wish files, without the sources.

    Only wheels: what exists as source alone would be compiled by whatever compilers a machine happens to have.
    """
    words = ["pip", "install", "--python", str(python), "--break-system-packages", "--no-build"]
    words += ["--python-platform", wheels.platform] if wheels.platform else []
    for wish in wish_files(wheels, prefix_of(python)):
        words += [wish.option, str(wish.file)]
    return words


def source_words(wheels: WheelSet, settings: PipSettings) -> list[str]:
    """Return the words of uv that name the sources of a wheel set, for people: credentials are left out.

    For our own runs indexes travel as variables instead, because arguments are visible to everyone.
    """
    sources = sources_of(wheels, settings)
    words = [redact(word) for word in sources.arguments]
    for variable, option in (("UV_DEFAULT_INDEX", "--default-index"), ("UV_INDEX", "--index")):
        words += [word for url in sources.variables.get(variable, "").split() for word in (option, redact(url))]
    secret = sources.variables.get("UV_FIND_LINKS", "")
    return words + [word for url in secret.split(",") if url for word in ("--find-links", redact(url))]


def without_place(wheels: WheelSet, failure: str) -> tuple[WheelSet, str, str] | None:
    """Return the set without the place that a failure is about, that place and the next; None: there is no other.

    Args:
        wheels: what is being installed.
        failure: the address or the requirement that uv named.
    """
    spoken = unquote(failure)
    for wheel in wheels.direct:
        if len(wheel.urls) > 1 and wheel.file in spoken:
            rest = msgspec.structs.replace(wheel, urls=wheel.urls[1:])
            direct = tuple(rest if other is wheel else other for other in wheels.direct)
            return msgspec.structs.replace(wheels, direct=direct), redact(wheel.urls[0]), redact(rest.urls[0])
    for item in wheels.owned:
        about = (f"/{item.name.replace('-', '_')}-{item.version}-", f"{item.name}=={item.version}")
        under = spoken.startswith(unquote(without_credentials(page_of(item.places[0], item.name))))
        if len(item.places) > 1 and (under or any(sign in spoken for sign in about)):
            gone = item.places[0]
            owned = tuple(
                msgspec.structs.replace(other, places=tuple(p for p in other.places if p != gone) or other.places)
                for other in wheels.owned
            )
            told = (gone.partition(":")[2], item.places[1].partition(":")[2])
            return msgspec.structs.replace(wheels, owned=owned), *told
    return None
