"""What the log of a server tells."""

from __future__ import annotations

from pathlib import Path

from firstlight.doctor.story import LogStory
from firstlight.errors import FirstlightError


def story_of(log: Path, engine: str | None, *, seconds: float = 1.0) -> LogStory | None:
    """Return what a server's log tells; None where there is none to read."""
    from firstlight.doctor.log_file import read_end, read_parts
    from firstlight.doctor.logs import tell

    try:
        parts = read_end(log, seconds=seconds) or read_parts(log, seconds=seconds)
    except FirstlightError:
        return None
    return tell(parts, engine) if parts.lines else None
