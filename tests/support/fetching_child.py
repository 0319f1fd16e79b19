"""Downloads in processes of their own that can be killed at any moment, quick to start: one program forks them.

It reads one line of JSON for each on stdin ({"urls", "target", "sha256", "result"}), prints {"pid": N} when it
is started and {"pid": N, "status": S} when it has ended (S as of waitpid). `Children` is its other side.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
from pathlib import Path

POLICY = {"piece": 1 << 17, "stall_seconds": 30, "retry_wait": 0.02, "retry_wait_max": 0.1, "spare": 0}


def download(words):
    """Fetch as told; the exit code is that of the program."""
    from firstlight.errors import FirstlightError
    from firstlight.events import Step, silent
    from firstlight.fetching.fetch import fetch
    from firstlight.fetching.types import Policy, Source, Wanted

    sources = tuple(Source(url=url, name=f"mirror {at}", kind="user") for at, url in enumerate(words["urls"], 1))
    target = Path(words["target"])
    wanted = Wanted(name=target.name, sources=sources, sha256=words["sha256"])
    step = Step(silent, "fetch", "fetch")
    result = Path(words["result"])
    try:
        fetched = fetch(wanted, target, step=step, policy=Policy(**{**POLICY, **words.get("policy", {})}))
    except FirstlightError as error:
        result.write_text(json.dumps({"kind": error.kind, "what": error.what, "why": error.why}), "utf-8")
        return error.code
    except KeyboardInterrupt:
        return 130
    told = {"bytes": fetched.bytes, "resumed": fetched.resumed, "reused": fetched.reused}
    result.write_text(json.dumps(told), "utf-8")
    return 0


def child(words):
    """Be the download, and nothing of the program that forked it."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    code = 70
    try:
        code = download(words)
    except BaseException:  # noqa: BLE001 - told by the interpreter's own words, then the end
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def main():
    """Fork a download for each line, tell of each that ended."""
    import requests  # noqa: F401 - once for all of them

    import firstlight.fetching.fetch  # noqa: F401

    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            ready, _, _ = select.select([0, ended], [], [])
            if ended in ready:
                os.read(ended, 1024)
                with contextlib.suppress(ChildProcessError):
                    while (found := os.waitpid(-1, os.WNOHANG))[0]:
                        print(json.dumps({"pid": found[0], "status": found[1]}), flush=True)
            if 0 in ready:
                line = sys.stdin.buffer.raw.readline()
                if not line:
                    return
                pid = os.fork()
                if pid == 0:
                    child(json.loads(line))
                print(json.dumps({"pid": pid}), flush=True)


class Running:
    """One download in a process of its own."""

    def __init__(self, pid, result):
        self.pid, self.result = pid, result
        self.over = threading.Event()
        self.status = None

    def signal(self, number):
        """Send it a signal; it may have ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self):
        """Return its exit code, or minus the signal that ended it."""
        assert self.over.wait(120), "the download does not end"
        return os.waitstatus_to_exitcode(self.status)

    def told(self):
        """What it said at its end."""
        return json.loads(self.result.read_text("utf-8"))


class Children:
    """Starts downloads; use it as a context manager."""

    def __init__(self, folder):
        self.folder, self.running, self.started = folder, {}, threading.Condition()
        self.new = []

    def __enter__(self):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "NO_PROXY": "127.0.0.1"}
        words = [sys.executable, "-W", "error", str(Path(__file__).resolve())]
        self.program = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self.reader = threading.Thread(target=self.read)
        self.reader.start()
        return self

    def read(self):
        """Take in what the program tells."""
        for line in self.program.stdout:
            told = json.loads(line)
            with self.started:
                running = self.running.setdefault(told["pid"], Running(told["pid"], None))
                if "status" in told:
                    running.status = told["status"]
                    running.over.set()
                else:
                    self.new.append(running)
                self.started.notify_all()

    def start(self, urls, target, sha256, **more):
        """Start one."""
        result = self.folder / f"result-{len(self.running)}.json"
        words = {"urls": urls, "target": str(target), "sha256": sha256, "result": str(result), **more}
        self.program.stdin.write(json.dumps(words).encode() + b"\n")
        self.program.stdin.flush()
        with self.started:
            assert self.started.wait_for(lambda: self.new, 60), "the program does not answer"
            running = self.new.pop()
        running.result = result
        return running

    def __exit__(self, *_words):
        for running in self.running.values():
            if not running.over.is_set():
                running.signal(signal.SIGKILL)
        self.program.stdin.close()
        self.program.wait(30)
        self.reader.join()
        self.program.stdout.close()


if __name__ == "__main__":
    main()
