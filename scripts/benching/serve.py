"""Serves files for a benchmark, in a process of its own: `serve.py SPEC.json`, until stdin ends.

    {"congestion": "", "servers": [{"host": "127.0.0.1", "routes": [{"path": "/f", "file": "/path", "faults": {}}]}]}

The addresses go to stdout as one line of JSON. Runs where there is no firstlight: in another network namespace, say.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))

from support.faults import Faults
from support.faulty_server import faulty_server


def main() -> None:
    """Serve."""
    spec = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    with contextlib.ExitStack() as stack:
        addresses = []
        for given in spec["servers"]:
            server = stack.enter_context(faulty_server(given["host"], 0, spec.get("congestion", "")))
            for route in given["routes"]:
                added = server.add(route["path"], Path(route["file"]), Faults(**route.get("faults", {})))
                addresses.append(added.url)
        print(json.dumps(addresses), flush=True)
        while os.read(0, 4096):
            pass


if __name__ == "__main__":
    main()
