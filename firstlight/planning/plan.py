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
    fits: bool = False
    """Whether it fits too, and another one is better."""


class Alternative(msgspec.Struct, frozen=True, kw_only=True):
    """Another engine that does fit this machine."""

    engine: str
    build: str


class Without(msgspec.Struct, frozen=True, kw_only=True):
    """What would be chosen were some words of the request left out."""

    words: str
    """Options as they were given: `--cuda 12.1`."""
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
    """The back end of its server, where it has several."""
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
    """Where its torch comes from, where that was asked: `index:URL`, `find-links:FOLDER` or `registry`."""
    fallback: str | None = None
    """The build to take should the proof meet the PTX message: the newest older one that the driver was made for.

    It lies outside of what was asked for where nothing within it is such a build.
    """
    remedies: list[str] = []
    """What would help where nothing fits, the nearest first."""
    asked: list[str] = []
    """The options that narrowed the choice: `--cuda 12.1`."""
    without: list[Without] = []
    """Where nothing fits as asked: what would fit without some of those options."""


def to_json(plan: Plan, *, indent: int = 2) -> str:
    """Return the plan as the JSON text of schema firstlight.plan/1."""
    return msgspec.json.format(msgspec.json.encode(plan), indent=indent).decode()
