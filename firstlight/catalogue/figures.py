"""The forms that figures of the catalogue must have, and that each has a source."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Fault = tuple[tuple[str | int, ...], str]
"""The keys of what is wrong, from the entry on, and what is wrong with it."""

_VERSION = re.compile(r"\d+(?:\.\d+)*")
_CAPABILITY = re.compile(r"(\d+)\.(\d)([af]?)")
_PYTHON = re.compile(r"3\.\d+")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def bad_version(version: str) -> bool:
    """Tell whether a version is not made of numbers and dots."""
    return _VERSION.fullmatch(version) is None


def numbers(version: str) -> tuple[int, ...]:
    """Return the numbers of a version that is made of numbers and dots."""
    return tuple(int(part) for part in version.split("."))


def bad_sha256(digest: str | None) -> bool:
    """Tell whether a hash that is given is not 64 lower-case hexadecimal digits."""
    return digest is not None and _SHA256.fullmatch(digest) is None


def bad_specifier(text: str | None) -> bool:
    """Tell whether a range of releases that is given is no PEP 440 specifier."""
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        SpecifierSet(text or "")
    except InvalidSpecifier:
        return True
    return False


def bad_capabilities(capabilities: Sequence[str] | None, ptx: str | None) -> Iterator[Fault]:
    """Yield what is wrong with a list of compute capabilities (`8.0`, `9.0a`) and the capability of the PTX."""
    order = []
    for number, capability in enumerate(capabilities or ()):
        parts = _CAPABILITY.fullmatch(capability)
        if parts is None:
            yield ("capabilities", number), f'capabilities: "{capability}" is no compute capability such as 8.0 or 9.0a'
        else:
            order.append((int(parts[1]), int(parts[2]), parts[3]))
    if any(one >= other for one, other in itertools.pairwise(order)):
        yield ("capabilities",), "capabilities: they must ascend, each once"
    if ptx is not None and _CAPABILITY.fullmatch(ptx) is None:
        yield ("ptx",), f'ptx: "{ptx}" is no compute capability'


def bad_pythons(pythons: Sequence[str]) -> Iterator[Fault]:
    """Yield what is wrong with a list of minor versions of Python."""
    for number, python in enumerate(pythons):
        if _PYTHON.fullmatch(python) is None:
            yield ("pythons", number), f'pythons: "{python}" is no minor version such as 3.12'
    if len(set(pythons)) != len(pythons):
        yield ("pythons",), "pythons: one of them stands there twice"


def unsourced(
    entry: Any, keys: Sequence[str], sources: Mapping[str, str], shared: Mapping[str, str] | None = None
) -> Iterator[Fault]:
    """Yield the figures among `keys` that an entry has and no source speaks of, and sources that speak of nothing.

    Args:
        entry: a struct of the catalogue.
        keys: its figures.
        sources: its own sources.
        shared: the sources of its page.
    """
    for key in keys:
        if getattr(entry, key) and not (sources.get(key) or (shared or {}).get(key, "")).strip():
            yield (key,), f"{key}: it has no source"
    for key, text in sources.items():
        if key not in entry.__struct_fields__:
            yield ("sources", key), f"sources: `{key}` is no key of an entry"
        elif not text.strip():
            yield ("sources", key), f"sources: that of {key} is empty"
