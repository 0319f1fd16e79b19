"""The proof: the engine's own server on the very model, its first token measured, and what becomes of it after."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from firstlight.catalogue.types import Build, EngineEntry
from firstlight.engines.base import Engine, Serving, ServingRequest
from firstlight.errors import FirstlightError, VerificationFailed
from firstlight.events import Reporter, step
from firstlight.home import Home
from firstlight.planning.plan import Launch
from firstlight.proof.first_token import Proof, measure
from firstlight.serving.causes import read_log
from firstlight.serving.keys import key_of_server, keyed
from firstlight.serving.records import Detached, Details
from firstlight.serving.running import detach, stop_running, wait_detached
from firstlight.serving.server import RunningServer, ServerSpec, with_cause

PROMPT = "What is the capital of France?"
SHORT_ANSWER = 12
"""Tokens asked of the proof model, whose random weights never stop by themselves."""
_LOG_PATIENCE = 1.5
"""Seconds that the log of a server which answers badly may take to tell why."""
LONG_ANSWER = 64
"""Tokens that a real answer may have."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What is started and asked: an engine's build in an environment, on a model, at an address.

    `after` says what becomes of the server once it has answered: stopped, left to the caller, or left running alone.
    """

    engine: Engine
    entry: EngineEntry | None = None
    """Its page of the catalogue, which tells how its server takes a key."""
    build: Build
    generation: str
    prefix: Path
    launch: Launch
    model: Path
    model_bytes: int
    name: str
    speaks: bool
    host: str
    port: int
    home: Home
    log: Path
    flags: tuple[str, ...] = ()
    after: Literal["stop", "keep", "detach"] = "stop"


class Proven(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that answered: the proof, its endpoint and the model name that requests must carry, and its server."""

    proof: Proof
    endpoint: str
    model_id: str
    server: RunningServer | None = None
    detached: Detached | None = None


def specify(trial: Trial) -> tuple[ServerSpec, Serving]:
    """Return the server that a trial starts, and how the engine wants it reached."""
    serving = trial.engine.serving(
        ServingRequest(
            prefix=trial.prefix,
            build=trial.build,
            launch=trial.launch,
            model=trial.model,
            model_bytes=trial.model_bytes,
            name=trial.name,
            host=trial.host,
            port=trial.port,
            home=trial.home,
            flags=trial.flags,
        )
    )
    spec = ServerSpec(
        name=trial.engine.name,
        command=serving.command if trial.entry is None else keyed(serving.command, trial.entry),
        host=trial.host,
        port=trial.port,
        health_path=serving.health_path,
        log=trial.log,
        ready_timeout=serving.ready_timeout,
        engine=trial.engine.name,
        model_id=serving.model_id,
    )
    return spec, serving


@contextmanager
def proven(trial: Trial, reporter: Reporter) -> Iterator[Proven]:
    """Start the engine, measure its first token, and yield the proof while the server still runs.

    When the block ends well the server is stopped, kept or left running, as the trial says; when it fails, stopped.

    Raises:
        VerificationFailed: the engine died, was not ready in time, or its answer was none.
    """
    spec, serving = specify(trial)
    if trial.after == "detach":
        yield from _detached(trial, spec, serving, reporter)
        return
    server = None
    try:
        with step(reporter, "start", f"start {trial.engine.name} on {trial.name}") as current:
            server = RunningServer.start(spec, home=trial.home)
            server.wait_ready(current, VerificationFailed)
            device = _loaded(trial, spec, serving, server, None)
        yield _measured(trial, spec, device, reporter, server, None)
    except BaseException:
        if server is not None:
            server.stop()
        raise
    if trial.after == "stop":
        server.stop()


def _detached(trial: Trial, spec: ServerSpec, serving: Serving, reporter: Reporter) -> Iterator[Proven]:
    details = Details(
        build=trial.build.id,
        environment=trial.generation,
        model_path=str(trial.model),
        device=trial.launch.device,
    )
    record = None
    try:
        with step(reporter, "start", f"start {trial.engine.name} on {trial.name} in the background") as current:
            record = detach(spec, trial.home, details)
            wait_detached(spec, record, trial.home, current, VerificationFailed)
            device = _loaded(trial, spec, serving, None, record)
        yield _measured(trial, spec, device, reporter, None, record)
    except BaseException:
        if record is not None and record.alive:
            stop_running(trial.home, record.name)
        raise


def _loaded(
    trial: Trial, spec: ServerSpec, serving: Serving, server: RunningServer | None, record: Detached | None
) -> str:
    """Have the engine load the model where it did not at its start; return the device that it runs on."""
    try:
        told = trial.engine.load(spec.base_url, serving, trial.launch)
    except FirstlightError as error:
        raise _explained(error, spec, server, record) from error
    on_cpu = (told or trial.launch.device) == "cpu"
    return "cpu" if on_cpu else f"cuda:{(trial.launch.visible_devices or '0').split(',')[0]}"


def _measured(
    trial: Trial,
    spec: ServerSpec,
    device: str,
    reporter: Reporter,
    server: RunningServer | None,
    record: Detached | None,
) -> Proven:
    with step(reporter, "first token", f"ask {trial.name}: {PROMPT}"):
        try:
            proof = measure(
                spec.base_url,
                spec.model_id,
                prompt=PROMPT,
                max_tokens=LONG_ANSWER if trial.speaks else SHORT_ANSWER,
                api_key=key_of_server(trial.entry) if trial.entry is not None else None,
                device=device,
                expect_words=trial.speaks,
            )
        except FirstlightError as error:
            raise _explained(error, spec, server, record) from error
    return Proven(proof=proof, endpoint=f"{spec.base_url}/v1", model_id=spec.model_id, server=server, detached=record)


def _explained(
    error: FirstlightError, spec: ServerSpec, server: RunningServer | None, record: Detached | None
) -> VerificationFailed:
    """Return the error with the cause that the server's log shows; its last lines may still be on their way there."""
    log = Path(record.log) if record is not None else spec.log
    deadline = time.monotonic() + _LOG_PATIENCE
    while True:
        told = with_cause(error, server.log_text() if server is not None else read_log(log), spec, log)
        if told.cause is not None or time.monotonic() >= deadline:
            return told
        time.sleep(0.1)
