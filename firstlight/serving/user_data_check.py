"""Looks at user-data for what cloud-init's own schema lets pass: any YAML that cloud-init reads, and no more than that.

cloud-init tells kinds of user-data by how the text begins; this check judges a cloud-config alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from firstlight.catalogue.loading import read_toml
from firstlight.errors import UsageError, did_you_mean
from firstlight.resources import data_folder

HEADER = "#cloud-config"
_MOST = 16 * 1024 * 1024
"""Bytes: the tool travels inside in one; what is bigger is no user-data."""
_CONTROL = re.compile(r"[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What YAML 1.1 does not take as printable; a byte order mark within is judged like the rest."""
_MIME_WITHIN = 4096
"""Where cloud-init looks for the words that make a text a MIME message (cloudinit/user_data.py, convert_string)."""
_GZIP = b"\x1f\x8b"
_SHOWN = 60
_MERGE = "tag:yaml.org,2002:merge"
_MAP = "tag:yaml.org,2002:map"
_TEXT = "tag:yaml.org,2002:str"


class Kind(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of user-data that is no cloud-config, by how it begins."""

    begins: str
    what: str


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of cloud-init's user-data (`envs/cloud-init.toml`)."""

    keys: list[str]
    limits: dict[str, int]
    kind: list[Kind]
    sources: dict[str, str]


def page() -> Page:
    """Return what is known of cloud-init's user-data."""
    return read_toml(data_folder("envs") / "cloud-init.toml", Page)


def read_user_data(file: Path) -> str:
    """Return the text of a file of user-data.

    Raises:
        UsageError: it cannot be read, is no text, is compressed, or is bigger than any user-data.
    """
    try:
        with file.open("rb") as source:
            data = source.read(_MOST + 1)
    except OSError as error:
        raise UsageError(f"{file} cannot be read", why=error.strerror or str(error), fix=f"ls -l {file}") from error
    if len(data) > _MOST:
        raise UsageError(
            f"{file} is bigger than {_MOST >> 20} MiB",
            why="no cloud takes user-data of that size",
            fix=f"is it the right file? ls -l {file}",
        )
    if data.startswith(_GZIP):
        raise UsageError(
            f"{file} is compressed",
            why="it begins as gzip does",
            fix=f"gunzip --to-stdout {file} >plain, and check that",
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{file} is no text",
            why=f"byte {error.start} is not UTF-8, which is all that cloud-init reads",
            fix=f"look at it: file {file}",
        ) from error
    if "\0" in text:
        raise UsageError(f"{file} is no text", why="it holds a byte 0", fix=f"look at it: file {file}")
    return text


def require_judged(text: str, file: Path) -> None:
    """Refuse user-data that this check cannot judge.

    Raises:
        UsageError: it is of another kind than a cloud-config, which is nothing wrong by itself.
    """
    begins = text.lstrip().lower()
    what = next((kind.what for kind in page().kind if begins.startswith(kind.begins)), None)
    if "mime-version:" in text[:_MIME_WITHIN].lower():
        what = "a MIME message of several parts"
    if what is None:
        return
    raise UsageError(
        f"{file} is not judged: it is {what}",
        why="cloud-init takes it, and only what is a cloud-config can be checked here",
        fix="put the cloud-config that is in it into a file of its own: firstlight bootstrap.check FILE",
    )


def problems_of(text: str) -> list[str]:
    """Return what is wrong with a cloud-config that cloud-init's own schema lets pass, each in words with its line.

    Its schema knows the settings of each key, and says nothing of a top-level key that it does not know. The YAML may
    be of any style: in blocks or in braces, quoted, with anchors and merged mappings.
    """
    first = text.splitlines()[0] if text else ""
    problems = []
    if first.rstrip() != HEADER and not first.startswith((f"{HEADER} ", f"{HEADER}\t")):
        mark = " (a byte order mark stands before it)" if first.startswith("\ufeff") else ""
        problems.append(f"line 1: its first line is not {HEADER}{mark}: cloud-init would not read it as one")
    return [*problems, *_problems(text)]


def _problems(text: str) -> Iterator[str]:
    import yaml

    bad = _CONTROL.search(text.removeprefix("\ufeff"))
    if bad is not None:
        yield f"line {_line(text, bad.start())}: YAML takes no control character ({bad[0]!r})"
        return
    # The one in C is forty times faster, and the tool itself may be in there.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    try:
        node: Any = loader.get_single_node()
        if node is None:
            yield "it has no keys at all"
        elif node.tag != _MAP:
            yield f"line {_at(node)}: it is no mapping of keys, but {'a list' if node.id == 'sequence' else 'a text'}"
        else:
            yield from _of_mapping(node)
            loader.construct_document(node)  # tags that it may not have, values that are none
    except yaml.MarkedYAMLError as error:
        yield _of_error(error, text)
    except (yaml.YAMLError, ValueError, TypeError, OverflowError) as error:
        yield f"it is no YAML that cloud-init reads: {error}"
    except RecursionError:
        yield "it is nested deeper than any YAML reader follows"
    finally:
        loader.dispose()


def _of_error(error: Any, text: str) -> str:
    """Return a reader's complaint with its line; what a person most often did is said in plain words."""
    mark = error.problem_mark or error.context_mark
    number = mark.line + 1 if mark is not None else 1
    lines = text.splitlines()
    if number <= len(lines) and "\t" in lines[number - 1][: len(lines[number - 1]) - len(lines[number - 1].lstrip())]:
        return f"line {number}: YAML takes no tab before a word"
    if error.context == "expected a single document in the stream":
        return f"line {number}: a second document begins here (---): cloud-init reads one"
    return f"line {number}: it is no YAML: {', '.join(each for each in (error.context, error.problem) if each)}"


def _of_mapping(node: Any) -> Iterator[str]:
    known = page().keys
    seen: dict[str, int] = {}
    pairs = list(node.value)
    if not pairs:
        yield "it has no keys at all"
    for key, value in pairs:
        number = _at(key)
        if key.tag == _MERGE:
            yield from _merged(value, known)
        elif key.tag != _TEXT:
            yield f"line {number}: a key must be a word, not {_shown(key)}"
        elif key.value in seen:
            again = f"{key.value} stands there twice (also in line {seen[key.value]})"
            yield f"line {number}: {again}: only the last one counts"
        else:
            seen[key.value] = number
            yield from _unknown(key, known)


def _merged(value: Any, known: list[str]) -> Iterator[str]:
    """Give the unknown keys of what is merged into the top level (`<<: *base`)."""
    parts = value.value if value.id == "sequence" else [value]
    for part in parts:
        for key, _ in part.value if part.id == "mapping" else ():
            yield from _unknown(key, known)


def _unknown(key: Any, known: list[str]) -> Iterator[str]:
    if key.tag == _TEXT and key.value not in known:
        yield f"line {_at(key)}: cloud-init has no key {_shown(key)}{did_you_mean(key.value[:_SHOWN], known)}"


def _shown(node: Any) -> str:
    text = str(node.value) if node.id == "scalar" else f"a {node.id}"
    return text if text.isprintable() and len(text) <= _SHOWN else repr(text[:_SHOWN])


def _at(node: Any) -> int:
    """Return the line of a node as people count."""
    number: int = node.start_mark.line + 1
    return number


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
