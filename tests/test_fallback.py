"""Where a proof fails for what an older CUDA cures, the error names the build that the plan falls back to."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from firstlight.catalogue.loading import load_catalogue
from firstlight.engines.base import Engine, Serving, ServingRequest
from firstlight.engines.in_python import InPython
from firstlight.errors import VerificationFailed
from firstlight.events import silent
from firstlight.goals import older_build_named
from firstlight.home import Home
from firstlight.planning.plan import Launch, Plan
from firstlight.process import Command
from firstlight.proof.proving import Trial, proven
from firstlight.serving.ports import free_port

PTX = "RuntimeError: CUDA error: the provided PTX was compiled with an unsupported toolchain."
SERVER = """
import http.server, sys
message = sys.argv[2]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        print(message, flush=True)
        self.send_response(500)
        self.end_headers()
    def log_message(self, *words):
        pass
if sys.argv[1] == "die":
    sys.exit(message)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


class Broken(InPython):
    """An engine that dies at its start, or that is ready and fails when it is asked."""

    name = "vllm"

    def __init__(self, message: str, *, dies: bool) -> None:
        self.message, self.dies = message, dies

    def serving(self, request: ServingRequest) -> Serving:
        words = ("die" if self.dies else str(request.port), self.message)
        command = Command((sys.executable, "-c", SERVER, *words))
        return Serving(command=command, model_id="tiny", health_path="/health", ready_timeout=30.0)


def plan(fallback: str | None) -> Plan:
    return Plan(
        engine="vllm", build=None, home=None, gpus=[0], environment="conda", because=[], launch=None, needs=None,
        refused=[], steps=[], fallback=fallback,
    )  # fmt: skip


def failure(tmp_path: Path, engine: Engine, fallback: str | None, after: str = "stop") -> VerificationFailed:
    trial = Trial(
        engine=engine,
        build=load_catalogue().engines["vllm"].build[0],
        generation="vllm-1",
        prefix=Path(sys.prefix),
        launch=Launch(port=1, device="cuda"),
        model=tmp_path,
        model_bytes=1,
        name="tiny",
        speaks=False,
        host="127.0.0.1",
        port=free_port(),
        home=Home(tmp_path / "home"),
        log=tmp_path / "server.log",
        after=after,  # type: ignore[arg-type]
    )
    trial.home.prepare()
    with pytest.raises(VerificationFailed) as caught, older_build_named(plan(fallback)), proven(trial, silent):
        pytest.fail("it was proven")
    return caught.value


@pytest.mark.parametrize(("dies", "after"), [(True, "stop"), (False, "stop"), (True, "detach"), (False, "detach")])
def test_the_ptx_message_names_the_older_build(tmp_path: Path, after: str, *, dies: bool) -> None:
    error = failure(tmp_path, Broken(PTX, dies=dies), "vllm-0.11.2-cu128", after)
    assert error.fix == "firstlight setup.vllm --build vllm-0.11.2-cu128"
    assert error.cause == "ptx-toolchain"
    assert "PTX" in (error.why or "")
    assert PTX in (error.evidence or "")


def test_without_an_older_build_the_cause_keeps_its_own_fix(tmp_path: Path) -> None:
    error = failure(tmp_path, Broken(PTX, dies=True), None)
    assert error.cause == "ptx-toolchain"
    assert "--build" not in (error.fix or "")


@pytest.mark.parametrize("dies", [True, False])
def test_another_cause_is_not_cured_by_an_older_build(tmp_path: Path, *, dies: bool) -> None:
    error = failure(
        tmp_path, Broken("ImportError: libcudart.so.13: cannot open shared object file", dies=dies), "older"
    )
    assert error.cause == "libcudart-13"
    assert "older" not in (error.fix or "")
    assert failure(tmp_path, Broken("KeyError: 'what'", dies=dies), "older").cause is None
