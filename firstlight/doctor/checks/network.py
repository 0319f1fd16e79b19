"""Checks of what the network gave: mirrors and hubs, Range, the clock, pages that stand in the way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from urllib.parse import urlsplit

from firstlight.doctor.check import Check
from firstlight.doctor.evidence import Evidence, seen
from firstlight.doctor.findings import Finding, by_hand, fail, ok, skip, warn
from firstlight.doctor.probes.network import SourceSeen

_KINDS = {
    "conda": "conda packages",
    "torch": "PyTorch's wheels",
    "pypi": "Python packages",
    "github": "release files",
    "hub": "models",
}
_WITHOUT = {
    "conda": "Environments are then made with a Python of this machine: --environment venv",
    "torch": "Only builds whose torch the package index has can be installed.",
    "pypi": "No engine can be installed without an index; name one that is reached from here: --index URL",
    "github": "Only builds that the package index has whole can be installed.",
    "hub": "Only models that are here already, or in the package index, can be served.",
}
_SLOW = 300_000
"""Bytes a second: a gigabyte takes an hour."""
_WRONG_CLOCK = 86_400.0
"""Seconds: certificates of today are often not a day old, and some live for days only."""
_ODD_CLOCK = 300.0
"""Seconds: signed requests and tokens are refused from here on (five minutes are what Kerberos and clouds allow)."""


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _host(source: SourceSeen) -> str:
    return urlsplit(source.place).netloc or source.place


def _speed(source: SourceSeen) -> str:
    told = [f"{source.seconds * 1000:.0f} ms" if source.seconds is not None else ""]
    told += [f"{source.rate / 1e6:.1f} MB/s" if source.rate else ""]
    return ", ".join(filter(None, told))


def _line(source: SourceSeen) -> str:
    return f"{source.place}  {_speed(source) or 'answers' if source.ok else source.reason}"


def sources(evidence: Evidence) -> Iterable[Finding]:
    """Tell, for each kind of bytes, who has them and how fast."""
    every = seen(evidence.network).sources
    if every and not any(source.ok for source in every):
        yield fail(
            f"the network does not lead out: none of {len(every)} sources is of use",
            detail="An install needs one of them, or a bundle that was made where there is a network.",
            evidence="\n".join(_line(source) for source in every),
            affects=list(evidence.catalogue.engines),
            remedy=by_hand("see whether a proxy is needed here", "export https_proxy=http://HOST:PORT"),
        )
        return
    for kind, words in _KINDS.items():
        places = [source for source in seen(evidence.network).sources if source.kind == kind]
        if places:
            yield _kind(kind, words, places)


def _kind(kind: str, words: str, places: list[SourceSeen]) -> Finding:
    lines = "\n".join(_line(source) for source in places)
    good = [source for source in places if source.ok]
    if not good:
        return warn(
            f"nobody has {words}: {len(places)} sources asked, none of use",
            detail=_WITHOUT[kind],
            evidence=lines,
            remedy=by_hand("see whether a proxy is needed here", "export https_proxy=http://HOST:PORT"),
            subject=kind,
        )
    best = max(good, key=lambda source: (source.rate or 0.0, -(source.seconds or 0.0)))
    first = next((source for source in good if source.canonical), None)
    if all(source.rate is not None and source.rate < _SLOW for source in good):
        return warn(
            f"{words} come slowly: {_speed(best)} from {_host(best)} at best",
            detail="Gigabytes take hours at this speed.",
            evidence=lines,
            subject=kind,
        )
    if first is None:
        return warn(
            f"{words} come from a mirror ({_host(best)}, {_speed(best)}): the origin does not answer",
            detail="A mirror may lack the newest release, or have gone by tomorrow.",
            evidence=lines,
            subject=kind,
        )
    finding = ok(f"{words}: {len(good)} of {len(places)} sources answer, {_host(best)} best ({_speed(best)})")
    return Finding(status=finding.status, summary=finding.summary, evidence=lines, subject=kind)


def ranges(evidence: Evidence) -> Iterable[Finding]:
    """Tell whether files come in parts: without that no broken download can go on."""
    asked = [source for source in seen(evidence.network).sources if source.ranged is not None]
    dropped = [source for source in asked if not source.ranged]
    if not asked:
        yield skip("no source of files answered")
    if not dropped:
        return
    hosts = ", ".join(_host(source) for source in dropped)
    proxy = evidence.variables.proxy("https_proxy") if evidence.variables is not None else None
    if len(dropped) == len(asked) and len(asked) > 1:
        yield warn(
            f"something between here and every source drops Range{f' (the proxy {proxy}?)' if proxy else ''}",
            detail="A download that breaks starts again from its first byte; programs that join parts without looking "
            "at the answer write damaged files.",
            evidence=f"asked for a part, got the whole file: {hosts}",
            remedy=by_hand("go past the proxy for big files, where you may", "export no_proxy=HOST,$no_proxy"),
            source="RFC 9110, 14.2; ollama/ollama#941",
        )
        return
    yield warn(
        f"{hosts} send{'s' if len(dropped) == 1 else ''} whole files only",
        detail="A download from there that breaks starts again from its first byte; firstlight goes on elsewhere.",
        evidence=hosts,
        source="RFC 9110, 14.2",
    )


def clock(evidence: Evidence) -> Iterable[Finding]:
    """Hold this machine's clock against the time that the sources tell."""
    skews = [source.skew for source in seen(evidence.network).sources if source.skew is not None]
    if not skews:
        yield skip("no source told the time")
        return
    skew = _median(skews)
    how = f"{_span(abs(skew))} {'ahead' if skew > 0 else 'behind'}"
    if abs(skew) < _ODD_CLOCK:
        yield ok(f"the clock is right ({abs(skew):.0f} s from that of {len(skews)} sources)")
        return
    tell = fail if abs(skew) > _WRONG_CLOCK else warn
    yield tell(
        f"this machine's clock is {how}",
        detail="Certificates look expired or not yet valid: every encrypted download fails, and tokens are refused.",
        evidence=f"by the Date of {len(skews)} answers",
        affects=list(evidence.catalogue.engines),
        remedy=by_hand("set the clock", "sudo timedatectl set-ntp true", root=True),
        source="RFC 9110, 6.6.1 (Date)",
    )


