"""The doctor's probes on trees on disk, and its checks on evidence made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from firstlight.catalogue.loading import load_catalogue
from firstlight.catalogue.types import Catalogue
from firstlight.doctor.evidence import Evidence
from firstlight.doctor.examine import Wish, run_check
from firstlight.doctor.findings import Finding
from firstlight.doctor.looking import Look
from firstlight.doctor.table import CHECKS
from firstlight.machine.facts import Gpu, Machine, Nvidia
from firstlight.machine.system import System

GPU = Machine(
    nvidia=Nvidia(driver="580.95.05", cuda="13.0"),
    gpus=[Gpu(index=0, name="NVIDIA A100-SXM4-80GB", compute_capability="8.0")],
)


def look(
    root: Path = Path("/"),
    *,
    home: Path,
    deep: bool = False,
    seconds: float = 120.0,
    catalogue: Catalogue | None = None,
    **variables: str,
) -> Look:
    """Return a look at a tree, with a home and these variables alone."""
    environment = {"PATH": "", "FIRSTLIGHT_HOME": str(home), **variables}
    system = System(root, environment, seconds)
    return Look(system, catalogue or load_catalogue(), Machine, network=True, deep=deep)


def judge(
    name: str, *, machine: Machine | None = None, catalogue: Catalogue | None = None, **fields: Any
) -> list[Finding]:
    """Return the findings of one check for this evidence, and make sure that they can be told as JSON."""
    evidence = Evidence(
        machine=machine or Machine(), catalogue=catalogue or load_catalogue(), **{"plans": (), **fields}
    )
    (check,) = [check for check in CHECKS if check.id == name]
    found = run_check(check, evidence, Wish(network=True, deep=True))
    assert all(finding.id and finding.group and finding.summary for finding in found)
    assert all(finding.status != "crash" for finding in found), found
    msgspec.json.encode(found)
    return found


def told(findings: list[Finding]) -> list[tuple[str, str | None]]:
    """Return status and subject of findings."""
    return [(finding.status, finding.subject) for finding in findings]
