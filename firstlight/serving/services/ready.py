"""Waits until a server answers. Started by path by a service's manager (`python -I -S ready.py …`).

Standard library only. Ends with 0 at the first answer 200. Ends with 1 as soon as the server's process is gone (its
number is the word --pid, or the variable MAINPID that systemd sets), or when the time is up; what it prints goes to the
service's log.
"""

from __future__ import annotations

import argparse
import http.client
import os
import sys
import time

POLL_SECONDS = 0.1


def alive(pid: int) -> bool:
    """Tell whether a process is there; one that we may not signal is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def answers(host: str, port: int, path: str) -> bool:
    """Ask once; http.client knows no proxies."""
    connection = http.client.HTTPConnection(host, port, timeout=5.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def main() -> int:
    """Parse the words and wait; return the exit status."""
    parser = argparse.ArgumentParser(prog="ready")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/health")
    parser.add_argument("--timeout", type=float, required=True, help="seconds")
    parser.add_argument("--pid", type=int, default=int(os.environ.get("MAINPID") or 0))
    words = parser.parse_args()
    started = time.monotonic()
    while time.monotonic() - started < words.timeout:
        if words.pid and not alive(words.pid):
            sys.stdout.write("firstlight: the engine ended before it answered\n")
            return 1
        if answers(words.host, words.port, words.path):
            sys.stdout.write(f"firstlight: it answers after {time.monotonic() - started:.1f} s\n")
            return 0
        time.sleep(POLL_SECONDS)
    sys.stdout.write(f"firstlight: the engine did not answer within {words.timeout:.0f} s\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
