"""Receipts: what was asked, what was done, what was proven (schema firstlight.receipt/1)."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import msgspec

from firstlight.environments.examined import Examined
from firstlight.events import Event, Reporter, StepFinished
from firstlight.files import write_atomic
from firstlight.home import Home
from firstlight.planning.plan import Plan
from firstlight.planning.redacting import without_secrets
from firstlight.planning.request import Request
from firstlight.proof.first_token import Proof

SCHEMA = "firstlight.receipt/1"
_LOOK_BACK = 20


class StepRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One step: when it began (seconds after the receipt's start), how long it took, how many bytes it fetched."""

    id: str
    what: str
    offset: float
    seconds: float
    bytes: int
    outcome: str
    detail: str = ""


class FetchedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was fetched: its name, bytes and SHA-256 where they are known, and the source that gave it."""

    name: str
    source: str
    version: str | None = None
    size: int | None = None
    sha256: str | None = None


class EnvironmentRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The environment that was proven."""

    generation: str
    kind: str
    prefix: str
    python: str
    channel: str | None
    reused: bool


class ModelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The model that was served."""

    name: str
    path: str
    source: str
    bytes: int
    reused: bool


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What was done, how long it took, how many bytes it moved, and the first token."""

    schema: str = SCHEMA
    what: str
    started: str
    seconds: float
    bytes: int
    request: Request
    plan: Plan
    steps: list[StepRecord]
    environment: EnvironmentRecord | None = None
    examination: Examined | None = None
    """What was seen of the environment before the proof; of one that was there already, when it was built."""
    model: ModelRecord | None = None
    fetched: list[FetchedFile] = []
    outside: list[str] = []
    """Files written outside the home; `remove` undoes each."""
    notes: list[str] = []
    proof: Proof | None = None
    endpoint: str | None = None
    model_id: str | None = None
    path: str | None = None


class _Endpoint(msgspec.Struct):
    endpoint: str | None = None
    model_id: str | None = None


class Recorder:
    """A reporter that passes events on and keeps the finished steps for the receipt."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.started = time.time()
        self._finished: list[StepFinished] = []

    def __call__(self, event: Event) -> None:
        """Take an event."""
        if isinstance(event, StepFinished):
            self._finished.append(event)
        self.reporter(event)

    @property
    def steps(self) -> list[StepRecord]:
        """The steps so far, in the order of their start."""
        return [
            StepRecord(
                id=event.id,
                what=event.what,
                offset=max(0.0, round(event.started - self.started, 3)),
                seconds=round(event.seconds, 3),
                bytes=event.bytes,
                outcome=event.outcome,
                detail=event.detail,
            )
            for event in sorted(self._finished, key=lambda event: event.started)
        ]


def timestamp(moment: float) -> str:
    """Return a moment (seconds since the epoch) as ISO 8601 in UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))


def write_receipt(home: Home, receipt: Receipt) -> Receipt:
    """Write a receipt to receipts/<time>-<what>.json and return it with its path; an existing one is never replaced.

    What is written and returned holds no credentials of addresses.
    """
    stem = f"{receipt.started.replace(':', '').replace('-', '')}-{receipt.what}"
    path = home.receipts / f"{stem}.json"
    number = 1
    while path.exists():
        number += 1
        path = home.receipts / f"{stem}.{number}.json"
    whole = without_secrets(msgspec.structs.replace(receipt, path=str(path)))
    write_atomic(path, to_json(whole) + "\n")
    return whole


def model_at(home: Home, endpoint: str) -> str | None:
    """Return the model id that the newest receipt of an endpoint names; some servers list no models of their own."""
    for path in sorted(home.receipts.glob("*.json"), reverse=True)[:_LOOK_BACK]:
        with contextlib.suppress(OSError, msgspec.DecodeError):
            known = msgspec.json.decode(path.read_bytes(), type=_Endpoint)
            if known.endpoint == endpoint and known.model_id:
                return known.model_id
    return None


def to_json(receipt: Receipt) -> str:
    """Return the receipt as the JSON text of schema firstlight.receipt/1."""
    return msgspec.json.format(msgspec.json.encode(receipt, enc_hook=_plain), indent=2).decode()


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a receipt cannot hold a {type(value).__name__}")
