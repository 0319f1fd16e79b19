"""The `firstlight` program: the Invoke namespace with its own name, configuration and exit codes."""

from __future__ import annotations

import re
import shlex
import sys
from typing import TYPE_CHECKING, NoReturn

from invoke.config import Config
from invoke.exceptions import Exit, ParseError
from invoke.parser import Parser
from invoke.parser.context import ParserContext
from invoke.program import Program

from firstlight import __version__
from firstlight.errors import UsageError, did_you_mean
from firstlight.tasks import namespace
from firstlight.tasks.edge import INTERRUPTED, finished
from firstlight.ui.terminal import open_missing_streams

if TYPE_CHECKING:
    from invoke.parser.argument import Argument

_OF_RUN = {"command-timeout", "config", "dry", "echo", "hide", "prompt-for-sudo-password", "pty", "warn-only"}
"""Core options of Invoke that only say how `Context.run` runs a command; no task here uses it."""
_FORMATS = ("flat", "nested", "json")
"""How --list can show the commands."""


class FirstlightConfig(Config):
    """Invoke's defaults alone; never INVOKE_*, and no files.

    No task has a setting in one, and a `firstlight.json` in the current folder may be anything:
    Invoke would read the empty file that a shell makes for `firstlight machine --json > firstlight.json`.
    """

    prefix = "firstlight"

    def load_system(self, merge: bool = True) -> None:
        """Read nothing."""

    def load_user(self, merge: bool = True) -> None:
        """Read nothing."""

    def load_project(self, merge: bool = True) -> None:
        """Read nothing."""

    def load_runtime(self, merge: bool = True) -> None:
        """Read nothing."""


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
        except ValueError:
            self._tell(UsageError("--list-depth takes a number", fix="firstlight --list --list-depth=1"))
        finally:
            sys.dont_write_bytecode = kept_off and sys.dont_write_bytecode

    def parse_tasks(self) -> None:
        """Parse the tasks and their options."""
        try:
            super().parse_tasks()
        except ParseError as error:
            self._refuse(error)

    def _make_parser(self) -> Parser:
        """Return Invoke's parser with those tasks alone that the words can name: all of them cost every start 10 ms."""
        said = " ".join(self.argv)
        named = {
            name: aliases
            for name, aliases in self.collection.task_names.items()
            if self.args.complete.value or any(word in said for word in (name, *aliases))
        }
        contexts = [
            ParserContext(name=name, aliases=aliases, args=self.collection[name].get_arguments())
            for name, aliases in named.items()
        ]
        return Parser(contexts=contexts, initial=self.initial_context)

    def parse_cleanup(self) -> None:
        """Answer --help, --list and --complete; a wrong word of theirs Invoke ends with 1, or in a traceback."""
        wrong = self._wrong_core_word()
        if wrong is not None:
            self._tell(wrong)
        super().parse_cleanup()

    def _wrong_core_word(self) -> UsageError | None:
        """Return what is wrong with the value of --help, --list or --list-format."""
        asked, room, how = (self.args[name].value for name in ("help", "list", "list-format"))
        if isinstance(asked, str) and asked not in self.parser.contexts:
            return _unknown(asked, list(self.collection.task_names), self.argv, "firstlight --list")
        rooms = sorted(self.collection.collections)
        if isinstance(room, str) and room.startswith("-"):  # Invoke takes it for the value of --list
            return UsageError(f"--list does not take {room}", fix="firstlight --list --list-format=json")
        if isinstance(room, str) and room not in rooms:
            return UsageError(f'no commands begin with "{room}"{did_you_mean(room, rooms)}', fix="firstlight --list")
        if how not in _FORMATS:
            return UsageError(
                f'--list-format does not take "{how}"{did_you_mean(how, list(_FORMATS))}',
                fix=f"--list-format takes: {', '.join(_FORMATS)}",
            )
        return None

    def update_config(self, merge: bool = True) -> None:
        """Take Invoke's defaults as they are; see `FirstlightConfig`."""
        if merge:
            self.config.merge()

    def execute(self) -> None:
        """Run the tasks; an interruption that comes while one is being cleaned up keeps its code."""
        try:
            super().execute()
        except KeyboardInterrupt:
            raise Exit(code=INTERRUPTED) from None

    def _refuse(self, error: ParseError) -> NoReturn:
        self._tell(explain(error, list(self.scoped_collection.task_names) if self._has_collection() else [], self.argv))

    def _tell(self, usage: UsageError) -> NoReturn:
        from firstlight.ui.failures import show_failure

        show_failure(usage, as_document="--json" in sys.argv)
        raise Exit(code=usage.code)

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
    inside = [name for name in known if name.startswith(f"{word}.")]
    if word and inside:
        shown = f"{', '.join(inside[:4])}{', …' if len(inside) > 4 else ''}"
        return UsageError(f"{word} is a group of commands: {shown}", fix=f"firstlight --list {word}")
    if kind == "command" and words[1:2] == ["ask"]:  # its first word was taken for the question
        return UsageError("the question has several words", fix=f"put it in quotes: firstlight ask {_in_quotes(words)}")
    return UsageError(f"there is no {kind} {word}{did_you_mean(word, known)}", fix=help_line)


def _in_quotes(words: list[str]) -> str:
    """Return the words after `ask`, up to its options, as one that a shell takes whole."""
    said = words[2:]
    options = next((place for place, word in enumerate(said) if word.startswith("-")), len(said))
    return shlex.join([" ".join(said[:options]), *said[options:]])


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
    """Return `ask --help` and `help ask` as `--help ask`.

    After a command that takes a word, Invoke takes --help for that word.
    """
    if words[1:2] == ["help"]:
        return [words[0], "--help", *words[2:3]]
    ours = words[: words.index("--")] if "--" in words else words
    if len(ours) > 1 and not ours[1].startswith("-") and {"--help", "-h"} & set(ours[2:]):
        return [words[0], "--help", words[1]]
    return words


_NAMED = {"down", *(f"service.{verb}" for verb in ("start", "stop", "restart", "status", "logs", "remove"))}


def named(words: list[str]) -> list[str]:
    """Return `down NAME` as `down --name NAME`: Invoke knows no word that may be left out."""
    if len(words) < 3 or words[1] not in _NAMED:
        return words
    arguments = namespace[words[1]].get_arguments()
    valued = {f"--{argument.name.replace('_', '-')}" for argument in arguments if argument.takes_value}
    for place in range(2, words.index("--") if "--" in words else len(words)):
        if not words[place].startswith("-") and words[place - 1] not in valued:
            return [*words[:place], "--name", *words[place:]]
    return words


def named_under_invoke() -> None:
    """Let `invoke down NAME` do what `firstlight down NAME` does; called while stock `invoke` loads the tasks.

    It has put the words for the tasks aside by then, and parses them next.
    """
    from invoke.main import program

    core = getattr(program, "core", None)
    if core is not None and core.unparsed:
        core.unparsed[:] = named(["invoke", *core.unparsed])[1:]


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
