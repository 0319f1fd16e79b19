"""`ollama serve`: the program of a version, its environment, and how its server is made to load a model."""

from __future__ import annotations

import os
import re
from pathlib import Path

from firstlight.engines.base import Serving, ServingRequest
from firstlight.engines.ollama.api import VARIABLE, Api
from firstlight.engines.ollama.blobs import VARIABLE as MODELS
from firstlight.engines.ollama.blobs import models_folder
from firstlight.engines.ollama.program import PROGRAM
from firstlight.errors import FirstlightError, UsageError, VerificationFailed
from firstlight.planning.plan import Launch
from firstlight.process import Command

_ASSIGNMENT = re.compile(r"(?P<name>(?:OLLAMA|LLAMA|GGML|CUDA|HIP|ROCR|GPU)_[A-Z0-9_]+)=(?P<value>.*)", re.DOTALL)
_OURS = {VARIABLE: "--host and --port", MODELS: f"export {MODELS}=/path before the command"}
_START = 60.0
"""Seconds: a server answered within 0.1 of its start (Ollama 0.6.2 on two cores)."""
_LOADING_RATE = 50_000_000
"""Bytes of weights per second that a slow network disk still gives."""


def serving(request: ServingRequest) -> Serving:
    """Return the command of `ollama serve`. It has no flags: all is told by variables (Ollama, envconfig)."""
    argv = (str(request.prefix / PROGRAM), "serve", *request.build.flags)
    return Serving(
        command=Command(argv, {**_environment(request), **settings(request.flags)}),
        model_id=request.name,
        health_path="/api/version",
        ready_timeout=_START + 2 * request.model_bytes / _LOADING_RATE,
        writable=(models_folder(request.home),),
    )


def settings(words: tuple[str, ...]) -> dict[str, str | None]:
    """Return the variables that the words after `--` set: `OLLAMA_CONTEXT_LENGTH=8192`.

    Raises:
        UsageError: a word is no such setting.
    """
    found: dict[str, str | None] = {}
    for word in words:
        match = _ASSIGNMENT.fullmatch(word)
        if match is None:
            raise UsageError(
                f'ollama serve takes no flag "{word}"',
                why="its settings are environment variables",
                fix="write them after --, such as: -- OLLAMA_CONTEXT_LENGTH=8192 OLLAMA_KEEP_ALIVE=-1",
            )
        if match["name"] in _OURS:
            raise UsageError(f"{match['name']} is set by firstlight", fix=f"use {_OURS[match['name']]}")
        found[match["name"]] = match["value"]
    return found


def _environment(request: ServingRequest) -> dict[str, str | None]:
    # Its key and its history go to HOME, without which it does not start at all.
    own = request.cache_folder / "ollama"
    if request.caches is None:
        own.mkdir(parents=True, exist_ok=True)
    host = f"[{request.host}]" if ":" in request.host else request.host
    environment: dict[str, str | None] = {
        VARIABLE: f"{host}:{request.port}",
        MODELS: str(_store(request)),
        "HOME": str(own),
        # At its start it would delete interrupted pulls, and blobs whose manifest somebody is about to write.
        "OLLAMA_NOPRUNE": os.environ.get("OLLAMA_NOPRUNE", "1"),
        # A proxy for plain HTTP stands between the server and its own clients and runners (Ollama, docs/faq).
        "HTTP_PROXY": None,
        "http_proxy": None,
    }
    launch = request.launch
    if launch.visible_devices is not None:
        environment["CUDA_VISIBLE_DEVICES"] = launch.visible_devices
    if launch.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = "-1"  # its word for none
    environment.update(request.build.environment)
    return environment


def _store(request: ServingRequest) -> Path:
    """Return the store that the model lies in: the proof model's is always ours, whatever OLLAMA_MODELS says."""
    return request.model if (request.model / "manifests").is_dir() else models_folder(request.home)


def load(base_url: str, wanted: Serving, launch: Launch) -> str | None:
    """Have a running server load the model, and return the device that it lies on: `cuda` or `cpu`; None: untold.

    Raises:
        VerificationFailed: it cannot be loaded, or lies on the CPU where the plan has a GPU: Ollama falls back to the
            CPU without a word.
    """
    api = Api(base_url)
    try:
        api.load(wanted.model_id, wanted.ready_timeout)
        held = [each for each in api.loaded() if each.name.lower() == wanted.model_id.lower()]
    except FirstlightError as error:
        raise VerificationFailed(error.what, why=error.why, fix=error.fix or "look at the server's log") from error
    if not held:
        return None
    on_gpu = any(each.size_vram > 0 for each in held)
    if launch.device != "cpu" and not on_gpu:
        raise VerificationFailed(
            f"Ollama runs {wanted.model_id} on the CPU, though this machine's GPU fits",
            why="it says that none of the model's bytes lie on a GPU (/api/ps, size_vram)",
            fix="let its log tell why: firstlight doctor --only ollama   (or leave the GPU idle: --cuda cpu)",
        )
    return "cuda" if on_gpu else "cpu"
