"""The doctor's checks: what they make of facts, on a catalogue of made-up builds."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from support.small_catalogue import GB, build, catalogue, machine, page

from firstlight.doctor.evidence import Evidence, Unseen
from firstlight.doctor.examine import Wish, chosen_checks, run_check
from firstlight.doctor.probes.compiler import Compiler, PythonHeaders
from firstlight.doctor.probes.holders import GpuHolders, GpuProcess, GpuUse
from firstlight.doctor.probes.home_folder import HomeFolder
from firstlight.doctor.probes.installed import Installed, InstalledSeen
from firstlight.doctor.probes.libraries import DriverLibrary, Libraries, ShadowFolder
from firstlight.doctor.probes.limits import Limit, Limits
from firstlight.doctor.probes.ports import PortSeen, PortsSeen
from firstlight.doctor.probes.supervision import Supervision, Unit
from firstlight.doctor.probes.temporary import Temporary
from firstlight.doctor.probes.variables import Variables
from firstlight.home import Home
from firstlight.machine.facts import Disk, Gpu, Host, Init, Memory, Nvidia, ProbeFailure, Python
from firstlight.planning.choose import choose
from firstlight.planning.request import Request
from firstlight.serving.ports import PortHolder

UBUNTU = Host(arch="x86_64", libc="glibc", libc_version="2.35", uid=0, kernel="5.15.0", os="ubuntu", sudo="root")
NEW = build("new", "2.0", "13.0", capabilities=["8.0", "9.0"], torch="2.13.0")
OLD = build("old", "1.0", "12.1", capabilities=["7.0", "8.0", "9.0"], torch="2.5.0")
CPU = build("cpu", "2.0", None)


def evidence(here, *builds, figures=None, **fields):
    shelf = catalogue(page(*(builds or (NEW, OLD)), **(figures or {})))
    request = Request(engine="engine", home=fields["home"].root if fields.get("home") else None)
    return Evidence(machine=here, catalogue=shelf, plans=(choose(here, shelf, request),), **fields)


def asked(name, found):
    (check,) = chosen_checks(Wish(only=(name,)))
    return run_check(check, found, Wish())


def one(name, found):
    (finding,) = asked(name, found)
    assert (finding.id, finding.status != "crash") == (name, True), finding
    if finding.status in {"warn", "fail"}:
        assert finding.source or name in {"facts", "contradictions"} or finding.remedy
    return finding


class TestDriver:
    def test_new_enough(self):
        finding = one("driver-cuda", evidence(machine("8.0", driver="580.95.05")))
        assert finding.status == "ok"
        assert "580.95.05" in finding.summary

    def test_too_old_for_the_newest_release_and_an_older_one_is_taken(self):
        finding = one("driver-cuda", evidence(machine("8.0", driver="535.183.01")))
        assert (finding.status, finding.affects) == ("warn", ["engine"])
        assert "old is the newest" in finding.detail
        assert "580" in finding.remedy.text

    def test_too_old_for_every_build(self):
        finding = one("driver-cuda", evidence(machine("8.0", driver="470.82.01")))
        assert finding.status == "fail"
        assert "525" in finding.evidence  # the least that would help, not the most

    def test_another_build_of_the_same_release_is_no_loss(self):
        twin = build("twin", "2.0", "12.1", torch="2.13.0")
        assert one("driver-cuda", evidence(machine("8.0", driver="535.183.01"), NEW, twin)).status == "ok"

    def test_a_card_without_a_driver(self):
        here = machine("8.0", nvidia=None, host=UBUNTU)
        finding = one("driver", evidence(here))
        assert finding.status == "fail"
        assert "GPU-0" in finding.summary
        assert any("ubuntu-drivers" in command for command in finding.remedy.commands)
        assert not finding.remedy.automatic

    def test_a_driver_is_installed_on_windows_and_on_the_host_of_a_container(self):
        wsl = one("driver", evidence(machine("8.0", nvidia=None, host=msgspec.structs.replace(UBUNTU, wsl="2"))))
        assert "Windows" in wsl.remedy.text
        assert wsl.remedy.commands == []
        inside = msgspec.structs.replace(UBUNTU, container="docker")
        assert "--gpus all" in one("driver", evidence(machine("8.0", nvidia=None, host=inside))).remedy.text

    def test_libraries_of_a_driver_whose_module_is_not_loaded(self):
        nvidia = Nvidia(problem="other", problem_detail="Driver Not Loaded")
        finding = one("driver", evidence(machine("8.0", nvidia=nvidia)))
        assert (finding.status, finding.evidence) == ("fail", "Driver Not Loaded")

    def test_a_driver_that_shows_no_gpu(self):
        assert one("driver", evidence(machine(driver="535.1"))).status == "warn"

    def test_no_gpu_at_all_is_no_fault(self):
        here = machine(nvidia=None)
        assert one("driver", evidence(here)).status == "ok"
        for name in ("driver-cuda", "driver-library", "fabric-manager", "compute-capability", "bfloat16", "gpu-slices"):
            assert one(name, evidence(here)).status == "skip", name

    @pytest.mark.parametrize(
        ("problem", "name", "word"),
        [
            ("driver_library_mismatch", "driver-library", "803"),
            ("no_device_nodes", "device-nodes", "nvidia-modprobe"),
            ("uvm_not_loaded", "unified-memory", "nvidia-uvm"),
            ("fabric_manager", "fabric-manager", "802"),
            ("nvml_missing", "nvml", "libnvidia-ml.so.1"),
            ("other", "driver-answers", "what the driver said"),
        ],
    )
    def test_each_problem_has_its_check_and_is_no_other_ones(self, problem, name, word):
        nvidia = Nvidia(driver="580.95.05", problem=problem, problem_detail="what the driver said")
        found = evidence(machine("9.0", nvidia=nvidia))
        finding = one(name, found)
        text = " ".join(
            [finding.summary, finding.detail, finding.evidence, finding.remedy.text, *finding.remedy.commands]
        )
        assert finding.status == "fail"
        assert word in text
        assert finding.remedy.actions == []  # nothing touches a driver by itself
        names = ["driver-library", "device-nodes", "unified-memory", "fabric-manager", "nvml", "driver-answers"]
        assert [one(other, found).status for other in names if other != name] == ["ok"] * 5

    def test_the_host_mends_what_a_container_cannot(self):
        host = msgspec.structs.replace(UBUNTU, container="docker")
        for problem, name in (("fabric_manager", "fabric-manager"), ("uvm_not_loaded", "unified-memory")):
            here = machine("9.0", nvidia=Nvidia(driver="580.1", problem=problem), host=host)
            remedy = one(name, evidence(here)).remedy
            assert "on the host" in remedy.text
            assert remedy.commands == []

    def test_the_nearest_build_of_a_release_tells_which_rule_it_is(self):
        # Of release 2.0 one build holds no code for the card, the other one wants a newer driver: that would help.
        old_code = build("old-code", "2.0", "12.1", driver="570.0", capabilities=["7.0"])
        found = evidence(machine("7.0", driver="535.183.01"), NEW, old_code, OLD)
        assert one("driver-cuda", found).status == "warn"
        assert one("compute-capability", found).status == "ok"


class TestCompatibilityLibraries:
    KERNEL = "535.183.01"

    def look(self, card, path, version, lines=(), searched=""):
        libraries = Libraries(
            cuda=DriverLibrary(path=path, version=version, compat="compat" in path),
            kernel_driver=self.KERNEL,
            compat_lines=lines,
        )
        here = machine("8.9", driver=self.KERNEL)
        here = msgspec.structs.replace(here, gpus=[Gpu(index=0, name=card, compute_capability="8.9")])
        variables = Variables(values=(("LD_LIBRARY_PATH", searched),))
        return one("cuda-compat", evidence(here, libraries=libraries, variables=variables))

    def test_on_a_consumer_card_is_error_804_with_the_way_out(self):
        folder = "/usr/local/cuda-13.0/compat"
        finding = self.look(
            "NVIDIA GeForce RTX 4090", f"{folder}/libcuda.so.1", "580.65.06", searched=f"{folder}:/x/lib"
        )
        assert finding.status == "fail"
        assert "804" in finding.detail
        assert finding.remedy.commands == ["export LD_LIBRARY_PATH=/x/lib"]

    def test_in_the_loaders_configuration(self):
        lines = ("/etc/ld.so.conf.d/00-compat.conf: /usr/local/cuda/compat",)
        finding = self.look("NVIDIA GeForce RTX 4090", "/usr/local/cuda/compat/libcuda.so.1", "580.65.06", lines)
        assert finding.remedy.commands == ["sudo rm /etc/ld.so.conf.d/00-compat.conf && sudo ldconfig"]
        assert finding.remedy.needs_root

    def test_on_a_data_centre_card_is_what_it_is_for(self):
        assert self.look("NVIDIA L40S", "/usr/local/cuda/compat/libcuda.so.1", "580.65.06").status == "ok"

    def test_older_than_the_driver_is_error_803(self):
        finding = self.look("NVIDIA L40S", "/usr/local/cuda/compat/libcuda.so.1", "530.30.02")
        assert finding.status == "fail"
        assert "803" in finding.detail

    def test_a_library_of_another_driver_is_error_803(self):
        assert self.look("NVIDIA L40S", "/usr/lib/libcuda.so.1", "550.54.15").status == "fail"

    def test_the_drivers_own(self):
        assert self.look("NVIDIA GeForce RTX 4090", "/usr/lib/libcuda.so.1", self.KERNEL).status == "ok"


class TestCards:
    def test_a_gpu_below_every_build(self):
        finding = one("compute-capability", evidence(machine("6.0", driver="580.1")))
        assert finding.status == "warn"  # hardware: nothing is broken, and nothing mends it
        assert "no build of engine" in finding.summary

    def test_a_gpu_that_only_an_older_release_holds_code_for(self):
        finding = one("compute-capability", evidence(machine("7.0", driver="580.1")))
        assert "old is the newest" in finding.detail

    def test_a_display_card_beside_the_real_one_is_left_out(self):
        findings = asked("compute-capability", evidence(machine("8.0", "5.2", driver="580.1")))
        assert [(item.status, item.subject) for item in findings] == [("warn", "GPU 1, engine"), ("ok", None)]
        assert "GPU-1" not in findings[1].summary

    def test_unknown_capabilities_are_told_once(self):
        finding = one("compute-capability", evidence(machine(None, None, driver="580.1")))
        assert "GPU 0 (GPU-0) and GPU 1 (GPU-1)" in finding.summary

    def test_bfloat16_begins_at_8(self):
        figures = {"dtype_half": "half"}
        old = one("bfloat16", evidence(machine("7.5"), figures=figures))
        assert (old.status, old.affects) == ("warn", ["engine"])
        assert "dtype half" in old.detail
        assert one("bfloat16", evidence(machine("8.0"), figures=figures)).status == "ok"

    @pytest.mark.parametrize("kind", ["mig", "vgpu"])
    def test_slices_name_the_engine_that_takes_another_back_end(self, kind):
        card = Gpu(index=0, name="NVIDIA A100", compute_capability="8.0", memory_total=10 * GB, **{kind: True})
        found = evidence(machine("8.0", gpus=[card]), figures={"backend": "fast", "backend_virtual": "slow"})
        finding = one("gpu-slices", found)
        assert (finding.status, finding.affects) == ("warn", ["engine"])
        assert "back end slow" in finding.detail

    def test_other_makers(self):
        amd = Gpu(index=0, vendor="amd", name="AMD Instinct MI300X")
        assert one("other-gpus", evidence(machine(nvidia=None, gpus=[amd]))).status == "warn"
        both = [Gpu(index=0, name="NVIDIA A100", compute_capability="8.0"), msgspec.structs.replace(amd, index=1)]
        assert one("other-gpus", evidence(machine(gpus=both))).status == "ok"


class TestMemoryOfTheGpu:
    def look(self, used, *processes, problem=None):
        card = Gpu(index=0, name="A", compute_capability="8.0", memory_total=24 * GB, memory_free=24 * GB - used)
        holders = GpuHolders(gpus=(GpuUse(index=0, processes=processes),), problem=problem)
        return one("gpu-memory", evidence(machine("8.0", gpus=[card]), holders=holders))

    def test_a_desktop_is_no_holder(self):
        assert self.look(GB).status == "ok"

    def test_the_holder_is_named(self):
        finding = self.look(10 * GB, GpuProcess(pid=4242, bytes=9 * GB, command="python train.py", user="ada"))
        assert (finding.status, finding.subject) == ("warn", "GPU 0")
        assert "python train.py (process 4242)" in finding.summary
        assert "user ada" in finding.evidence
        assert finding.remedy.commands == ["ps -fp 4242", "kill 4242"]

    def test_a_full_card_is_a_failure(self):
        assert self.look(23 * GB, GpuProcess(pid=4242, bytes=22 * GB, command="x")).status == "fail"

    def test_our_own_server_is_no_fault(self):
        finding = self.look(20 * GB, GpuProcess(pid=7, bytes=20 * GB, command="python -m engine", ours="chat"))
        assert finding.status == "ok"
        assert "chat" in finding.summary

    def test_a_holder_that_is_hidden_or_process_1_is_never_told_to_be_killed(self):
        for finding in (
            self.look(20 * GB),
            self.look(20 * GB, GpuProcess(pid=99, bytes=20 * GB)),
            self.look(20 * GB, GpuProcess(pid=1, bytes=20 * GB, command="init")),
        ):
            assert finding.status in {"warn", "fail"}
            assert not any("kill" in command for command in finding.remedy.commands)


class TestHost:
    def test_an_old_c_library(self):
        floor = build("newer", "3.0", "12.1", libc="2.35")
        host = msgspec.structs.replace(UBUNTU, libc_version="2.31")
        finding = one("libc", evidence(machine("8.0", host=host), floor, OLD))
        assert (finding.status, finding.affects) == ("warn", ["engine"])
        assert "glibc 2.31" in finding.summary
        assert one("libc", evidence(machine("8.0", host=host), floor)).status == "fail"
        assert one("libc", evidence(machine("8.0", host=UBUNTU), floor)).status == "ok"

    def test_facts_that_could_not_be_read_are_one_finding_per_probe(self):
        problems = [ProbeFailure(probe="gpu.nvml", reason=f"GPU {n}: memory: no") for n in range(8)]
        problems.append(ProbeFailure(probe="disks:/mnt/x", reason="no answer within 2.0 s (nfs)"))
        found = evidence(machine("8.0", problems=problems))
        finding = one("facts", found)
        assert len(finding.evidence.splitlines()) == 8
        mount = one("disk-answers", found)
        assert (mount.status, mount.subject) == ("fail", "/mnt/x")

    def test_contradicting_facts(self):
        here = machine("8.0", nvidia=Nvidia(driver="470.82.01", cuda="13.0"))
        assert one("contradictions", evidence(here)).status == "warn"
        assert one("contradictions", evidence(machine("8.0", driver="580.95.05", cuda="13.0"))).status == "ok"

    def test_wsl(self):
        for version, status in (("1", "fail"), ("2", "ok"), (None, "skip")):
            host = msgspec.structs.replace(UBUNTU, wsl=version)
            assert one("wsl", evidence(machine("8.0", host=host))).status == status

    def test_shared_memory_matters_with_two_gpus(self):
        small = Memory(total=64 * GB, shm=64 << 20)
        figures = {"tensor_parallel": True}
        finding = one("shared-memory", evidence(machine("8.0", "8.0", memory=small), figures=figures))
        assert (finding.status, finding.affects) == ("warn", ["engine"])
        assert "remount" in finding.remedy.commands[0]
        inside = msgspec.structs.replace(UBUNTU, container="docker")
        finding = one("shared-memory", evidence(machine("8.0", "8.0", memory=small, host=inside), figures=figures))
        assert "--shm-size" in finding.remedy.text  # without an image it is no line to paste
        assert finding.remedy.commands == []
        assert one("shared-memory", evidence(machine("8.0", memory=small))).status == "skip"
        big = Memory(total=64 * GB, shm=32 * GB)
        assert one("shared-memory", evidence(machine("8.0", "8.0", memory=big))).status == "ok"

    def test_open_files(self):
        def look(soft, hard):
            limits = Limits(open_files=Limit(soft=soft, hard=hard))
            return one("open-files", evidence(machine("8.0"), limits=limits)).status

        assert look(1024, 4096) == "warn"
        assert look(1024, 1_048_576) == "ok"  # servers raise the soft limit themselves
        assert look(None, None) == "ok"

    def test_locked_memory_matters_with_infiniband(self):
        def look(*, infiniband, hard):
            limits = Limits(locked_memory=Limit(soft=hard, hard=hard), infiniband=infiniband)
            return one("locked-memory", evidence(machine("8.0"), limits=limits)).status

        assert look(infiniband=True, hard=8 << 20) == "warn"
        assert look(infiniband=False, hard=8 << 20) == "ok"
        assert look(infiniband=True, hard=None) == "ok"


class TestDisks:
    SMALL = Disk(mount="/", fs="overlay", total=30 * GB, free=3 * GB, writable=True, persistent=False)
    BIG = Disk(mount="/data", fs="ext4", total=900 * GB, free=800 * GB, writable=True)

    def test_a_home_is_put_where_the_room_is(self):
        found = evidence(machine("8.0", disks=[self.SMALL, self.BIG]))
        finding = one("disk-bigger", found)
        assert finding.status == "ok"
        assert "/data" in finding.summary
        assert one("disk-room", found).subject == "/data/firstlight"

    def test_a_home_that_lies_on_the_small_disk_already(self, tmp_path):
        found = evidence(machine("8.0", disks=[self.SMALL, self.BIG]), home=Home(tmp_path))
        finding = one("disk-bigger", found)
        assert finding.status == "warn"
        assert finding.remedy.commands == ["export FIRSTLIGHT_HOME=/data/firstlight"]

    def test_no_room_at_all(self, tmp_path):
        full = msgspec.structs.replace(self.SMALL, free=GB)
        findings = asked("disk-room", evidence(machine("8.0", disks=[full, self.BIG]), home=Home(tmp_path)))
        assert [(item.status, item.affects) for item in findings] == [("fail", ["engine"])]
        assert "/data/firstlight" in findings[0].remedy.commands[0]

    def test_a_disk_that_cannot_be_written(self, tmp_path):
        closed = msgspec.structs.replace(self.SMALL, writable=False, free=500 * GB)
        finding = one("disk-writable", evidence(machine("8.0", disks=[closed, self.BIG]), home=Home(tmp_path)))
        assert finding.status == "fail"
        assert "/data/firstlight" in finding.remedy.commands[0]
        alone = one("disk-writable", evidence(machine("8.0", disks=[closed]), home=Home(tmp_path)))
        assert "/path/that/you/can/write" in alone.remedy.commands[0]

    def test_the_folder_itself_counts_before_its_disk(self):
        disks = [msgspec.structs.replace(self.SMALL, free=500 * GB)]
        folder = HomeFolder(path="/srv/home", above="/srv", writable=False, mount="/srv", no_exec=True)
        found = evidence(machine("8.0", disks=disks), home=Home(Path("/srv/home")), home_folder=folder)
        finding = one("disk-writable", found)
        assert (finding.status, finding.summary.startswith("/srv, which would hold")) == ("fail", True)
        assert one("disk-noexec", found).status == "fail"
        open_folder = msgspec.structs.replace(folder, writable=True, no_exec=False)
        found = evidence(machine("8.0", disks=disks), home=Home(Path("/srv/home")), home_folder=open_folder)
        assert [one(name, found).status for name in ("disk-writable", "disk-noexec")] == ["ok", "ok"]

    def test_a_home_that_a_restart_empties(self, tmp_path):
        lost = msgspec.structs.replace(self.SMALL, free=500 * GB)
        finding = one("disk-persistent", evidence(machine("8.0", disks=[lost, self.BIG]), home=Home(tmp_path)))
        assert finding.status == "warn"
        assert "/data/firstlight" in finding.remedy.commands[0]

    def test_the_temporary_folder(self):
        def look(**figures):
            folder = Temporary(folder="/tmp", **figures)
            return one("temporary-folder", evidence(machine("8.0", disks=[self.SMALL, self.BIG]), temporary=folder))

        assert look(fs="ext4", total=100 * GB, free=50 * GB).status == "ok"
        assert look(fs="tmpfs", total=100 * GB, free=50 * GB).status == "ok"
        tight = look(fs="tmpfs", total=2 * GB, free=2 * GB)
        assert tight.status == "warn"
        assert "in memory" in tight.summary
        assert tight.remedy.commands == ["mkdir -p /data/tmp && export TMPDIR=/data/tmp"]
        assert look(exists=False, writable=False).status == "fail"
        assert look(writable=False).status == "fail"

    def test_unknown_disks_are_skipped(self):
        found = evidence(machine("8.0", disks=None))
        assert [one(name, found).status for name in ("disk-room", "disk-writable", "disk-bigger")] == ["skip"] * 3


class TestPythons:
    def test_the_range_is_told_and_is_no_fault_for_conda(self):
        python = [Python(path="/usr/bin/python3", version="3.14.0")]
        finding = one("python-range", evidence(machine("8.0", pythons=python)))
        assert finding.status == "ok"
        assert "new runs on 3.12" in finding.evidence

    def test_a_missing_compiler_matters_on_a_gpu(self):
        finding = one("compiler", evidence(machine("8.0", host=UBUNTU), compiler=Compiler()))
        assert (finding.status, finding.affects) == ("warn", ["engine"])
        assert "apt-get" in finding.remedy.commands[0]
        on_cpu = evidence(machine(nvidia=None), CPU, figures={"cpu": "always"}, compiler=Compiler())
        assert one("compiler", on_cpu).status == "skip"
        named = one("compiler", evidence(machine("8.0"), compiler=Compiler(named="/opt/none/gcc")))
        assert "/opt/none/gcc" in named.summary
        assert named.remedy.commands == ["unset CC"]

    def test_headers_matter_for_a_virtual_environment(self):
        shelf = catalogue(page(OLD))
        plan = choose(machine("8.0"), shelf, Request(engine="engine", environment="venv"))
        bare = Compiler(headers=(PythonHeaders(python="/usr/bin/python3.12", version="3.12.3", present=False),))
        found = Evidence(machine=machine("8.0"), catalogue=shelf, plans=(plan,), compiler=bare)
        finding = one("python-headers", found)
        assert finding.status == "warn"
        assert "python3.12-dev" in finding.remedy.commands[0]
        assert one("python-headers", evidence(machine("8.0"), compiler=bare)).status == "ok"  # conda brings them

    def test_libraries_in_front_of_the_wheels(self):
        shadow = ShadowFolder(folder="/usr/local/cuda-11.8/lib64", libraries=("libcudart.so.11.0",))
        finding = one("library-path", evidence(machine("8.0"), libraries=Libraries(shadows=(shadow,))))
        assert (finding.status, finding.evidence) == ("warn", "libcudart.so.11.0")
        assert one("library-path", evidence(machine("8.0"), libraries=Libraries())).status == "ok"

    def test_variables_that_leak(self):
        variables = Variables(values=(("PYTHONPATH", "/opt/ros/lib"),))
        assert one("python-variables", evidence(machine("8.0"), variables=variables)).subject == "PYTHONPATH"


class TestSupervisors:
    def test_a_container_without_a_supervisor(self):
        host = msgspec.structs.replace(UBUNTU, container="docker")
        here = machine("8.0", init=Init(system="bash"), host=host)
        finding = one("supervisor", evidence(here, supervision=Supervision()))
        assert finding.status == "warn"
        assert "process 1 is bash" in finding.summary
        with_one = Supervision(supervisord="/usr/bin/supervisord")
        assert one("supervisor", evidence(here, supervision=with_one)).status == "ok"

    @pytest.mark.parametrize(("state", "status"), [("running", "ok"), ("degraded", "ok"), ("maintenance", "warn")])
    def test_systemd(self, state, status):
        assert one("supervisor", evidence(machine("8.0", init=Init(system="systemd", state=state)))).status == status

    def test_services_of_a_user_who_does_not_linger(self):
        unit = Unit(name="chat", path="/u/chat.service", engine="engine", scope="user", proxies=False)
        host = msgspec.structs.replace(UBUNTU, uid=1000, user="ada")
        here = machine("8.0", init=Init(system="systemd", state="running"), host=host)
        found = evidence(here, supervision=Supervision(user="ada", linger=False, units=(unit,)))
        finding = one("linger", found)
        assert (finding.status, finding.remedy.automatic) == ("warn", True)
        assert finding.remedy.actions[0].argv == ["loginctl", "enable-linger", "ada"]
        none_yet = evidence(here, supervision=Supervision(user="ada", linger=False))
        assert one("linger", none_yet).status == "ok"

    def holder(self, command):
        return PortHolder(port=8000, address="0.0.0.0", user="ada", pid=42, command=command)

    def test_ports(self):
        def look(**figures):
            ports = PortsSeen(ports=(PortSeen(port=8000, engines=("engine",), **figures),))
            return one("ports", evidence(machine("8.0"), ports=ports))

        assert look().summary == "port 8000 can be had"
        taken = look(taken=True, holder=self.holder("jupyter notebook --token=abcdef0123"))
        assert (taken.status, taken.subject) == ("warn", "port 8000")
        assert "jupyter" in taken.summary
        assert "process 42" in taken.evidence
        assert "abcdef0123" not in taken.evidence
        assert look(taken=True).status == "warn"
        assert look(taken=True, holder=self.holder("python -m x"), ours="chat").status == "ok"
        assert look(taken=True, holder=self.holder("/usr/bin/engine serve")).status == "ok"

    def test_a_service_that_does_not_see_the_proxy(self):
        variables = Variables(values=(("https_proxy", "http://proxy:3128"),))

        def look(*units, **figures):
            found = evidence(machine("8.0"), variables=variables, supervision=Supervision(units=units, **figures))
            return one("service-proxy", found)

        blind = Unit(name="engine", path="/etc/x", engine="engine", scope="system", proxies=False)
        finding = look(blind)
        assert (finding.status, finding.remedy.commands) == ("warn", ["sudo systemctl edit engine"])
        assert look(msgspec.structs.replace(blind, proxies=True)).status == "ok"
        assert look(blind, manager_proxies=True).status == "ok"
        assert look().status == "ok"


class TestInstalled:
    def look(self, here, **figures):
        values = {"engine": "engine", "build": "new", "generation": "g", "state": "proven", "created": "2026-11-23"}
        seen = InstalledSeen(current=(Installed(**{**values, **figures}),) if figures.get("build") != "" else ())
        return one("installed-fits", evidence(here, installed=seen))

    def test_a_driver_that_was_taken_back(self):
        finding = self.look(machine("8.0", driver="535.183.01"))
        assert (finding.status, finding.affects) == ("fail", ["engine"])
        assert finding.evidence.startswith("driver: ")
        assert finding.remedy.commands == ["firstlight setup.engine"]

    def test_what_fits_is_well_and_what_was_never_proven_is_said(self):
        good = machine("8.0", driver="580.95.05")
        assert self.look(good).status == "ok"
        assert self.look(good, state="built").remedy.commands == ["firstlight setup.prove engine"]
        assert self.look(good, build="").status == "skip"

    def test_a_disk_that_has_filled_up_since_is_no_reason(self):
        full = [Disk(mount="/", fs="ext4", free=GB, total=9 * GB, writable=True)]
        assert self.look(machine("8.0", driver="580.95.05", disks=full)).status == "ok"

    def test_an_older_release_that_is_set_up_is_no_fault(self):
        assert self.look(machine("8.0", driver="580.95.05"), build="old").status == "ok"


def test_damaged_pages_and_broken_plans_are_told():
    unseen = (
        Unseen(name="catalogue page of b", reason="line 3 is wrong", broke=True),
        Unseen(name="plan of c", reason="KeyError: x", broke=True),
        Unseen(name="limits", reason="late", broke=True),
    )
    findings = asked("catalogue", evidence(machine("8.0"), unseen=unseen))
    assert [(item.status, item.evidence) for item in findings] == [
        ("fail", "line 3 is wrong"),
        ("crash", "KeyError: x"),
    ]


class TestProxies:
    def look(self, name, **variables):
        return asked(name, evidence(machine("8.0"), variables=Variables(values=tuple(variables.items()))))

    def test_both_spellings(self):
        assert [
            item.status for item in self.look("proxy-spelling", http_proxy="http://a:1", HTTP_PROXY="http://a:1/")
        ] == ["ok"]
        (differ,) = self.look("proxy-spelling", https_proxy="http://a:1", HTTPS_PROXY="http://b:1")
        assert (differ.status, differ.subject) == ("warn", "https_proxy")
        (capitals,) = self.look("proxy-spelling", HTTP_PROXY="http://a:1")
        assert (capitals.status, capitals.subject) == ("warn", "http_proxy")

    @pytest.mark.parametrize(
        ("value", "status"),
        [
            (None, "warn"),
            ("example.com", "warn"),
            ("localhost", "warn"),
            ("localhost,127.0.0.1", "ok"),
            ("LOCALHOST, 127.0.0.0/8", "ok"),
            ("*", "ok"),
        ],
    )
    def test_this_machines_own_address(self, value, status):
        words = {"https_proxy": "http://a:1", **({"no_proxy": value} if value else {})}
        (finding,) = self.look("no-proxy", **words)
        assert finding.status == status
        if status == "warn":
            assert "127.0.0.1" in finding.remedy.commands[0]
