"""Display and compute devices on the PCI bus, whatever driver they have."""

from __future__ import annotations

import re

import msgspec

from firstlight.machine.facts import Gpu
from firstlight.machine.system import System

VENDORS = {0x10DE: "nvidia", 0x1002: "amd", 0x8086: "intel"}
"""Makers of GPUs that compute; a server's ASPEED or Matrox screen, QXL and virtio are none."""
_SERVER_SCREENS = frozenset({(0x1002, 0x515E), (0x1002, 0x5969)})
"""ATI ES1000 and RN50: the management controller's screen in older servers."""
_DISPLAY = 0x03
_ACCELERATOR = 0x12
_IDS = ("/usr/share/misc/pci.ids", "/usr/share/hwdata/pci.ids", "/usr/share/pci.ids")


class Device(msgspec.Struct, frozen=True, kw_only=True):
    """One GPU on the bus."""

    address: str
    vendor: int
    device: int


def read_devices(system: System) -> list[Device]:
    """Return the GPUs on the PCI bus by address."""
    found = []
    for folder in system.entries("/sys/bus/pci/devices"):
        base = f"/sys/bus/pci/devices/{folder.name}"
        vendor = _hex(system.text_of(f"{base}/vendor"))
        if vendor not in VENDORS or vendor is None:
            continue
        device = _hex(system.text_of(f"{base}/device")) or 0
        kind = (_hex(system.text_of(f"{base}/class")) or 0) >> 16
        # AMD's Instinct cards call themselves processing accelerators; Intel's and NVIDIA's of that class are no GPUs.
        is_gpu = kind == _DISPLAY or (kind == _ACCELERATOR and VENDORS[vendor] == "amd")
        if is_gpu and (vendor, device) not in _SERVER_SCREENS:
            found.append(Device(address=folder.name, vendor=vendor, device=device))
    return found


def describe(system: System, device: Device, index: int) -> Gpu:
    """Return a PCI device as a GPU: its name and, where AMD's driver tells, its memory; no compute capability."""
    base = f"/sys/bus/pci/devices/{device.address}"
    total = _number(system.text_of(f"{base}/mem_info_vram_total"))
    used = _number(system.text_of(f"{base}/mem_info_vram_used"))
    return Gpu(
        index=index,
        vendor=VENDORS[device.vendor],
        name=system.text_of(f"{base}/product_name") or _name(system, device),
        memory_total=total,
        memory_free=total - used if total is not None and used is not None else None,
    )


def parse_ids(text: str, vendor: int, device: int) -> str | None:
    """Return a device's name in a `pci.ids` file (vendors at the margin, devices behind one tab), or None."""
    head = re.search(rf"^{vendor:04x}  .*$", text, re.MULTILINE)
    if head is None:
        return None
    rest = text[head.end() :]
    following = re.search(r"^[0-9a-fC]", rest, re.MULTILINE)
    own = rest[: following.start()] if following else rest
    match = re.search(rf"^\t{device:04x}  (.+)$", own, re.MULTILINE)
    return match.group(1).strip() if match else None


def _name(system: System, device: Device) -> str:
    for path in _IDS:
        text = system.text_of(path)
        name = parse_ids(text, device.vendor, device.device) if text else None
        if name:
            return name
    maker = {"nvidia": "NVIDIA", "amd": "AMD", "intel": "Intel"}[VENDORS[device.vendor]]
    return f"{maker} GPU [{device.vendor:04x}:{device.device:04x}]"


def _hex(text: str | None) -> int | None:
    try:
        return int(text, 16) if text else None
    except ValueError:
        return None


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None


def is_nvidia(device: Device) -> bool:
    """Tell whether a PCI device is NVIDIA's."""
    return VENDORS[device.vendor] == "nvidia"
