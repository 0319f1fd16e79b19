"""Aligned columns of text, and key-value sheets; wide characters counted as the terminal shows them."""

from __future__ import annotations

import unicodedata


def cells(text: str) -> int:
    """Return how many columns a text takes on a terminal."""
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def pad(text: str, columns: int) -> str:
    """Return `text` filled up with spaces to a width."""
    return text + " " * max(0, columns - cells(text))


def table(rows: list[list[str]], *, indent: str = "  ") -> list[str]:
    """Return rows as lines with aligned columns; the last column is not padded."""
    if not rows:
        return []
    widths = [max(cells(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = []
    for row in rows:
        padded = [pad(cell, wide) for cell, wide in zip(row, widths, strict=True)]
        lines.append(indent + "  ".join(padded).rstrip())
    return lines


def wrapped(text: str, columns: int, *, indent: str) -> list[str]:
    """Return a text as lines of at most `columns`, broken between words; what follows the first line stands deeper.

    A word that is too long for a line (a path, a URL) stays whole, so that it can be copied.
    """
    lines, line, words = [], indent, 0
    for word in text.split():
        if words and cells(line) + 1 + cells(word) > max(columns, 20):
            lines.append(line)
            line, words = f"{indent}  ", 0
        line += f" {word}" if words else word
        words += 1
    return [*lines, line] if words else lines


def sheet(pairs: list[tuple[str, str | None]], *, indent: str = "  ") -> list[str]:
    """Return names and values as aligned lines; an unknown value is said to be unknown."""
    return table([[name, "unknown" if value is None else value] for name, value in pairs], indent=indent)
