"""Archives into folders: a file that is here, or one that is unpacked while it is fetched."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec

from firstlight.errors import VerificationFailed
from firstlight.events import Step
from firstlight.fetching.decompressing import Compression
from firstlight.fetching.recognising import Recognised, require_archive
from firstlight.fetching.types import Fetched, Policy, Transport, Wanted
from firstlight.fetching.unpacker import BOUNDS, EVERYTHING, Limits, Selection, Unpacked, Unpacker

__all__ = ["Limits", "Selection", "Unpacked", "Unpacker", "fetch_and_unpack", "unpack"]

_HASHED = 1 << 22


def unpack(
    archive: Path,
    folder: Path,
    *,
    step: Step,
    limits: Limits = BOUNDS,
    selection: Selection = EVERYTHING,
    program: str | None = None,
    sha256: str | None = None,
    compute_hash: bool = False,
    hold: tuple[int, ...] = (),
) -> Unpacked:
    """Unpack a file that is here into a new folder and return what it holds.

    Args:
        archive: the file; it is only read.
        folder: where; it appears when everything is right.
        step: takes the progress.
        limits: bounds for what is unpacked.
        selection: which members are written.
        program: where a bare program goes (`bin/NAME`); None: only archives are taken.
        sha256: what the file must have, checked in the same pass.
        compute_hash: compute the hash also where nothing is compared with it.
        hold: descriptors that the unpacking process keeps open (a lock that must outlive us).

    Raises:
        VerificationFailed: it is no archive, damaged, refused, or its hash is another one.
        FirstlightError: it cannot be read, or there is no room.
    """
    found = require_archive(archive, program=program is not None)
    _say_if_misnamed(archive, found, step)
    with Unpacker(
        folder, name=str(archive), step=step, limits=limits, selection=selection, program=program, hold=hold
    ) as unpacker:
        if sha256 is None and not compute_hash:
            unpacker.advance(archive, archive.stat().st_size)
            unpacker.finish()
            return unpacker.publish()
        digest = _hashed(archive, unpacker, step)
        if sha256 is not None and digest != sha256.lower():
            raise VerificationFailed(
                f"{archive} is not the file that was expected",
                why=f"its SHA-256 is {digest}, expected was {sha256.lower()}",
                fix=f"fetch it again, or look whether it is another release: sha256sum {archive}",
            )
        unpacker.finish()
        return msgspec.structs.replace(unpacker.publish(), sha256=digest)


def _say_if_misnamed(archive: Path, found: Recognised, step: Step) -> None:
    endings: dict[Compression, tuple[str, ...]] = {
        "gzip": (".tgz", ".gz"),
        "zstd": (".zst", ".tzst"),
        "none": (".tar",),
    }
    says = next((kind for kind, names in endings.items() if archive.name.endswith(names)), None)
    if says is not None and found.kind == "tar" and says != found.compression:
        step.note(f"{archive.name} is {found.detail}, whatever its name says")


def _hashed(archive: Path, unpacker: Unpacker, step: Step) -> str:
    digest, done = hashlib.sha256(), 0
    before = step.bytes
    size = archive.stat().st_size
    with archive.open("rb", buffering=0) as file:
        while data := file.read(_HASHED):
            digest.update(data)
            done += len(data)
            unpacker.advance(archive, done)
            step.progress(done, size, detail="unpacking")
            step.bytes = before
    return digest.hexdigest()


def fetch_and_unpack(
    wanted: Wanted,
    archive: Path,
    folder: Path,
    *,
    step: Step,
    policy: Policy | None = None,
    transport: Transport | None = None,
    limits: Limits = BOUNDS,
    selection: Selection = EVERYTHING,
    program: str | None = None,
    keep_archive: bool = True,
    hold: tuple[int, ...] = (),
) -> tuple[Fetched, Unpacked]:
    """Fetch an archive and unpack it while it arrives; the folder appears when the bytes are verified and unpacked.

    Args:
        wanted: the archive: its sources, and its hash where one is known.
        archive: where it is kept; an interrupted download goes on from what lies beside it.
        folder: where its content goes; it must not exist.
        step: takes the progress.
        policy: how hard to try.
        transport: how the network is reached.
        limits: bounds for what is unpacked.
        selection: which members are written.
        program: where a bare program goes (`bin/NAME`); None: only archives are taken.
        keep_archive: False removes the archive once it is unpacked.
        hold: descriptors that the unpacking process keeps open (a lock that must outlive us).

    Raises:
        NetworkFailed: no source delivers; what is there is kept.
        VerificationFailed: the bytes are wrong everywhere, or the archive is refused or damaged.
        FirstlightError: no room, or a folder that cannot be written.
    """
    from firstlight.fetching.fetch import fetch

    with Unpacker(
        folder, name=wanted.name, step=step, limits=limits, selection=selection, program=program, hold=hold
    ) as unpacker:
        fetched = fetch(wanted, archive, step=step, policy=policy, transport=transport, consumer=unpacker)
        unpacked = unpacker.publish()
    if not keep_archive:
        archive.unlink(missing_ok=True)
    return fetched, msgspec.structs.replace(unpacked, sha256=fetched.sha256)
