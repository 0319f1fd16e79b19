"""What keeps servers running: systemd, lingering, supervisord; who holds the ports; what services see of proxies."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath

from firstlight.doctor.check import Check
from firstlight.doctor.evidence import Evidence, seen
from firstlight.doctor.findings import Finding, RunCommand, by_hand, by_itself, ok, skip, warn
from firstlight.doctor.judging import names
from firstlight.doctor.probes.ports import PortSeen
from firstlight.doctor.probes.variables import PROXIES
from firstlight.doctor.secrets import without_secrets

_WHOLE = frozenset({"running", "degraded", "starting", "initializing"})
"""Degraded is whole enough: some unit failed, and machines out of cloud-init are degraded as a rule."""


def supervisor(evidence: Evidence) -> Iterable[Finding]:
    """Tell what would keep a server running here."""
    init, container = evidence.machine.init, evidence.machine.host.container
    ours = evidence.services.supervised if evidence.services is not None else ()
    supervision = evidence.supervision
    if init.system is None:
        yield skip("what supervises services is unknown")
    elif init.system == "systemd" and (init.state is None or init.state in _WHOLE):
        yield ok(f"systemd is {init.state or 'there'}")
    elif init.system == "systemd":
        yield warn(
            f"systemd is {init.state}",
            detail="It takes no new services in this state.",
            remedy=by_hand("see what it waits for", "systemctl list-jobs"),
        )
    elif any(service.supervisor for service in ours):
        yield ok("there is no systemd, and firstlight's own supervisor runs")
    elif supervision is not None and supervision.supervisord is not None:
        runs = "runs" if supervision.supervisord_runs else "is installed"
        yield ok(f"there is no systemd, and supervisord {runs}")
    else:
        where = "this container" if container else "this machine"
        yield warn(
            f"nothing keeps a server running in {where} (process 1 is {init.system})",
            detail="There is no systemd: a server that crashes stays down, and after a restart nothing is started. "
            "`systemctl enable` would make a link and answer 0 all the same.",
            remedy=by_hand(
                "let a supervisor of our own keep it running (it prints the line for your platform's start hook)",
                "firstlight service.install ENGINE --model MODEL",
            )
            if not ours
            else by_hand("start our supervisor and its services again", "firstlight restore"),
        )


def linger(evidence: Evidence) -> Iterable[Finding]:
    """Tell when a user's services would end with the last login."""
    found = seen(evidence.supervision)
    units = [unit.name for unit in found.units if unit.scope == "user"]
    if evidence.machine.init.system != "systemd":
        yield skip("there is no systemd")
    elif evidence.machine.host.uid == 0:
        yield skip("root's services are system services")
    elif found.linger is None:
        yield skip("whether systemd keeps your services is unknown")
    elif found.linger:
        yield ok("your services go on without a login (linger)")
    elif not units:
        yield ok("linger is off, and you have no services of your own yet")
    else:
        user = found.user or "$USER"
        yield warn(
            f"{names(units)} ends when you log out, and does not start with the machine",
            detail="systemd ends a user's services with the last login unless the user lingers.",
            evidence=f"no /var/lib/systemd/linger/{user}",
            remedy=by_itself(
                "let your services go on without a login",
                RunCommand(argv=["loginctl", "enable-linger", user], changes=f"/var/lib/systemd/linger/{user}"),
                commands=(f"loginctl enable-linger {user}",),
            ),
        )


def ports(evidence: Evidence) -> Iterable[Finding]:
    """Tell who holds the engines' default ports."""
    free = []
    for port in seen(evidence.ports).ports:
        if not port.taken:
            free.append(str(port.port))
        else:
            yield _taken(port)
    if free:
        yield ok(f"port{'s' if len(free) > 1 else ''} {names(free)} can be had", subject="free")


def _taken(port: PortSeen) -> Finding:
    subject = f"port {port.port}"
    holder = port.holder
    if holder is None:
        return warn(
            f"{subject} is taken, by a process that cannot be seen from here",
            affects=list(port.engines),
            remedy=by_hand("choose another", f"firstlight up --port {port.port + 10}"),
            subject=subject,
        )
    words = without_secrets(holder.words)
    program = PurePosixPath((holder.command or "").split(" ")[0]).name
    if port.ours is not None:
        return ok(f"{subject} is held by our server {port.ours}", evidence=words, subject=subject)
    if program in port.engines:
        return ok(f"{subject} is held by {program} itself", evidence=f"{holder.address}: {words}", subject=subject)
    return warn(
        f"{subject} is taken by {program or 'a process that cannot be seen from here'}",
        detail="An engine started on it by hand ends with `address already in use`; firstlight names a free one.",
        evidence=f"{holder.address}: {words}",
        affects=list(port.engines),
        remedy=by_hand("choose another, or stop that process if it is yours", f"firstlight up --port {port.port + 10}"),
        subject=subject,
    )


def service_proxy(evidence: Evidence) -> Iterable[Finding]:
    """Tell services that do not see the proxy of the shell."""
    variables, found = seen(evidence.variables), seen(evidence.supervision)
    proxies = [name for name in PROXIES[:3] if variables.proxy(name)]
    if not proxies:
        yield ok("no proxy is set in this shell")
        return
    if not found.units:
        yield ok("no engine runs as a service that would need the proxy")
        return
    blind = [unit for unit in found.units if not unit.proxies and not found.manager_proxies]
    for unit in blind:
        user = "--user " if unit.scope == "user" else ""
        yield warn(
            f"{unit.name}.service does not see this shell's proxy",
            detail="What a service downloads goes past the proxy, and hangs where nothing else leads out.",
            evidence=f"{unit.path} sets none of {', '.join(proxies)}",
            affects=[unit.engine],
            remedy=by_hand(
                "give it the same variables, NO_PROXY included",
                f"{'' if user else 'sudo '}systemctl {user}edit {unit.name}",
                root=not user,
            ),
            source="ollama/ollama#1546; systemd.exec(5), Environment",
            subject=unit.name,
        )
    if not blind:
        yield ok("the engines' services see a proxy too")


CHECKS: tuple[Check, ...] = (
    Check(
        id="supervisor",
        group="services",
        title="something keeps servers running",
        look=supervisor,
        uses=("supervision", "services"),
        source="sd_booted(3): /run/systemd/system",
    ),
    Check(
        id="linger",
        group="services",
        title="your services go on without a login",
        look=linger,
        needs=("supervision",),
        source="loginctl(1), enable-linger",
    ),
    Check(id="ports", group="services", title="the engines' ports can be had", look=ports, needs=("ports",)),
    Check(
        id="service-proxy",
        group="services",
        title="services see the proxy that the shell has",
        look=service_proxy,
        needs=("variables", "supervision"),
    ),
)
