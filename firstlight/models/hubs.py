"""Model hubs as data (envs/hubs.toml), and which of them answer from here."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import msgspec

from firstlight.fetching.trouble import described
from firstlight.resources import data_folder

HubSource = Literal["huggingface", "modelscope"]

_TRUE = {"1", "true", "yes", "on"}
PROBE_SECONDS = 3.0
"""For the hubs to answer, when one of them has: nobody waits for the slow ones."""
LONGEST_PROBE = 12.0
"""When none has: a far or busy one may need that long."""


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A value of envs/hubs.toml."""


class DefaultModel(_Data, frozen=True, kw_only=True):
    """The model that is taken when none is named: its id on the hubs, and the package for where no hub answers."""

    hub: str
    hub_gguf: str
    """The same as GGUF, for engines that read nothing else."""
    package: str
    package_model: str
    """The name of the model that the package carries."""


class Hub(_Data, frozen=True, kw_only=True):
    """One place that serves models."""

    name: str
    source: HubSource
    url: str
    override: str | None = None
    """The environment variable that replaces `url`."""
    official: bool
    """Run by the hub itself: tokens are for it."""
    probe: str
    """A path that answers JSON."""
    aliases: list[str] = []
    """Other host names of its web pages."""
    wished_by: list[str] = []
    """Environment variables of programs that fetch models themselves: a true one asks for this hub before others."""

    def wish(self, environment: Mapping[str, str] | None = None) -> str | None:
        """Return the variable that asks for this hub, as it is set: `VLLM_USE_MODELSCOPE=1`; None where none does."""
        variables = os.environ if environment is None else environment
        values = ((name, variables.get(name, "").strip()) for name in self.wished_by)
        return next((f"{name}={value}" for name, value in values if value.lower() in _TRUE), None)


class Hints(_Data, frozen=True, kw_only=True):
    """Commands for people; `gguf` serves a GGUF file, with the words `{file}` and `{name}` filled in."""

    gguf: str


class Hubs(_Data, frozen=True, kw_only=True):
    """All of envs/hubs.toml."""

    default: DefaultModel
    hints: Hints
    hub: list[Hub]


class HubEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A hub as it is reached from here; `trusted`: the user's token may be sent to it."""

    name: str
    source: HubSource
    url: str
    trusted: bool

    @property
    def shown(self) -> str:
        """The address without a password that may stand in it: for messages and for what is written down."""
        parts = urlsplit(self.url)
        return self.url.replace(f"{parts.netloc}", parts.netloc.rpartition("@")[2], 1)


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a hub answered; `problem` is None when it did."""

    endpoint: HubEndpoint
    path: str
    problem: str | None = None


@cache
def load_hubs() -> Hubs:
    """Return what envs/hubs.toml says.

    Raises:
        msgspec.ValidationError: a key is unknown or of the wrong kind; its place is named.
    """
    import tomli

    with (data_folder("envs") / "hubs.toml").open("rb") as stream:
        return msgspec.convert(tomli.load(stream), Hubs)


def endpoints(hubs: Hubs, environment: Mapping[str, str] | None = None) -> list[HubEndpoint]:
    """Return the hubs in their order of preference, at the addresses that the environment variables name.

    One that an inherited variable of another program asks for goes before the others.
    """
    return [probe.endpoint for probe in _candidates(hubs, environment)]


def _candidates(hubs: Hubs, environment: Mapping[str, str] | None) -> list[Probe]:
    variables = os.environ if environment is None else environment
    found: list[Probe] = []
    for hub in sorted(hubs.hub, key=lambda hub: hub.wish(environment) is None):
        chosen = (variables.get(hub.override, "") if hub.override else "").strip().rstrip("/")
        if chosen and "://" not in chosen:
            chosen = f"https://{chosen}"
        url = chosen or hub.url
        if any((probe.endpoint.source, probe.endpoint.url) == (hub.source, url) for probe in found):
            continue  # HF_ENDPOINT names a mirror that stands in the list anyway: it was named, so it is trusted
        name = (urlsplit(chosen).netloc.rpartition("@")[2] or chosen) if chosen and chosen != hub.url else hub.name
        endpoint = HubEndpoint(name=name, source=hub.source, url=url, trusted=hub.official or bool(chosen))
        found.append(Probe(endpoint=endpoint, path=hub.probe))
    return found


def probe_hubs(hubs: Hubs | None = None, *, source: HubSource | None = None) -> Iterator[Probe]:
    """Ask all hubs at once, and yield what came of each in the order of preference, as soon as that is known.

    Args:
        hubs: the hubs; those of envs/hubs.toml without it.
        source: only hubs that speak this protocol.
    """
    wanted = [probe for probe in _candidates(hubs or load_hubs(), None) if source in {None, probe.endpoint.source}]
    began = time.monotonic()
    answers: dict[int, str | None] = {}
    arrived = threading.Condition()

    def ask(index: int) -> None:
        answer = _ask(wanted[index].endpoint.url + wanted[index].path, LONGEST_PROBE)
        with arrived:
            answers[index] = answer
            arrived.notify_all()

    def left() -> float:
        whole = PROBE_SECONDS if None in answers.values() else LONGEST_PROBE
        return began + whole - time.monotonic()

    for index in range(len(wanted)):
        # Daemon threads: a name server that never answers must not keep the program from ending.
        threading.Thread(target=ask, args=(index,), name=f"probe-{index}", daemon=True).start()
    for index, probe in enumerate(wanted):
        with arrived:
            while index not in answers and left() > 0:
                arrived.wait(left())
            problem = answers.get(index, f"no answer within {time.monotonic() - began:.0f} s")
        yield msgspec.structs.replace(probe, problem=problem)


def answering_hub(*, hubs: Hubs | None = None) -> HubEndpoint | None:
    """Return the most preferred hub that answers in time, or None when none does."""
    return next((probe.endpoint for probe in probe_hubs(hubs) if probe.problem is None), None)


def _ask(url: str, timeout: float) -> str | None:
    """Return why a hub does not answer, or None when it does: JSON, even that of a refusal, proves that it is one."""
    import requests

    parts = urlsplit(url)
    # A password in the address is meant; one in ~/.netrc, which requests would take by itself, is not.
    own = (unquote(parts.username), unquote(parts.password or "")) if parts.username else _unchanged
    try:
        with requests.get(url, timeout=timeout, headers={"Accept": "application/json"}, auth=own) as answer:
            if answer.status_code >= 500:
                return f"answers HTTP {answer.status_code}"
            document: Any = answer.json()
    except requests.exceptions.JSONDecodeError:
        return "something else answers in its place (a login page of this network?)"
    except requests.RequestException as error:
        return network_reason(error)
    return None if isinstance(document, (dict, list)) else "something else answers in its place"


def _unchanged(request: Any) -> Any:
    return request


def network_reason(error: Exception) -> str:
    """Return one short line that says why a request failed; no address is in it, which may hold a secret."""
    return described(error).reason
