"""Operating system, kernel, libc, container, board."""

from __future__ import annotations

import os

from firstlight.machine.container import parse_wsl, read_container
from firstlight.machine.facts import Host
from firstlight.machine.libc import read_libc
from firstlight.machine.system import System, printable

_PLACEHOLDERS = {"", "to be filled by o.e.m.", "system product name", "default string", "none", "not specified"}


def read(system: System) -> Host:
    """Return the host without its user; each fact is null alone when it cannot be had."""
    release = system.attempt("host.kernel", lambda: _kernel(system, "osrelease"), None)
    os_id, os_version, os_name = system.attempt("host.os", lambda: _distribution(system), (None, None, None))
    libc, libc_version = system.attempt("host.libc", lambda: read_libc(system), (None, None))
    return Host(
        os=os_id,
        os_version=os_version,
        os_name=os_name,
        kernel=release,
        arch=system.attempt("host.arch", lambda: _arch(system), None),
        libc=libc,
        libc_version=libc_version,
        wsl=system.attempt("host.wsl", lambda: read_wsl(system), None),
        container=system.attempt("host.container", lambda: read_container(system), None),
        hostname=system.attempt("host.hostname", lambda: _kernel(system, "hostname"), None),
        product=system.attempt("host.product", lambda: read_product(system), None),
    )


def read_wsl(system: System) -> str | None:
    """Return `1` or `2` inside the Windows Subsystem for Linux, else None."""
    return parse_wsl(system.text_of("/proc/sys/kernel/osrelease") or system.text_of("/proc/version") or "")


def read_product(system: System) -> str | None:
    """Return the board or instance name: the device tree's model on ARM boards, else the DMI product name."""
    for name in (
        "/proc/device-tree/model",
        "/sys/firmware/devicetree/base/model",
        "/sys/class/dmi/id/product_name",
        "/sys/devices/virtual/dmi/id/product_name",
    ):
        text = system.text_of(name)
        if text and text.lower() not in _PLACEHOLDERS:
            return text
    return None


def _distribution(system: System) -> tuple[str | None, str | None, str | None]:
    from distro import LinuxDistribution

    # Files alone: lsb_release is a program, and uname would describe another machine than a tree.
    found = LinuxDistribution(include_lsb=False, include_uname=False, include_oslevel=False, root_dir=str(system.root))
    os_id = found.id()
    if not os_id:
        return None, None, None
    return os_id, found.version() or None, found.name(pretty=True) or None


def _kernel(system: System, name: str) -> str | None:
    text = system.text_of(f"/proc/sys/kernel/{name}")
    if text or not system.live:
        return text or None
    uname = os.uname()
    return printable(uname.nodename if name == "hostname" else uname.release)


def _arch(system: System) -> str | None:
    # The file (Linux 6.1) stands for a tree; the system call is right under emulation too.
    return os.uname().machine if system.live else system.text_of("/proc/sys/kernel/arch")
