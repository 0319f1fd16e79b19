"""What a log told, as a value for checks; and the fix of a known cause as a remedy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from firstlight.doctor.findings import Remedy

if TYPE_CHECKING:
    from firstlight.catalogue.types import Cause
    from firstlight.serving.causes import FoundCause

_COMMAND = re.compile(
    r"(?:sudo |[A-Z_]+=\S+ |firstlight |ollama |export |unset |nvidia-smi|docker |df |dmesg |less |mkdir |ls |ip |"
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


def remedy_of(cause: Cause) -> Remedy:
    """Return a cause's fix as a remedy: `words: command   (another way)` gives words and commands."""
    main, _, other = cause.fix.partition("   (")
    words, _, command = main.rpartition(": ")
    commands = [command] if _COMMAND.match(command) else []
    if not commands and _COMMAND.match(main):
        words, commands = "", [main]
    text = (words or "this mends it") if commands else main
    text += f" ({other.removesuffix(')')})" if other else ""
    return Remedy(text=text, commands=commands, needs_root=any("sudo " in line for line in commands))
