"""The pip layer: wheels installed into an environment by uv, from the sources that pip would use."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from firstlight.environments.distributions import (
    InstalledPackage,
    add_metadata_shim,
    damaged,
    freeze,
    prefix_of,
    python_minor,
)
from firstlight.environments.origins import Sources, with_origins
from firstlight.environments.pipconfig import PipSettings, as_url, redact, uv_arguments, without_credentials
from firstlight.environments.uv_errors import explain, failed_address, is_network_failure
from firstlight.environments.uv_program import UvResult, find_uv, run_uv
from firstlight.errors import FirstlightError
from firstlight.events import Step
from firstlight.files import write_atomic

__all__ = ["InstalledPackage", "WheelSet", "add_metadata_shim", "find_uv", "freeze", "install_wheels", "repair_wheels"]

_PYPI = "https://pypi.org/simple"
_CHANGED = re.compile(r"^ [+~] ([^=@\s]+)(?:==(\S+)|@(\S+))?(?: \(from (.+)\))?$")
_UNPACKED = 3  # wheels grow about this much when they are unpacked (measured on the sets of torch and its kin)
_PATIENCE = {"UV_HTTP_TIMEOUT": "20", "UV_HTTP_RETRIES": "2"}


class WheelSet(msgspec.Struct, frozen=True, kw_only=True):
    """The pip layer of an environment: what is asked for and where it may come from."""

    requirements: tuple[str, ...]
    """Lines of a requirements file; they may end in `--hash=sha256:…`."""
    constraints: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    """Indexes of the build, beside the user's."""
    default_index: str | None = None
    """Replaces the user's index."""
    find_links: tuple[str, ...] = ()
    python_version: str | None = None
    """The minor version that it is for."""


def _sources(wheels: WheelSet, settings: PipSettings, silent: Sequence[str]) -> Sources:
    """Lay the wishes of a wheel set over the user's configuration; indexes in `silent` are left out."""
    own = dict(os.environ)
    extra = [*map(as_url, wheels.indexes)]
    if extra or wheels.default_index:
        own_extra = (own.pop("UV_INDEX", "") or own.pop("UV_EXTRA_INDEX_URL", "")).split()
        extra += own_extra or map(as_url, settings.extra_index_urls)
        settings = msgspec.structs.replace(settings, no_index=False)
    else:
        extra += map(as_url, settings.extra_index_urls)
    if wheels.default_index:
        own.pop("UV_DEFAULT_INDEX", None)
        own.pop("UV_INDEX_URL", None)
    settings = msgspec.structs.replace(
        settings,
        index_url=wheels.default_index or settings.index_url,
        extra_index_urls=tuple(url for url in dict.fromkeys(extra) if redact(url) not in silent),
        find_links=tuple(at for at in (*wheels.find_links, *settings.find_links) if redact(at) not in silent),
    )
    arguments, variables = uv_arguments(settings, own)
    if "UV_FIND_LINKS" in own and wheels.find_links:
        arguments += [word for folder in wheels.find_links for word in ("--find-links", folder)]
    variables = {**{key: value for key, value in _PATIENCE.items() if key not in own}, **variables}
    default = variables.get("UV_DEFAULT_INDEX") or own.get("UV_DEFAULT_INDEX") or own.get("UV_INDEX_URL") or _PYPI
    indexes = [default, *(variables.get("UV_INDEX") or own.get("UV_INDEX") or "").split()]
    names = [] if "--no-index" in arguments else indexes
    return Sources(arguments, variables, [redact(name) for name in (*names, *settings.find_links)])


def wish_files(wheels: WheelSet, prefix: Path) -> dict[str, tuple[Path, str]]:
    """Return option → file and content: what is asked for, as it stands in the folder `wish` of the environment."""
    wishes = {
        "--requirements": wheels.requirements,
        "--constraints": wheels.constraints,
        "--excludes": wheels.excludes,
        "--overrides": wheels.overrides,
    }
    return {
        option: (prefix / "wish" / f"{option.strip('-')}.txt", "".join(f"{line}\n" for line in lines))
        for option, lines in wishes.items()
        if lines
    }


def install_words(python: Path, wheels: WheelSet) -> list[str]:
    """Return the words of uv that install a wheel set from its wish files, without the sources."""
    words = ["pip", "install", "--python", str(python), "--break-system-packages"]
    for option, (file, _content) in wish_files(wheels, prefix_of(python)).items():
        words += [option, str(file)]
    return words


def source_words(wheels: WheelSet, settings: PipSettings) -> list[str]:
    """Return the words of uv that name the sources of a wheel set, for people: credentials are left out.

    For our own runs indexes travel as variables instead, because arguments are visible to everyone.
    """
    sources = _sources(wheels, settings, ())
    words = [redact(word) for word in sources.arguments]
    for variable, option in (("UV_DEFAULT_INDEX", "--default-index"), ("UV_INDEX", "--index")):
        words += [word for url in sources.variables.get(variable, "").split() for word in (option, redact(url))]
    secret = sources.variables.get("UV_FIND_LINKS", "")
    return words + [word for url in secret.split(",") if url for word in ("--find-links", redact(url))]


