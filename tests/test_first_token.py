"""The whole path with real engines: to the first token, again, back, killed in the middle, failed, from the wheel."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.command import REPOSITORY, Ended, firstlight
from support.local_channel import session_channel

from firstlight.environments.pipconfig import read_pip_settings, uv_arguments
from firstlight.environments.wheels import find_uv
from firstlight.serving.ports import free_port, port_holder

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3600)]

MODEL = "SmolLM2-135M-Instruct"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of all tests in this file: its path has a space and non-ASCII letters."""
    home = tmp_path_factory.mktemp("först light") / "höme"
    yield home
    firstlight("down", home=home)
    for engine in ("transformers", "vllm"):
        firstlight("setup.remove", engine, home=home)


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A conda channel made of the Python that runs the tests."""
    return session_channel(tmp_path_factory.getbasetemp()).as_uri()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The program of firstlight's wheel, alone in an empty environment."""
    base = tmp_path_factory.mktemp("wheel")
    words, variables = uv_arguments(read_pip_settings())
    uv, python = str(find_uv()), str(base / "env" / "bin" / "python")

    def run(*command: str) -> None:
        subprocess.run([uv, *command], check=True, capture_output=True, env=os.environ | variables)

    run("build", "--wheel", "--out-dir", str(base), *words, str(REPOSITORY))
    run("venv", "--python", sys.executable, str(base / "env"))
    (built,) = base.glob("firstlight-*.whl")
    run("pip", "install", "--python", python, *words, str(built))
    return [str(base / "env" / "bin" / "firstlight")]


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The program with a catalogue by which an examination imports two models of transformers instead of 500.

    The whole examination takes half a minute of computing; it has a test of its own (`installed`), and vLLM's another.
    """
    beside = tmp_path_factory.mktemp("hasty")
    for name in ("envs", "templates", "scripts"):
        shutil.copytree(REPOSITORY / name, beside / name, ignore=shutil.ignore_patterns("__pycache__"))
    page = beside / "envs" / "transformers" / "builds.toml"
    whole, few = '["transformers.models.*.modeling_*"]', '["transformers.models.llama.modeling_*"]'
    assert whole in page.read_text()
    page.write_text(page.read_text().replace(whole, few))
    code = f"""
