"""Drivers: floors, minor-version compatibility and its fallback, WSL, unknown numbers, remedies that are possible."""

from __future__ import annotations

import pytest
from support.small_catalogue import build, decide, machine, refusals

from firstlight.machine.facts import Gpu, Host, Nvidia
from firstlight.planning.plan import Plan

LADDER = [
    build(name, release, cuda)
    for name, release, cuda in (
        ("cu118", "1", "11.8"),
        ("cu121", "2", "12.1"),
        ("cu129", "3", "12.9"),
        ("cu130", "4", "13.0"),
    )
]
WSL = Host(arch="x86_64", libc="glibc", libc_version="2.35", wsl="2", kernel="5.15.153.1-microsoft-standard-WSL2")


def chosen(plan: Plan) -> str | None:
    return plan.build.id if plan.build else None


@pytest.mark.parametrize(
    ("driver", "cuda", "build_id", "fallback"),
    [
        ("610.43.02", "13.3", "cu130", None),
        ("580.95.05", "13.0", "cu130", None),
        ("580.65.06", "13.0", "cu130", None),
        ("575.57.08", "12.9", "cu129", None),
        ("570.124.06", "12.8", "cu129", "cu121"),
        ("565.57.01", "12.7", "cu129", "cu121"),
        ("560.35.03", "12.6", "cu129", "cu121"),
        ("550.54.15", "12.4", "cu129", "cu121"),
        ("535.183.01", "12.2", "cu129", "cu121"),
        ("530.30.02", "12.1", "cu129", "cu121"),
        ("525.60.13", "12.0", "cu129", "cu118"),
        ("520.61.05", "11.8", "cu118", None),
        ("470.256.02", "11.4", "cu118", None),
        ("450.80.02", "11.0", "cu118", None),
        ("450.51.06", "11.0", None, None),
        ("418.226.00", "10.1", None, None),
        # No more than a branch is known.
        ("580", "13.0", "cu130", None),
        ("580.00", "13.0", "cu130", None),
        ("580", None, "cu130", None),
        ("575", None, "cu129", None),
        ("525", None, "cu129", "cu118"),
        ("525", "12.0", "cu129", "cu118"),
        ("524", None, "cu118", None),
        # The CUDA that it runs stands in for an unknown number.
        (None, "13.1", "cu130", None),
        (None, "12.4", "cu129", "cu121"),
        (None, "12", "cu129", "cu118"),
        (None, "11.4", "cu118", None),
        (None, "10.2", None, None),
        (None, None, "cu130", None),
        ("unknown", None, "cu130", None),
    ],
)
def test_the_ladder_of_drivers(
    driver: str | None, cuda: str | None, build_id: str | None, fallback: str | None
) -> None:
    plan = decide(machine("8.0", driver=driver, cuda=cuda), *LADDER)
    assert (chosen(plan), plan.fallback) == (build_id, fallback)
    if build_id is None:
        assert {rule for rule, _ in refusals(plan).values()} == {"driver"}


@pytest.mark.parametrize(
    ("driver", "cuda", "build_id"),
    [
        ("581.29", "13.0", "cu130"),
        ("551.88", "12.4", "cu129"),
        ("528.49", "12.0", "cu129"),
        ("522.06", "11.8", "cu118"),
        ("472.12", "11.4", "cu118"),
        # Windows' numbers lie in the same branches, so that they do where CUDA is unknown.
        ("581.29", None, "cu130"),
        ("576.02", None, "cu129"),
        ("551.88", None, "cu129"),
        ("528.49", None, "cu129"),
        ("522.06", None, "cu118"),
        (None, None, "cu130"),
        # A newer Windows number does not help where CUDA says less.
        ("591.44", "12.4", "cu129"),
    ],
)
def test_the_ladder_of_windows_drivers(driver: str | None, cuda: str | None, build_id: str) -> None:
    plan = decide(machine("8.9", host=WSL, driver=driver, cuda=cuda), *LADDER)
    assert chosen(plan) == build_id


def test_what_is_unknown_is_taken_for_granted_and_said() -> None:
    for facts in ({"driver": None}, {"driver": "580"}):
        assert any("driver >= 580" in line for line in decide(machine("8.0", **facts), *LADDER).assumed)
    assert not any("driver" in line for line in decide(machine("8.0"), *LADDER).assumed)


def test_minor_version_compatibility_is_said_with_the_build_to_fall_back_to() -> None:
    plan = decide(machine("8.0", driver="535.183.01"), *LADDER)
    told = next(line for line in plan.warnings if "minor-version compatibility" in line)
    assert "575.51.03" in told
    assert "firstlight setup.engine --build cu121" in told
    assert plan.because.count(told) == 1


def test_without_an_older_build_only_a_newer_driver_helps() -> None:
    plan = decide(machine("8.0", driver="535.183.01"), LADDER[2])
    assert plan.fallback is None
    assert any("only a newer driver helps" in line for line in plan.warnings)


def test_the_fallback_fits_this_machine_itself() -> None:
    unfit = build("unfit", "2.5", "12.1", libc="2.99")
    assert decide(machine("8.0", driver="535.183.01"), *LADDER, unfit).fallback == "cu121"
    asked = decide(machine("8.0", driver="535.183.01"), *LADDER, request={"cuda": "12.9"})
    assert (chosen(asked), asked.fallback) == ("cu129", "cu121")


