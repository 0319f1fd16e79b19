"""The `firstlight` program: the Invoke namespace with its own name, configuration and exit codes."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from invoke.config import Config
from invoke.exceptions import Exit, ParseError
from invoke.program import Program

from firstlight import __version__
from firstlight.errors import UsageError, did_you_mean
from firstlight.tasks import namespace
from firstlight.tasks.edge import INTERRUPTED, finished
from firstlight.ui.terminal import open_missing_streams

if TYPE_CHECKING:
    from invoke.parser.argument import Argument

_OF_RUN = {"command-timeout", "dry", "echo", "hide", "prompt-for-sudo-password", "pty", "warn-only"}
"""Core options of Invoke that only say how `Context.run` runs a command; no task here uses it."""


class FirstlightConfig(Config):
    """Settings from firstlight.yaml, ~/.firstlight.yaml, /etc/firstlight.yaml and FIRSTLIGHT_*; never INVOKE_*."""

    prefix = "firstlight"


class FirstlightProgram(Program):
    """Invoke's program with the exit codes of the contract: words that are wrong end with 2 and a near word."""

    def core_args(self) -> list[Argument]:
        """Return Invoke's core options that have a meaning here."""
        return [argument for argument in super().core_args() if argument.name not in _OF_RUN]

    def parse_core(self, argv: list[str] | None) -> None:
        """Parse the words before the first task; bytecode is kept as Python was told, not only with --write-pyc.

        Invoke switches it off, and what a task imports would then be compiled anew in every run.
        """
        kept_off = sys.dont_write_bytecode
        try:
            super().parse_core(argv)
        except ParseError as error:
            self._refuse(error)
        finally:
            sys.dont_write_bytecode = kept_off and sys.dont_write_bytecode

    def parse_tasks(self) -> None:
        """Parse the tasks and their options."""
        try:
            super().parse_tasks()
        except ParseError as error:
            self._refuse(error)

    def update_config(self, merge: bool = True) -> None:
        """Read the configuration of the current folder, which Invoke's bundled programs leave out, and of --config."""
        self.config.set_project_location(os.getcwd())  # noqa: PTH109 - Invoke wants text
        self.config.load_project(merge=False)
        self.config.set_runtime_path(self.args.config.value)
        self.config.load_runtime(merge=False)
        if merge:
            self.config.merge()

    def execute(self) -> None:
        """Run the tasks; an interruption that comes while one is being cleaned up keeps its code."""
        try:
            super().execute()
        except KeyboardInterrupt:
            raise Exit(code=INTERRUPTED) from None

    def _refuse(self, error: ParseError) -> None:
        from firstlight.ui.failures import show_failure

        usage = explain(error, list(self.scoped_collection.task_names) if self._has_collection() else [], self.argv)
        show_failure(usage, as_document="--json" in sys.argv)
        raise Exit(code=usage.code) from error

    def _has_collection(self) -> bool:
        return getattr(self, "collection", None) is not None


def explain(error: ParseError, names: list[str], words: list[str]) -> UsageError:
    """Return Invoke's parse error in our words, with the nearest command or option.

    Args:
        error: what Invoke says.
        names: the commands.
        words: the command line.
    """
    text = str(error)
    context = getattr(error, "context", None)
    known = list(names)
    where = ""
    if context is not None and context.name:
        where = f"{context.name} "
        known = [flag for flag in context.flags if flag.startswith("--")] if "-" in text else names
    found = re.search(r"'([^']+)'", text)
    word = found.group(1) if found else ""
    help_line = f"firstlight {where}--help".replace("  ", " ") if where else "firstlight --list"
    if "No idea what" in text:
        return _unknown(word, known, words, help_line)
    missing = re.search(r"required positional arguments: (.*)", text)
    if missing:
        needed = missing.group(1).replace("'", "").upper()
        return UsageError(f"{where}needs {needed}", fix=f"firstlight {where}{needed}   ({help_line} tells more)")
    valueless = re.search(r"<Argument: ([^\s>]+)", text)
    if valueless:
        return UsageError(f"--{valueless.group(1).replace('_', '-')} needs a value", fix=help_line)
    return UsageError(text[:1].lower() + text[1:].rstrip("!."), fix=help_line)


def _unknown(word: str, known: list[str], words: list[str], help_line: str) -> UsageError:
    if word in {"-R", "--dry"}:
        return UsageError(f"there is no option {word}", fix="firstlight up --dry-run")
    twice = _given_twice(word, words)
    if twice:  # Invoke takes the second value for a command
        more = "--gpus takes indexes with commas: --gpus 0,1" if twice == "--gpus" else help_line
        return UsageError(f"{twice} was given more than once", fix=more)
    kind = "option" if word.startswith("-") else "command"
    return UsageError(f"there is no {kind} {word}{did_you_mean(word, known)}", fix=help_line)


def _given_twice(value: str, words: list[str]) -> str | None:
    """Return the option that stands before `value` when it stands elsewhere too."""
    options = [word.partition("=")[0] for word in words]
    for place, word in enumerate(words):
        if word == value and place:
            option = options[place - 1]
        elif word.startswith("--") and word.partition("=")[2] == value:
            option = options[place]
        else:
            continue
        if option.startswith("-") and options.count(option) > 1:
            return option
    return None


def help_first(words: list[str]) -> list[str]:
    """Return `ask --help` as `--help ask`: after a command that takes a word, Invoke takes --help for that word."""
    ours = words[: words.index("--")] if "--" in words else words
    if len(ours) > 1 and not ours[1].startswith("-") and {"--help", "-h"} & set(ours[2:]):
        return [words[0], "--help", words[1]]
    return words


_NAMED = {"down", *(f"service.{verb}" for verb in ("start", "stop", "restart", "status", "logs", "remove"))}


def named(words: list[str]) -> list[str]:
    """Return `down NAME` as `down --name NAME`: Invoke knows no word that may be left out."""
    if len(words) > 2 and words[1] in _NAMED and not words[2].startswith("-"):
        return [*words[:2], "--name", *words[2:]]
    return words


def run(words: list[str]) -> int:
    """Run the program and return its exit code."""
    open_missing_streams()
    program = FirstlightProgram(
        name="firstlight",
        binary="firstlight",
        binary_names=["firstlight"],
        version=__version__,
        namespace=namespace,
        config_class=FirstlightConfig,
    )
    return finished(lambda: program.run(named(help_first(words))))
