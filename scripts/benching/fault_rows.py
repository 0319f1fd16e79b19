"""The faults of the table: what each mirror does, and what else happens while a file is fetched."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from support.faults import Faults

SIZE = 40_000_000
RATE = 10_000_000
PART = 12_000_000


def slow(**faults: object) -> Faults:
    """Return the faults of a mirror that gives each connection 10 MB/s."""
    return Faults(**{"bytes_per_second": RATE, **faults})  # type: ignore[arg-type]


GOOD = slow()


@dataclass(frozen=True)
class Row:
    """One fault.

    Attributes:
        name: as it stands in the table.
        mirrors: what they do, the worst first; programs that know one address get the first.
        kill_at: the program is killed (-9) when so many bytes have gone out.
        changes: the object is another one from the kill on (or by the mirror's own `changes_after`).
        place: where the file is to go, where that is the fault.
        hash_known: the programs that can check a hash are told it.
        passes: the fault is gone when the program is run a second time.
    """

    name: str
    mirrors: tuple[Faults, ...]
    kill_at: int | None = None
    changes: bool = False
    place: Literal["folder", "full", "read-only"] = "folder"
    hash_known: bool = True
    passes: bool = True


def spread(count: int, first: int = 0) -> tuple[int, ...]:
    """Return offsets all over the file."""
    return tuple(range(first + 1_000_000, SIZE, SIZE // count))


WRONG = spread(4)

ROWS = (
    Row("no fault, two mirrors", (GOOD, GOOD)),
    Row("one of two mirrors dies midway", (slow(dies_after=PART), GOOD)),
    Row("the only mirror dies midway", (slow(dies_after=PART),)),
    Row("one of two: 404", (slow(missing=True), GOOD)),
    Row("one of two goes silent midway", (slow(hang_after=PART), GOOD)),
    Row("the only mirror goes silent midway", (slow(hang_after=PART),)),
    Row("one of two: 100 kB/s", (Faults(total_bytes_per_second=100_000), GOOD)),
    Row("every connection reset after 5 MB", (slow(reset_every=5_000_000),)),
    Row("no Range", (slow(no_range=True),)),
    Row("a proxy drops Range", (slow(drops_range=True),)),
    Row("one of two: wrong Content-Range", (slow(content_range="shifted"), GOOD)),
    Row("one of two: other bytes than its Content-Range says", (slow(content_range="asked_only"), GOOD)),
    Row("one of two: fewer bytes than said", (slow(short_by=1000), GOOD)),
    Row("one of two: another length", (slow(smaller_by=1000), GOOD)),
    Row("more bytes than said", (slow(long_by=1000),)),
    Row("503 eight times", (slow(failing=8),)),
    Row("503 eight times, Retry-After: 1", (slow(failing=8, retry_after="1"),)),
    Row("two connections allowed, 503 above", (slow(max_connections=2),)),
    Row("one of two: endless redirects", (slow(redirect="loop"), GOOD)),
    Row("one of two: a web page with status 200", (slow(html=True), GOOD)),
    Row("only a web page with status 200", (slow(html=True),)),
    Row("only a web page, no hash known", (slow(html=True),), hash_known=False),
    Row("gzip content coding", (slow(gzip="always"),)),
    Row("one of two: gzip content coding", (slow(gzip="always"), GOOD)),
    Row("ETag and bytes change midway", (slow(changes_after=PART),), changes=True, hash_known=False),
    Row("corrupt bytes from one of two", (slow(corrupt=WRONG), GOOD)),
    Row("corrupt bytes from one of two, no hash known", (slow(corrupt=WRONG), GOOD), hash_known=False),
    Row("corrupt bytes from one of three", (slow(corrupt=WRONG), GOOD, GOOD)),
    Row(
        "corrupt bytes from all", (slow(corrupt=WRONG), slow(corrupt=spread(4, 3000), corrupt_seed=0x55)), passes=False
    ),
    Row("corrupt bytes from the only source", (slow(corrupt=WRONG),)),
    Row("kill -9 midway", (GOOD,), kill_at=PART * 2),
    Row("kill -9 midway, another object at the second run", (GOOD,), kill_at=PART, changes=True, hash_known=False),
    Row("disk full", (GOOD,), place="full"),
    Row("file system read-only", (GOOD,), place="read-only"),
)
