"""Writes entries of the catalogue as TOML, and says in which figures two builds differ."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from firstlight.catalogue.types import Build, TorchLine

_THOUSANDS = 10_000


def entry_of(build: Build, like: Build | None = None) -> str:
    """Return the `[[build]]` of a build; of one that is like another only what differs, and its own sources."""
    if like is not None and any(_gone(build, like, key) for key in build.__struct_fields__):
        like = None
    words = {"id": build.id} | ({"like": like.id} if like is not None else {})
    for key in build.__struct_fields__:
        value = getattr(build, key)
        if key not in {"id", "sources"} and value != (getattr(like, key) if like is not None else _default(key)):
            words[key] = value
    return _table("build", words, _own_sources(build, like))


def _gone(build: Build, like: Build, key: str) -> bool:
    """Tell whether a build lacks what the other one has: an entry that is like it cannot take that back."""
    return getattr(build, key) is None and getattr(like, key) is not None


def torch_entry_of(line: TorchLine) -> str:
    """Return the `[[build]]` of torch.toml for a torch that the catalogue lacks."""
    words = {key: getattr(line, key) for key in line.__struct_fields__ if key != "sources" and getattr(line, key)}
    return _table("build", words, line.sources)


def differences(build: Build, other: Build) -> list[str]:
    """Return in words where two builds differ, their sources apart."""
    keys = [key for key in build.__struct_fields__ if key not in {"id", "sources"}]
    return [
        f"{key}: {_value(getattr(build, key))}, there {_value(getattr(other, key))}"
        for key in keys
        if getattr(build, key) != getattr(other, key)
    ]


def _default(key: str) -> Any:
    field = next(field for field in msgspec.structs.fields(Build) if field.encode_name == key)
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return None if field.default is msgspec.NODEFAULT else field.default


def _own_sources(build: Build, like: Build | None) -> Mapping[str, str]:
    inherited = like.sources if like is not None else {}
    return {key: text for key, text in build.sources.items() if inherited.get(key) != text}


def _table(name: str, words: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    lines = [f"[[{name}]]", *(f"{key} = {_value(value)}" for key, value in words.items())]
    if sources:
        lines += ["", f"[{name}.sources]", *(f"{key} = {_value(text)}" for key, text in sources.items())]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    """Return a value as TOML; strings of the catalogue need no more escapes than JSON has."""
    if isinstance(value, msgspec.Struct):
        return _inline(
            {key: inner for key in value.__struct_fields__ if (inner := getattr(value, key)) not in (None, [])}
        )
    if isinstance(value, Mapping):
        return _inline(value)
    if isinstance(value, list):
        return _list(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= _THOUSANDS:
        return f"{value:_}"
    return "nothing" if value is None else json.dumps(value, ensure_ascii=False)


def _inline(value: Mapping[str, Any]) -> str:
    return "{ " + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items()) + " }"


def _key(key: str) -> str:
    return key if all(letter.isalnum() or letter in "-_" for letter in key) else json.dumps(key)


def _list(value: Iterable[Any]) -> str:
    items = [_value(item) for item in value]
    if any(item.startswith("{") for item in items):
        return "[\n" + "".join(f"    {item},\n" for item in items) + "]"
    return f"[{', '.join(items)}]"
