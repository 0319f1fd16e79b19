"""One download with firstlight's own downloader, as a program of its own, to be measured beside its peers.

    ours.py '{"urls": […], "target": "…", "sha256": "…", "size": 1, "unpack": "FOLDER", "policy": {…}}'

Only `urls` and `target` must be given. Prints how it ended as JSON; the exit code is that of the error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from firstlight.errors import FirstlightError
from firstlight.events import Note, Step
from firstlight.fetching.fetch import fetch
from firstlight.fetching.types import Fetched, Policy, Source, Wanted


def work(words: dict[str, Any], step: Step) -> Fetched:
    """Fetch, and unpack where a folder is given."""
    sources = tuple(Source(url=url, name=f"source {at}", kind="user") for at, url in enumerate(words["urls"], 1))
    target = Path(words["target"])
    wanted = Wanted(name=target.name, sources=sources, size=words.get("size"), sha256=words.get("sha256"))
    policy = Policy(**words["policy"]) if "policy" in words else None
    if "unpack" not in words:
        return fetch(wanted, target, step=step, policy=policy)
    from firstlight.fetching.unpacking import fetch_and_unpack

    return fetch_and_unpack(wanted, target, Path(words["unpack"]), step=step, policy=policy)[0]


def main() -> int:
    """Do it and say how it ended."""
    notes: list[str] = []
    step = Step(lambda event: notes.append(event.text) if isinstance(event, Note) else None, "fetch", "fetch")
    try:
        fetched = work(json.loads(sys.argv[1]), step)
    except FirstlightError as error:
        print(json.dumps({"kind": error.kind, "what": error.what, "why": error.why, "fix": error.fix, "notes": notes}))
        return error.code
    told = {"shares": {share.source: share.bytes for share in fetched.shares}, "resumed": fetched.resumed}
    print(json.dumps({**told, "dropped": {drop.source: drop.reason for drop in fetched.dropped}, "notes": notes}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
