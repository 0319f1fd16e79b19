"""The evidence: machine facts, plans, and what the probes saw. A check is a function of this one frozen value."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from firstlight.catalogue.types import Catalogue
from firstlight.doctor.probes.compiler import Compiler
from firstlight.doctor.probes.conda_base import CondaBase
from firstlight.doctor.probes.environments import Environments
from firstlight.doctor.probes.holders import GpuHolders
from firstlight.doctor.probes.home_folder import HomeFolder
from firstlight.doctor.probes.installed import InstalledSeen
from firstlight.doctor.probes.libraries import Libraries
from firstlight.doctor.probes.limits import Limits
from firstlight.doctor.probes.network import NetworkSeen
from firstlight.doctor.probes.ollama import OllamaSeen
from firstlight.doctor.probes.ports import PortsSeen
from firstlight.doctor.probes.services import ServicesSeen
from firstlight.doctor.probes.supervision import Supervision
from firstlight.doctor.probes.temporary import Temporary
from firstlight.doctor.probes.variables import Variables
from firstlight.home import Home
from firstlight.machine.facts import Machine
from firstlight.planning.plan import Plan

T = TypeVar("T")


DAMAGED = "catalogue page of "
"""What the name of a damaged page of the catalogue begins with, in `Evidence.unseen`."""
PLAN = "plan of "
"""What the name of a plan that broke begins with, in `Evidence.unseen`."""


class Unseen(msgspec.Struct, frozen=True, kw_only=True):
    """Why a field of the evidence is None: it was not looked at, or its probe broke."""

    name: str
    reason: str
    broke: bool = False


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """All that the checks judge by. A field that was not looked at is None, and `unseen` says why.

    With `--machine FILE` only the machine, the catalogue and the plans are there.
    """

    machine: Machine
    catalogue: Catalogue
    plans: tuple[Plan, ...]
    """One plan per engine, in the catalogue's order: what would be chosen with no wishes."""
    home: Home | None = None
    """The home that is set or in use; None: there is none yet, and the plans propose one."""
    variables: Variables | None = None
    limits: Limits | None = None
    ports: PortsSeen | None = None
    holders: GpuHolders | None = None
    libraries: Libraries | None = None
    compiler: Compiler | None = None
    supervision: Supervision | None = None
    temporary: Temporary | None = None
    home_folder: HomeFolder | None = None
    installed: InstalledSeen | None = None
    environments: Environments | None = None
    conda_base: CondaBase | None = None
    ollama: OllamaSeen | None = None
    services: ServicesSeen | None = None
    network: NetworkSeen | None = None
    unseen: tuple[Unseen, ...] = ()


class NotSeen(Exception):  # noqa: N818 - reads as the sentence that it stands for
    """A check asked for something that was not looked at; whoever runs it makes a skip of that."""


def seen(value: T | None) -> T:
    """Return a field of the evidence that a check has named among its needs.

    Raises:
        NotSeen: it is None.
    """
    if value is None:
        raise NotSeen
    return value
