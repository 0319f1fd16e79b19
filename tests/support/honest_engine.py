"""A small honest engine: the command line of `transformers serve`, a server that loads, answers chats and can crash.

Written into an environment as the package `transformers` (`write`); standard library only. What it does is decided by
the file `behaviour` of its model's folder: `crash` dies while loading, as torch does where a GPU's memory is full;
`silent` never gets ready; `outdoors` needs something in /home.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

BEHAVIOUR = "honest"
"""Of the environment itself; `write` replaces it."""


class Answers(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _send(self, body: bytes, status: int = 200, kind: str = "application/json") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(b'{"status":"ok"}')
        elif self.path == "/who":
            facts = {
                "uid": os.getuid(),
                "environment": dict(os.environ),
                "argv": sys.argv,
                "executable": sys.executable,
            }
            self._send(json.dumps(facts).encode())
        else:
            self._send(b"{}", 404)

    def do_POST(self) -> None:
        key = os.environ.get("VLLM_API_KEY")
        if key and self.headers["Authorization"] != f"Bearer {key}":
            self._send(b'{"error": "unauthorized"}', 401)
            return
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        model, most = asked["model"], asked.get("max_tokens") or 3
        pieces = ["Paris "] * min(3, most)
        if not asked.get("stream"):
            message = {"role": "assistant", "content": "".join(pieces)}
            whole = {"model": model, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
            self._send(json.dumps(whole).encode())
            return
        lines = []
        for piece in [*pieces, None]:
            delta = {} if piece is None else {"content": piece}
            choice = {"index": 0, "delta": delta, "finish_reason": "stop" if piece is None else None}
            lines.append(f"data: {json.dumps({'model': model, 'choices': [choice]})}\n\n")
        self._send("".join([*lines, "data: [DONE]\n\n"]).encode(), kind="text/event-stream")

    def log_message(self, form: str, *words: object) -> None:
        sys.stderr.write(f"{form % words}\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("model")
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    words, _ = parser.parse_known_args()
    note = Path(words.model, "behaviour")
    behaviour = note.read_text().strip() if note.exists() else BEHAVIOUR
    print("loading", words.model, flush=True)
    if behaviour == "crash":
        print('Traceback (most recent call last):\n  File "model.py", line 1, in load', file=sys.stderr)
        sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
    if behaviour == "outdoors":
        Path("/home/shared").stat()
    if behaviour == "silent":
        time.sleep(600)
    Path(os.environ["HF_HOME"], "written-by-the-engine").write_text("yes")
    ThreadingHTTPServer((words.host, words.port), Answers).serve_forever()


def write(prefix: Path, behaviour: str = "honest", module: str = "transformers.cli.transformers") -> None:
    """Put it into an environment as a module."""
    (site,) = prefix.glob("lib/python3*/site-packages")
    file = site / f"{module.replace('.', '/')}.py"
    file.parent.mkdir(parents=True)
    for folder in file.parents:
        if folder == site:
            break
        (folder / "__init__.py").write_text("")
    file.write_text(Path(__file__).read_text().replace('BEHAVIOUR = "honest"', f'BEHAVIOUR = "{behaviour}"', 1))


if __name__ == "__main__":
    main()
