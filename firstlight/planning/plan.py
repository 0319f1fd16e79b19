"""The plan: what was chosen, why, and for every other build the rule that refused it (schema firstlight.plan/1)."""

from __future__ import annotations

import msgspec

SCHEMA = "firstlight.plan/1"


class ChosenBuild(msgspec.Struct, frozen=True, kw_only=True):
    """The build that was chosen, with the Python that it will get."""

    id: str
    release: str
    cuda: str | None
    torch: str | None
    torch_cuda: str | None
    python: str
    arch: str
    integrity: str


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Why a build was not chosen: the rule, the reason in words, and what could be done on this very machine."""

    build: str
    rule: str
    reason: str
    remedy: str | None = None


class Alternative(msgspec.Struct, frozen=True, kw_only=True):
    """Another engine that does fit this machine."""

    engine: str
    build: str


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes to download and bytes on disk."""

    download: int
    disk: int


class PlanStep(msgspec.Struct, frozen=True, kw_only=True):
    """One step that applying the plan takes."""

    id: str
    what: str


class Launch(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the engine's server is started."""

    port: int
    device: str = "auto"
    """`cpu` or `cuda`."""
    dtype: str | None = None
    backend: str | None = None
    tensor_parallel_size: int | None = None
    visible_devices: str | None = None
    """CUDA_VISIBLE_DEVICES, where cards are left out or chosen."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The decision. `build` is None when nothing fits; then `refused` and `alternatives` say why and what else."""

    schema: str = SCHEMA
    engine: str
    build: ChosenBuild | None
    home: str | None
    gpus: list[int]
    environment: str | None
    because: list[str]
    launch: Launch | None
    needs: Needs | None
    refused: list[Refusal]
    steps: list[PlanStep]
    alternatives: list[Alternative] = []
    warnings: list[str] = []
    """Those of the reasons that must not be overlooked."""
    assumed: list[str] = []
    """What was unknown and taken as met."""
    torch_source: str | None = None
    """Where a CPU torch comes from: `index:URL`, `find-links:FOLDER` or `registry`."""


def to_json(plan: Plan, *, indent: int = 2) -> str:
    """Return the plan as the JSON text of schema firstlight.plan/1."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=indent).decode()
