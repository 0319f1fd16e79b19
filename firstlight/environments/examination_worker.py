"""Runs in a new environment, by its own Python; knows nothing of firstlight, and needs the standard library alone.

    examination_worker.py < JOB

One JSON document comes in: `extensions` (files), `command` (what `python -m` would run), `tokenizer` (names as
`module:function`), `folder` (of a model), `packages` (whose modules are imported). What is seen goes out as JSON, each
on a line of its own; the words of the libraries stand between them. All is done in one process, because most of the
time goes into imports.
"""

from __future__ import annotations

import contextlib
import ctypes
import fnmatch
import importlib
import importlib.util
import json
import os
import pkgutil
import runpy
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

_OUT = os.dup(1)
_LONGEST = 600


def say(event: str, **values: Any) -> None:
    """Write one event as a line of JSON; a library may have left half a line before it."""
    os.write(_OUT, b"\n" + json.dumps({"event": event, **values}).encode() + b"\n")


def told(error: BaseException) -> str:
    """Return the last line of an exception as Python prints it."""
    lines = traceback.format_exception_only(type(error), error)
    return " ".join("".join(lines[-1:]).split())[:_LONGEST]


def where(error: BaseException) -> list[str]:
    """Return the places in files that the last steps towards an exception came through."""
    return [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[-3:]]


def missing(error: BaseException | None) -> list[str]:
    """Return the modules whose absence led to an exception: libraries wrap the first error in ones of their own."""
    names: list[str] = []
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, ModuleNotFoundError) and error.name:
            names.append(error.name)
        hidden = error.__cause__ is None and error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)
    return names


@contextlib.contextmanager
def tried(event: str, **values: Any) -> Iterator[dict[str, Any]]:
    """Say how a piece of work went, how long it took in seconds, and why it failed where it did."""
    started, result = time.monotonic(), dict(values)
    try:
        yield result
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - a library may even call sys.exit when it is imported
        result.update(error=told(error), missing=missing(error), where=where(error))
    say(event, seconds=round(time.monotonic() - started, 3), **result)


def look_at_torch() -> None:
    """Import torch and say what it was made for; what it knows of GPUs needs no GPU."""
    with tried("torch") as result:
        torch = importlib.import_module("torch")
        flags = getattr(torch._C, "_cuda_getArchFlags", None)  # noqa: SLF001 - absent from builds for the CPU
        cuda = torch.version.cuda
        result.update(version=str(torch.__version__), cuda=cuda, flags=(flags() if flags and cuda else None) or None)


def load(path: str) -> None:
    """Load a shared library in a process of its own: two variants of one library may exclude each other."""
    started = time.monotonic()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            ctypes.CDLL(path)
        except OSError as error:
            os.write(writing, str(error).encode()[: 4 * _LONGEST])
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        words = stream.read().decode(errors="replace")
    _, status = os.waitpid(child, 0)
    signal = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    say("extension", path=path, error=words or None, signal=signal, seconds=round(time.monotonic() - started, 3))


def run_command(words: Sequence[str]) -> None:
    """Run the engine's own command line as `python -m` does."""
    with tried("command") as result:
        before = sys.argv
        sys.argv = ["-m", *words[1:]]
        try:
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
            result["status"] = 0
        except SystemExit as left:
            result["status"] = left.code if isinstance(left.code, int) else 0 if left.code is None else 1
            result["error"] = left.code if isinstance(left.code, str) else None
        finally:
            sys.argv = before


def find(name: str) -> Any:
    """Return the function that `module:function` names, None where this release has no such module or function."""
    module, _, function = name.partition(":")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name and (module == error.name or module.startswith(error.name + ".")):
            return None
        raise
    for part in function.split("."):
        found = getattr(found, part, None)
    return found


def look_at_tokenizer(names: Sequence[str], folder: str) -> None:
    """Load a tokenizer as the engine's server does, and use it."""
    with tried("tokenizer") as result:
        for name in names:
            result["function"] = name
            function = find(name)
            if function is not None:
                tokens = function(folder).encode("What is the capital of France?")
                result["tokens"] = len(tokens)
                return
        raise LookupError("this release has none of " + ", ".join(names))


def modules_of(package: str) -> list[str]:
    """Return the modules that a package holds directly, or that a pattern (`models.*.modeling_*`) names."""
    parts = package.split(".")
    fixed = next((at for at, part in enumerate(parts) if "*" in part), len(parts))
    base = ".".join(parts[:fixed])
    spec = importlib.util.find_spec(base)
    if spec is None:
        raise ModuleNotFoundError("No module named " + repr(base), name=base)
    return sorted(_below(base, list(spec.submodule_search_locations or []), parts[fixed:] or ["*"]))


def _below(name: str, folders: list[str], patterns: list[str]) -> Iterator[str]:
    for item in pkgutil.iter_modules(folders):
        if fnmatch.fnmatchcase(item.name, patterns[0]):
            full = name + "." + item.name
            if len(patterns) == 1:
                yield full
            elif item.ispkg:
                yield from _below(full, [folder + "/" + item.name for folder in folders], patterns[1:])


def look_at_modules(packages: Sequence[str]) -> None:
    """Import every module of the packages, one after the other, and say how each went."""
    names: list[str] = []
    for package in packages:
        with tried("package", name=package) as result:
            found = modules_of(package)
            if not found:
                raise LookupError("there is no module in " + package)
            names += found
            result["count"] = len(found)
    say("modules", names=names)
    for name in names:
        with tried("module", name=name):
            importlib.import_module(name)


def main() -> None:
    """Do the job that standard input brings."""
    job = json.loads(sys.stdin.read())
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        say("driver", error=str(error))
    else:
        say("driver", error=None)
    say("begin", name="torch")
    look_at_torch()
    say("begin", name="extensions")
    for path in job["extensions"]:
        load(path)
    say("begin", name="command")
    run_command(job["command"])
    say("begin", name="tokenizer")
    look_at_tokenizer(job["tokenizer"], job["folder"])
    say("begin", name="modules")
    look_at_modules(job["packages"])
    say("end")
    sys.stderr.flush()
    os._exit(0)  # some libraries crash when the interpreter clears up after them


if __name__ == "__main__":
    main()
