"""Which GPUs a build runs: machine code, PTX, Jetson's own, torch beside the engine, slices, unlike cards."""

from __future__ import annotations

import msgspec
import pytest
from support.small_catalogue import build, decide, machine, page, refusals

from firstlight.catalogue.loading import load_catalogue
from firstlight.machine.facts import Gpu, Host, Nvidia
from firstlight.planning.devices import floor_of, is_slice, runs_on, way

TEGRA = load_catalogue().platforms.tegra


@pytest.mark.parametrize(
    ("codes", "ptx", "wanted", "found"),
    [
        (["8.0"], None, "8.0", "code"),
        (["8.0"], None, "8.9", "code"),
        (["8.6"], None, "8.0", None),
        (["8.0"], None, "9.0", None),
        (["9.0a"], None, "9.0", "code"),
        (["10.0a"], None, "10.3", None),
        (["10.0"], None, "10.3", "code"),
        (["12.0a"], None, "12.1", None),
        (["12.0"], None, "12.1", "code"),
        (["8.0"], "8.0", "10.3", "ptx"),
        ([], "7.5", "7.5", "ptx"),
        ([], "7.5", "7.0", None),
        (["9.0"], "9.0a", "10.0", None),
        (None, "9.0", "10.0", "ptx"),
        (None, None, "3.5", "code"),
        # Orin: code for desktop GPUs of the same generation does not run, its own and PTX do.
        (["8.0", "8.6"], None, "8.7", None),
        (["8.7"], None, "8.7", "code"),
        (["8.7"], None, "8.9", None),
        (["8.0"], "8.0", "8.7", "ptx"),
        (["11.0"], None, "11.0", "code"),
        (["10.0"], None, "10.1", None),
        # A capability that is none says nothing.
        (["8.0"], None, "new", "code"),
        (["8.0"], None, "9", "code"),
    ],
)
def test_how_binaries_run_a_gpu(codes: list[str] | None, ptx: str | None, wanted: str, found: str | None) -> None:
    assert way(codes, ptx, wanted, TEGRA) == found


def test_the_engine_and_its_torch_must_both_run_the_gpu() -> None:
    both = build("b", torch="2.5.1", capabilities=["7.0", "8.0"], torch_capabilities=["8.0", "9.0"])
    assert runs_on(both, "8.6", TEGRA)
    rule, reason = refusals(decide(machine("7.0"), both))["b"]
    assert rule == "compute_capability"
    assert "its torch 2.5.1 holds code for 8.0, 9.0" in reason
    rule, reason = refusals(decide(machine("9.0"), both))["b"]
    assert rule == "compute_capability"
    assert "this build holds code for 7.0, 8.0" in reason


def test_ptx_needs_a_driver_that_was_made_for_the_toolkit() -> None:
    jit = build("b", cuda="12.8", capabilities=["9.0"], ptx="9.0")
    rule, reason = refusals(decide(machine("10.0", driver="550.54.15"), jit))["b"]
    assert (rule, "570.26" in reason, "PTX" in reason) == ("driver", True, True)
    plan = decide(machine("10.0", driver="570.124.06"), jit)
    assert plan.build is not None
    assert any("PTX alone for GPU 0" in line for line in plan.warnings)
    on_code = decide(machine("9.0", driver="550.54.15"), jit)
    assert on_code.build is not None
    assert decide(machine("10.0", driver=None), jit).build is not None


def test_the_floor_is_that_of_both_halves_on_this_architecture() -> None:
    entry = page(
        build("old", capabilities=["5.0"], torch_capabilities=["7.0"]),
        build("new", capabilities=["8.0"], torch_capabilities=["7.5"]),
        build("arm", arch="aarch64", capabilities=["3.5"]),
        build("jit", capabilities=[], ptx="7.2"),
        build("cpu", cuda=None),
    )
    assert floor_of(entry, "x86_64") == (7, 0)
    assert floor_of(entry, None) == (3, 5)
    assert floor_of(page(build("cpu", cuda=None)), "x86_64") == (0,)