def install_wheels(
    python: Path,
    wheels: WheelSet,
    settings: PipSettings,
    cache: Path,
    *,
    step: Step,
    log: Path,
    hold: tuple[int, ...] = (),
    expected_bytes: int | None = None,
    reinstall: Sequence[str] = (),
) -> list[InstalledPackage]:
    """Install a wheel set into an environment and return what was installed, with where each wheel came from.

    Wheels are checked against the hashes of the set and of the index. Cached ones are not fetched again. An extra index
    that does not answer is left out, loudly, as pip does; the default index must answer.

    Args:
        python: `PREFIX/bin/python` of the environment; nothing outside PREFIX and `cache` is written.
        wheels: what to install.
        settings: the user's pip configuration.
        cache: uv's cache; on the filesystem of the environment its files are hard links.
        step: takes the progress, in bytes.
        log: file that uv's messages are appended to.
        hold: descriptors that uv keeps open.
        expected_bytes: bytes to download, until uv knows better.
        reinstall: distributions to install again, though they are there.

    Raises:
        VerificationFailed: a wheel is not the one that was promised, or is damaged.
        NetworkFailed: a source did not deliver; every source is named.
        FirstlightError: no set of versions fits, no room, not an environment, or anything else that uv says.
    """
    minor = python_minor(python)
    if wheels.python_version and wheels.python_version != minor:
        raise FirstlightError(
            f"the environment {prefix_of(python)} has Python {minor}, the wheels are for {wheels.python_version}",
            fix="build it again: firstlight setup.repair",
        )
    cache.mkdir(parents=True, exist_ok=True)
    linking = {} if "UV_LINK_MODE" in os.environ else _link_mode(prefix_of(python), cache, step)
    for file, content in wish_files(wheels, prefix_of(python)).values():
        write_atomic(file, content)
    words = [*install_words(python, wheels), *(word for name in reinstall for word in ("--reinstall-package", name))]
    result, sources = _install(words, wheels, settings, linking, cache, step, log, hold, expected_bytes)
    if result.returncode != 0:
        raise explain(
            result.messages,
            what=", ".join(_name(line) for line in wheels.requirements[:3]),
            sources=sources.names,
            prefix=prefix_of(python),
            cache=cache,
            needed=expected_bytes * _UNPACKED if expected_bytes else None,
        )
    return with_origins(_changed(result.messages), python, sources, cache, hold)


def _install(
    words: list[str],
    wheels: WheelSet,
    settings: PipSettings,
    linking: dict[str, str],
    cache: Path,
    step: Step,
    log: Path,
    hold: tuple[int, ...],
    expected: int | None,
) -> tuple[UvResult, Sources]:
    silent: list[str] = []
    while True:
        sources = _sources(wheels, settings, silent)
        result = run_uv(
            [*words, *sources.arguments],
            environment={**sources.variables, **linking},
            cache=cache,
            step=step,
            log=log,
            hold=hold,
            expected=expected,
            doing=f"asking {', '.join(_hosts(sources.names))}",
        )
        if result.returncode == 0 or not is_network_failure(result.messages):
            return result, sources
        address = without_credentials(failed_address(result.messages) or "")
        extras = [name for name in sources.names[1:] if _under(address, name)]
        needed = {redact(as_url(url)) for url in wheels.indexes} | set(silent)
        if not extras or extras[0] in needed:
            return result, sources
        step.warn(f"{extras[0]} does not answer: it is left out")
        silent.append(extras[0])


def _hosts(names: Sequence[str]) -> list[str]:
    """Return what a person calls the sources: the hosts of web addresses, folders as they are."""
    return list(dict.fromkeys(urlsplit(without_credentials(name)).netloc or name for name in names))


def _under(address: str, source: str) -> bool:
    return f"{address}/".startswith(f"{without_credentials(source).rstrip('/')}/")


def _link_mode(prefix: Path, cache: Path, step: Step) -> dict[str, str]:
    if prefix.stat().st_dev == cache.stat().st_dev:
        return {}
    step.note(f"the cache {cache} is on another filesystem than {prefix}: wheels are copied, not linked")
    return {"UV_LINK_MODE": "copy"}


def _name(requirement: str) -> str:
    return re.split(r"\s--hash|\s;|\s#", requirement, maxsplit=1)[0].strip()


def _changed(messages: Sequence[str]) -> list[InstalledPackage]:
    """Return what uv's lines ` + name==version` say."""
    found = []
    for line in messages:
        match = _CHANGED.match(line)
        if match and match[2]:
            found.append(InstalledPackage(name=match[1], version=match[2], source=match[4]))
    return found


def repair_wheels(python: Path, cache: Path, *, step: Step, log: Path, hold: tuple[int, ...] = ()) -> list[str]:
    """Forget cached wheels whose files in the environment do not match their RECORD; returns their names.

    An environment that was just built and does not match was linked from a damaged cache: install again after this.
    """
    names = sorted(damaged(python))
    if names:
        step.warn(f"damaged in the cache, fetched again: {', '.join(names)}")
        run_uv(["cache", "clean", *names], environment={}, cache=cache, step=step, log=log, hold=hold)
    return names
