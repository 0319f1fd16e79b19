"""The plan as a whole: what is chosen on the CPU, where it goes, what it rests on, and how it reads as a document."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
from support.expectations import MACHINES

from firstlight.catalogue.loading import load_catalogue
from firstlight.machine.facts import Conda, Disk, Gpu, Machine, Python, load
from firstlight.planning.choose import choose
from firstlight.planning.failing import nothing_fits
from firstlight.planning.plan import Plan, to_json
from firstlight.planning.request import Request, Supply
from firstlight.planning.versions import at_least, branch_only, capability, numbers, release_key

GB = 1_000_000_000


def laptop() -> Machine:
    return load(MACHINES / "no-gpu-laptop.json")


def change(machine: Machine, **parts: object) -> Machine:
    """Return the machine with some facts replaced: `host_arch="aarch64"` replaces host.arch."""
    for name, value in parts.items():
        room, _, fact = name.partition("_")
        if hasattr(machine, name):
            machine = msgspec.structs.replace(machine, **{name: value})
        else:
            machine = msgspec.structs.replace(
                machine, **{room: msgspec.structs.replace(getattr(machine, room), **{fact: value})}
            )
    return machine


def decide(machine: Machine, engine: str = "transformers", **words: object) -> Plan:
    return choose(machine, load_catalogue(), Request(engine=engine, **words))


def chosen(machine: Machine, engine: str = "transformers", **words: object) -> str:
    build = decide(machine, engine, **words).build
    assert build is not None
    return build.id


def rules(plan: Plan) -> dict[str, str]:
    return {item.build: item.rule for item in plan.refused}


@pytest.mark.parametrize("engine", ["transformers", "vllm", "ollama"])
def test_a_laptop_without_gpu_gets_a_cpu_build(engine: str) -> None:
    plan = decide(laptop(), engine)
    assert plan.build is not None
    assert plan.build.cuda is None
    assert plan.launch is not None
    assert plan.launch.device == "cpu"
    assert plan.gpus == []
    assert "device" in rules(plan).values()
    assert any("there is no GPU" in reason for reason in plan.because)


def test_an_h100_gets_a_cuda_build() -> None:
    plan = decide(load(MACHINES / "h100-driver580-ubuntu2204.json"), "vllm")
    assert plan.launch is not None
    assert (plan.launch.dtype, plan.launch.tensor_parallel_size, plan.launch.port) == ("auto", 1, 8000)
    assert plan.launch.device == "cuda"
    assert plan.warnings == []


def test_vllm_on_the_cpu_of_a_gpu_machine_only_when_asked() -> None:
    machine = load(MACHINES / "a100-driver535-ubuntu2004.json")
    plan = decide(machine, "vllm", cuda="cpu")
    assert plan.build is not None
    assert plan.build.cuda is None
    assert any("asked for" in reason for reason in plan.because)
    by_itself = next(item for item in decide(machine, "vllm").refused if item.build == plan.build.id)
    assert (by_itself.rule, "--cuda cpu" in (by_itself.remedy or "")) == ("device", True)


def test_no_remedy_is_offered_that_would_not_help() -> None:
    old = decide(load(MACHINES / "t4-driver525-ubuntu1804.json"), "vllm")
    on_cpu = [item for item in old.refused if item.rule == "device"]
    assert on_cpu
    assert all(item.remedy is None for item in on_cpu)


def test_a_gpu_that_no_build_can_use_is_told_loudly() -> None:
    machine = change(
        load(MACHINES / "p100-driver535.json"), gpus=[Gpu(index=0, name="Quadro", compute_capability="3.5")]
    )
    plan = decide(machine)
    assert plan.build is not None
    assert plan.build.cuda is None
    assert any("Quadro" in line and "cannot be used" in line for line in plan.warnings)


def test_alternatives_are_named_when_nothing_fits() -> None:
    plan = decide(load(MACHINES / "p100-driver535.json"), "vllm")
    assert {"transformers", "ollama"} <= {other.engine for other in plan.alternatives}
    error = nothing_fits(plan)
    assert "firstlight up --engine transformers" in (error.fix or "")
    assert "compute capability 6.0" in (error.why or "")
    assert error.document["plan"]["build"] is None


def test_the_big_mount_is_proposed_beside_a_small_root() -> None:
    plan = decide(load(MACHINES / "rental-container-no-systemd.json"))
    assert plan.home == "/root/autodl-tmp/firstlight"


def test_a_known_home_is_kept_and_its_mount_judged() -> None:
    machine = load(MACHINES / "rental-container-no-systemd.json")
    assert decide(machine, home=Path("/opt/here")).home == "/opt/here"
    full = change(machine, disks=[Disk(mount="/", free=GB // 10, writable=True), Disk(mount="/data", free=99 * GB)])
    plan = decide(full, home=Path("/opt/here"))
    assert plan.build is None
    refusal = next(item for item in plan.refused if item.rule == "disk")
    assert "/ has 100 MB free" in refusal.reason
    assert refusal.remedy == "export FIRSTLIGHT_HOME=/data/firstlight"


@pytest.mark.parametrize(
    ("parts", "rule"),
    [
        ({"host_arch": "ppc64le"}, "arch"),
        ({"host_libc": "musl", "host_libc_version": "1.2.5"}, "libc"),
        ({"host_libc_version": "2.12"}, "libc"),
        ({"memory_total": GB}, "memory"),
        ({"disks": [Disk(mount="/", free=GB // 100, writable=True)]}, "disk"),
        ({"disks": [Disk(mount="/", free=900 * GB, writable=False)]}, "disk"),
    ],
)
def test_one_fact_refuses_the_cpu_builds(parts: dict[str, object], rule: str) -> None:
    build = chosen(laptop())
    plan = decide(change(laptop(), **parts))
    assert plan.build is None
    assert rules(plan)[build] == rule


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({}, "use a container of a distribution with glibc"),
        ({"host_container": "docker"}, "use an image with glibc"),
        ({"host_wsl": "2"}, "wsl --list --online"),
    ],
)
def test_the_remedy_for_an_old_c_library_is_possible_there(parts: dict[str, object], words: str) -> None:
    plan = decide(change(laptop(), host_libc_version="2.12", **parts))
    assert all(words in (item.remedy or "") for item in plan.refused if item.rule == "libc")
    assert "libc" in rules(plan).values()


def test_missing_vector_instructions_refuse_vllm_alone() -> None:
    old, build = change(laptop(), cpu_flags=["sse4_2"]), chosen(laptop(), "vllm")
    assert rules(decide(old, "vllm"))[build] == "cpu"
    assert decide(old).build is not None


def test_unknown_facts_refuse_nothing_and_are_told() -> None:
    plan = decide(Machine(), "vllm")
    assert plan.build is not None
    assert {"processor architecture x86_64", "enough main memory"} <= set(plan.assumed)
    assert decide(Machine(gpus=[]), "transformers").build is not None


def test_other_vendors_are_seen_and_not_used() -> None:
    machine = change(laptop(), gpus=[Gpu(index=0, vendor="amd", name="Radeon")])
    plan = decide(machine)
    assert plan.build is not None
    assert plan.build.cuda is None
    assert any("amd" in reason for reason in plan.because)


def cpu_torch(machine: Machine) -> str:
    """Return the exact version of the torch of the CPU build for a machine."""
    build = decide(machine).build
    assert build is not None
    return f"{build.torch}+cpu"


def test_the_cpu_torch_decides_the_python() -> None:
    supply = Supply(channels=["https://channel"], torch={cpu_torch(laptop()): {"find-links:/wheels": ["3.11"]}})
    plan = decide(laptop(), supply=supply)
    assert plan.build is not None
    assert (plan.build.python, plan.torch_source) == ("3.11", "find-links:/wheels")
    assert plan.environment == "conda"


def test_without_a_cpu_torch_the_registrys_is_taken_and_said_with_its_size() -> None:
    plan = decide(laptop(), supply=Supply(channels=["https://channel"], torch={cpu_torch(laptop()): {}}))
    assert plan.torch_source == "registry"
    assert plan.needs is not None
    assert plan.needs.download > 2 * GB
    assert any("CUDA build" in reason and "GB" in reason for reason in plan.because)


def test_a_silent_network_of_channels_means_a_virtual_environment() -> None:
    machine = change(laptop(), pythons=[Python(path="/usr/bin/python3", version="3.11.2")])
    supply = Supply(channels=[], torch={cpu_torch(machine): {"index:u": ["3.12", "3.11"]}})
    plan = decide(machine, supply=supply)
    assert plan.build is not None
    assert (plan.environment, plan.build.python) == ("venv", "3.11")
    old = decide(change(laptop(), pythons=[Python(version="3.2.1")]), supply=Supply(channels=[]))
    assert old.build is None
    assert "python" in rules(old).values()


def test_an_archive_needs_neither_python_nor_channels() -> None:
    plan = decide(change(laptop(), pythons=[]), "ollama", supply=Supply(channels=[]))
    assert plan.build is not None
    assert plan.build.python == ""
    assert not any("environment" in line for line in [*plan.because, *plan.assumed, plan.steps[0].what])


@pytest.mark.parametrize("engine", ["vlm", "Ollama2"])
def test_an_unknown_engine_offers_a_near_one(engine: str) -> None:
    from firstlight.errors import UsageError

    with pytest.raises(UsageError, match="did you mean") as caught:
        decide(laptop(), engine)
    assert (caught.value.fix or "").startswith("choose one of: ")


def test_same_input_same_plan_and_the_documents_keys() -> None:
    first, second = (to_json(decide(laptop(), "vllm")) for _ in range(2))
    assert first == second
    document = json.loads(first)
    assert document["schema"] == "firstlight.plan/1"
    for key in ("engine", "build", "home", "gpus", "environment", "because", "launch", "needs", "refused", "steps"):
        assert key in document
    assert set(document["build"]) == {"id", "release", "cuda", "torch", "torch_cuda", "python", "arch", "integrity"}


def test_conda_facts_do_not_change_the_plan() -> None:
    with_base = change(laptop(), conda=Conda(root="/opt/conda"))
    assert to_json(decide(with_base)) == to_json(decide(laptop()))


def test_versions_compare_by_numbers() -> None:
    assert numbers("6.8.0-45-generic") == (6, 8, 0)
    assert at_least("535.183.01", "535.54")
    assert at_least("580", "580.0")
    assert not at_least("2.9", "2.28")
    assert at_least("12.10", "12.9")
    assert release_key("0.8.4") < release_key("0.8.5") < release_key("0.8.5.post1") < release_key("0.9.0")
    assert [capability(text) for text in ("9.0", "12.1", "9", "new", "", None)] == [(9, 0), (12, 1), *[None] * 4]
    assert [branch_only(text) for text in ("580", "580.00", "580.65.06", "525.60")] == [True, True, False, False]


def test_where_no_mount_has_room_the_remedy_says_how_much_is_needed() -> None:
    full = change(laptop(), disks=[Disk(mount="/", free=GB // 100, writable=True)])
    plan = decide(full)
    need = next(item for item in plan.refused if item.rule == "disk")
    assert re.fullmatch(r"make room on /: \d+\.\d GB are needed", need.remedy or "")
