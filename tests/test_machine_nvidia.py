"""The NVIDIA driver and GPUs, through real libraries compiled on the spot, and through files alone."""

from __future__ import annotations

import ast
import itertools
import os
import sys
from pathlib import Path

import pytest
from support import fake_nvml
from support.fake_nvml import CUDA, GIB, NVML, FakeNvidia, device
from support.machine_tree import BARE, plant, program, system
from support.patience import with_patience

from firstlight.machine import driver, nvidia_report, nvidia_smi, pci
from firstlight.machine.facts import Gpu
from firstlight.machine.reading import read_machine

A100 = device("NVIDIA A100-SXM4-80GB", "8.0", 80, mig=0, virtualization=0, uuid="GPU-11")
RTX4090 = device("NVIDIA GeForce RTX 4090", "8.9", 24, uuid="GPU-22")
SYSTEM = ("driver 535.183.01", "cuda 12020")
KERNEL = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\nGCC version:  gcc 12\n"
)
NODES = {"/dev/nvidia0": "", "/dev/nvidiactl": "", "/dev/nvidia-uvm": ""}
DRIVER = {"/sys/module/nvidia/version": "535.183.01\n", "/proc/driver/nvidia/version": KERNEL}
HOST = {**BARE, **DRIVER, **NODES}
PROC_GPU = {
    "/proc/driver/nvidia/gpus/0000:17:00.0/information": "Model: \t NVIDIA A100-SXM4-80GB\nGPU UUID: \t GPU-11\n",
    "/proc/driver/nvidia/gpus/0000:65:00.0/information": "Model: \t\t Unknown\nGPU UUID: \t GPU-????????-????\n",
}
DEADLINES = (3.0, 15.0, 75.0)
"""Seconds for a machine with something that hangs; the first is enough unless this machine stalls."""


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    return fake_nvml.compile_libraries(tmp_path_factory.mktemp("nvidia"))


@pytest.fixture
def machine(tmp_path, libraries):
    """Return a function that reads a tree with fake libraries that behave as the lines say."""

    attempts = itertools.count()

    def read(files, *lines, names=(NVML, CUDA), deadline=120.0, **environment):
        folder = tmp_path.joinpath(*["again"] * next(attempts))
        root = plant(folder / "tree", files)
        fake = FakeNvidia.install(folder / "lib", libraries, *lines, names=names)
        variables = {"PATH": "", "HOME": "/nowhere", **fake.environment, **environment}
        return read_machine(root, environment=variables, deadline=deadline)

    return read


def test_nvml_tells_everything(machine):
    found = machine(HOST, *SYSTEM, A100, RTX4090, CUDA_VISIBLE_DEVICES="")
    assert found.problems == []
    assert (found.nvidia.driver, found.nvidia.cuda, found.nvidia.problem) == ("535.183.01", "12.2", None)
    assert (found.nvidia.source, found.nvidia.toolkit) == ("nvml", None)
    assert found.gpus == [
        Gpu(
            index=0,
            name="NVIDIA A100-SXM4-80GB",
            compute_capability="8.0",
            memory_total=80 * GIB,
            memory_free=79 * GIB,
            mig=False,
            vgpu=False,
            uuid="GPU-11",
        ),
        # A card that cannot have MIG answers "not supported": off. Its virtualization mode is unknown.
        Gpu(
            index=1,
            name="NVIDIA GeForce RTX 4090",
            compute_capability="8.9",
            memory_total=24 * GIB,
            memory_free=23 * GIB,
            mig=False,
            uuid="GPU-22",
        ),
    ]


def test_the_real_machine_with_a_library_in_its_loader_path(tmp_path, libraries):
    fake = FakeNvidia.install(tmp_path / "lib dir é", libraries, *SYSTEM, A100)
    found = read_machine(environment={**os.environ, **fake.environment})
    assert [gpu.name for gpu in found.gpus if gpu.vendor == "nvidia"] == ["NVIDIA A100-SXM4-80GB"]
    assert found.nvidia.cuda == "12.2"


