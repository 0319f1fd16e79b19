"""The plan: what is chosen for which machine, and which rule refuses what."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from firstlight.catalogue.loading import load_catalogue, load_mirrors, read_toml
from firstlight.catalogue.types import EngineEntry
from firstlight.errors import FirstlightError, UsageError
from firstlight.machine.facts import Conda, Cpu, Disk, Gpu, Host, Machine, Memory, Nvidia, Python, load
from firstlight.planning.choose import choose
from firstlight.planning.failing import nothing_fits
from firstlight.planning.plan import Plan, to_json
from firstlight.planning.request import Request, Supply
from firstlight.planning.versions import at_least, numbers

MACHINES = Path(__file__).parent / "machines"
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


def rules(plan: Plan) -> dict[str, str]:
    return {item.build: item.rule for item in plan.refused}


def gpu_machine(*capabilities: str, driver: str = "580.95.05") -> Machine:
    return Machine(
        host=Host(arch="x86_64", libc="glibc", libc_version="2.35", uid=0, kernel="5.15.0"),
        cpu=Cpu(cores=8, flags=["avx2"]),
        memory=Memory(total=64 * GB),
        disks=[Disk(mount="/", fs="ext4", free=500 * GB, total=900 * GB, writable=True)],
        nvidia=Nvidia(driver=driver, cuda="13.0"),
        gpus=[Gpu(index=n, name=f"GPU-{n}", compute_capability=cc) for n, cc in enumerate(capabilities)],
        pythons=[Python(path="/usr/bin/python3", version="3.12.3")],
    )


def test_a_laptop_without_gpu_gets_the_cpu_builds() -> None:
    for engine, build in (("transformers", "transformers-5.23.0-cpu"), ("vllm", "vllm-0.32.0-cpu")):
        plan = decide(laptop(), engine)
        assert plan.build is not None
        assert (plan.build.id, plan.build.cuda) == (build, None)
        assert plan.launch is not None
        assert plan.launch.device == "cpu"
        assert plan.gpus == []
        assert "device" in rules(plan).values()


def test_an_h100_gets_the_cuda_build() -> None:
    plan = decide(load(MACHINES / "h100-driver580-ubuntu2204.json"), "vllm")
    assert plan.build is not None
    assert (plan.build.cuda, plan.build.release) == ("13.0", "0.32.0")
    assert plan.launch is not None
    assert (plan.launch.dtype, plan.launch.tensor_parallel_size, plan.launch.port) == ("auto", 1, 8000)


@pytest.mark.parametrize(
    ("machine", "rule", "word"),
    [
        ("a100-driver535-ubuntu2004", "driver", "580"),
        ("v100-driver535-ubuntu2004", "compute_capability", "7."),
        ("p100-driver535", "compute_capability", "6.0"),
        ("t4-driver525-ubuntu1804", "libc", "2.28"),
    ],
)
def test_vllm_refuses_with_the_rule_and_the_figure(machine: str, rule: str, word: str) -> None:
    plan = decide(load(MACHINES / f"{machine}.json"), "vllm")
    assert plan.build is None
    refusal = next(item for item in plan.refused if item.build == "vllm-0.32.0-cu130")
    assert refusal.rule == rule
    assert word in refusal.reason
    on_cpu = next(item for item in plan.refused if item.build == "vllm-0.32.0-cpu")
    assert on_cpu.rule == "device"
    assert machine == "t4-driver525-ubuntu1804" or "--cuda cpu" in (on_cpu.remedy or "")


def test_vllm_on_the_cpu_of_a_gpu_machine_only_when_asked() -> None:
    plan = decide(load(MACHINES / "a100-driver535-ubuntu2004.json"), "vllm", cuda="cpu")
    assert plan.build is not None
    assert plan.build.cuda is None
    assert any("asked for" in reason for reason in plan.because)


def test_transformers_falls_to_the_cpu_loudly_where_the_gpu_cannot_be_used() -> None:
    plan = decide(load(MACHINES / "v100-driver535-ubuntu2004.json"))
    assert plan.build is not None
    assert plan.build.cuda is None
    assert any("V100" in reason and "cannot be used" in reason for reason in plan.because)


def test_alternatives_are_named_when_nothing_fits() -> None:
    plan = decide(load(MACHINES / "p100-driver535.json"), "vllm")
    assert [other.engine for other in plan.alternatives] == ["transformers"]


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
        ({"host_libc": "musl"}, "libc"),
        ({"host_libc_version": "2.27"}, "libc"),
        ({"memory_total": GB}, "memory"),
        ({"disks": [Disk(mount="/", free=GB // 100, writable=True)]}, "disk"),
        ({"disks": [Disk(mount="/", free=900 * GB, writable=False)]}, "disk"),
    ],
)
def test_one_fact_refuses_a_cpu_build(parts: dict[str, object], rule: str) -> None:
    assert decide(laptop()).build is not None
    plan = decide(change(laptop(), **parts))
    assert plan.build is None
    assert rules(plan)["transformers-5.23.0-cpu"] == rule


def test_missing_vector_instructions_refuse_vllm_alone() -> None:
    old = change(laptop(), cpu_flags=["sse4_2"])
    assert rules(decide(old, "vllm"))["vllm-0.32.0-cpu"] == "cpu"
    assert decide(old).build is not None


def test_unknown_facts_refuse_nothing_and_are_told() -> None:
    plan = decide(Machine(), "vllm")
    assert plan.build is not None
    assert plan.assumed
    assert decide(Machine(gpus=[]), "transformers").build is not None


def test_cuda_stands_in_for_an_unknown_driver() -> None:
    machine = change(gpu_machine("9.0"), nvidia=Nvidia(driver=None, cuda="12.4"))
    assert rules(decide(machine, "vllm"))["vllm-0.32.0-cu130"] == "driver"
    newer = decide(change(machine, nvidia=Nvidia(driver=None, cuda="13.1")), "vllm")
    assert newer.build is not None
    assert newer.build.cuda == "13.0"


def test_a_windows_driver_number_is_not_compared_inside_wsl() -> None:
    machine = change(gpu_machine("8.9", driver="551.86"), host_wsl="2")
    chosen = decide(machine, "vllm").build
    assert chosen is not None
    assert chosen.cuda == "13.0"


def test_an_old_kernel_is_not_told_to_install_the_driver() -> None:
    machine = change(gpu_machine("8.0", driver="525.60.13"), host_kernel="3.10.0-1160.el7.x86_64")
    refusal = next(item for item in decide(machine, "vllm").refused if item.rule == "driver")
    assert refusal.remedy is not None
    assert "none on this system" in refusal.remedy


def test_a_driver_problem_is_a_refusal_with_its_cure() -> None:
    broken = Nvidia(driver="580.95.05", cuda=None, problem="driver_library_mismatch")
    refusal = next(i for i in decide(change(gpu_machine("9.0"), nvidia=broken), "vllm").refused if i.rule == "device")
    assert "different versions" in refusal.reason
    assert "reboot" in (refusal.remedy or "")


def test_unlike_gpus_count_at_both_ends_and_old_display_cards_are_left_out() -> None:
    plan = decide(gpu_machine("8.6", "5.2"), "vllm")
    assert plan.gpus == [0]
    assert plan.launch is not None
    assert plan.launch.visible_devices == "0"
    assert any("GPU-1" in reason and "left out" in reason for reason in plan.because)
    turing = decide(gpu_machine("8.6", "7.5"), "vllm")
    assert turing.gpus == [0, 1]
    assert turing.launch is not None
    assert turing.launch.dtype == "half"


def test_gpus_can_be_chosen() -> None:
    plan = decide(gpu_machine("9.0", "7.5"), "vllm", gpus=(0,))
    assert plan.launch is not None
    assert (plan.gpus, plan.launch.visible_devices, plan.launch.dtype) == ([0], "0", "auto")
    none = decide(gpu_machine("9.0"), "vllm", gpus=(3,))
    assert rules(none)["vllm-0.32.0-cu130"] == "device"


def test_gpus_asked_for_are_never_dropped_in_silence() -> None:
    plan = decide(laptop(), gpus=(0,))
    assert plan.build is None
    assert rules(plan)["transformers-5.23.0-cpu"] == "requested"


def test_remedies_are_possible_on_that_machine() -> None:
    volta = decide(load(MACHINES / "v100-driver535-ubuntu2004.json"), "vllm")
    assert next(i for i in volta.refused if i.rule == "compute_capability").remedy is None
    mixed = decide(gpu_machine("9.0", "6.1"), "vllm", gpus=(0, 1))
    assert next(i for i in mixed.refused if i.rule == "compute_capability").remedy == "choose other GPUs: --gpus 0"
    old = decide(load(MACHINES / "t4-driver525-ubuntu1804.json"), "vllm")
    assert next(i for i in old.refused if i.build == "vllm-0.32.0-cpu").remedy is None


def test_what_is_nearest_to_fitting_is_told_first() -> None:
    error = nothing_fits(decide(laptop(), python="3.9"))
    assert error.fix is not None
    assert error.fix.splitlines()[0] == "leave --python out"
    assert "NVIDIA" not in error.fix


def test_other_vendors_are_seen_and_not_used() -> None:
    machine = change(laptop(), gpus=[Gpu(index=0, vendor="amd", name="Radeon")])
    plan = decide(machine)
    assert plan.build is not None
    assert plan.build.cuda is None
    assert any("amd" in reason for reason in plan.because)


def test_the_cpu_torch_decides_the_python() -> None:
    supply = Supply(channels=["https://channel"], cpu_torch={"find-links:/wheels": ["3.11"]})
    plan = decide(laptop(), supply=supply)
    assert plan.build is not None
    assert (plan.build.python, plan.torch_source) == ("3.11", "find-links:/wheels")
    assert plan.environment == "conda"


def test_without_a_cpu_torch_the_registrys_is_taken_and_said_with_its_size() -> None:
    plan = decide(laptop(), supply=Supply(channels=["https://channel"], cpu_torch={}))
    assert plan.torch_source == "registry"
    assert plan.needs is not None
    assert plan.needs.download > 2 * GB
    assert any("CUDA build" in reason and "GB" in reason for reason in plan.because)


def test_a_silent_network_of_channels_means_a_virtual_environment() -> None:
    machine = change(laptop(), pythons=[Python(path="/usr/bin/python3", version="3.11.2")])
    plan = decide(machine, supply=Supply(channels=[], cpu_torch={"index:u": ["3.12", "3.11"]}))
    assert plan.build is not None
    assert (plan.environment, plan.build.python) == ("venv", "3.11")
    old = decide(laptop(), supply=Supply(channels=[]))
    assert old.build is None
    assert rules(old)["transformers-5.23.0-cpu"] == "python"


@pytest.mark.parametrize(
    ("words", "near"),
    [
        ({"engine": "vlm"}, "vllm"),
        ({"engine": "transformers", "build": "transformers-5.23.0-gpu"}, "transformers-5.23.0-cpu"),
        ({"engine": "transformers", "release": "5.23"}, "5.23.0"),
    ],
)
def test_unknown_names_offer_a_near_one(words: dict[str, str], near: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(laptop(), load_catalogue(), Request(**words))
    assert f'did you mean "{near}"' in caught.value.what
    assert caught.value.fix


def test_a_cuda_that_no_build_has_is_refused_as_requested() -> None:
    plan = decide(laptop(), "vllm", cuda="9.2")
    assert plan.build is None
    assert set(rules(plan).values()) == {"requested"}


def test_same_input_same_plan_and_the_documents_keys() -> None:
    first, second = (to_json(decide(laptop(), "vllm")) for _ in range(2))
    assert first == second
    document = json.loads(first)
    assert document["schema"] == "firstlight.plan/1"
    for key in ("engine", "build", "home", "gpus", "environment", "because", "launch", "needs", "refused", "steps"):
        assert key in document
    assert set(document["build"]) == {"id", "release", "cuda", "torch", "torch_cuda", "python", "arch", "integrity"}


def test_every_build_is_chosen_or_refused_on_every_machine() -> None:
    for path in [*MACHINES.glob("*.json"), *MACHINES.glob("real/*.json")]:
        for name, page in load_catalogue().engines.items():
            plan = choose(load(path), load_catalogue(), Request(engine=name))
            named = {item.build for item in plan.refused} | ({plan.build.id} if plan.build else set())
            assert named == {build.id for build in page.build}, path


def test_versions_compare_by_numbers() -> None:
    assert numbers("6.8.0-45-generic") == (6, 8, 0)
    assert at_least("535.183.01", "535.54")
    assert at_least("580", "580.0")
    assert not at_least("2.9", "2.28")
    assert at_least("12.10", "12.9")


def test_the_catalogue_names_a_source_for_each_figure_and_refuses_unknown_keys(tmp_path: Path) -> None:
    for page in load_catalogue().engines.values():
        for build in page.build:
            assert {"release", "libc", "pythons", "sizes"} <= set(build.sources), build.id
            assert build.cuda is None or {"driver", "capabilities"} <= set(build.sources), build.id
    assert load_mirrors().conda.canonical.startswith("https://")
    wrong = tmp_path / "builds.toml"
    wrong.write_text('engine = "x"\nrank = 1\nsummary = ""\ncpu = "never"\nport = 1\nbuild = []\ncolour = "red"\n')
    with pytest.raises(FirstlightError, match="wrong") as caught:
        read_toml(wrong, EngineEntry)
    assert "colour" in (caught.value.why or "")


def test_conda_facts_do_not_change_the_plan() -> None:
    with_base = change(laptop(), conda=Conda(root="/opt/conda"))
    assert to_json(decide(with_base)) == to_json(decide(laptop()))
