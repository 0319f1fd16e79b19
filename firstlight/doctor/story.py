"""What a log told, as a value for checks; and the fix of a known cause as a remedy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from firstlight.doctor.findings import Remedy, by_hand

if TYPE_CHECKING:
    from firstlight.catalogue.types import Cause
    from firstlight.machine.facts import Machine
    from firstlight.serving.causes import FoundCause

_COMMAND = re.compile(
    r"(?:sudo |[A-Z_]+=\S+ |firstlight |ollama |export |unset |nvidia-smi|df |dmesg |less |mkdir |ls |ip |"
    r"file |namei |nohup |systemctl |apt-get |pip |curl |PREFIX/)"
)


class LogCause(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a log tells: what went wrong with which engine, and where it says so."""

    engine: str
    found: FoundCause
    earlier: int = 0
    """Runs that began after the one that this is of."""


class LogStory(msgspec.Struct, frozen=True, kw_only=True):
    """All that a log tells, the worst first."""

    engine: str | None
    certain: bool
    """Whether the log shows that this engine wrote it."""
    causes: tuple[LogCause, ...]
    last_line: str = ""
    """The last line, where it says only that the cause stands elsewhere."""


_OF_THE_HOST = re.compile(r"\b(?:reboot|modprobe|nvidia-modprobe|nvidia-fabricmanager)\b")
"""What belongs to the kernel or its driver, which a container has from its host."""


def remedy_of(cause: Cause, machine: Machine | None = None) -> Remedy:
    """Return a cause's fix as a remedy: `words: command   (another way)` gives words and commands.

    Args:
        cause: what a log told.
        machine: where it is mended: in a container, and where there is no systemd, some commands are of no use.
    """
    remedy = _as_written(cause)
    line = "; ".join(remedy.commands)
    if machine is None or not line:
        return remedy
    words = "" if remedy.text == _BARE else f"{remedy.text}; "
    if machine.host.container and _OF_THE_HOST.search(line):
        return by_hand(f"{words}on the host of this container: {line}, then start the container again")
    if "systemctl " in line and machine.init.system not in {"systemd", None}:
        return by_hand(f"{words}where systemd runs: {line}; here give it to what starts the server")
    return remedy


_BARE = "this mends it"


def _as_written(cause: Cause) -> Remedy:
    main, _, other = cause.fix.partition("   (")
    words, _, command = main.rpartition(": ")
    commands = [command] if _COMMAND.match(command) else []
    if not commands and _COMMAND.match(main):
        words, commands = "", [main]
    text = (words or _BARE) if commands else main
    text += f" ({other.removesuffix(')')})" if other else ""
    return Remedy(text=text, commands=commands, needs_root=any("sudo " in line for line in commands))
