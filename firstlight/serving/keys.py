"""The API key of a server that we start: from a file into a variable; in no word, record or log."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import msgspec

from firstlight.catalogue.types import EngineEntry
from firstlight.errors import UsageError
from firstlight.process import Command

KEY_VARIABLE = "FIRSTLIGHT_API_KEY"
"""Carries the key of an engine that knows a flag alone."""
_LAUNCHER = Path(__file__).parent / "services" / "with_key.py"


def knows_key(entry: EngineEntry) -> bool:
    """Tell whether an engine's API can ask for a key."""
    return entry.key_variable is not None or entry.key_flag is not None


def key_variable(entry: EngineEntry) -> str:
    """Return the variable that carries an engine's key."""
    return entry.key_variable or KEY_VARIABLE


def take_key(file: Path, entry: EngineEntry) -> None:
    """Read the key of an engine's API into the variable that its server gets it from.

    Raises:
        UsageError: the engine knows no key, or the file holds none.
    """
    if not knows_key(entry):
        raise UsageError(
            f"the API of {entry.engine} knows no key",
            why="whoever reaches its port can use it",
            fix="leave --api-key-file out, and reach it by an SSH tunnel",
        )
    try:
        key = file.expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError, RuntimeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise UsageError(
            f"--api-key-file: {file} cannot be read", why=why, fix=f"ls -l {shlex.quote(str(file))}"
        ) from error
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(
            f"--api-key-file: {file} holds no key",
            why="a key is one word of plain letters, digits and signs",
            fix=f"(umask 077; head -c 32 /dev/urandom | base64 | tr -d '\\n' > {shlex.quote(str(file))})",
        )
    os.environ[key_variable(entry)] = key


def key_of_server(entry: EngineEntry) -> str | None:
    """Return the key that a server which we start now asks for: one from `take_key`, or of the person's own shell."""
    return os.environ.get(key_variable(entry)) or None if knows_key(entry) else None


def keyed(command: Command, entry: EngineEntry) -> Command:
    """Return a server's command, which asks for a key where there is one.

    Raises:
        UsageError: its key would stand in the process list.
    """
    if key_of_server(entry) is None:
        return command
    words = with_key(command.argv, entry, _LAUNCHER, fix="leave --api-key-file out")
    return msgspec.structs.replace(command, argv=words)


def with_key(argv: tuple[str, ...], entry: EngineEntry, launcher: Path, *, fix: str) -> tuple[str, ...]:
    """Return the words of a server that asks for the key in its variable; `launcher` is where `with_key.py` lies.

    Raises:
        UsageError: its key would stand in the process list.
    """
    if entry.key_variable is not None:
        return argv
    if argv[1:2] != ("-m",) or entry.key_flag is None:
        raise UsageError(
            f"{entry.engine} takes its key by a flag that every user of the machine would see",
            fix=fix,
        )
    return (argv[0], str(launcher), "--variable", KEY_VARIABLE, "--flag", entry.key_flag, *argv[1:])
