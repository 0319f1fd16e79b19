"""What every test starts with: a product that waits longer than any busy machine stalls."""

from __future__ import annotations

import importlib

import pytest

LIMITS = {
    "firstlight.doctor.examine": ("MACHINE_SECONDS", "SECONDS"),
    "firstlight.doctor.looking": ("MOUNT_SECONDS",),
    "firstlight.doctor.probes.holders": ("_LONGEST",),
    "firstlight.doctor.probes.ollama": ("_ASK_SECONDS",),
    "firstlight.doctor.probes.services": ("SHOW_SECONDS", "JOURNAL_SECONDS"),
    "firstlight.doctor.probes.supervised": ("SUPERVISOR_SECONDS",),
    "firstlight.models.hubs": ("PROBE_SECONDS", "LONGEST_PROBE"),
    "firstlight.engines.ollama.api": ("_CONNECT", "_SHORT"),
    "firstlight.machine.disks": ("PATIENCE",),
    "firstlight.machine.driver": ("NVCC_SECONDS",),
    "firstlight.machine.init": ("SYSTEMCTL_SECONDS",),
    "firstlight.machine.pythons": ("RUN_SECONDS",),
    "firstlight.machine.reading": ("DEADLINE",),
    "firstlight.machine.user": ("SUDO_SECONDS",),
}
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def _a_stalled_machine_changes_no_facts(monkeypatch):
    """Widen the limits, a second or two for people who wait; a test of what hangs sets its own.

    Processes that a test starts keep them.
    """
    for module, names in LIMITS.items():
        for name in names:
            monkeypatch.setattr(importlib.import_module(module), name, PATIENCE)
    log_file = importlib.import_module("firstlight.doctor.log_file")
    for read in (log_file.read_parts, log_file.read_end):
        monkeypatch.setitem(read.__kwdefaults__, "seconds", PATIENCE * 10)
