"""Services measured in a throw-away machine: from `kill -9` to an answer, `service.status`, and the exposure of units.

    sudo .venv/bin/python scripts/bench_services.py [--times N]

Needs root, systemd-nspawn and mmdebstrap, like the tests marked `systemd`. The engine is the tests' small honest one,
whose own start is measured too: what is left beside it and systemd's restart delay is ours.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.service_machine import ENGINE, HOME, MODEL, PORT, ServiceMachine, furnish  # noqa: E402
from support.service_specs import every_kind  # noqa: E402
from support.systemd_box import Box, base_root  # noqa: E402

from firstlight.serving.services.rendering import render_unit  # noqa: E402

_STAMP = "date +%s.%N"
_UNTIL_ANSWER = (
    "perl -e 'use IO::Socket::INET; use Time::HiRes qw(time sleep); while (1) {"
    f' my $s = IO::Socket::INET->new(PeerAddr => "127.0.0.1:{PORT}");'
    ' if ($s) { print $s "GET /health HTTP/1.0\\r\\n\\r\\n"; last if <$s> =~ /200/; } sleep 0.005 } print time'
    "'"
)


def kill_and_wait(machine: ServiceMachine) -> float:
    """Kill the engine and return the seconds until it answers again."""
    script = f"pid=$(systemctl show -p MainPID --value {ENGINE}); {_STAMP}; kill -9 $pid; {_UNTIL_ANSWER}"
    begun, answered = machine.box.run(script).stdout.split()
    machine.wait_for(lambda: machine.systemctl("is-active", ENGINE, check=False) == "active")
    machine.systemctl("reset-failed", ENGINE)
    return float(answered) - float(begun)


def own_start(machine: ServiceMachine) -> float:
    """Start the engine by hand and return the seconds until it answers."""
    python = f"{HOME}/environments/{ENGINE}/current/bin/python"
    engine = f"{python} -m transformers.cli.transformers serve '{MODEL}' --host 127.0.0.1 --port {PORT}"
    script = f"mkdir -p /tmp/hub; {_STAMP}; HF_HOME=/tmp/hub {engine} >/dev/null 2>&1 & {_UNTIL_ANSWER}; kill $!"
    begun, answered = machine.box.run(script).stdout.split()
    return float(answered) - float(begun)


def timed(work: str, machine: ServiceMachine) -> float:
    """Return the seconds that a shell command takes inside."""
    begun = time.monotonic()
    machine.box.run(work, check=False, PYTHONPATH=str(ROOT))
    return time.monotonic() - begun


def exposures(suite: str, version: int, folder: Path) -> None:
    """Print the exposure of our units and of others', by the systemd of a release."""
    box = Box(base_root(suite), folder)
    try:
        box.boot()
        units = {path.stem: path.read_text() for path in sorted((ROOT / "tests" / "data" / "units").iterdir())}
        for name, kind in every_kind().items():
            if kind.scope == "system" and name.endswith("near"):
                units[name] = render_unit(kind, version=version, groups=("video", "render"))
        for name, text in units.items():
            box.put(f"/units/{name}.service", text)
            judged = box.run(f"systemd-analyze security --offline=true /units/{name}.service | tail -n 1").stdout
            print(f"systemd {version}  {name:<24} {judged.partition(':')[2].strip()}")
    finally:
        box.destroy()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    with tempfile.TemporaryDirectory() as folder:
        for suite, version in (("bookworm", 252), ("trixie", 257)):
            exposures(suite, version, Path(folder))
        box = Box(base_root(), Path(folder))
        try:
            machine = furnish(box)
            box.boot()
            alone = statistics.median(own_start(machine) for _ in range(times))
            machine.firstlight("service.install", ENGINE, "--model", MODEL, "--port", str(PORT))
            again = statistics.median(kill_and_wait(machine) for _ in range(times))
            rest = again - 1.0 - alone
            print(f"kill -9 to an answer   {again:.2f} s: restart delay 1.00, engine {alone:.2f}, rest {rest:.2f}")
            status = f"cd / && {sys.executable} -m firstlight service.status {ENGINE}"
            box.put("/bare/tasks.py", "from invoke import task\n@task\ndef nothing(c):\n    print(1)\n")
            bare = f"cd /bare && {sys.executable} -m invoke nothing"
            rows = {"bare invoke task": bare, "service.status": status}
            took = {name: statistics.median(timed(work, machine) for _ in range(times)) for name, work in rows.items()}
            for name, seconds in took.items():
                print(f"{name:<22} {seconds:.3f} s")
            print(machine.box.run(f"systemctl status --no-pager {ENGINE}", check=False).stdout)
        finally:
            box.destroy()


if __name__ == "__main__":
    main()
