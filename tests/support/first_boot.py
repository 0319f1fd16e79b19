"""A machine as a cloud hands it over: a Debian with cloud-init that has never booted, and its seed of user-data."""

from __future__ import annotations

from pathlib import Path

from support.systemd_box import PACKAGES, Box, made_root

SEED = "/var/lib/cloud/seed/nocloud"


def cloud_root(suite: str = "bookworm") -> Path:
    """Return the pristine root of a release with cloud-init, made at the first call on this machine (40 s, 330 MB)."""
    return made_root(f"cloud-{suite}", suite, f"{PACKAGES},cloud-init,python3,ca-certificates,iproute2")


def seed(box: Box, user_data: str) -> None:
    """Give a box its user-data as a NoCloud disk does."""
    box.put(f"{SEED}/user-data", user_data)
    box.put(f"{SEED}/meta-data", f"instance-id: {box.name}\nlocal-hostname: {box.name}\n")
    box.put("/etc/cloud/cloud.cfg.d/99-test.cfg", "datasource_list: [ NoCloud ]\nnetwork: {config: disabled}\n")