def test_cards_below_the_floor_are_left_out_and_said() -> None:
    plan = decide(machine("5.2", "8.0"), build("b"))
    assert plan.gpus == [1]
    assert plan.launch is not None
    assert plan.launch.visible_devices == "1"
    assert any("GPU-0" in line and "below the engine's floor" in line for line in plan.warnings)


def test_when_only_some_gpus_fit_the_choice_is_named() -> None:
    old, new = build("old", capabilities=["7.0"]), build("new", "2.0", capabilities=["12.0"])
    plan = decide(machine("12.0", "7.0"), old, new)
    assert plan.build is None
    assert plan.remedies[0] == "use some of the GPUs: firstlight setup.engine --gpus 0"
    remedies = {item.build: item.remedy for item in plan.refused}
    assert remedies == {"new": "choose other GPUs: --gpus 0", "old": "choose other GPUs: --gpus 1"}
    chosen = decide(machine("12.0", "7.0"), old, new, request={"gpus": (0,)})
    assert chosen.build is not None
    assert (chosen.build.id, chosen.gpus) == ("new", [0])


def test_no_choice_of_gpus_is_offered_that_would_not_help() -> None:
    old = build("old", cuda="13.0", capabilities=["9.0"])
    plan = decide(machine("9.0", "7.0", driver="535.54.03"), old, build("floor", capabilities=["7.0"], libc="2.99"))
    assert plan.build is None
    assert all("--gpus" not in (item.remedy or "") for item in plan.refused)
    assert not any("--gpus" in line for line in plan.remedies)


def test_some_gpus_are_better_than_the_cpu() -> None:
    old, new = build("old", capabilities=["5.0"]), build("new", "2.0", capabilities=["12.0"])
    cpu = build("cpu", "3.0", cuda=None)
    plan = decide(machine("5.2", "12.0"), old, new, cpu, cpu="always")
    assert plan.build is not None
    assert (plan.build.id, plan.gpus) == ("new", [1])
    assert plan.launch is not None
    assert plan.launch.visible_devices == "1"
    assert any("GPU-0" in line and "left out" in line for line in plan.warnings)
    asked = decide(machine("5.2", "12.0"), old, new, cpu, cpu="always", request={"cuda": "cpu"})
    assert asked.build is not None
    assert asked.build.id == "cpu"


def test_gpus_of_one_kind_are_told_in_one_line() -> None:
    def gpus(*kinds: tuple[str, str]) -> list[Gpu]:
        return [Gpu(index=n, name=name, compute_capability=cc) for n, (name, cc) in enumerate(kinds)]

    slices = machine(gpus=gpus(*[("NVIDIA L40S-48C", "8.9")] * 3, ("NVIDIA A10-24Q", "8.6")))
    told = [line for line in decide(slices, build("b")).warnings if "of a GPU" in line]
    assert told == [
        "GPUs 0, 1, 2 (NVIDIA L40S-48C) are slices of a GPU (vGPU)",
        "GPU 3 (NVIDIA A10-24Q) is a slice of a GPU (vGPU)",
    ]
    old = machine(gpus=gpus(("A30", "8.0"), *[("M2000", "5.2")] * 2, ("K80", "3.7")))
    assert [line for line in decide(old, build("b", capabilities=["7.0", "8.0"])).warnings if "left out" in line] == [
        "GPUs 1, 2 (M2000, 5.2) lie below the engine's floor and are left out",
        "GPU 3 (K80, 3.7) lies below the engine's floor and is left out",
    ]


def test_the_lowest_chosen_capability_decides_the_dtype() -> None:
    wide = build("b", capabilities=["7.0", "8.0", "9.0"])
    for capabilities, gpus, dtype in ((("9.0", "7.5"), None, "half"), (("9.0", "7.5"), (0,), "auto")):
        plan = decide(machine(*capabilities), wide, dtype_half="half", request={"gpus": gpus})
        assert plan.launch is not None
        assert plan.launch.dtype == dtype


