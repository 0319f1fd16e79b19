"""Where the seconds and bytes went, as bars on one time axis."""

from __future__ import annotations

from firstlight.fetching.words import duration, rate, size
from firstlight.proof.receipts import StepRecord

_EIGHTHS = " ▏▎▍▌▋▊▉"


def timeline(steps: list[StepRecord], total: float, columns: int, *, unicode: bool) -> list[str]:
    """Return the lines of the drawing: one bar per step, placed where the step ran between 0 and `total` seconds.

    Args:
        steps: the steps of a receipt, in the order of their start.
        total: seconds of the whole.
        columns: width of the drawing.
        unicode: whether block characters can be shown; else `#`.
    """
    if not steps or total <= 0:
        return []
    names = [step.id for step in steps]
    right = [_figures(step) for step in steps]
    left = max(map(len, names))
    room = max(10, columns - left - max(map(len, right)) - 6)
    scale = room / total
    lines = []
    for step, name, figures in zip(steps, names, right, strict=True):
        bar = _bar(step.offset * scale, step.seconds * scale, room, unicode=unicode)
        lines.append(f"  {name:<{left}} {bar}  {figures}")
    lines.append(f"  {'':<{left}} {'0':<{room - len(duration(total))}}{duration(total)}")
    return lines


def _figures(step: StepRecord) -> str:
    if step.outcome == "failed":
        return f"{duration(step.seconds)} failed"
    if step.outcome == "reused":
        return f"{duration(step.seconds)} reused"
    moved = f" {size(step.bytes)} {rate(step.bytes / step.seconds)}" if step.bytes and step.seconds else ""
    return f"{duration(step.seconds)}{moved}"


def _bar(start: float, length: float, room: int, *, unicode: bool) -> str:
    first = min(int(start), room - 1)
    whole = min(int(length), room - first)
    if not unicode:
        drawn = "#" * max(1, whole)
    else:
        part = _EIGHTHS[int((length - int(length)) * 8)].strip() if first + whole < room else ""
        drawn = "█" * whole + part or "▏"
    return f"{' ' * first}{drawn}"[:room].ljust(room)