@pytest.mark.parametrize(
    ("function", "field"),
    [
        ("nvmlDeviceGetName", "name"),
        ("nvmlDeviceGetCudaComputeCapability", "compute_capability"),
        ("nvmlDeviceGetMemoryInfo", "memory_total"),
        ("nvmlDeviceGetMemoryInfo", "memory_free"),
        ("nvmlDeviceGetUUID", "uuid"),
    ],
)
@pytest.mark.parametrize("code", [3, 4])
def test_a_single_fact_that_is_refused_is_null_alone(machine, function, field, code):
    found = machine(HOST, *SYSTEM, f"return {function} {code}", A100)
    (gpu,) = found.gpus
    assert getattr(gpu, field) is None
    assert gpu.name == "NVIDIA A100-SXM4-80GB" or field == "name"
    assert gpu.compute_capability == "8.0" or field == "compute_capability"
    assert found.nvidia.problem is None
    # "Not supported" is an answer; anything else is told.
    assert [problem.probe for problem in found.problems] == ([] if code == 3 else ["gpu.nvml"])


def test_mig_counts_the_largest_instance(machine):
    sliced = device("NVIDIA A100-SXM4-80GB", "8.0", 80, mig=1, instances=f"{10 * GIB},{20 * GIB}")
    whole = device("NVIDIA A100-SXM4-80GB", "8.0", 80, mig=1)
    found = machine(HOST, *SYSTEM, sliced, whole)
    assert [(gpu.mig, gpu.memory_total // GIB) for gpu in found.gpus] == [(True, 20), (True, 80)]


def test_virtual_gpus_by_mode_or_by_name(machine):
    cards = [
        device("NVIDIA L40S-48C", "8.9", 48),
        device("GRID A100D-4C", "8.0", 4, virtualization=0),
        device("NVIDIA RTX 6000", "8.9", 48, virtualization=2),
        device("NVIDIA A100-SXM4-80GB", "8.0", 80, virtualization=1),
    ]
    assert [gpu.vgpu for gpu in machine(HOST, *SYSTEM, *cards).gpus] == [True, True, True, False]


def test_a_card_that_fell_off_the_bus_does_not_hide_the_others(machine):
    found = machine(HOST, *SYSTEM, "return nvmlDeviceGetHandleByIndex:0 15", A100, RTX4090)
    assert [(gpu.index, gpu.name) for gpu in found.gpus] == [(0, None), (1, "NVIDIA GeForce RTX 4090")]
    assert [problem.probe for problem in found.problems] == ["gpu.nvml"]


class TestBrokenNvml:
    def test_version_mismatch(self, tmp_path, libraries):
        lib = tmp_path / "lib"
        fake = FakeNvidia.install(lib, libraries, "return nvmlInit 18", "return cuInit 803", *SYSTEM)
        (lib / NVML).unlink()
        (lib / "libnvidia-ml.so.550.54.15").write_bytes(libraries[NVML].read_bytes())
        (lib / NVML).symlink_to("libnvidia-ml.so.550.54.15")
        root = plant(tmp_path / "tree", {**HOST, **PROC_GPU})
        found = read_machine(root, environment={"PATH": "", **fake.environment})
        assert (found.nvidia.problem, found.nvidia.driver) == ("driver_library_mismatch", "535.183.01")
        assert "535.183.01" in found.nvidia.problem_detail
        assert "550.54.15" in found.nvidia.problem_detail
        # The kernel still lists what is there.
        assert [(gpu.index, gpu.name, gpu.uuid) for gpu in found.gpus] == [
            (0, "NVIDIA A100-SXM4-80GB", "GPU-11"),
            (1, None, None),
        ]

    @pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetName"])
    def test_a_library_that_crashes(self, machine, function):
        found = machine(HOST, *SYSTEM, f"crash {function}", A100, names=(NVML,))
        assert (found.nvidia.driver, found.nvidia.problem) == ("535.183.01", "other")
        assert "SIGSEGV" in found.nvidia.problem_detail
        assert found.gpus is None
        assert any("SIGSEGV" in problem.reason for problem in found.problems)

    def test_libcuda_stands_in(self, machine):
        # What one shell hides from CUDA is still in the machine.
        found = machine(HOST, *SYSTEM, "crash nvmlInit", A100, RTX4090, CUDA_VISIBLE_DEVICES="")
        assert found.nvidia.cuda == "12.2"
        assert [(gpu.name, gpu.compute_capability, gpu.memory_total) for gpu in found.gpus] == [
            ("NVIDIA A100-SXM4-80GB", "8.0", 80 * GIB),
            ("NVIDIA GeForce RTX 4090", "8.9", 24 * GIB),
        ]

    def test_a_library_that_hangs(self, machine):
        def claim(deadline):
            found = machine(HOST, *SYSTEM, "hang nvmlInit", A100, deadline=deadline)
            assert found.nvidia.problem == "other"
            assert "did not answer" in found.nvidia.problem_detail
            assert [gpu.name for gpu in found.gpus] == ["NVIDIA A100-SXM4-80GB"]

        with_patience(DEADLINES, claim)

    def test_what_was_told_before_the_hang_is_kept(self, machine):
        lines = [*SYSTEM, "hang nvmlDeviceGetHandleByIndex:1", A100, RTX4090]

        def claim(deadline):
            found = machine({**BARE, **NODES}, *lines, names=(NVML,), deadline=deadline)
            assert found.nvidia is not None
            assert (found.nvidia.driver, found.nvidia.cuda) == ("535.183.01", "12.2")
            assert [gpu.name for gpu in found.gpus or []] == ["NVIDIA A100-SXM4-80GB"]

        with_patience(DEADLINES, claim)

    def test_everything_hangs_and_the_files_still_tell(self, tmp_path, libraries):
        root = plant(tmp_path / "tree", {**HOST, **PROC_GPU})
        fake = FakeNvidia.install(tmp_path / "lib", libraries, "hang nvmlInit", "hang cuDriverGetVersion")
        program(tmp_path / "bin", "nvidia-smi", "exec /bin/sleep 300")
        variables = {"PATH": str(tmp_path / "bin"), **fake.environment}

        def claim(deadline):
            found = read_machine(root, environment=variables, deadline=deadline)
            assert {problem.probe for problem in found.problems} == {"gpu.nvml", "gpu.libcuda", "gpu.nvidia-smi"}
            assert (found.nvidia.driver, found.nvidia.source) == ("535.183.01", "sysfs")
            assert found.gpus[0].name == "NVIDIA A100-SXM4-80GB"

        with_patience(DEADLINES, claim)

    def test_a_library_that_is_no_library(self, tmp_path):
        plant(tmp_path, {f"lib/{NVML}": "this is no ELF file"})
        root = plant(tmp_path / "tree", HOST)
        found = read_machine(root, environment={"PATH": "", "LD_LIBRARY_PATH": str(tmp_path / "lib")})
        assert (found.nvidia.driver, found.nvidia.problem) == ("535.183.01", "other")


class TestProblems:
    def test_container_started_without_its_gpus(self, tmp_path):
        root = plant(tmp_path, {**BARE, **DRIVER, "/.dockerenv": ""})
        found = read_machine(root, environment={"PATH": ""})
        assert (found.nvidia.driver, found.nvidia.problem) == ("535.183.01", "no_device_nodes")
        assert found.gpus is None

    def test_libraries_not_installed(self, tmp_path):
        found = read_machine(plant(tmp_path, HOST), environment={"PATH": ""})
        assert (found.nvidia.problem, found.nvidia.source) == ("nvml_missing", "sysfs")

    def test_unified_memory_module_not_loaded(self, machine):
        files = {**BARE, **DRIVER, "/dev/nvidia3": "", "/dev/nvidiactl": ""}
        found = machine(files, *SYSTEM, A100)
        assert found.nvidia.problem == "uvm_not_loaded"
        assert found.gpus[0].compute_capability == "8.0"

    @pytest.mark.parametrize(("mode", "files", "expected"), [
        (0o4755, {}, None),
        (0o755, {}, "uvm_not_loaded"),
        (0o4755, {"/.dockerenv": ""}, "uvm_not_loaded"),
    ])  # fmt: skip
    def test_the_set_uid_helper_loads_it_when_cuda_starts(self, tmp_path, machine, mode, files, expected):
        plant(tmp_path / "tree", {"/usr/bin/nvidia-modprobe": ""})
        (tmp_path / "tree/usr/bin/nvidia-modprobe").chmod(mode)
        found = machine({**BARE, **DRIVER, "/dev/nvidia0": "", "/dev/nvidiactl": "", **files}, *SYSTEM, A100)
        assert found.nvidia.problem == expected

    def test_fabric_state_not_started(self, machine):
        h100 = device("NVIDIA H100 80GB HBM3", "9.0", 80, fabric=1)
        found = machine(HOST, *SYSTEM, h100, names=(NVML,))
        assert found.nvidia.problem == "fabric_manager"

    def test_fabric_state_of_a_card_that_cuda_can_use(self, machine):
        h100 = device("NVIDIA H100 80GB HBM3", "9.0", 80, fabric=2)
        assert machine(HOST, *SYSTEM, h100).nvidia.problem is None

    def test_switches_of_an_a100_machine_by_cuda_error_802(self, machine):
        files = {**HOST, "/proc/driver/nvidia-nvswitch/devices/0000:85:00.0": ""}
        found = machine(files, *SYSTEM, A100, "return cuInit 802")
        assert found.nvidia.problem == "fabric_manager"
        assert found.gpus[0].memory_free == 79 * GIB

    def test_switches_that_are_set_up(self, machine):
        h100 = device("NVIDIA H100 80GB HBM3", "9.0", 80, fabric=3)
        files = {**HOST, "/proc/driver/nvidia-nvswitch/devices/0000:85:00.0": ""}
        assert machine(files, *SYSTEM, h100).nvidia.problem is None

    def test_module_not_loaded_beside_a_card(self, machine):
        files = {**BARE, "/sys/bus/pci/devices/0000:17:00.0/vendor": "0x10de\n"}
        files["/sys/bus/pci/devices/0000:17:00.0/class"] = "0x030200\n"
        files["/sys/bus/pci/devices/0000:17:00.0/device"] = "0x20b2\n"
        found = machine(files, "return nvmlInit 9", "return cuInit 100")
        assert (found.nvidia.driver, found.nvidia.problem) == (None, "other")
        assert [(gpu.vendor, gpu.name) for gpu in found.gpus] == [("nvidia", "NVIDIA GPU [10de:20b2]")]

    def test_libraries_lying_around_where_there_is_no_gpu(self, machine):
        found = machine(BARE, "return nvmlInit 9", "return cuInit 100")
        assert found.nvidia is None
        assert found.gpus == []
        assert found.problems  # said, though nothing follows from it


WSL = {**BARE, "/proc/sys/kernel/osrelease": "5.15.153.1-microsoft-standard-WSL2", "/dev/dxg": ""}


def test_wsl_has_the_driver_of_windows(tmp_path, libraries):
    """The libraries lie in a folder of WSL's own, which no loader path needs to name; there are no NVIDIA nodes."""
    fake = FakeNvidia.install(
        tmp_path / "tree/usr/lib/wsl/lib",
        libraries,
        "driver 551.88",
        "cuda 12040",
        device("NVIDIA GeForce RTX 4070 Laptop GPU", "8.9", 8),
    )
    root = plant(tmp_path / "tree", WSL)
    found = read_machine(root, environment={"PATH": "", "FAKE_NVIDIA": str(fake.behaviour)})
    assert found.host.wsl == "2"
    assert (found.nvidia.driver, found.nvidia.cuda, found.nvidia.problem) == ("551.88", "12.4", None)
    assert found.gpus[0].compute_capability == "8.9"


def test_wsl_without_nvidia_is_no_nvidia(tmp_path):
    found = read_machine(plant(tmp_path, WSL), environment={"PATH": ""})
    assert (found.nvidia, found.gpus) == (None, [])


JETSON = {
    **BARE,
    "/proc/device-tree/model": b"NVIDIA Jetson AGX Orin Developer Kit\0",
    "/etc/nv_tegra_release": "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref\n",
    "/usr/local/cuda/version.json": '{"cuda": {"name": "CUDA SDK", "version": "11.4.19"}}',
    "/proc/sys/kernel/arch": "aarch64\n",
}


def test_jetson_without_nvml(machine):
    found = machine(JETSON, "cuda 11040", device("Orin", "8.7", 61), names=(CUDA,))
    assert found.host.arch == "aarch64"
    assert (found.nvidia.driver, found.nvidia.cuda, found.nvidia.toolkit) == (None, "11.4", "11.4")
    assert found.nvidia.problem is None
    assert [(gpu.name, gpu.compute_capability) for gpu in found.gpus] == [("Orin", "8.7")]


def test_jetson_by_files_alone(tmp_path):
    found = read_machine(plant(tmp_path, JETSON), environment={"PATH": ""})
    assert found.nvidia.cuda == "11.4"
    assert [(gpu.name, gpu.compute_capability) for gpu in found.gpus] == [
        ("NVIDIA Jetson AGX Orin Developer Kit", None)
    ]


SMI = (
    "0, NVIDIA A100-SXM4-80GB, GPU-11, 535.183.01, 81920, 81000, 8.0, Enabled\n"
    "1, Tesla T4, GPU-22, 535.183.01, 15360, [N/A], 7.5, [N/A]\n"
)
SUMMARY = "| NVIDIA-SMI 535.183.01   Driver Version: 535.183.01   CUDA Version: 12.2     |\n"


def smi(folder, query, summary=SUMMARY):
    plant(folder, {"query.txt": query, "summary.txt": summary})
    words = f'case "$1" in --query-gpu=*) cat {folder}/query.txt;; *) cat {folder}/summary.txt;; esac'
    return program(folder, "nvidia-smi", "PATH=/usr/bin:/bin", words)


def test_nvidia_smi_is_the_last_way(tmp_path):
    smi(tmp_path / "bin", SMI)
    found = read_machine(plant(tmp_path / "tree", HOST), environment={"PATH": str(tmp_path / "bin")})
    assert (found.nvidia.driver, found.nvidia.cuda, found.nvidia.source) == ("535.183.01", "12.2", "nvidia-smi")
    assert found.nvidia.problem == "nvml_missing"
    assert [(gpu.name, gpu.compute_capability, gpu.memory_total, gpu.memory_free, gpu.mig) for gpu in found.gpus] == [
        ("NVIDIA A100-SXM4-80GB", "8.0", 81920 << 20, 81000 << 20, True),
        ("Tesla T4", "7.5", 15360 << 20, None, False),
    ]


def test_an_old_nvidia_smi_does_not_know_every_field(tmp_path):
    old = "0, Tesla V100-SXM2-16GB, GPU-33, 450.80.02, 16160, 16100\n"
    plant(tmp_path / "bin", {"old.txt": old, "summary.txt": "Driver Version: 450.80.02    CUDA Version: 11.0"})
    words = (
        f'case "$1" in *compute_cap*) echo "Field \\"compute_cap\\" is not a valid field to query."; exit 2;;'
        f" --query-gpu=*) cat {tmp_path}/bin/old.txt;; *) cat {tmp_path}/bin/summary.txt;; esac"
    )
    program(tmp_path / "bin", "nvidia-smi", "PATH=/usr/bin:/bin", words)
    found = read_machine(plant(tmp_path / "tree", HOST), environment={"PATH": str(tmp_path / "bin")})
    assert (found.nvidia.driver, found.nvidia.cuda) == ("450.80.02", "11.0")
    assert [(gpu.name, gpu.compute_capability, gpu.mig) for gpu in found.gpus] == [("Tesla V100-SXM2-16GB", None, None)]


def test_nvidia_smi_that_names_the_mismatch(tmp_path):
    text = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 550.54"
    program(tmp_path / "bin", "nvidia-smi", f"printf '%s\\n' '{text}'", "exit 18")
    found = read_machine(plant(tmp_path / "tree", HOST), environment={"PATH": str(tmp_path / "bin")})
    assert found.nvidia.problem == "driver_library_mismatch"


def test_what_libcuda_cannot_tell_comes_from_nvidia_smi(tmp_path, libraries):
    smi(tmp_path / "bin", "0, NVIDIA A100-SXM4-80GB, GPU-11, 535.183.01, 81920, 81000, 8.0, Enabled\n")
    fake = FakeNvidia.install(tmp_path / "lib", libraries, "crash nvmlInit", *SYSTEM, A100)
    variables = {"PATH": str(tmp_path / "bin"), **fake.environment}
    (gpu,) = read_machine(plant(tmp_path / "tree", HOST), environment=variables).gpus
    assert (gpu.memory_total, gpu.memory_free, gpu.mig) == (80 * GIB, 81000 << 20, True)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (KERNEL, "535.183.01"),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U16)",
            "570.86.15",
        ),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  540.4.0  Release Build", "540.4.0"),
        ("", None),
        ("nonsense", None),
    ],
)
def test_kernel_module_version(text, expected):
    assert driver.parse_proc_version(text) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"version.json": '{"cuda": {"version": "12.4.1"}}'}, "12.4"),
        ({"version.txt": "CUDA Version 10.2.89\n"}, "10.2"),
        ({"version.json": "[]", "version.txt": "CUDA Version 11.0.3"}, "11.0"),
        ({"version.json": "{"}, None),
        ({}, None),
    ],
)
def test_toolkit_by_its_files(tmp_path, files, expected):
    assert driver.read_toolkit_files(plant(tmp_path, files)) == expected


