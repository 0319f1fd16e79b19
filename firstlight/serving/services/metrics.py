"""Requests that a service has answered, from its engine's metrics page (Prometheus text), where it has one."""

from __future__ import annotations

import http.client
import re

import msgspec

from firstlight.serving.services.spec import ServiceSpec, Status

_SECONDS = 1.0
_MOST = 4 * 1024 * 1024


def enriched(status: Status, spec: ServiceSpec) -> Status:
    """Return a status with its requests and their average rate, where the engine tells them."""
    if status.state != "running" or spec.metrics_path is None or spec.requests_metric is None:
        return status
    page = _page(spec)
    count = None if page is None else total(page, spec.requests_metric)
    if count is None:
        return status
    rate = count / status.uptime if status.uptime else None
    return msgspec.structs.replace(
        status, requests=int(count), requests_per_second=None if rate is None else round(rate, 3)
    )


def _page(spec: ServiceSpec) -> str | None:
    connection = http.client.HTTPConnection(spec.reachable_host, spec.port, timeout=_SECONDS)
    try:
        connection.request("GET", spec.metrics_path or "/metrics")
        answer = connection.getresponse()
        return answer.read(_MOST).decode(errors="replace") if answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def total(page: str, metric: str) -> float | None:
    """Return the sum of a counter over all its labels; None where the page does not have it.

    Source of the format: Prometheus exposition formats, text version 0.0.4.
    """
    found = re.findall(rf"^{re.escape(metric)}(?:\{{[^\n]*\}})? ([0-9.eE+-]+)(?: \d+)?$", page, re.MULTILINE)
    values = []
    for text in found:
        try:
            values.append(float(text))
        except ValueError:
            continue
    return sum(values) if values else None
