"""Which kind of container, and which Windows Subsystem for Linux, this is."""

from __future__ import annotations

import re

from firstlight.machine.system import System

_MARKERS = (
    ("/var/run/secrets/kubernetes.io", "kubernetes"),
    ("/run/.containerenv", "podman"),
    ("/.dockerenv", "docker"),
    ("/.singularity.d", "apptainer"),
)
_CGROUPS = (
    (re.compile(r"kubepods"), "kubernetes"),
    (re.compile(r"libpod-[0-9a-f]"), "podman"),
    # An identifier belongs to it: `/system.slice/docker.service` is the daemon's own group on the host.
    (re.compile(r"docker[-/][0-9a-f]{12}"), "docker"),
    (re.compile(r"/lxc(\.payload)?[./]"), "lxc"),
)
_NO_CONTAINER = frozenset({"host", "wsl"})
"""What systemd writes where there is no container in our sense: WSL is told apart by `wsl`."""


def read_container(system: System) -> str | None:
    """Return `docker`, `podman`, `kubernetes`, `lxc`, `systemd-nspawn`, …, or None outside any container.

    Source: systemd's CONTAINER_INTERFACE and detect-virt; the marker files that Docker, Podman and Apptainer write.
    """
    # A pod's containers carry the marker of their runtime too: the outer name comes first.
    if "KUBERNETES_SERVICE_HOST" in system.environment:
        return "kubernetes"
    for path, kind in _MARKERS:
        if system.exists(path):
            return kind
    groups = "\n".join(system.text_of(f"/proc/{process}/cgroup") or "" for process in ("1", "self"))
    names = (
        system.text_of("/run/systemd/container"),
        system.text_of("/run/host/container-manager"),
        parse_environ(system.bytes_of("/proc/1/environ") or b""),
        parse_cgroup(groups),
    )
    return next((name for name in names if name and name not in _NO_CONTAINER), None)


def parse_environ(data: bytes) -> str | None:
    """Return the value of `container=` in the environment of process 1."""
    for entry in data.split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == b"container":
            return value.decode("utf-8", "replace")
    return None


def parse_cgroup(text: str) -> str | None:
    """Return the container that a cgroup path names; with cgroup namespaces (`0::/`) it names none."""
    for pattern, kind in _CGROUPS:
        if pattern.search(text):
            return kind
    return None


def parse_wsl(release: str) -> str | None:
    """Return `1` or `2` for a kernel release of the Windows Subsystem for Linux, else None.

    WSL 1 has no kernel of its own and says `4.4.0-<Windows build>-Microsoft`.
    """
    if "microsoft" not in release.lower() and "wsl2" not in release.lower():
        return None
    return "1" if re.match(r"4\.4\.\d+-\d+-Microsoft", release) else "2"