from pathlib import Path
from firstlight import resources
resources._PACKAGE = Path({str(beside)!r}, "firstlight")
from firstlight.cli import main
main()
"""
    return [sys.executable, "-c", code]


@pytest.fixture(scope="module")
def installed(place: Path, channel: str) -> Ended:
    """The first setup of transformers, from a true conda channel."""
    ended = firstlight("setup.transformers", "--channel", channel, "--json", home=place, timeout=900)
    assert ended.code == 0, ended.err
    return ended


def current(home: Path, engine: str = "transformers") -> str:
    return (home / "environments" / engine / "current").readlink().name


def test_setup_makes_a_true_conda_environment_and_proves_it(installed: Ended, place: Path) -> None:
    receipt = installed.document
    assert receipt["schema"] == "firstlight.receipt/1"
    assert receipt["environment"]["kind"] == "conda"
    proof = receipt["proof"]
    assert (proof["tokens"], proof["finish_reason"], proof["device"]) == (12, "length", "cpu")
    assert proof["first_token_seconds"] > 0
    prefix = Path(receipt["environment"]["prefix"])
    assert prefix.parent == place / "environments" / "transformers"
    assert list((prefix / "conda-meta").glob("python-3*.json"))
    assert current(place) == receipt["environment"]["generation"]
    assert [step["id"] for step in receipt["steps"]] == [
        "plan",
        "environment",
        "model",
        "examine",
        "start",
        "first token",
        "switch",
    ]
    assert any(item["name"] == "torch" and "+cpu" in item["version"] for item in receipt["fetched"])
    assert json.loads(Path(receipt["path"]).read_text())["proof"] == proof
    seen = {check["id"]: check for check in receipt["examination"]["checks"]}
    assert {check["status"] for check in seen.values()} == {"ok", "skip"}, seen
    assert seen["torch"]["summary"].endswith("made for the CPU")
    assert {seen[name]["status"] for name in ("distributions", "torch", "command", "tokenizer", "modules")} == {"ok"}
    listed = [Path(line) for line in Path(receipt["outside"][0]).read_text().splitlines()]
    assert prefix in listed


def test_a_second_setup_builds_nothing(installed: Ended, place: Path, channel: str) -> None:
    again = firstlight("setup.transformers", "--channel", channel, "--json", home=place)
    assert again.code == 0, again.err
    outcomes = {step["id"]: step["outcome"] for step in again.document["steps"]}
    assert {outcomes[name] for name in ("environment", "examine", "switch")} == {"reused"}
    assert again.document["examination"] == installed.document["examination"]
    assert again.document["environment"]["generation"] == installed.document["environment"]["generation"]


def test_repair_builds_beside_and_rollback_goes_back(installed: Ended, place: Path, hasty: list[str]) -> None:
    first = installed.document["environment"]["generation"]
    repaired = firstlight("setup.repair", "transformers", "--json", home=place, program=hasty)
    assert repaired.code == 0, repaired.err
    second = repaired.document["environment"]["generation"]
    assert second != first
    assert current(place) == second
    assert firstlight("setup.rollback", "transformers", home=place).code == 0
    assert current(place) == first
    listed = firstlight("setup.list", "--json", home=place).document["generations"]
    assert {item["id"]: item["current"] for item in listed} == {first: True, second: False}
    proven = firstlight("setup.prove", "transformers", "--json", home=place)
    assert proven.code == 0, proven.err
    assert proven.document["environment"]["generation"] == first


def test_a_failed_proof_switches_nothing(installed: Ended, place: Path, tmp_path: Path) -> None:
    empty = tmp_path / "an empty env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(empty)], check=True)
    before = sorted(path.name for path in empty.rglob("*"))
    ended = firstlight("setup.transformers", "--adopt", str(empty), "--json", home=place)
    assert ended.code == 5, ended.err
    assert ended.document["error"]["kind"] == "VerificationFailed"
    assert "did not pass its examination: command, tokenizer" in ended.err
    assert "No module named 'transformers'" in ended.err
    assert current(place) == installed.document["environment"]["generation"]
    assert sorted(path.name for path in empty.rglob("*")) == before


def test_an_environment_that_is_there_can_be_adopted(installed: Ended, tmp_path: Path, hasty: list[str]) -> None:
    prefix = installed.document["environment"]["prefix"]
    ended = firstlight("setup.transformers", "--adopt", prefix, "--json", home=tmp_path / "other home", program=hasty)
    assert ended.code == 0, ended.err
    assert ended.document["environment"]["kind"] == "adopted"
    assert ended.document["environment"]["prefix"] == prefix
    assert ended.document["proof"]["tokens"] == 12


@pytest.mark.usefixtures("installed")
def test_up_answers_with_a_real_model(place: Path) -> None:
    ended = firstlight("up", "--port", str(free_port()), home=place, timeout=900)
    assert ended.code == 0, ended.err
    assert "Paris" in ended.out
    for word in ("asked", "answer", "first token after", "Timeline", "environment", "convert", "start"):
        assert word in ended.out
    again = firstlight("up", "--once", "--json", "--port", str(free_port()), home=place)
    assert "Paris" in again.document["proof"]["text"]
    assert {step["outcome"] for step in again.document["steps"] if step["id"] in {"environment", "model"}} == {"reused"}


@pytest.mark.usefixtures("installed")
def test_detached_it_answers_until_it_is_taken_down(place: Path) -> None:
    port = str(free_port())
    ended = firstlight("up", "--detach", "--port", port, home=place)
    assert ended.code == 0, ended.err
    assert f"http://127.0.0.1:{port}/v1" in ended.out
    try:
        answer = firstlight("ask", "What is the capital of France?", home=place)
        assert answer.code == 0, answer.err
        assert "Paris" in answer.out
        busy = firstlight("up", "--once", "--port", port, home=place)
        assert busy.code == 1
        assert "firstlight down transformers" in busy.err
        refused = firstlight("setup.remove", "transformers", home=place)
        assert refused.code == 1
        assert "runs from this environment" in refused.err
    finally:
        down = firstlight("down", "transformers", home=place)
    assert down.out == "transformers stopped\n"
    assert firstlight("ask", "hello", "--url", f"http://127.0.0.1:{port}/v1", home=place).code == 1


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_serve_stays_until_it_is_ended(place: Path, number: signal.Signals, code: int) -> None:
    port = free_port()
    model = place / "models" / "proof-model"
    words = ["serve.transformers", "--model", str(model), "--port", str(port), "--", "--log-level", "info"]
    run = subprocess.Popen(
        [sys.executable, "-m", "firstlight", *words],
        env=os.environ | {"FIRSTLIGHT_HOME": str(place)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert run.stderr is not None
        said = []
        for line in run.stderr:
            said.append(line)
            if "serving; Ctrl-C ends it" in line:
                break
        assert run.poll() is None, said
        answer = firstlight("ask", "hello", "--url", f"http://127.0.0.1:{port}/v1", home=place)
        assert answer.code == 0, answer.err
        run.send_signal(number)
        run.communicate(timeout=300)
        assert run.returncode == code
    finally:
        run.kill()
        run.wait()
    assert port_holder(port) is None


@pytest.mark.usefixtures("installed")
def test_the_wheel_alone_does_the_same(wheel: list[str], place: Path, tmp_path: Path) -> None:
    facts = firstlight("machine", "--json", program=wheel, folder=tmp_path)
    assert facts.document["schema"] == "firstlight.machine/1"
    plan = firstlight("plan", "vllm", "--json", program=wheel, folder=tmp_path)
    assert plan.document["build"]["id"] == "vllm-0.32.0-cpu"
    ended = firstlight("up", "--once", "--json", "--port", str(free_port()), program=wheel, folder=tmp_path, home=place)
    assert ended.code == 0, ended.err
    assert "Paris" in ended.document["proof"]["text"]


def test_killed_in_the_middle_it_goes_on(tmp_path: Path, hasty: list[str]) -> None:
    home = tmp_path / "killed"
    words = ["setup.transformers", "--environment", "venv", "--no-proof", "--json"]
    variables = os.environ | {"FIRSTLIGHT_HOME": str(home)}
    first = subprocess.Popen([*hasty, *words], env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    installing = home / "environments" / "transformers"
    deadline = time.monotonic() + 300
    while not list(installing.glob("*/lib/python3*/site-packages/*")) and time.monotonic() < deadline:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (installing / "current").exists()
    second = firstlight(*words, home=home, timeout=900, program=hasty)
    assert second.code == 0, second.err
    assert current(home) == second.document["environment"]["generation"]
    leftovers = [path.name for path in installing.iterdir() if path.is_dir() and not path.is_symlink()]
    assert leftovers == [current(home)]


def test_two_at_once_one_waits_its_turn(tmp_path: Path, hasty: list[str]) -> None:
    home = tmp_path / "two"
    words = [*hasty, "setup.transformers", "--environment", "venv", "--no-proof", "--json"]
    variables = os.environ | {"FIRSTLIGHT_HOME": str(home)}
    runs = [
        subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    ended = [(run.communicate(timeout=900), run.returncode) for run in runs]
    assert [code for _, code in ended] == [0, 0], ended
    receipts = [json.loads(out) for (out, _), _ in ended]
    assert sorted(receipt["environment"]["reused"] for receipt in receipts) == [False, True]
    assert sum("another firstlight is changing" in err for (_, err), _ in ended) == 1
    listed = firstlight("setup.list", "--json", home=home).document["generations"]
    assert [item["current"] for item in listed] == [True]


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    home = tmp_path / "interrupted"
    words = [sys.executable, "-m", "firstlight", "setup.transformers", "--environment", "venv", "--no-proof"]
    run = subprocess.Popen(
        words,
        env=os.environ | {"FIRSTLIGHT_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    installing = home / "environments" / "transformers"
    deadline = time.monotonic() + 300
    while not list(installing.glob("*/lib/python3*/site-packages/*")) and time.monotonic() < deadline:
        assert run.poll() is None
        time.sleep(0.02)
    os.killpg(run.pid, signal.SIGINT)
    _, err = run.communicate(timeout=300)
    assert run.returncode == 130, err
    assert "Traceback" not in err
    assert "run the same command again" in err
    assert not (installing / "current").exists()
    assert firstlight("setup.list", "--json", home=home).code == 0


def test_vllm_from_bare_to_a_real_answer(place: Path, channel: str) -> None:
    words = ["--engine", "vllm", "--channel", channel, "--port", str(free_port())]  # 8000 may be somebody's
    ended = firstlight("up", *words, "--once", "--json", home=place, timeout=1800)
    assert ended.code == 0, ended.err
    receipt = ended.document
    assert "Paris" in receipt["proof"]["text"]
    assert receipt["model_id"] == MODEL
    assert receipt["plan"]["build"]["id"] == "vllm-0.32.0-cpu"
    assert current(place, "vllm") == receipt["environment"]["generation"]