def test_a_fallback_outside_of_what_was_asked_for_is_named_as_that() -> None:
    for words in ({"cuda": "12.9"}, {"build": "cu129"}, {"release": "3"}):
        plan = decide(machine("8.0", driver="535.183.01"), *LADDER, request=words)
        assert (chosen(plan), plan.fallback) == ("cu129", "cu121")
        told = next(line for line in plan.warnings if "minor-version compatibility" in line)
        assert "no build among those asked for has a CUDA which this driver runs in full" in told
        assert told.endswith("cu121, which was not asked for, has one: firstlight setup.engine --build cu121")
        assert "only a newer driver" not in told


def test_the_cuda_that_sets_the_driver_is_named() -> None:
    mixed = build("mixed", cuda="12.1", torch="2.6.0", torch_cuda="12.4", native_driver="550.54.14")
    for other, words in (
        (mixed, "the CUDA 12.4 of its torch came with driver 550.54.14"),
        (LADDER[2], f"its CUDA {LADDER[2].cuda} came with driver {LADDER[2].native_driver}"),
    ):
        plan = decide(machine("8.0", driver="535.54.03"), other)
        assert any(words in line for line in plan.warnings), plan.warnings


def test_of_one_release_the_build_that_the_driver_was_made_for_is_taken_within_a_cuda_generation() -> None:
    same = [build(f"cu{n.replace('.', '')}", "1.0", n, torch="2.0") for n in ("11.8", "12.1", "12.6", "12.9", "13.0")]
    for driver, build_id in (
        ("580.95.05", "cu130"),
        ("575.57.08", "cu129"),
        ("560.35.03", "cu126"),
        ("535.54.03", "cu121"),
        ("525.60.13", "cu129"),
    ):
        assert chosen(decide(machine("8.0", driver=driver), *same)) == build_id


def test_the_torch_of_a_build_counts_for_the_driver() -> None:
    mixed = build("mixed", cuda="12.1", torch="2.6.0", torch_cuda="12.4", native_driver="550.54.14")
    assert chosen(decide(machine("8.0", driver="535.54.03"), mixed)) == "mixed"
    assert any("550.54.14" in line for line in decide(machine("8.0", driver="535.54.03"), mixed).warnings)
    unknown = decide(machine("8.0", driver=None, cuda="12.2"), mixed)
    assert any("minor-version" in line for line in unknown.warnings)
    newer = build("newer", cuda="12.8", torch="2.12.1", torch_cuda="13.0", driver="580", native_driver="580.65.06")
    assert refusals(decide(machine("8.0", driver=None, cuda="12.9"), newer))["newer"][0] == "driver"


def test_an_engines_own_floor_is_compared_by_cuda_where_the_number_says_nothing() -> None:
    runner = build("runner", cuda="12.8", driver="550")
    for cuda, fits in (("12.2", False), ("12.4", True), ("13.0", True)):
        assert (chosen(decide(machine("8.0", driver=None, cuda=cuda), runner)) is not None) is fits
        assert (chosen(decide(machine("8.0", host=WSL, driver="599.99", cuda=cuda), runner)) is not None) is fits


@pytest.mark.parametrize(
    ("host", "gpus", "words", "never"),
    [
        ({}, None, "install driver 580 or newer", ""),
        ({"container": "docker"}, None, "on the host that runs this container", ""),
        ({"container": "kubernetes"}, None, "on the host that runs this pod", ""),
        ({"wsl": "2"}, None, "Windows driver 580", "525"),
        ({}, [Gpu(index=0, name="GRID A100D-4C", compute_capability="8.0")], "vGPU software", ""),
    ],
)
def test_the_remedy_is_possible_on_that_machine(
    host: dict[str, str], gpus: list[Gpu] | None, words: str, never: str
) -> None:
    here = machine("8.0", driver="535.54.03", cuda="12.2", host=Host(arch="x86_64", kernel="5.15.0", **host))
    here = here if gpus is None else machine(driver="535.54.03", host=here.host, gpus=gpus)
    remedy = decide(here, LADDER[3]).refused[0].remedy
    assert remedy is not None
    assert words in remedy
    assert not never or never not in remedy


def test_an_old_kernel_has_no_remedy_and_the_reason_says_why() -> None:
    old = machine("8.0", driver="525.60.13", host=Host(arch="x86_64", kernel="3.10.0-1160.el7.x86_64"))
    refusal = decide(old, *LADDER).refused[0]
    assert (refusal.build, refusal.rule, refusal.remedy) == ("cu130", "driver", None)
    assert "needs kernel 4.15, this is 3.10.0" in refusal.reason
    cold = machine("8.0", driver="470.256.02", host=old.host)
    wanted = next(item for item in decide(cold, *LADDER).refused if item.build == "cu129")
    assert wanted.remedy == "install driver 525.60.13 or newer"


def test_a_gpu_without_a_driver_is_refused_and_told() -> None:
    plan = decide(machine("8.0", nvidia=None), *LADDER)
    assert chosen(plan) is None
    assert {rule for rule, _ in refusals(plan).values()} == {"driver"}
    assert any("no NVIDIA driver" in line for line in plan.warnings)
    on_cpu = decide(machine("8.0", nvidia=None), *LADDER, build("cpu", cuda=None), cpu="always")
    assert chosen(on_cpu) == "cpu"


def test_a_driver_that_does_not_work_is_a_refusal_with_its_cure() -> None:
    broken = Nvidia(driver="580.95.05", problem="driver_library_mismatch")
    refusal = decide(machine("9.0", nvidia=broken), *LADDER).refused[0]
    assert (refusal.rule, "different versions" in refusal.reason) == ("device", True)
    assert "reboot" in (refusal.remedy or "")
