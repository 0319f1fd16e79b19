"""A machine as a cloud hands it over: a Debian with cloud-init that has never booted, and its seed of user-data."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from support.systemd_box import PACKAGES, Box

SEED = "/var/lib/cloud/seed/nocloud"


def cloud_root(suite: str = "bookworm") -> Path:
    """Return the pristine root of a release with cloud-init, made at the first call on this machine (40 s, 330 MB)."""
    home = os.environ.get("FIRSTLIGHT_TEST_ROOTS") or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    base = Path(home) / "firstlight-tests" / f"cloud-{suite}"
    base.parent.mkdir(parents=True, exist_ok=True)
    with base.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not base.exists():
            partial = base.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            packages = f"{PACKAGES},cloud-init,python3,ca-certificates,iproute2"
            words = ["mmdebstrap", "--variant=minbase", f"--include={packages}", suite, str(partial)]
            made = subprocess.run(words, capture_output=True, text=True, timeout=600, check=False)
            assert made.returncode == 0, made.stderr[-3000:]
            partial.rename(base)
    return base


def seed(box: Box, user_data: str) -> None:
    """Give a box its user-data as a NoCloud disk does."""
    box.put(f"{SEED}/user-data", user_data)
    box.put(f"{SEED}/meta-data", f"instance-id: {box.name}\nlocal-hostname: {box.name}\n")
    box.put("/etc/cloud/cloud.cfg.d/99-test.cfg", "datasource_list: [ NoCloud ]\nnetwork: {config: disabled}\n")