def _span(seconds: float) -> str:
    for size, word in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {word}"
    return f"{seconds:.0f} seconds"


def standing_in(evidence: Evidence) -> Iterable[Finding]:
    """Tell answers that are not those of the sources: login pages, and proxies with certificates of their own."""
    found = seen(evidence.network).sources
    yield from _portals([source for source in found if source.portal], len(found))
    untrusted = [source for source in found if source.untrusted]
    if untrusted and not _clock_is_wrong(found):
        hosts = ", ".join(dict.fromkeys(_host(source) for source in untrusted))
        yield fail(
            f"the certificate of {hosts} is not trusted here",
            detail="A proxy that looks into encrypted traffic shows a certificate of its own; the machine, and Python "
            "beside it, must know the authority that signed it.",
            evidence=hosts,
            remedy=by_hand("name the proxy's authority to Python", "export REQUESTS_CA_BUNDLE=/path/to/authority.pem"),
            source="requests, SSL Cert Verification",
            subject="certificate",
        )


def _clock_is_wrong(found: Iterable[SourceSeen]) -> bool:
    skews = [source.skew for source in found if source.skew is not None]
    return bool(skews) and abs(_median(skews)) > _WRONG_CLOCK


def _portals(portals: list[SourceSeen], asked: int) -> Iterator[Finding]:
    if len(portals) > 1 and 2 * len(portals) >= asked:
        yield fail(
            f"a page of this network answers in place of {len(portals)} of {asked} sources",
            detail="A login page (of a hotel, a campus, a cloud desktop) stands before the network.",
            evidence="\n".join(source.place for source in portals),
            remedy=by_hand("log in to the network first, in a browser of this machine", "curl -v http://example.com"),
            subject="portal",
        )
    elif portals:
        hosts = ", ".join(_host(source) for source in portals)
        yield warn(
            f"{hosts}: something else answers in its place",
            detail="It sends a web page where a file or a list was asked for: it has gone, or is no mirror any more.",
            evidence="\n".join(source.place for source in portals),
            subject="portal",
        )


CHECKS: tuple[Check, ...] = (
    Check(
        id="sources",
        group="network",
        title="mirrors and hubs answer",
        look=sources,
        needs=("network",),
        speed="network",
        source="measured: first byte, and up to two seconds of a small file",
    ),
    Check(
        id="range",
        group="network",
        title="files come in parts, so that broken downloads can go on",
        look=ranges,
        needs=("network",),
        speed="network",
    ),
    Check(
        id="clock",
        group="network",
        title="the clock is right",
        look=clock,
        needs=("network",),
        speed="network",
    ),
    Check(
        id="standing-in",
        group="network",
        title="the sources themselves answer",
        look=standing_in,
        needs=("network",),
        speed="network",
    ),
)