def test_toolkit_by_nvcc_on_the_path(tmp_path, machine):
    text = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 10.1, V10.1.243"
    program(tmp_path / "bin", "nvcc", f"printf '%s\\n' '{text}'")
    assert machine(HOST, *SYSTEM, A100, PATH=str(tmp_path / "bin")).nvidia.toolkit == "10.1"


def pci_device(address, vendor, product, kind, **files):
    base = f"/sys/bus/pci/devices/{address}"
    found = {f"{base}/vendor": f"{vendor}\n", f"{base}/device": f"{product}\n", f"{base}/class": f"{kind}\n"}
    return {**found, **{f"{base}/{name}": text for name, text in files.items()}}


IDS = (
    "# pci.ids\n1002  Advanced Micro Devices, Inc. [AMD/ATI]\n\t744c  Navi 31 [Radeon RX 7900 XTX]\n"
    "\t\t1002 0e3b  RX 7900\n8086  Intel Corporation\n\t744c  Not this one\n"
)


def test_gpus_of_other_makers_are_listed_and_screens_of_servers_are_not(machine):
    files = {
        **HOST,
        "/usr/share/misc/pci.ids": IDS,
        **pci_device("0000:01:00.0", "0x1a03", "0x2000", "0x030000"),
        **pci_device("0000:02:00.0", "0x1af4", "0x1050", "0x038000"),
        **pci_device("0000:03:00.0", "0x1002", "0x515e", "0x030000"),
        **pci_device("0000:04:00.0", "0x1002", "0xab30", "0x040300"),
        **pci_device(
            "0000:05:00.0",
            "0x1002",
            "0x744c",
            "0x030000",
            mem_info_vram_total="25753026560",
            mem_info_vram_used="26560",
        ),
        **pci_device("0000:06:00.0", "0x8086", "0x56a0", "0x030000"),
        **pci_device("0000:07:00.0", "0x1002", "0x74a1", "0x120000", product_name="AMD Instinct MI300X\n"),
        **pci_device("0000:17:00.0", "0x10de", "0x20b2", "0x030200"),
        **pci_device("0000:18:00.0", "0x10de", "0x1af1", "0x068000"),
    }
    found = machine(files, *SYSTEM, A100)
    assert [(gpu.index, gpu.vendor, gpu.name, gpu.compute_capability) for gpu in found.gpus] == [
        (0, "nvidia", "NVIDIA A100-SXM4-80GB", "8.0"),
        (1, "amd", "Navi 31 [Radeon RX 7900 XTX]", None),
        (2, "intel", "Intel GPU [8086:56a0]", None),
        (3, "amd", "AMD Instinct MI300X", None),
    ]
    assert (found.gpus[1].memory_total, found.gpus[1].memory_free) == (25753026560, 25753000000)


