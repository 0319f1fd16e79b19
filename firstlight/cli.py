"""The entry point of the `firstlight` program: light, so that an interruption ends cleanly from the first moment on."""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False  # typing itself takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Callable


def main(argv: list[str] | None = None) -> None:
    """Run the program and end with its exit code.

    Until a command begins its work there is nothing to clean up: Ctrl-C and SIGTERM then end the process at once,
    also in the middle of an import. `tasks.edge.guarded` takes both over when the work begins.
    """
    _on_signals(_leave)
    from firstlight.tasks.program import run

    try:
        code = run(sys.argv if argv is None else argv)
        _on_signals(_leave_quietly)  # the interpreter's own end takes a moment too
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    sys.exit(code)


def _on_signals(handler: Callable[[int, object], None]) -> None:
    """Set what Ctrl-C and SIGTERM do; one that was ignored from the start (`nohup`) stays ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, handler)


def _leave_quietly(number: int, _frame: object) -> None:
    os._exit(128 + number)


def _leave(number: int, _frame: object) -> None:
    """End the process at once with the exit code of the contract, and with its document where one was asked for."""
    kind = "Interrupted" if number == signal.SIGINT else "Terminated"
    body = f'"code": {128 + number}, "kind": "{kind}", "message": "{kind.lower()} before the work began"'
    document = (
        f'{{"schema": "firstlight.error/1", "error": {{{body}, "why": null, "fix": "run the same command again"}}}}'
    )
    try:
        if number == signal.SIGTERM:
            os.write(2, b"terminated\n")
        if "--json" in sys.argv:
            os.write(1, f"{document}\n".encode())
    finally:
        os._exit(128 + number)


if __name__ == "__main__":
    main()
