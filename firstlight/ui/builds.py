"""The table of every build: the chosen one on top, then what fits too, and the rule that refused each of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from firstlight.catalogue.types import Build
from firstlight.planning.failing import grouped, names
from firstlight.planning.plan import Plan, Refusal
from firstlight.ui.tables import cells, pad, table, wrapped
from firstlight.ui.terminal import as_typed

_ROOM = 44
"""Columns that a reason needs at least to be read beside the others."""
_UNLIMITED = 100_000
_MANY = 3
"""Builds of one kind beyond which they are told in one line."""


def build_lines(plan: Plan, builds: Sequence[Build], columns: int | None) -> list[str]:
    """Return every build, newest first, as a table; those that are far off (another architecture) as a line each kind.

    Args:
        plan: the plan with its refusals.
        builds: the engine's builds, for what each one asks for.
        columns: what the table must fit into; None: one line per build, for a file or a pipe.
    """
    needs = {build.id: _needs(build) for build in builds}
    near, far = _collapsed(plan.refused)
    rows = [["build", "CUDA", "driver", "glibc", "rule", "why not, and what would help"]]
    if plan.build is not None:
        rows.append([plan.build.id, *needs.get(plan.build.id, _NOTHING), "chosen", plan.because[0]])
    for item in near:
        told = f"{item.reason}; helps: {item.remedy}" if item.remedy and not item.fits else item.reason
        rows.append([item.build, *needs.get(item.build, _NOTHING), "fits" if item.fits else item.rule, as_typed(told)])
    marks = ["  ", *("> " if row[4] == "chosen" else "  " for row in rows[1:])]
    room = _UNLIMITED if columns is None else columns
    return [*_fitted(rows, marks, columns), *(line for text in far for line in wrapped(text, room, indent="  "))]


_NOTHING = ("", "", "")


def _needs(build: Build) -> tuple[str, str, str]:
    return build.cuda or "cpu", build.driver or "", build.libc or ""


def _collapsed(refused: Sequence[Refusal]) -> tuple[list[Refusal], list[str]]:
    """Return the refusals to be told one by one, and lines for those that are far off: for others, or not asked for."""
    near, lines = list(refused), []
    for rule, many in (("requested", _MANY), ("arch", 0)):
        far = [item for item in near if item.rule == rule and not item.fits]
        if len(far) > many:
            reason = far[0].reason.rpartition(", ")[2] if rule == "requested" else far[0].reason
            lines.append(f"{len(far)} more build{'s' if len(far) > 1 else ''}: {rule}: {reason}")
            near = [item for item in near if item not in far]
    return near, lines


def _fitted(rows: list[list[str]], marks: list[str], columns: int | None) -> list[str]:
    """Return the rows as aligned lines; a long last cell goes on below itself, or in blocks where there is no room."""
    widths = [max(cells(row[place]) for row in rows) for place in range(len(rows[0]) - 1)]
    before = 2 + sum(wide + 2 for wide in widths)
    if columns is not None and columns - before < _ROOM:
        return _blocks(rows[1:], marks[1:], columns)
    lines = []
    for mark, row in zip(marks, rows, strict=True):
        first = mark + "".join(pad(cell, wide) + "  " for cell, wide in zip(row, widths, strict=False))
        parts = (
            [row[-1]] if columns is None else [part.strip() for part in wrapped(row[-1], columns - before, indent="")]
        )
        lines += [(first + (parts or [""])[0]).rstrip(), *(" " * before + part for part in parts[1:])]
    return lines


def _blocks(rows: list[list[str]], marks: list[str], columns: int) -> list[str]:
    """Return a block per reason: the builds that it is about, the rule, what one build asks for, the reason below."""
    together: dict[tuple[str, str], list[int]] = {}
    for at, row in enumerate(rows):
        together.setdefault((row[4], row[5]), []).append(at)
    lines = []
    for (rule, told), places in together.items():
        head = f"{marks[places[0]]}{', '.join(rows[at][0] for at in places)}: {rule}"
        if len(places) == 1:
            _, cuda, driver, libc, *_ = rows[places[0]]
            made = f"CUDA {cuda}" if cuda not in {"", "cpu"} else cuda
            asks = ", ".join(filter(None, [made, driver and f"driver {driver}", libc and f"glibc {libc}"]))
            head += f" ({asks})" if asks else ""
        lines += [
            f"{head[:2]}{line.removeprefix('  ')}" if at == 0 else line
            for at, line in enumerate(wrapped(head[2:], columns, indent="  "))
        ]
        lines += wrapped(told, columns, indent="    ")
    return lines


def far_lines(refused: list[Refusal], columns: int | None) -> list[str]:
    """Return a line for each reason why builds are far off: not asked for, or made for another architecture."""
    told = [
        (item.rule, item.reason.rpartition(", ")[2] if item.rule == "requested" else item.reason) for item in refused
    ]
    lines = [
        f"{count} build{'s' if count > 1 else ''}: {rule}: {reason}" for (rule, reason), count in Counter(told).items()
    ]
    room = _UNLIMITED if columns is None else columns
    return [part for line in lines for part in wrapped(line, room, indent="  ")]


def refusal_lines(refused: list[Refusal], columns: int | None) -> list[str]:
    """Return refusals as a table, one row per reason, or as blocks where the table is wider than `columns`."""
    groups = grouped(refused, coarsely=True)
    rows = [["build", "rule", "why not", "what would help"]]
    rows += [[names(group), group[0].rule, group[0].reason, group[0].remedy or ""] for group in groups]
    lines = [line.rstrip() for line in table([[as_typed(cell) for cell in row] for row in rows])]
    if columns is None or max(map(cells, lines)) <= columns:
        return lines
    blocks = ["  refused builds: the rule, why not, and what would help"]
    for group in groups:
        blocks.append(f"  {names(group)}: {group[0].rule}")
        for text in filter(None, (group[0].reason, group[0].remedy)):
            blocks += wrapped(as_typed(text), columns, indent="    ")
    return blocks