def test_card_without_any_driver(tmp_path):
    files = {**BARE, **pci_device("0000:17:00.0", "0x10de", "0x2684", "0x030000")}
    found = read_machine(plant(tmp_path, files), environment={"PATH": ""})
    assert found.nvidia is None
    assert [(gpu.vendor, gpu.compute_capability) for gpu in found.gpus] == [("nvidia", None)]


def test_device_names_are_looked_up_below_their_own_maker():
    assert pci.parse_ids(IDS, 0x1002, 0x744C) == "Navi 31 [Radeon RX 7900 XTX]"
    assert pci.parse_ids(IDS, 0x1002, 0x0001) is None
    assert pci.parse_ids(IDS, 0x10DE, 0x744C) is None


@pytest.mark.parametrize(
    "place", ["ld.so.cache", "/usr/local/nvidia/lib64", "/usr/lib/aarch64-linux-gnu/tegra", "nowhere"]
)
def test_where_the_loader_finds_a_library(tmp_path, place):
    folder = "/opt/odd place" if place == "ld.so.cache" else place
    if place != "nowhere":
        plant(tmp_path, {f"{folder}/{NVML}": ""})
    cache = b"glibc-ld.so.cache1.1\0libnvidia-ml.so.1\0/opt/odd place/libnvidia-ml.so.1\0/lib/libc.so.6\0"
    plant(tmp_path, {"/etc/ld.so.cache": cache})
    expected = None if place == "nowhere" else tmp_path / folder.lstrip("/") / NVML
    assert driver.find_library(system(tmp_path), NVML) == expected


def test_noise_of_a_library_does_not_disturb_its_answer():
    lines = [
        "warning: something",
        "@firstlight not json",
        '@firstlight {"cuda": 13000}',
        "",
        '@firstlight {"complete": 0}',
    ]
    report = nvidia_report.parse_worker("nvml", lines, 0, 1.0)
    assert (report.cuda, report.gpus, report.complete, report.reason) == ("13.0", [], True, None)


def test_nvidia_smi_parsing_passes_over_what_is_no_row():
    report = nvidia_smi.parse_query("No devices were found\n0, A\n" + SMI, nvidia_smi._FIELDS)
    assert [gpu.index for gpu in report.gpus] == [0, 1]
    assert nvidia_smi.parse_summary("no table") is None


@pytest.mark.parametrize("script", ["nvml_worker.py", "cuda_worker.py"])
def test_workers_import_nothing_of_firstlight(script):
    source = (Path(nvidia_report.__file__).with_name(script)).read_text()
    imported = {
        name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported <= {*sys.stdlib_module_names, "__future__", "collections.abc", "pynvml"}
