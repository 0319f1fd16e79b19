"""Services as a person sees them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from firstlight.fetching.words import size
from firstlight.serving.services.spec import ServiceFile, Status
from firstlight.staying.installing import Drafted, Installed

_MARKS = {"running": "●", "starting": "◌", "restarting": "↻", "stopped": "○", "failed": "✗", "unknown": "?"}


def _duration(seconds: float) -> str:
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, left = divmod(rest, 60)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (left, "s")]
    told = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(told[:2]) or "0 s"


def status_lines(status: Status) -> list[str]:
    """Return a service's status, one fact a line; what is not known is left out."""
    facts: list[tuple[str, str | None]] = [
        ("endpoint", status.endpoint),
        ("model", status.model_id or None),
        ("engine", f"{status.engine}{f' ({status.generation})' if status.generation else ''}"),
        ("uptime", None if status.uptime is None else _duration(status.uptime)),
        ("restarts", None if status.restarts is None else str(status.restarts)),
        ("memory", None if status.memory is None else size(status.memory)),
        ("GPU memory", None if status.gpu_memory is None else size(status.gpu_memory)),
        ("requests", _requests(status)),
        ("runs as", f"{status.user or 'you'}, hardening {status.hardening}" if status.hardening else None),
        ("reboot", status.survives or None),
    ]
    lines = [f"{_MARKS[status.state]} {status.name}: {status.state}   [{status.scope}] {status.detail}".rstrip()]
    lines += [f"  {name:<11} {value}" for name, value in facts if value]
    failure = status.failure
    if failure is not None:
        lines.append(f"  {'failure':<11} {failure.what}")
        lines += [f"  {name:<11} {value}" for name, value in (("why", failure.why), ("fix", failure.fix)) if value]
    return lines


def _requests(status: Status) -> str | None:
    if status.requests is None:
        return None
    rate = f", {status.requests_per_second:g} a second on average" if status.requests_per_second is not None else ""
    return f"{status.requests} answered{rate}"


def statuses_json(statuses: Sequence[Status], *, one: bool) -> str:
    """Return one status, or a list of them, as a document."""
    document: Any = statuses[0] if one else {"schema": "firstlight.services/1", "services": list(statuses)}
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def dry_run_json(drafted: Drafted) -> str:
    """Return what would be written and run; secrets are never in it."""
    document = {
        "schema": "firstlight.dryrun/1",
        "files": [_file(file) for file in drafted.files],
        "commands": drafted.commands,
        "plan": drafted.under.plan,
        "notes": drafted.notes,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()


def _file(file: ServiceFile) -> dict[str, str]:
    content = "(a key, made when it is installed)" if file.secret else file.content
    return {"path": str(file.path), "mode": f"{file.mode:04o}", "content": content}


def dry_run_lines(drafted: Drafted) -> list[str]:
    """Return what would be written and run, for a person."""
    lines = list(drafted.notes)
    for file in drafted.files:
        document = _file(file)
        lines += ["", f"# {document['path']} ({document['mode']})", document["content"].rstrip()]
    import shlex

    return [*lines, "", "would run:", *(f"  {shlex.join(words)}" for words in drafted.commands)]


def installed_lines(installed: Installed) -> list[str]:
    """Return what was installed, and how to reach it."""
    spec, proof = installed.spec, installed.proof
    what = spec.model_id or f"{spec.engine}, models on demand,"
    how = "(it ran already, unchanged)" if installed.kept else f"after {installed.seconds:.1f} s"
    lines = [f"{spec.name} is up: {what} at {spec.base_url}/v1 {how}"]
    if proof is not None:
        lines.append(f"first token after {proof.first_token_seconds:.2f} s on {proof.device}")
    lines.append(f"reboot: {installed.survives}")
    if installed.key is not None:
        lines += ["", f"API key, shown this once: {installed.key}", f"(kept in {spec.secrets}, mode 0600)"]
    return [*lines, "", f"firstlight service.status {spec.name}", f"firstlight service.logs {spec.name} --follow"]


def installed_json(installed: Installed) -> str:
    """Return what was installed as a document; the key is not in it."""
    document = {
        "schema": "firstlight.service/1",
        "name": installed.spec.name,
        "engine": installed.spec.engine,
        "scope": installed.spec.scope,
        "hardening": installed.spec.hardening,
        "user": installed.spec.user,
        "endpoint": f"{installed.spec.base_url}/v1",
        "model_id": installed.spec.model_id,
        "keyed": installed.spec.keyed,
        "secrets": str(installed.spec.secrets) if installed.spec.secrets else None,
        "seconds": round(installed.seconds, 3),
        "kept": installed.kept,
        "proof": installed.proof,
        "outside": [str(path) for path in installed.outside],
        "survives": installed.survives,
        "notes": installed.notes,
        "receipt": installed.receipt,
    }
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
