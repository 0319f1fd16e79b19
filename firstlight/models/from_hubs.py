"""One model from the hubs that answer: listed by all of them, fetched from all that hold the same bytes."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from firstlight.errors import FirstlightError, NetworkFailed, VerificationFailed
from firstlight.events import Step
from firstlight.fetching.types import Fetched, Policy, Source, Transport, Wanted
from firstlight.files import remove_tree
from firstlight.home import Home
from firstlight.machine.space import free_bytes, gigabytes
from firstlight.models.asking import HubFailure
from firstlight.models.hubs import HubEndpoint, Hubs, HubSource, Probe, probe_hubs
from firstlight.models.listing import Listing, list_files, require_access
from firstlight.models.locking import one_writer
from firstlight.models.nobody import nobody
from firstlight.models.reference import ModelReference
from firstlight.models.selection import RemoteFile, choose_files
from firstlight.models.store import (
    FetchedFile,
    FetchedModel,
    Marker,
    Place,
    home_place,
    present_model,
    read_marker,
    settle,
)
from firstlight.models.tokens import token_headers

_SPARE = 64 << 20
"""Bytes that must stay free beside the model."""

_OTHERS = 5.0
"""Seconds that the other hubs' lists are waited for once one hub has told its files."""


class _Asked:
    """One hub's list, asked for in a thread of its own."""

    def __init__(self, probe: Probe, reference: ModelReference) -> None:
        self.endpoint = probe.endpoint
        self._reference = reference
        self._done = threading.Event()
        self._begun = False
        self._answer: Listing | HubFailure | None = None
        if probe.problem is not None:
            self._answer = HubFailure("network", probe.problem)
            self._begun = True
            self._done.set()

    def begin(self) -> None:
        """Ask, once."""
        if not self._begun:
            self._begun = True
            # A daemon: a name server that never answers must not keep the program from ending.
            threading.Thread(target=self._ask, name=f"list-{self.endpoint.name}", daemon=True).start()

    def _ask(self) -> None:
        try:
            listing = list_files(self.endpoint, self._reference.id, self._reference.revision)
            if listing.files:
                require_access(listing, max(listing.files, key=lambda file: file.size))
            self._answer = listing
        except HubFailure as failure:
            self._answer = failure
        except Exception as error:  # noqa: BLE001 - an answer that nobody foresaw is that hub's failure, not ours
            self._answer = HubFailure("network", f"its list cannot be read ({type(error).__name__})")
        finally:
            self._done.set()

    def answer(self, seconds: float | None = None) -> Listing | HubFailure:
        """Return the list, or why there is none; asks for it, and waits."""
        self.begin()
        if not self._done.wait(seconds) or self._answer is None:
            return HubFailure("network", "its list did not come in time")
        return self._answer


class _NothingNew(HubFailure):
    """A hub lists only files that were tried from it already, as a source beside another hub."""


