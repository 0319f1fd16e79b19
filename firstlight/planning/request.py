"""What was asked for: the values that the words of a command were parsed into."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

EnvironmentKind = Literal["conda", "venv"]


class Supply(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about where bytes can come from, settled before the plan (None: not looked at, nothing is refused).

    channels: conda channels that answered, best first. torch: for each exact version that was looked for
    (`2.13.0+cu129`) where it was found (`index:URL`, `find-links:FOLDER`), best first, with the Python minor versions
    that it is there for. wheels: for each engine's wheel that is fetched by its address, by file name, the addresses
    where it was found, best first. index: the package index in place of the canonical one, where that is silent or slow
    and nobody has configured any. silent: builds whose bytes cannot be had from here, and why.
    """

    channels: list[str] | None = None
    torch: dict[str, dict[str, list[str]]] | None = None
    wheels: dict[str, list[str]] = {}
    index: str | None = None
    silent: dict[str, str] = {}


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a person asked for; None stands for "choose for me"."""

    engine: str
    gpus: tuple[int, ...] | None = None
    cuda: str | None = None
    """A CUDA version such as `12.1`, a major one such as `12`, or `cpu`."""
    release: str | None = None
    build: str | None = None
    python: str | None = None
    model: str | None = None
    port: int | None = None
    environment: Literal["auto", "conda", "venv"] = "auto"
    channels: tuple[str, ...] = ()
    indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    unlocked: bool = False
    """Resolve the wheels afresh instead of taking the build's lock."""
    home: Path | None = None
    """The home that is in use already or was set; None lets the plan propose one."""
    default_home: Path | None = None
    """Where this user's home would be by default, where it is known better than from the facts."""
    supply: Supply = Supply()
