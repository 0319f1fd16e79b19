"""Conda packages as an environment's own records tell them, and why a source did not do."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import msgspec

from firstlight.environments.pipconfig import redact
from firstlight.events import Step
from firstlight.machine.space import says_full

STOPPED = {-2, -15}
"""How a program ends that was told to: by SIGINT or SIGTERM."""


class CondaPackage(msgspec.Struct, frozen=True, kw_only=True):
    """A conda package of an environment; `size` is that of its archive in bytes."""

    name: str
    version: str
    build: str
    subdir: str
    url: str
    sha256: str | None = None
    size: int | None = None

    @property
    def source(self) -> str:
        """Where its bytes came from."""
        return self.url

    @property
    def channel(self) -> str:
        """The channel's URL."""
        return self.url.rpartition(f"/{self.subdir}/")[0]


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A prefix that is to be made: where, of what, and how the work is told and watched.

    `kept` are the names in the prefix that were there before and stay; `stall` is in seconds; `hold` are descriptors
    that every program keeps open.
    """

    prefix: Path
    specs: tuple[str, ...]
    cache: Path
    kept: frozenset[str]
    step: Step
    log: Path
    hold: tuple[int, ...]
    stall: float
    variables: Mapping[str, str]


class Failure(msgspec.Struct, frozen=True):
    """Why one source did not do; its channels stand without credentials.

    `kind` is `silent`, `crashed`, `interrupted`, `disk`, `checksum`, or the name of the exception.
    """

    channels: tuple[str, ...]
    kind: str
    reason: str


def failure_of(channels: tuple[str, ...], kind: str, message: str) -> Failure:
    """Return the failure that a message tells, with the kinds that it shows by itself."""
    message = redact(message.strip())
    if says_full(message):
        kind = "disk"
    elif any(sign in message for sign in ("Invalid checksum", "hash mismatch", "ChecksumMismatch", "SHA256 sum")):
        kind = "checksum"
    return Failure(channels, kind, message)


def packages_of(prefix: Path) -> list[CondaPackage]:
    """Return the conda packages of an environment by its `conda-meta`; records that cannot be read are passed over."""
    found = []
    for file in sorted((prefix / "conda-meta").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, msgspec.ValidationError):
            package = msgspec.convert(json.loads(file.read_bytes()), CondaPackage)
            found.append(msgspec.structs.replace(package, url=redact(package.url)))
    return found