class HubFetch:
    """What is needed to fetch one model, and what went wrong so far."""

    def __init__(
        self,
        reference: ModelReference,
        home: Home,
        hubs: Hubs,
        include: tuple[str, ...],
        *,
        step: Step,
        place: Place | None = None,
        policy: Policy | None = None,
        transport: Transport | None = None,
    ) -> None:
        self.reference = reference
        self.home = home
        self.hubs = hubs
        self.include = include
        self.step = step
        self.place = place
        self.policy = policy
        self.transport = transport
        self.failures: list[tuple[HubEndpoint, HubFailure]] = []
        self._left: tuple[Place, list[RemoteFile]] | None = None
        self._tried: set[tuple[str, str]] = set()

    def run(self) -> FetchedModel:
        """Return the model, listed by the first hub that has it, fetched from all that hold the same bytes."""
        sources: dict[str, HubSource] = {"huggingface": "huggingface", "modelscope": "modelscope"}
        wished = ((hub, hub.wish()) for hub in self.hubs.hub if self.reference.source == "auto")
        for hub, wish in wished:
            if wish is not None:
                self.step.note(f"{hub.name} is asked first: {wish} is set")
        probes = probe_hubs(self.hubs, source=sources.get(self.reference.source))
        asked = [_Asked(probe, self.reference) for probe in probes]
        for one in asked:
            answer = one.answer()
            if isinstance(answer, HubFailure):
                self.failures.append((one.endpoint, answer))
                continue
            # The name of a private model is told to nobody else.
            others = [] if answer.private else _ready([other for other in asked if other is not one])
            try:
                return self._from_hub(answer, others)
            except _NothingNew:
                continue
            except HubFailure as failure:
                self.failures.append((one.endpoint, failure))
                self.step.note(f"{one.endpoint.name} did not deliver {self.reference.id}: {failure.reason}")
        raise nobody(self.reference, self.failures)

    def _from_hub(self, listing: Listing, others: Sequence[Listing]) -> FetchedModel:
        endpoint = listing.endpoint
        place = self.place or home_place(self.reference, endpoint.source, self.home)
        files = choose_files(listing.files, self.include, self.reference.id)
        self._require_untried(listing, files)
        with one_writer(place.lock, f"model {place.target.name}", self.step):
            present = present_model(place.target, self.include)  # another process may just have finished it
            if present is not None and _is_meant(place, self.reference):
                return present
            place.staging.mkdir(parents=True, exist_ok=True)
            self._take_over(place, files)
            self._left = (place, files)
            self._require_room(place, files)
            fetched = self._gather(listing, others, place.staging, files)
            revision = listing.commit or self.reference.revision
            marker = Marker(
                id=self.reference.id,
                source=endpoint.source,
                origin=f"{endpoint.shown}/{self.reference.id}" + (f"@{revision}" if revision else ""),
                layout="gguf" if any(file.name.endswith(".gguf") for file in files) else "safetensors",
                files=fetched,
                commit=listing.commit,
                include=list(self.include),
                revision=self.reference.revision,
            )
            return settle(place, marker)

    def _require_untried(self, listing: Listing, files: list[RemoteFile]) -> None:
        """Leave a hub out from which every file was tried already, beside the hub before it.

        Raises:
            _NothingNew: it is such a hub.
        """
        if all((listing.endpoint.url, _identity(file)) in self._tried for file in files):
            raise _NothingNew("network", "the same files were tried from it already")

    def _take_over(self, place: Place, files: list[RemoteFile]) -> None:
        """Keep what came by the list of another hub, where this one lists the same file."""
        if self._left is None or self._left[0].staging == place.staging:
            return
        before, known = self._left[0].staging, {(file.name, _identity(file)) for file in self._left[1]}
        for file in files:
            if (file.name, _identity(file)) in known:
                for suffix in ("", ".partial", ".partial.json"):
                    old, new = before / f"{file.name}{suffix}", place.staging / f"{file.name}{suffix}"
                    if old.is_file() and not new.exists():
                        new.parent.mkdir(parents=True, exist_ok=True)
                        old.replace(new)
        remove_tree(before)

    def _gather(
        self, listing: Listing, others: Sequence[Listing], staging: Path, files: list[RemoteFile]
    ) -> list[FetchedFile]:
        """Return the files once all of them lie in `staging` with the hub's hashes.

        Raises:
            HubFailure: they did not come, or came damaged; what is whole is kept.
        """
        from firstlight.fetching.fetch import fetch_all

        items = [(self._wanted(listing, others, file), staging / file.name) for file in files]
        try:
            came = fetch_all(items, step=self.step, policy=self.policy, transport=self.transport)
        except NetworkFailed as failed:
            raise HubFailure("network", failed.why or failed.what) from failed
        except VerificationFailed as failed:
            raise HubFailure("damaged", f"{failed.what} ({failed.why})" if failed.why else failed.what) from failed
        return [_fetched_file(file, one) for file, one in zip(files, came, strict=True)]

    def _wanted(self, listing: Listing, others: Sequence[Listing], file: RemoteFile) -> Wanted:
        """Return a file with all hubs that hold the same bytes under the same name, the one that listed them first."""
        sources = []
        for one in (listing, *others):
            held = file if one is listing else next((other for other in one.files if other.name == file.name), None)
            if held is not None and (one is listing or _same_bytes(file, held)):
                self._tried.add((one.endpoint.url, _identity(file)))
                endpoint = one.endpoint
                sources.append(
                    Source(url=one.url(file.name), name=endpoint.name, kind="hub", headers=token_headers(endpoint))
                )
        return Wanted(name=file.name, sources=tuple(sources), size=file.size, sha256=file.sha256, git_sha1=file.sha1)

    def _require_room(self, place: Place, files: list[RemoteFile]) -> None:
        """Check before the first byte that everything fits.

        Raises:
            FirstlightError: it does not.
        """
        total = sum(file.size for file in files)
        there = sum(_occupied(place.staging / file.name) for file in files)
        free = free_bytes(place.staging)
        if free >= total - there + _SPARE:
            return
        elsewhere = "--to /path/with/room" if place.chosen else "export FIRSTLIGHT_HOME=/path/with/room"
        raise FirstlightError(
            f"no room for {self.reference.id}: {gigabytes(max(total - there, 0))} to come, {gigabytes(free)} free",
            why=f"its {len(files)} files have {gigabytes(total)}; they go to {place.target.parent}",
            fix=f"choose a folder with more room: {elsewhere}",
        )


def _is_meant(place: Place, reference: ModelReference) -> bool:
    """Tell whether what lies in a folder that a person chose is this model; in the home, the folder's name says it."""
    marker = read_marker(place.target)
    return not place.chosen or (
        marker is not None and (marker.id, marker.revision) == (reference.id, reference.revision)
    )


def _ready(others: Sequence[_Asked]) -> list[Listing]:
    """Return the lists of the other hubs that come within a few seconds."""
    deadline = time.monotonic() + _OTHERS
    for other in others:
        other.begin()
    answers = [other.answer(max(0.0, deadline - time.monotonic())) for other in others]
    return [answer for answer in answers if isinstance(answer, Listing)]


def _identity(file: RemoteFile) -> str:
    """Return what says which bytes a file has: its hash, else its name and size."""
    return file.sha256 or file.sha1 or f"{file.size} {file.name}"


def _same_bytes(one: RemoteFile, other: RemoteFile) -> bool:
    """Tell whether two hubs hold the same bytes, by the same kind of hash."""
    if one.size != other.size:
        return False
    if one.sha256 or other.sha256:
        return one.sha256 == other.sha256
    return one.sha1 is not None and one.sha1 == other.sha1


def _occupied(path: Path) -> int:
    """Return the bytes on disk of a file and of its partial one (which may be sparse)."""
    found = 0
    for place in (path, path.with_name(f"{path.name}.partial")):
        with contextlib.suppress(OSError):
            found += place.stat().st_blocks * 512
    return found


def _fetched_file(file: RemoteFile, came: Fetched) -> FetchedFile:
    gave = [share.source for share in came.shares if share.bytes]
    return FetchedFile(name=file.name, size=came.size, sha256=came.sha256, sources=gave)
