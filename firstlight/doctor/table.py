"""All probes and all checks of the doctor."""

from __future__ import annotations

from firstlight.doctor.check import Check
from firstlight.doctor.checks import (
    cards,
    disks,
    drivers,
    environments,
    hosts,
    installed,
    network,
    ollama,
    proxies,
    pythons,
    services,
    supervisors,
)
from firstlight.doctor.looking import DoctorProbe
from firstlight.doctor.probes import (
    compiler,
    conda_base,
    holders,
    home_folder,
    libraries,
    limits,
    ports,
    supervision,
    temporary,
    variables,
)
from firstlight.doctor.probes import environments as environments_seen
from firstlight.doctor.probes import installed as installed_seen
from firstlight.doctor.probes import network as network_seen
from firstlight.doctor.probes import ollama as ollama_seen
from firstlight.doctor.probes import services as services_seen

PROBES: tuple[DoctorProbe, ...] = (
    DoctorProbe(name="variables", read=variables.read),
    DoctorProbe(name="limits", read=limits.read),
    DoctorProbe(name="ports", read=ports.read),
    DoctorProbe(name="holders", read=holders.read),
    DoctorProbe(name="libraries", read=libraries.read),
    DoctorProbe(name="compiler", read=compiler.read),
    DoctorProbe(name="supervision", read=lambda look: look.once(supervision.read)),
    DoctorProbe(name="temporary", read=temporary.read),
    DoctorProbe(name="home_folder", read=home_folder.read),
    DoctorProbe(name="installed", read=installed_seen.read),
    DoctorProbe(name="environments", read=environments_seen.read),
    DoctorProbe(name="conda_base", read=conda_base.read),
    DoctorProbe(name="ollama", read=ollama_seen.read),
    DoctorProbe(name="services", read=services_seen.read),
    DoctorProbe(name="network", read=network_seen.read, speed="network"),
)

CHECKS: tuple[Check, ...] = (
    *hosts.CHECKS,
    *drivers.CHECKS,
    *cards.CHECKS,
    *disks.CHECKS,
    *pythons.CHECKS,
    *installed.CHECKS,
    *environments.CHECKS,
    *ollama.CHECKS,
    *services.CHECKS,
    *supervisors.CHECKS,
    *proxies.CHECKS,
    *network.CHECKS,
)
