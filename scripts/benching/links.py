"""A bad link: two network namespaces joined with delay and loss (`lossy_link.c`), and servers at its far end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

NEAR, FAR = "firstlight-near", "firstlight-far"
FAR_HOSTS = ("10.99.0.2", "10.99.0.3")


def why_no_link() -> str | None:
    """Return why no such link can be made here, or None."""
    if os.geteuid() != 0:
        return "needs root (network namespaces)"
    for program in ("ip", "gcc"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None if Path("/dev/net/tun").exists() else "there is no /dev/net/tun"


def inside(space: str, words: list[str]) -> list[str]:
    """Return the command that runs `words` in a namespace."""
    return ["ip", "netns", "exec", space, *words]


@contextlib.contextmanager
def lossy_link(folder: Path, round_trip: float, loss: float) -> Iterator[None]:
    """Join NEAR and FAR while the block runs; `round_trip` in milliseconds, `loss` in percent, each way."""
    program = folder / "lossy_link"
    source = Path(__file__).with_name("lossy_link.c")
    subprocess.run(["gcc", "-O2", "-o", str(program), str(source)], check=True)
    spaces = (NEAR, FAR)
    for space in spaces:
        subprocess.run(["ip", "netns", "delete", space], check=False, stderr=subprocess.DEVNULL)
        subprocess.run(["ip", "netns", "add", space], check=True)
    words = [str(program), *spaces, str(round_trip / 2), str(loss), "0"]
    link = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        if link.stdout is None or link.stdout.readline() != b"up\n":
            raise SystemExit("the link did not come up")
        for host in FAR_HOSTS[1:]:
            subprocess.run(inside(FAR, ["ip", "address", "add", f"{host}/24", "dev", "em0"]), check=True)
        yield
    finally:
        link.kill()
        link.wait()
        for space in spaces:
            subprocess.run(["ip", "netns", "delete", space], check=False)
