"""Checks of the engines' services: which failed and what their logs tell, dead records, APIs that are open to all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from firstlight.doctor.check import Check
from firstlight.doctor.evidence import Evidence, seen
from firstlight.doctor.findings import Finding, Remedy, RemovePath, by_hand, by_itself, fail, ok, skip, warn
from firstlight.doctor.probes.services import EndedSeen, OpenServer, RecordSeen, UnitSeen
from firstlight.doctor.probes.supervised import SupervisedSeen
from firstlight.doctor.secrets import without_secrets
from firstlight.doctor.story import LogStory, remedy_of
from firstlight.machine.facts import Machine

_WIDTH = 200


class _Why:
    """What a log tells of a failure, as the parts of a finding."""

    def __init__(self, story: LogStory | None, otherwise: Remedy, machine: Machine) -> None:
        first = story.causes[0].found if story is not None and story.causes else None
        self.cause = first.cause if first is not None else None
        self.words = self.cause.cause if self.cause is not None else ""
        if first is not None and self.cause is None:
            self.words = f"its log says: {without_secrets(first.line)[:_WIDTH]}"
        self.evidence = without_secrets(first.excerpt) if first is not None else None
        self.remedy = remedy_of(self.cause, machine) if self.cause is not None else otherwise
        self.source = self.cause.source if self.cause is not None else None


def failed_units(evidence: Evidence) -> Iterable[Finding]:
    """Tell services of the engines that failed or start again and again, with the cause that their journal tells."""
    units, supervised = seen(evidence.services).units, seen(evidence.services).supervised
    if not units and not supervised:
        yield skip("no engine runs as a service")
        return
    yield from (_supervised(service, evidence.machine) for service in supervised)
    for unit in units:
        if unit.failed:
            yield _failed(unit, evidence.machine)
        elif unit.active == "active":
            yield ok(f"{unit.name}.service is running", subject=unit.name)
        elif unit.active == "inactive" and unit.enabled == "enabled":
            yield warn(
                f"{unit.name}.service is enabled, and does not run",
                evidence=unit.path,
                affects=[unit.engine],
                remedy=by_hand("start it", _systemctl(unit, "start"), root=unit.scope == "system"),
                subject=unit.name,
            )
    if units and all(unit.active is None for unit in units):
        yield skip("systemd does not run here, or did not answer")


def _failed(unit: UnitSeen, machine: Machine) -> Finding:
    journal = f"journalctl {'--user ' if unit.scope == 'user' else ''}-u {unit.name} -n 200 --no-pager"
    why = _Why(unit.story, by_hand("read its journal", journal), machine)
    again = f", started again {unit.restarts} times" if unit.restarts else ""
    how = f"{unit.result}, exit status {unit.status}{again}" if unit.result else f"exit status {unit.status}{again}"
    return fail(
        f"{unit.name}.service failed{': ' + why.words if why.words else f' ({how})'}",
        detail=f"systemd says only: {how}.",
        evidence=why.evidence,
        affects=[unit.engine],
        remedy=why.remedy,
        source=why.source,
        subject=unit.name,
    )


def _supervised(service: SupervisedSeen, machine: Machine) -> Finding:
    """Tell how a service of ours is that no systemd keeps running."""
    if service.failed:
        why = _Why(service.story, by_hand("read its log", f"firstlight service.logs {service.name}"), machine)
        given_up = service.state == "FATAL"
        return fail(
            f"the service {service.name} failed{': ' + why.words if why.words else ''}",
            detail="The supervisor has given it up." if given_up else "The supervisor starts it again and again.",
            evidence=why.evidence,
            affects=[service.engine],
            remedy=why.remedy,
            source=why.source,
            subject=service.name,
        )
    if not service.supervisor:
        return warn(
            f"the service {service.name} does not run: its supervisor has ended",
            detail="Without systemd nothing starts it again when the machine starts; the platform's start hook can.",
            evidence=f"its log: {service.log}",
            affects=[service.engine],
            remedy=by_hand(
                "start the services again (the same line belongs into the start hook)", "firstlight restore"
            ),
            subject=service.name,
        )
    if service.state in {"RUNNING", "STARTING"}:
        return ok(f"the service {service.name} runs, under our supervisor", subject=service.name)
    return warn(
        f"the service {service.name} is stopped",
        evidence=f"its log: {service.log}",
        affects=[service.engine],
        remedy=by_hand("start it", f"firstlight service.start {service.name}"),
        subject=service.name,
    )


def _systemctl(unit: UnitSeen, verb: str) -> str:
    return f"systemctl --user {verb} {unit.name}" if unit.scope == "user" else f"sudo systemctl {verb} {unit.name}"


def records(evidence: Evidence) -> Iterable[Finding]:
    """Tell detached servers that are dead, with the cause that their log tells, and records that cannot be read."""
    services = seen(evidence.services)
    if not services.records and not services.damaged_records and not services.ended:
        yield skip("no server was started with --detach")
    for record in services.records:
        yield (
            ok(f"{record.name} answers at {record.endpoint}", subject=record.name)
            if record.alive
            else _dead(record, evidence.machine)
        )
    yield from (_ended(server, evidence.machine) for server in services.ended)
    for path in services.damaged_records:
        yield warn(
            f"{path} does not record a server",
            remedy=by_itself("remove it", RemovePath(path=path)),
            subject=path,
        )


def _ended(server: EndedSeen, machine: Machine) -> Finding:
    why = _Why(server.story, by_hand("read its log", f"less +G {server.log}"), machine)
    engine = server.story.engine if server.story is not None and server.story.certain else None
    return warn(
        f"the server {server.name} ended with exit status {server.status}{': ' + why.words if why.words else ''}",
        detail=f"It was started with --detach, and nobody stopped it. Its log: {server.log}",
        evidence=why.evidence,
        affects=[engine] if engine else [],
        remedy=why.remedy,
        source=why.source,
        subject=server.name,
    )


def _dead(record: RecordSeen, machine: Machine) -> Finding:
    forget = by_itself(
        "forget it; its log stays", RemovePath(path=record.path), commands=(f"firstlight down {record.name}",)
    )
    why = _Why(record.story, forget, machine)
    return warn(
        f"the server {record.name} ({record.engine}, {record.model}) is dead{': ' + why.words if why.words else ''}",
        detail=f"It was started with --detach and has ended. Its log: {record.log}",
        evidence=why.evidence,
        affects=[record.engine],
        remedy=why.remedy,
        source=why.source,
        subject=record.name,
    )


def open_servers(evidence: Evidence) -> Iterable[Finding]:
    """Tell servers that listen on every address of the machine and ask nobody for a key."""
    for server in seen(evidence.services).open:
        if server.key:
            yield ok(
                f"{server.engine} on port {server.port} is open to the network, and asks for a key", subject=_of(server)
            )
        else:
            yield from _open(evidence, server)


def _of(server: OpenServer) -> str:
    return f"port {server.port}"


def _open(evidence: Evidence, server: OpenServer) -> Iterator[Finding]:
    flag = evidence.catalogue.engines[server.engine].key_flag
    if flag is None:
        ask = f"{server.engine} knows no keys: let it listen on 127.0.0.1, or put a proxy before it that asks for one"
        command = f"ssh -L {server.port}:127.0.0.1:{server.port} THIS-MACHINE"
    else:
        ask = f"start it with a key ({flag}), or let it listen on 127.0.0.1 and reach it by ssh; a service gets a key"
        command = f"firstlight service.install {server.engine} --model MODEL --host 0.0.0.0"
    known = "nobody is asked for a key" if server.key is False else "whether it asks for a key cannot be seen from here"
    yield warn(
        f"{server.engine} listens on every address of this machine (port {server.port}): {known}",
        detail="Whoever reaches the port can use the GPU and, where the API manages models, fetch and delete them.",
        evidence=f"{server.address}:{server.port}" + (f", process {server.pid}" if server.pid is not None else ""),
        affects=[server.engine],
        remedy=by_hand(ask, command),
        source="vLLM docs/usage/security.md; Ollama docs/api/authentication.mdx",
        subject=_of(server),
    )


CHECKS: tuple[Check, ...] = (
    Check(
        id="services",
        group="services",
        title="the engines' services run",
        look=failed_units,
        needs=("services",),
        source="systemctl(1), show; the journal",
    ),
    Check(
        id="detached",
        group="services",
        title="every detached server is alive",
        look=records,
        needs=("services",),
    ),
    Check(
        id="api-open",
        group="services",
        title="no engine's API is open to the network without a key",
        look=open_servers,
        needs=("services",),
        source="/proc/net/tcp, proc_pid_net(5)",
    ),
)
