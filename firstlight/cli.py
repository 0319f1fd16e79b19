"""The `firstlight` program: the Invoke namespace with its own name, configuration and exit codes."""

from __future__ import annotations

import os
import re
import sys

from invoke.config import Config
from invoke.exceptions import Exit, ParseError
from invoke.program import Program

from firstlight import __version__
from firstlight.errors import UsageError, did_you_mean
from firstlight.tasks import namespace
from firstlight.tasks.edge import INTERRUPTED


class FirstlightConfig(Config):
    """Settings from firstlight.yaml, ~/.firstlight.yaml, /etc/firstlight.yaml and FIRSTLIGHT_*; never INVOKE_*."""

    prefix = "firstlight"


class FirstlightProgram(Program):
    """Invoke's program with the exit codes of the contract: words that are wrong end with 2 and a near word."""

    def parse_core(self, argv: list[str] | None) -> None:
        """Parse the words before the first task."""
        try:
            super().parse_core(argv)
        except ParseError as error:
            self._refuse(error)

    def parse_tasks(self) -> None:
        """Parse the tasks and their options."""
        try:
            super().parse_tasks()
        except ParseError as error:
            self._refuse(error)

    def update_config(self, merge: bool = True) -> None:
        """Read the configuration of the current folder too: Invoke's bundled programs leave it out."""
        self.config.set_project_location(os.getcwd())  # noqa: PTH109 - Invoke wants text
        self.config.load_project(merge=False)
        super().update_config(merge=merge)

    def _refuse(self, error: ParseError) -> None:
        from firstlight.ui.failures import show_failure

        usage = explain(error, list(self.scoped_collection.task_names) if self._has_collection() else [])
        show_failure(usage, as_document="--json" in sys.argv)
        raise Exit(code=usage.code) from error

    def _has_collection(self) -> bool:
        return getattr(self, "collection", None) is not None


def explain(error: ParseError, names: list[str]) -> UsageError:
    """Return Invoke's parse error in our words, with the nearest command or option."""
    text = str(error)
    context = getattr(error, "context", None)
    known = list(names)
    where = ""
    if context is not None and context.name:
        where = f"{context.name} "
        known = [flag for flag in context.flags if flag.startswith("--")] if "-" in text else names
    found = re.search(r"'([^']+)'", text)
    word = found.group(1) if found else ""
    near = did_you_mean(word, known)
    help_line = f"firstlight {where}--help".replace("  ", " ") if where else "firstlight --list"
    if "No idea what" in text:
        kind = "option" if word.startswith("-") else "command"
        return UsageError(f"there is no {kind} {word}{near}", fix=help_line)
    missing = re.search(r"required positional arguments: (.*)", text)
    if missing:
        words = missing.group(1).replace("'", "").upper()
        return UsageError(f"{where}needs {words}", fix=f"firstlight {where}{words}   ({help_line} tells more)")
    valueless = re.search(r"<Argument: ([^\s>]+)", text)
    if valueless:
        return UsageError(f"--{valueless.group(1).replace('_', '-')} needs a value", fix=help_line)
    return UsageError(text[:1].lower() + text[1:].rstrip("!."), fix=help_line)


def help_first(words: list[str]) -> list[str]:
    """Return `ask --help` as `--help ask`: after a command that takes a word, Invoke takes --help for that word."""
    ours = words[: words.index("--")] if "--" in words else words
    if len(ours) > 1 and not ours[1].startswith("-") and {"--help", "-h"} & set(ours[2:]):
        return [words[0], "--help", words[1]]
    return words


def main(argv: list[str] | None = None) -> None:
    """Run the program and end with its exit code."""
    program = FirstlightProgram(
        name="firstlight",
        binary="firstlight",
        binary_names=["firstlight"],
        version=__version__,
        namespace=namespace,
        config_class=FirstlightConfig,
    )
    try:
        program.run(help_first(sys.argv if argv is None else argv))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
