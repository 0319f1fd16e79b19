"""User-data for cloud-init: what a machine that is not there yet does at its first boot."""

from __future__ import annotations

import re
import shlex
from base64 import b64encode
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from firstlight.errors import UsageError
from firstlight.serving.records import check_name
from firstlight.serving.templated import render
from firstlight.serving.tool_archive import Archive
from firstlight.serving.user_data_check import page, problems_of

_SHA256 = re.compile(r"[0-9a-f]{64}")


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where things lie on the machine."""

    script: str = "/usr/local/sbin/firstlight-bootstrap"
    unit: str = "/etc/systemd/system/firstlight-bootstrap.service"
    unit_name: str = "firstlight-bootstrap.service"
    archive: str = "/opt/firstlight.tar.xz"
    token: str = "/etc/firstlight/hf-token"  # noqa: S105 - a path
    marker: str = "/var/lib/firstlight/bootstrap.done"
    log: str = "/var/log/firstlight-bootstrap.log"


class FirstBoot(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine is to become. `source` None: the tool travels inside the user-data."""

    engine: str
    model: str
    name: str | None = None
    port: int | None = None
    host: str | None = None
    hardening: str | None = None
    scope: str | None = None
    source: str | None = None
    sha256: str | None = None
    token: str | None = None
    """A Hugging Face token; it stands in the user-data, and on the machine in a file that only root reads."""
    flags: tuple[str, ...] = ()


def user_data(wish: FirstBoot, archive: Archive | None) -> str:
    """Return the user-data for a wish.

    Args:
        wish: what is asked for.
        archive: the tool; None where only the hash of what lies at the source is known.

    Raises:
        UsageError: a word cannot stand in it, the source is none, or no hash is known.
    """
    _check(wish)
    pinned = wish.sha256 or (archive.sha256 if archive is not None else None)
    if pinned is None or not _SHA256.fullmatch(pinned):
        raise UsageError(
            "the tool that is fetched at the first boot has no SHA-256",
            why="what runs as root on a new machine must be known beforehand",
            fix="add --pack firstlight.tar.xz (upload that file to the source), or --sha256 HEX",
        )
    places = Places()
    inlined = wish.source is None
    text = render(
        "cloud-init.yaml.j2",
        engine=wish.engine,
        model=wish.model,
        script=_script(wish, pinned, places),
        unit=render("first-boot.service.j2", marker=places.marker, script=places.script),
        archive=b64encode(archive.data).decode() if inlined and archive is not None else None,
        token=f"{wish.token}\n" if wish.token else None,
        places=places,
    )
    problems = problems_of(text)
    if problems:
        raise UsageError(
            "the user-data came out wrong", why=problems[0], fix="report this: it is a defect of firstlight"
        )
    return text


def _script(wish: FirstBoot, pinned: str, places: Places) -> str:
    """Return the program of the first boot. `pinned`: SHA-256 of the tool's archive."""
    return render(
        "first-boot.sh.j2",
        engine=wish.engine,
        words=shlex.join(_words(wish)),
        source=_address(wish.source) if wish.source else "",
        sha256=pinned,
        inlined=wish.source is None,
        token=places.token if wish.token else None,
        marker=places.marker,
        log=places.log,
    )


def _words(wish: FirstBoot) -> list[str]:
    """Return the words of `service.install`."""
    words = [wish.engine, "--model", wish.model, "--yes"]
    options = {
        "--name": wish.name,
        "--port": None if wish.port is None else str(wish.port),
        "--host": wish.host,
        "--hardening": wish.hardening,
        "--scope": wish.scope,
    }
    for option, value in options.items():
        words += [] if value is None else [option, value]
    return [*words, *(["--", *wish.flags] if wish.flags else [])]


def _check(wish: FirstBoot) -> None:
    check_name(wish.name or wish.engine)
    texts = {
        "--model": wish.model,
        "--host": wish.host,
        "--source": wish.source,
        "the token": wish.token,
        **{f"the flag {number}": flag for number, flag in enumerate(wish.flags, 1)},
    }
    for option, text in texts.items():
        if text is not None and (not text.strip() or not text.isprintable()):
            raise UsageError(
                f"{option} cannot stand in user-data",
                why="it is empty, or holds a line break or another control character",
                fix="give it as one line of text",
            )


def _address(source: str) -> str:
    """Return the URL of a source; a path is one of the new machine's own.

    Raises:
        UsageError: it is neither, or holds a password.
    """
    if source.startswith("/"):
        return Path(source).as_uri()
    seen = urlsplit(source)
    if seen.scheme not in {"https", "http", "file"} or not (seen.netloc or seen.scheme == "file"):
        raise UsageError(
            f"--source does not take {seen.scheme or 'that'}",
            why="it is no address and no absolute path",
            fix="--source https://example.org/firstlight.tar.xz",
        )
    if seen.username is not None or seen.password is not None:
        raise UsageError(
            "--source holds a name or a password",
            why="user-data can be read by every program of the machine, and often by more",
            fix="lay the archive where it can be fetched without one: its SHA-256 is pinned, and it holds no secret",
        )
    return source


def too_big_for(text: str) -> list[str]:
    """Return the clouds that do not take user-data of this size, each with its limit in words."""
    size = len(text.encode())
    return [f"{name} ({limit // 1024} KiB)" for name, limit in page().limits.items() if size > limit]
