"""Facts that contradict each other: they are told, and what can do less is taken."""

from __future__ import annotations

import pytest
from support.small_catalogue import GB, build, catalogue, decide, machine, page, refusals

from firstlight.machine.facts import Disk, Gpu, Host, Nvidia
from firstlight.planning.contradictions import sensible

LADDER = [build("cu118", "1.0", "11.8"), build("cu129", "3.0", "12.9"), build("cu130", "4.0", "13.0")]
EVERYTHING = catalogue(page(*LADDER))


@pytest.mark.parametrize(
    ("driver", "cuda", "build_id", "word"),
    [
        ("470.256.02", "13.0", "cu118", "the driver counts"),
        ("550.54.15", "12.8", "cu129", "the driver counts"),
        ("550.54.15", "13.1", "cu129", "the driver counts"),
        ("580.95.05", "12.2", "cu129", "CUDA 12.2 counts"),
        ("580.95.05", "11.4", "cu118", "CUDA 11.4 counts"),
        ("570.124.06", "12.4", "cu129", "CUDA 12.4 counts"),
    ],
)
def test_driver_and_cuda_that_do_not_belong_together(driver: str, cuda: str, build_id: str, word: str) -> None:
    plan = decide(machine("8.0", driver=driver, cuda=cuda), *LADDER)
    assert plan.build is not None
    assert plan.build.id == build_id
    told = [line for line in plan.warnings if word in line]
    assert len(told) == 1
    assert told[0] in plan.because


@pytest.mark.parametrize(
    ("driver", "cuda"),
    [
        ("610.43.02", "13.3"),
        ("595.58.03", "13.2"),
        ("590.48.01", "13.1"),
        ("580.95.05", "13.0"),
        ("580.00", "13.0"),
        ("575.57.08", "12.9"),
        ("570.26", "12.8"),
        ("565.57.01", "12.7"),
        ("560.35.05", "12.6"),
        ("555.42.06", "12.5"),
        ("550.40.07", "12.4"),
        ("545.23.08", "12.3"),
        ("535.54.03", "12.2"),
        ("530.30.02", "12.1"),
        ("525.60.13", "12.0"),
        ("520.56.06", "11.8"),
        ("515.105.01", "11.7"),
        ("510.47.03", "11.6"),
        ("495.29.05", "11.5"),
        ("470.57.02", "11.4"),
        ("465.19.01", "11.3"),
        ("450.80.02", "11.0"),
        ("418.226.00", "10.1"),
        (None, "13.0"),
        ("550.54.15", None),
        ("550.54.15", "12"),
    ],
)
def test_what_nvidia_smi_shows_on_real_machines_is_no_contradiction(driver: str | None, cuda: str | None) -> None:
    sense = sensible(machine("8.0", driver=driver, cuda=cuda), EVERYTHING)
    assert sense.told == []
    assert sense.machine.nvidia == Nvidia(driver=driver, cuda=cuda)


def test_windows_and_jetson_numbers_are_not_held_against_linux_branches() -> None:
    windows = Host(arch="x86_64", wsl="2", kernel="5.15.153.1-microsoft-standard-WSL2")
    assert sensible(machine("8.9", host=windows, driver="551.88", cuda="12.4"), EVERYTHING).told == []
    assert sensible(machine("8.9", host=windows, driver="566.36", cuda="12.7"), EVERYTHING).told == []
    jetson = Host(arch="aarch64", kernel="5.15.148-tegra")
    assert sensible(machine("8.7", host=jetson, driver="540.4.0", cuda="12.6"), EVERYTHING).told == []


def test_a_cure_for_the_contradiction_comes_before_a_newer_driver() -> None:
    plan = decide(machine("8.0", driver="580.95.05", cuda="12.2"), *LADDER)
    refusal = next(item for item in plan.refused if item.build == "cu130")
    assert "libcuda" in (refusal.remedy or "")


def test_gpus_without_a_driver_and_a_driver_without_gpus_are_told() -> None:
    alone = decide(machine("8.0", nvidia=None), *LADDER)
    assert alone.build is None
    assert any("no NVIDIA driver" in line for line in alone.warnings)
    empty = decide(machine(), *LADDER)
    assert {rule for rule, _ in refusals(empty).values()} == {"device"}
    assert any("no NVIDIA GPU in the list" in line for line in empty.warnings)
    assert sensible(machine(gpus=None), EVERYTHING).told == []


@pytest.mark.parametrize(
    ("libc", "version", "contradicts"),
    [
        ("musl", "1.2.5", False),
        ("glibc", "2.35", False),
        ("musl", "2.35", True),
        ("glibc", "1.2.5", True),
        ("musl", None, False),
    ],
)
def test_a_c_library_with_the_others_version_counts_as_musl(libc: str, version: str | None, contradicts: bool) -> None:
    here = machine("8.0", host=Host(arch="x86_64", libc=libc, libc_version=version))
    assert bool(sensible(here, EVERYTHING).told) is contradicts
    plan = decide(here, *LADDER)
    assert (plan.build is None) is (libc == "musl" or contradicts)


def test_two_gpus_of_one_index_count_as_the_lesser_one() -> None:
    gpus = [Gpu(index=0, name="new", compute_capability="9.0"), Gpu(index=0, name="old", compute_capability="7.0")]
    plan = decide(machine(gpus=gpus), *LADDER, dtype_half="half")
    assert plan.gpus == [0]
    assert plan.launch is not None
    assert plan.launch.dtype == "half"
    assert any("two GPUs have the index 0" in line for line in plan.warnings)


def test_more_free_space_than_there_is_does_not_count() -> None:
    plan = decide(machine("8.0", disks=[Disk(mount="/", free=99 * GB, total=GB, writable=True)]), *LADDER)
    assert {rule for rule, _ in refusals(plan).values()} == {"disk"}
    assert any("bytes free" in line for line in plan.warnings)


@pytest.mark.parametrize(
    ("kernel", "arch", "told"),
    [
        ("3.10.0-1160.el7.x86_64", "aarch64", True),
        ("5.10.0-182.oe2203.aarch64", "x86_64", True),
        ("5.10.120-tegra", "x86_64", True),
        ("3.10.0-1160.el7.x86_64", "x86_64", False),
        ("5.15.0-122-generic", "aarch64", False),
        (None, "x86_64", False),
    ],
)
def test_a_kernel_of_another_architecture_is_told(kernel: str | None, arch: str, told: bool) -> None:
    here = machine("8.0", driver=None, host=Host(arch=arch, kernel=kernel))
    assert bool(sensible(here, EVERYTHING).told) is told
