"""Files that are on this machine already: the target itself, or a copy that the user has; verified like all others."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.parse import unquote, urlsplit

from firstlight.errors import NetworkFailed, VerificationFailed
from firstlight.events import Step
from firstlight.fetching.frontier import Frontier
from firstlight.fetching.state import forget, partial_of
from firstlight.fetching.sums import Sums, promised
from firstlight.fetching.types import Consumer, Dropped, Fetched, Share, Source, Wanted


def already_there(wanted: Wanted, target: Path, step: Step, consumer: Consumer | None) -> Fetched | None:
    """Return the target where it is in place and right; None where it is not, or nobody can tell."""
    if not target.is_file():
        return None
    size = target.stat().st_size
    if wanted.size is None and promised(wanted) is None:
        return None
    if wanted.size not in {None, size}:
        step.note(f"{wanted.name}: what is there has {size} bytes, not {wanted.size}; fetched anew")
        return None
    sums = _read(target, wanted, size, consumer)
    if promised(wanted) is not None and not sums.right:
        step.note(f"{wanted.name}: what is there has another hash; fetched anew")
        if consumer is not None:
            consumer.restart()
        return None
    if consumer is not None:
        consumer.finish()
    step.progress(size, size, "bytes", "already there")
    known = promised(wanted) is not None
    return Fetched(path=target, size=size, sha256=sums.sha256, hash_known=known, reused=True)


def from_files(wanted: Wanted, target: Path, step: Step, consumer: Consumer | None) -> Fetched | None:
    """Return the file taken from a source that is a file here; None where all such sources are wrong or there is none.

    Raises:
        VerificationFailed: there are only such sources, and what they have is not what was promised.
        NetworkFailed: there are only such sources, and none can be read.
    """
    dropped, wrong = [], False
    for source in wanted.sources:
        if source.kind != "file":
            continue
        reason = _take(source, wanted, target, consumer)
        if isinstance(reason, Fetched):
            step.progress(reason.size, reason.size, "bytes", f"from {source.name}")
            return reason
        wrong = wrong or reason.banned
        dropped.append(reason)
        step.note(f"{wanted.name}: {source.name} was given up: {reason.reason}")
    if dropped and len(dropped) == len(wanted.sources):
        kind = VerificationFailed if wrong else NetworkFailed
        raise kind(
            f"{wanted.name} could not be taken from the file given",
            why="; ".join(f"{one.source}: {one.reason}" for one in dropped),
            fix="give the path of a whole file, or leave it out to fetch it from the network",
        )
    return None


def _take(source: Source, wanted: Wanted, target: Path, consumer: Consumer | None) -> Fetched | Dropped:
    path = Path(unquote(urlsplit(source.url).path)) if source.url.startswith("file://") else Path(source.url)
    try:
        size = path.stat().st_size
        if not path.is_file():
            return Dropped(source.name, "it is no file")
        if wanted.size not in {None, size}:
            return Dropped(source.name, f"it has {size} bytes, not {wanted.size}", banned=True)
        partial = partial_of(target)[0]
        _link_or_copy(path, partial)
    except OSError as error:
        return Dropped(source.name, (error.strerror or str(error)).lower())
    sums = _read(partial, wanted, size, consumer)
    if promised(wanted) is not None and not sums.right:
        forget([partial])
        if consumer is not None:
            consumer.restart()
        return Dropped(source.name, f"its SHA-256 is {sums.sha256}, not {promised(wanted)}", banned=True)
    try:
        if consumer is not None:
            consumer.finish()
    finally:
        partial.replace(target)
    known = promised(wanted) is not None
    shares = (Share(source.name, size),)
    return Fetched(path=target, size=size, sha256=sums.sha256, hash_known=known, shares=shares)


def _link_or_copy(path: Path, partial: Path) -> None:
    """Put a file at the partial's place; a link where that goes, for nobody writes into what is verified."""
    forget(partial_of(partial.with_name(partial.name.removesuffix(".partial")))[:2])
    try:
        os.link(path.resolve(), partial)
    except OSError:
        shutil.copyfile(path, partial)


def _read(path: Path, wanted: Wanted, size: int, consumer: Consumer | None) -> Sums:
    frontier = Frontier(path, lambda _at: size, consumer, lambda: Sums(wanted, size))
    frontier.catch_up()
    return frontier.sums
