"""The proof of a service: its own endpoint asked for a first token, with its key where it wants one."""

from __future__ import annotations

from firstlight import engines
from firstlight.engines.base import Serving
from firstlight.planning.plan import Launch
from firstlight.process import Command
from firstlight.proof.first_token import Proof, measure
from firstlight.serving.services.spec import ServiceSpec

PROMPT = "What is the capital of France?"
_LONG, _SHORT = 64, 12
"""Tokens that a real answer may have, and that are asked of a model whose words are not read."""


def measured(spec: ServiceSpec, launch: Launch, *, speaks: bool, key: str | None) -> Proof:
    """Have the service answer once and return what came back.

    Raises:
        VerificationFailed: the answer was none.
        FirstlightError: it does not answer, or could not load the model on the plan's device.
    """
    # An engine that loads on demand loads now, on the device that the plan says.
    serving = Serving(
        command=Command(spec.argv, dict(spec.environment)),
        model_id=spec.model_id,
        health_path=spec.readiness.path,
        ready_timeout=spec.readiness.timeout,
    )
    engines.find(spec.engine).load(spec.base_url, serving, launch)
    device = "cpu" if launch.device == "cpu" else f"cuda:{(launch.visible_devices or '0').split(',')[0]}"
    return measure(
        spec.base_url,
        spec.model_id,
        prompt=PROMPT,
        max_tokens=_LONG if speaks else _SHORT,
        api_key=key,
        device=device,
        expect_words=speaks,
    )


def key_of(spec: ServiceSpec) -> str | None:
    """Return the key of a service, from its secrets file; None where there is none that we may read."""
    try:
        text = spec.secrets.read_text() if spec.secrets is not None else ""
    except OSError:
        return None
    return text.strip().partition("=")[2] or None
