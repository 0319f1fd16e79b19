"""From the options of a command to a request and the machine that it is about."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from firstlight.errors import UsageError
from firstlight.home import Home, default_root, find_home
from firstlight.machine.facts import Machine, load
from firstlight.planning.request import Request
from firstlight.tasks.edge import cuda_version, gpu_indexes, one_of, port_number, python_minor

PLAN_HELP = {
    "machine": "facts of another machine, from `firstlight machine --json`",
    "gpus": "GPUs to use, by index: 0,1",
    "cuda": "only builds made with this CUDA: 12.1, any 12.x: 12, or cpu",
    "release": "only this release of the engine",
    "build": "only this build of the catalogue",
    "python": "only this Python: 3.12",
    "model": "what will be served: a folder, owner/name, pypi:NAME",
    "json": "one JSON document on standard output",
}
SETUP_HELP = {
    "environment": "auto, conda or venv",
    "channel": "a conda channel to use instead of conda-forge and its mirrors (repeatable)",
    "index": "a package index to use instead of pip's configured one",
    "find-links": "a folder or page of wheels, looked at as well (repeatable)",
    "dry-run": "say what would be done and write nothing",
    "yes": "do not ask",
}


PATIENCE = 30.0
"""Seconds that a driver may take to tell its facts before something big is decided by them."""


def this_machine(*, patience: float = 8.0) -> Machine:
    """Return the facts of the machine that we run on; a probe has `patience` seconds."""
    from firstlight.machine.reading import read_machine

    return read_machine(deadline=patience)


def machine_in_question(machine_file: str | None) -> Machine:
    """Return the facts of a file, or of this machine when none is named."""
    return load(Path(machine_file)) if machine_file else this_machine()


def home_of(machine: Machine) -> Home:
    """Return the home in use on this machine, else the default one."""
    mounts = [disk.mount for disk in machine.disks or []]
    return Home(find_home(mounts) or default_root())


def _reaches(place: str) -> bool:
    """Tell whether a word is an address, or a folder that is there."""
    try:
        return "://" in place or Path(place).expanduser().is_dir()
    except RuntimeError:  # ~ of a user that does not exist
        return False


def request_of(engine: str, machine: Machine, *, elsewhere: bool, **words: Any) -> Request:
    """Return the request that a command's options make.

    Args:
        engine: the engine's name.
        machine: the machine that it is about.
        elsewhere: whether those facts are another machine's; then this machine's home says nothing.
        **words: the options as text.

    Raises:
        UsageError: an option's value cannot be.
    """
    from firstlight.catalogue.loading import find_engine, load_catalogue

    for place in words.get("find_links") or ():
        if not _reaches(place):
            raise UsageError(f"--find-links: {place} is no folder", fix="name a folder of wheels, or a page's URL")
    indexes = tuple(words.get("index") or ())
    if len(indexes) > 1:
        raise UsageError("--index was given more than once", fix="add others to pip's extra-index-url")
    for place in indexes:
        if not _reaches(place):
            raise UsageError(f"--index: {place} is no address and no folder", fix="--index https://HOST/simple")
    return Request(
        engine=find_engine(load_catalogue(), engine).engine,
        gpus=gpu_indexes(words.get("gpus")),
        cuda=cuda_version(words.get("cuda")),
        release=words.get("release"),
        build=words.get("build"),
        python=python_minor(words.get("python")),
        model=words.get("model"),
        port=port_number(words.get("port")),
        environment=one_of("--environment", words.get("environment"), ("auto", "conda", "venv"), "auto"),  # type: ignore[arg-type]
        channels=tuple(words.get("channel") or ()),
        indexes=indexes,
        find_links=tuple(words.get("find_links") or ()),
        unlocked=bool(words.get("unlocked")),
        home=None if elsewhere else find_home([disk.mount for disk in machine.disks or []]),
        default_home=None if elsewhere else default_root(),
    )


def asks(*, yes: bool) -> bool:
    """Tell whether a person is asked before a change: not with `--yes`, FIRSTLIGHT_YES=1 or no terminal."""
    here = sys.stdin is not None and sys.stderr is not None and sys.stdin.isatty() and sys.stderr.isatty()
    return here and not yes and os.environ.get("FIRSTLIGHT_YES") != "1"


def confirmed(question: str, *, yes: bool) -> bool:
    """Ask before the machine is changed, where `asks` says so; True is a yes."""
    if not asks(yes=yes):
        return True
    sys.stderr.write(f"{question} [Y/n] ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        return False
    return answer.strip().lower() in {"", "y", "yes"}
