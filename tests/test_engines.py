"""How each engine's server is started, and which engines can be set up at all."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from support.command import firstlight

from firstlight import engines
from firstlight.catalogue.loading import find_build, load_catalogue
from firstlight.catalogue.names import command_for, engine_names, installable_names
from firstlight.engines.base import ServingRequest
from firstlight.errors import UsageError
from firstlight.home import Home
from firstlight.machine.facts import load
from firstlight.planning.plan import Launch
from firstlight.tasks.doing import pick_engine

MACHINES = Path(__file__).parent / "machines"
IN_PYTHON = [name for name, page in load_catalogue().engines.items() if page.kind == "wheels"]
BUILDS = {"vllm": "vllm-0.32.0-cu130", "lmdeploy": "lmdeploy-0.18.0-cu128", "transformers": "transformers-5.23.0-cu130"}
INHERITED = ["VLLM_USE_MODELSCOPE", "LMDEPLOY_USE_MODELSCOPE", "LMDEPLOY_USE_OPENMIND_HUB", "PYTHONPATH", "PYTHONHOME"]


def request(engine, folder, **more):
    build = find_build(load_catalogue().engines[engine], BUILDS[engine])
    launch = Launch(port=8000, device="cuda", **more.pop("launch", {}))
    return ServingRequest(
        prefix=folder / "prefix",
        build=msgspec.structs.replace(build, flags=more.pop("build_flags", [])),
        launch=launch,
        model=folder / "a model",
        model_bytes=1_000_000_000,
        name="Qwen2.5-0.5B",
        host="127.0.0.1",
        port=8123,
        home=Home(folder / "home"),
        **more,
    )


def words(serving):
    """The options of a command with their values, and what stands before them."""
    argv = list(serving.command.argv)
    first = next(at for at, word in enumerate(argv) if word.startswith("--"))
    return argv[:first], dict(zip(argv[first::2], argv[first + 1 :: 2], strict=True))


def test_lmdeploy_serves_a_folder_under_a_name_on_one_address(tmp_path):
    wish = request("lmdeploy", tmp_path, launch={"dtype": "float16", "backend": "turbomind", "tensor_parallel_size": 1})
    serving = engines.find("lmdeploy").serving(wish)
    head, options = words(serving)
    assert head == [str(wish.python), "-m", "lmdeploy", "serve", "api_server", str(wish.model)]
    assert options == {
        "--server-name": "127.0.0.1",
        "--server-port": "8123",
        "--model-name": "Qwen2.5-0.5B",
        "--backend": "turbomind",
        "--dtype": "float16",
    }
    assert (serving.model_id, serving.health_path) == ("Qwen2.5-0.5B", "/health")


def test_lmdeploy_on_slices_and_on_several_gpus(tmp_path):
    launch = {"dtype": "auto", "backend": "pytorch", "tensor_parallel_size": 4, "visible_devices": "0,1,2,3"}
    serving = engines.find("lmdeploy").serving(request("lmdeploy", tmp_path, launch=launch))
    _head, options = words(serving)
    assert (options["--backend"], options["--tp"], options["--dtype"]) == ("pytorch", "4", "auto")
    assert serving.command.environment["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"


@pytest.mark.parametrize("engine", IN_PYTHON)
def test_the_users_own_flags_come_last_after_those_of_the_build(tmp_path, engine):
    wish = request(engine, tmp_path, build_flags=["--eager-mode"], flags=("--session-len", "4096"))
    argv = list(engines.find(engine).serving(wish).command.argv)
    assert argv[-3:] == ["--eager-mode", "--session-len", "4096"]


@pytest.mark.parametrize("engine", IN_PYTHON)
def test_a_served_folder_is_never_asked_of_a_hub_and_caches_stay_in_the_home(tmp_path, engine, monkeypatch):
    for name in INHERITED:
        monkeypatch.setenv(name, "True")
    wish = request(engine, tmp_path)
    environment = engines.find(engine).serving(wish).command.environment
    own = "VLLM_USE_MODELSCOPE" if engine == "vllm" else "LMDEPLOY_USE_MODELSCOPE" if engine == "lmdeploy" else None
    assert own is None or environment[own] is None
    assert environment["PYTHONPATH"] is None
    assert environment["HF_HUB_OFFLINE"] == "1"
    folders = [
        value for name, value in environment.items() if value and name.endswith(("_CACHE_DIR", "_HOME", "_ROOT"))
    ]
    assert folders
    assert all(value.startswith(str(wish.home.root)) for value in folders)
    assert environment["PATH"].startswith(f"{wish.python.parent}:")


def test_every_engine_that_can_be_set_up_has_a_module_of_its_name():
    assert set(installable_names()) == set(engine_names()) == {"vllm", "lmdeploy", "transformers", "ollama"}
    for name in installable_names():
        assert engines.find(name).name == name
        assert command_for(name) == f"firstlight up --engine {name}"


def test_an_engine_that_has_only_a_page_can_be_planned_for_and_says_so_elsewhere(tmp_path, monkeypatch):
    """All engines have a module by now; the next one may have its page first."""
    monkeypatch.setattr("firstlight.catalogue.names._ENGINES", tmp_path)
    assert command_for("ollama") == "firstlight plan ollama"
    with pytest.raises(UsageError, match="cannot set ollama up yet") as caught:
        engines.find("ollama")
    assert caught.value.fix == "firstlight plan ollama"


def test_an_engine_of_no_name_is_answered_with_those_that_can_be_set_up():
    with pytest.raises(UsageError, match='did you mean "lmdeploy"') as caught:
        engines.find("lmdeplo")
    assert caught.value.fix == f"choose one of: {', '.join(installable_names())}"


def test_the_command_line_offers_what_can_be_set_up():
    listed = firstlight("--list").out
    assert all(f"setup.{name}" in listed and f"serve.{name}" in listed for name in installable_names())


def test_alternatives_are_commands_that_exist():
    ended = firstlight("plan", "lmdeploy", "--machine", str(MACHINES / "p100-driver535.json"))
    assert ended.code == 3
    for name in ("transformers", "ollama"):
        assert f"firstlight up --engine {name}" in ended.out


def test_up_never_takes_by_itself_what_it_cannot_set_up():
    machines = [path for path in MACHINES.rglob("*.json") if path.name not in {"expected.json", "index.json"}]
    assert machines
    for facts in machines:
        assert pick_engine(load(facts), None) in installable_names(), facts.name