@pytest.mark.parametrize(
    ("name", "facts", "sliced"),
    [
        ("NVIDIA A100-SXM4-80GB", {}, False),
        ("NVIDIA GeForce RTX 5090", {"mig": False, "vgpu": False}, False),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", {}, False),
        ("NVIDIA A100-SXM4-80GB", {"mig": True}, True),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", {}, True),
        ("NVIDIA L40S", {"vgpu": True}, True),
        ("GRID A100D-4C", {}, True),
        ("NVIDIA L40S-48C", {}, True),
        ("NVIDIA A10-4Q", {}, True),
        ("NVIDIA A16-8A", {}, True),
        ("NVIDIA H100-1-10CME", {}, True),
        ("GRID T4", {}, True),
        (None, {}, False),
    ],
)
def test_slices_of_a_gpu_are_known_by_fact_and_by_name(name: str | None, facts: dict[str, bool], sliced: bool) -> None:
    assert is_slice(Gpu(index=0, name=name, **facts)) is sliced


def test_a_slice_gets_the_other_back_end() -> None:
    whole, part = Gpu(index=0, compute_capability="8.0"), Gpu(index=1, compute_capability="8.0", mig=True)
    engine = {"backend": "fast", "backend_virtual": "plain"}
    for gpus, request, backend in (
        ([whole], {}, "fast"),
        ([whole, part], {}, "plain"),
        ([whole, part], {"gpus": (0,)}, "fast"),
    ):
        plan = decide(machine(gpus=gpus), build("b"), request=request, **engine)
        assert plan.launch is not None
        assert plan.launch.backend == backend
        assert any("slice" in line for line in plan.warnings) is (backend == "plain")
    without = decide(machine(gpus=[part]), build("b")).launch
    assert without is not None
    assert without.backend is None


ORIN = {"host": Host(arch="aarch64", libc="glibc", libc_version="2.35", kernel="5.15.148-tegra")}


def test_builds_for_a_jetpack_run_there_and_nowhere_else() -> None:
    five, six = (
        build(f"jp{n}", arch="aarch64", cuda="11.3" if n == 5 else "12.4", jetpack=str(n), capabilities=["8.7"])
        for n in (5, 6)
    )
    server = build("server", arch="aarch64", cuda="12.4", capabilities=["8.0", "9.0"])
    orin = machine("8.7", driver="540.4.0", cuda="12.6", **ORIN)
    plan = decide(orin, five, six, server)
    assert plan.build is not None
    assert plan.build.id == "jp6"
    found = refusals(plan)
    assert found["jp5"] == ("driver", "it is made for JetPack 5, this board has JetPack 6")
    assert found["server"][0] == "compute_capability"
    arm = machine("9.0", host=msgspec.structs.replace(ORIN["host"], kernel="6.8.0"))
    plan = decide(arm, five, six, server)
    assert plan.build is not None
    assert plan.build.id == "server"
    assert refusals(plan)["jp6"][0] == "device"


def test_a_board_with_its_own_driver_runs_no_newer_cuda_and_is_not_told_to_install_a_desktop_driver() -> None:
    exact = build("exact", arch="aarch64", cuda="12.8", capabilities=["8.7"])
    plan = decide(machine("8.7", driver="540.4.0", cuda="12.6", **ORIN), exact)
    rule, reason = refusals(plan)["exact"]
    assert rule == "driver"
    assert "JetPack 6" in reason
    assert "12.6" in reason
    remedy = plan.refused[0].remedy or ""
    assert "driver" not in remedy
    fits = build("fits", arch="aarch64", cuda="12.6", capabilities=["8.7"])
    assert decide(machine("8.7", driver="540.4.0", cuda="12.6", **ORIN), fits).build is not None


def test_the_jetpack_is_known_by_the_kernel_where_the_driver_says_nothing() -> None:
    five = build("jp5", arch="aarch64", cuda="11.3", jetpack="5", capabilities=["8.7"])
    host = Host(arch="aarch64", libc="glibc", libc_version="2.31", kernel="5.10.120-tegra")
    assert decide(machine("8.7", host=host, nvidia=Nvidia()), five).build is not None
    later = msgspec.structs.replace(host, kernel="6.8.12-tegra")
    assert refusals(decide(machine("8.7", host=later, nvidia=Nvidia()), five))["jp5"][0] == "driver"
