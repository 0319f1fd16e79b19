"""Environments for a machine that is not here: CUDA engines installed for real, and examined as far as it goes.

scripts/firstlight test -m real_install
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.command import REPOSITORY, Ended, firstlight
from support.local_channel import MINOR, session_channel

from firstlight.catalogue.loading import load_catalogue
from firstlight.catalogue.locks import lock_folder
from firstlight.environments.distributions import canonical
from firstlight.environments.locking.lockfile import read_lock
from firstlight.environments.pipconfig import read_pip_settings, uv_arguments
from firstlight.environments.wheels import find_uv

pytestmark = [pytest.mark.real_install, pytest.mark.timeout(3600)]

A100 = str(REPOSITORY / "tests" / "machines" / "a100-driver535-ubuntu2004.json")
FOR_A100 = ["--machine", A100, "--python", MINOR, "--no-proof", "--json"]
SETUPS = {
    "lmdeploy": ["--release", "0.7.2"],
    "vllm": ["--cuda", "12.1"],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of all tests in this file, with one cache; removed at the end, because it holds gigabytes."""
    place = tmp_path_factory.mktemp("real installs")
    yield place / "home"
    shutil.rmtree(place)


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A conda channel made of the Python that runs the tests."""
    return session_channel(tmp_path_factory.getbasetemp()).as_uri()


@pytest.fixture(scope="module")
def installed(home: Path, channel: str) -> dict[str, Ended]:
    """Every engine of `SETUPS`, set up for the A100."""
    return {
        engine: firstlight(f"setup.{engine}", *words, *FOR_A100, "--channel", channel, home=home, timeout=3600)
        for engine, words in SETUPS.items()
    }


def uv(*words: str, cache: Path) -> None:
    """Run uv with the user's pip configuration."""
    options, variables = uv_arguments(read_pip_settings())
    subprocess.run(
        [str(find_uv()), "pip", *words, *(options if words[0] == "install" else [])],
        check=True,
        env=os.environ | variables | {"UV_CACHE_DIR": str(cache)},
    )


def checks(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The checks of a receipt's or an error's examination."""
    return {check["id"]: check for check in document["examination"]["checks"]}


@pytest.mark.parametrize("engine", SETUPS)
def test_an_engine_is_installed_for_the_a100_and_passes(installed: dict[str, Ended], engine: str) -> None:
    ended = installed[engine]
    assert ended.code == 0, ended.err
    receipt = ended.document
    assert receipt["environment"]["kind"] == "conda"
    assert receipt["plan"]["gpus"] == [0]
    assert receipt["proof"] is None
    seen = checks(receipt)
    # the engine's compiled part needs libcuda, which a machine without a driver does not have
    expected = dict.fromkeys(seen, "ok") | {"extensions": seen["extensions"]["status"]}
    assert {name: check["status"] for name, check in seen.items()} == expected, seen
    assert seen["extensions"]["status"] in {"ok", "skip"}
    names = [item["name"].lower() for item in receipt["fetched"]]
    assert "pynvml" not in names
    assert len([name for name in names if name.startswith("nvidia-nccl-cu")]) == 1
    assert "modelscope" in names


@pytest.mark.parametrize(("engine", "build"), [("vllm", "vllm-0.7.3-cu121"), ("lmdeploy", "lmdeploy-0.7.2-cu121")])
def test_an_old_engine_is_installed_from_its_lock_and_passes(home: Path, engine: str, build: str) -> None:
    python = shutil.which("python3.12")
    if python is None:
        pytest.skip("there is no python3.12, for which these locks are: put one into PATH")
    ended = firstlight(
        f"setup.{engine}", "--build", build, "--machine", A100, "--python", "3.12", "--environment", "venv",
        "--no-proof", "--json", home=home, timeout=3600, variables={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert ended.code == 0, ended.err
    receipt = ended.document
    assert receipt["plan"]["build"]["integrity"] == "locked"
    entry = next(one for one in load_catalogue().engines[engine].build if one.id == build)
    lock = read_lock(lock_folder(engine, build), entry, "3.12")
    assert lock is not None
    held = {(wheel.name, wheel.version) for wheel in lock.wheels}
    got = {(canonical(item["name"]), item["version"]): item["sha256"] for item in receipt["fetched"]}
    assert held <= set(got)
    assert {wheel.name for wheel in lock.wheels if got[wheel.name, wheel.version] not in wheel.sha256} == set()
    seen = {check["id"]: check["status"] for check in receipt["examination"]["checks"]}
    assert set(seen.values()) <= {"ok", "skip"}, receipt["examination"]
    assert seen["tokenizer"] == seen["modules"] == seen["command"] == "ok"


def test_vllm_without_its_pins_is_a_false_green_that_is_found(
    installed: dict[str, Ended], home: Path, tmp_path: Path
) -> None:
    assert installed["vllm"].code == 0
    prefix = tmp_path / "unpinned"
    cache = home / "cache" / "wheels"
    subprocess.run([str(find_uv()), "venv", "--python", sys.executable, str(prefix)], check=True)
    python = str(prefix / "bin" / "python")
    uv("install", "--python", python, "--no-build", "vllm==0.7.3", cache=cache)
    subprocess.run([python, "-c", "import vllm"], check=True, env=os.environ | {"HOME": str(tmp_path)})
    ended = firstlight("setup.vllm", "--adopt", str(prefix), *FOR_A100, home=tmp_path / "home", timeout=900)
    assert ended.code == 5, ended.err
    seen = checks(ended.document)
    assert seen["tokenizer"]["status"] == "fail"
    assert "all_special_tokens_extended" in seen["tokenizer"]["summary"]
    assert seen["modules"]["status"] == "warn"  # an adopted environment is not ours to judge: it is told
    assert any("name 'nn' is not defined" in line for line in seen["modules"]["detail"])
    shutil.rmtree(prefix)


def test_lmdeploy_without_partial_json_parser_is_a_false_green_that_is_found(
    installed: dict[str, Ended], home: Path, tmp_path: Path
) -> None:
    prefix = installed["lmdeploy"].document["environment"]["prefix"]
    python = f"{prefix}/bin/python"
    uv("uninstall", "--python", python, "partial-json-parser", cache=home / "cache" / "wheels")
    subprocess.run([python, "-c", "import lmdeploy"], check=True, env=os.environ | {"HOME": str(tmp_path)})
    ended = firstlight("setup.lmdeploy", "--adopt", prefix, *FOR_A100, home=tmp_path / "home", timeout=900)
    assert ended.code == 5, ended.err
    seen = checks(ended.document)
    assert [name for name, check in seen.items() if check["status"] == "fail"] == ["command"]
    assert "No module named 'partial_json_parser'" in seen["command"]["summary"]
