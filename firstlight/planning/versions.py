"""Comparing dotted versions of drivers, CUDA, glibc and compute capabilities."""

from __future__ import annotations

from functools import cache


@cache
def numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a dotted version: `535.183.01` -> (535, 183, 1); a text without any -> ().

    Parts after the first that is no number are left out, so that `6.8.0-45-generic` compares as 6.8.0.
    """
    parts: list[int] = []
    for part in version.split("."):
        digits = ""
        for character in part:
            if not character.isdigit():
                break
            digits += character
        if not digits:
            break
        parts.append(int(digits))
        if len(digits) != len(part):
            break
    return tuple(parts)


def release_key(version: str) -> tuple[int, ...]:
    """Return the key that orders releases: their numbers, and a `.post1` after them."""
    plain, _, post = version.partition(".post")
    return (*numbers(plain), *numbers(post))


def at_least(version: str, floor: str) -> bool:
    """Tell whether `version` is `floor` or newer; missing parts count as 0."""
    have, want = numbers(version), numbers(floor)
    width = max(len(have), len(want))
    return have + (0,) * (width - len(have)) >= want + (0,) * (width - len(want))


def major(version: str) -> int:
    """Return the first number of a version, 0 when there is none."""
    return (numbers(version) or (0,))[0]


def capability(text: str | None) -> tuple[int, int] | None:
    """Return a compute capability as two numbers, None where it is unknown or no `major.minor`."""
    parts = numbers(text or "")
    return (parts[0], parts[1]) if len(parts) == 2 else None


def branch_only(version: str) -> bool:
    """Tell whether a driver's version names no more than its branch: `580`, `580.00`."""
    return not any(numbers(version)[1:])
