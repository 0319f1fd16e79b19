"""Proxies as the environment variables tell them: nothing is asked over the network here."""

from __future__ import annotations

from collections.abc import Iterable

from firstlight.doctor.check import Check
from firstlight.doctor.evidence import Evidence, seen
from firstlight.doctor.findings import Finding, by_hand, ok, warn
from firstlight.doctor.probes.variables import PROXIES, Variables

_LOOPBACK = ("localhost", "127.0.0.1")
_SUGGESTED = "localhost,127.0.0.1,::1"


def spelling(evidence: Evidence) -> Iterable[Finding]:
    """Tell proxies that only some programs see, because they are set in one spelling or differ between the two."""
    variables = seen(evidence.variables)
    for name in PROXIES:
        lower, upper = variables.get(name), variables.get(name.upper())
        if lower is not None and upper is not None and lower.rstrip("/") != upper.rstrip("/"):
            yield warn(
                f"{name} and {name.upper()} differ",
                detail="Some programs read the one, some the other: downloads work here and fail there.",
                evidence=f"{name}={lower}\n{name.upper()}={upper}",
                remedy=by_hand("make them alike", f'export {name.upper()}="${name}"'),
                subject=name,
            )
        elif name == "http_proxy" and lower is None and upper is not None:
            yield warn(
                "HTTP_PROXY is set in capitals only, which curl and libraries built on it do not read",
                evidence=f"HTTP_PROXY={upper}",
                remedy=by_hand("set it in both spellings", 'export http_proxy="$HTTP_PROXY"'),
                source="curl(1), ENVIRONMENT: http_proxy is read in lower case only",
                subject=name,
            )


def loopback(evidence: Evidence) -> Iterable[Finding]:
    """Tell a proxy that would be asked for this machine's own address."""
    variables = seen(evidence.variables)
    if not any(variables.proxy(name) for name in PROXIES[:3]):
        yield ok("no proxy is set")
        return
    direct = [word.strip().lower() for word in (variables.proxy("no_proxy") or "").split(",")]
    missing = [] if "*" in direct else [name for name in _LOOPBACK if not _covered(name, direct)]
    if not missing:
        yield ok("a proxy is set, and this machine's own address goes past it")
        return
    value = ",".join(filter(None, [variables.proxy("no_proxy"), _SUGGESTED]))
    yield warn(
        f"a proxy is set, and NO_PROXY leaves out {' and '.join(missing)}",
        detail="Clients on this machine send their requests to the engine through the proxy, which answers 502 or 403.",
        evidence=_shown(variables),
        affects=list(evidence.catalogue.engines),
        remedy=by_hand("except this machine", f'export no_proxy="{value}" NO_PROXY="{value}"'),
        source="requests and httpx: proxies of the environment hold for every host that NO_PROXY does not name",
    )


def _covered(host: str, direct: list[str]) -> bool:
    return any(word in {host, f".{host}"} or (word == "127.0.0.0/8" and host.startswith("127.")) for word in direct)


def _shown(variables: Variables) -> str:
    names = [*PROXIES, *(name.upper() for name in PROXIES)]
    return "\n".join(f"{name}={value}" for name in names if (value := variables.get(name)) is not None)


CHECKS: tuple[Check, ...] = (
    Check(
        id="proxy-spelling",
        group="network",
        title="proxies are set alike in both spellings",
        look=spelling,
        needs=("variables",),
        source="curl(1); requests, Proxies",
    ),
    Check(
        id="no-proxy",
        group="network",
        title="this machine's own address goes past the proxy",
        look=loopback,
        needs=("variables",),
    ),
)
