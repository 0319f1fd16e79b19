"""A fake engine: it loads for a while as an engine does, then serves, dies, hangs or refuses to end."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WORKER = "import time; time.sleep(3600)"
STUBBORN_WORKER = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(3600)"


class Handler(BaseHTTPRequestHandler):
    """Answers /health alone."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


def say(text: str) -> None:
    """Print as a process of an engine does."""
    print(f"(APIServer pid={os.getpid()}) INFO 11-23 10:00:02 [api_server.py:1] {text}", flush=True)


def die() -> None:
    """Die as vLLM does: the cause, a hundred lines of other processes' stacks, the generic end."""
    core = "(EngineCore pid=7) ERROR 11-23 10:00:41 [core.py:1100] "
    print(core + "EngineCore failed to start.\n" + core + "Traceback (most recent call last):")
    print(core + '  File "core.py", line 1, in run')
    print(core + "ValueError: No available memory for the cache blocks. Try increasing `gpu_memory_utilization`")
    for number in range(100):
        print(f'(APIServer pid=1)   File "frame.py", line {number}, in call')
    print("(APIServer pid=1) RuntimeError: Engine core initialization failed. See root cause above.", flush=True)
    sys.exit(1)


def main() -> None:
    """Do what the words ask for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--load", type=float, default=0.3)
    parser.add_argument("--end", choices=["serve", "die", "never", "kill", "silent"], default="serve")
    parser.add_argument("--ignore-term", action="store_true")
    parser.add_argument("--workers", metavar="FILE", help="start three workers, write their process ids there")
    words = parser.parse_args()
    if words.ignore_term:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if words.workers:
        workers = [
            subprocess.Popen([sys.executable, "-c", WORKER]),
            subprocess.Popen([sys.executable, "-c", STUBBORN_WORKER]),
            subprocess.Popen([sys.executable, "-c", STUBBORN_WORKER], start_new_session=True),
        ]
        part = Path(words.workers + ".part")
        part.write_text(" ".join(str(worker.pid) for worker in workers) + f" {os.getpid()}")
        part.replace(words.workers)
    if words.end != "silent":
        say("loading the weights")
        print("\rLoading shards:  50%|#####     | 1/2 [00:01<00:01,  1.00it/s]", end="", flush=True)
    time.sleep(words.load)
    if words.end == "die":
        die()
    if words.end == "silent":
        sys.exit(3)
    if words.end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if words.end == "never":
        time.sleep(3600)
    server = ThreadingHTTPServer((words.host, words.port), Handler)
    say("ready")
    server.serve_forever()


if __name__ == "__main__":
    main()
