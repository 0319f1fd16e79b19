"""Operating system, libc, container, WSL, init, user, cores and memory."""

from __future__ import annotations

import os

import pytest
from support import machine_tree
from support.machine_tree import BARE, plant, program, system

from firstlight.machine import cpu, host, init, memory, user
from firstlight.machine.facts import Init
from firstlight.machine.libraries import missing_libraries

ALPINE = {
    "/etc/os-release": 'NAME="Alpine Linux"\nID=alpine\nVERSION_ID=3.20.1\nPRETTY_NAME="Alpine Linux v3.20"\n',
    "/lib/ld-musl-x86_64.so.1": b"\x7fELF...\0127.0.0.1\0/proc/self/fd/\0" + b"1.2.5\0infinity\0",
}
CENTOS7 = {
    "/etc/os-release": 'NAME="CentOS Linux"\nID="centos"\nVERSION_ID="7"\nPRETTY_NAME="CentOS Linux 7 (Core)"\n',
    "/lib64/libc.so.6": b"\x7fELF\0GNU C Library (GNU libc) stable release version 2.17, by Roland McGrath et al.\n\0",
}
DEBIAN_WITH_MUSL = {
    "/etc/os-release": 'ID=debian\nVERSION_ID="12"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "/lib/x86_64-linux-gnu/libc.so.6": b"\0GNU C Library (Debian GLIBC 2.36-9+deb12u10) stable release version 2.36.\n",
    "/lib/ld-musl-x86_64.so.1": b"\x001.2.3\0",
}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (ALPINE, ("alpine", "3.20.1", "Alpine Linux v3.20", "musl", "1.2.5")),
        (CENTOS7, ("centos", "7", "CentOS Linux 7 (Core)", "glibc", "2.17")),
        (DEBIAN_WITH_MUSL, ("debian", "12", "Debian GNU/Linux 12 (bookworm)", "glibc", "2.36")),
        ({"/etc/os-release": "ID=arch\nPRETTY_NAME='Arch Linux'\n"}, ("arch", None, "Arch Linux", None, None)),
        ({"/etc/passwd": "x"}, (None, None, None, None, None)),
    ],
    ids=["alpine", "centos7", "debian-with-musl", "arch", "nothing"],
)
def test_distribution_and_libc(tmp_path, files, expected):
    found = host.read(system(plant(tmp_path, files)))
    assert (found.os, found.os_version, found.os_name, found.libc, found.libc_version) == expected


def test_libc_of_the_running_machine_is_what_the_process_uses():
    name, _, version = os.confstr("CS_GNU_LIBC_VERSION").partition(" ")
    found = host.read(machine_tree.System(machine_tree.Path("/"), dict(os.environ), 8.0))
    assert (found.libc, found.libc_version) == (name, version)


CONTAINERS = [
    ({"/.dockerenv": ""}, {}, "docker"),
    ({"/run/.containerenv": 'engine="podman-4.3"\n'}, {}, "podman"),
    ({"/.dockerenv": ""}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
    ({"/var/run/secrets/kubernetes.io/serviceaccount/namespace": "x"}, {}, "kubernetes"),
    ({"/run/systemd/container": "lxc\n"}, {}, "lxc"),
    ({"/run/systemd/container": "wsl\n"}, {}, None),
    ({"/run/host/container-manager": "systemd-nspawn\n"}, {}, "systemd-nspawn"),
    ({"/proc/1/environ": b"PATH=/bin\0container=lxc\0HOME=/\0"}, {}, "lxc"),
    ({"/proc/1/cgroup": "5:devices:/docker/" + "0a" * 32 + "\n"}, {}, "docker"),
    ({"/proc/1/cgroup": "0::/kubepods.slice/kubepods-burstable.slice/pod1/x\n"}, {}, "kubernetes"),
    ({"/proc/1/cgroup": "0::/system.slice/docker.service\n"}, {}, None),
    ({"/proc/1/cgroup": "0::/\n"}, {}, None),
]


@pytest.mark.parametrize(("files", "environment", "expected"), CONTAINERS)
def test_container(tmp_path, files, environment, expected):
    assert host.read(system(plant(tmp_path, files), **environment)).container == expected


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("5.15.153.1-microsoft-standard-WSL2", "2"),
        ("4.4.0-19041-Microsoft", "1"),
        ("6.6.36-custom-WSL2+", "2"),
        ("5.15.0-1053-azure", None),
        ("6.17.9-1-pve", None),
    ],
)
def test_wsl(tmp_path, release, expected):
    assert host.read(system(plant(tmp_path, {"/proc/sys/kernel/osrelease": release}))).wsl == expected


def test_product_is_the_board_or_the_instance(tmp_path):
    jetson = plant(tmp_path / "a", {"/proc/device-tree/model": b"NVIDIA Jetson AGX Orin Developer Kit\0"})
    assert host.read_product(system(jetson)) == "NVIDIA Jetson AGX Orin Developer Kit"
    desktop = plant(tmp_path / "b", {"/sys/class/dmi/id/product_name": "System Product Name\n"})
    assert host.read_product(system(desktop)) is None
    cloud = plant(tmp_path / "c", {"/sys/class/dmi/id/product_name": "p4d.24xlarge\n"})
    assert host.read_product(system(cloud)) == "p4d.24xlarge"


class TestInit:
    @pytest.mark.parametrize("state", ["running", "degraded", "starting", "maintenance"])
    def test_systemd_with_its_state_whatever_the_exit_status(self, tmp_path, state):
        root = plant(tmp_path / "tree", {"/run/systemd/system": None, "/proc/1/comm": "systemd\n"})
        program(tmp_path / "bin", "systemctl", f'[ "$1" = is-system-running ] && echo {state}', "exit 1")
        assert init.read(system(root, PATH=str(tmp_path / "bin"))) == Init(system="systemd", state=state)

    def test_systemctl_without_systemd_is_no_systemd(self, tmp_path):
        root = plant(tmp_path / "tree", {"/proc/1/comm": "bash\n"})
        program(tmp_path / "bin", "systemctl", "echo offline", "exit 1")
        assert init.read(system(root, PATH=str(tmp_path / "bin"))) == Init(system="bash")

    def test_the_hosts_run_folder_in_a_container_is_no_systemd(self, tmp_path):
        root = plant(tmp_path / "tree", {"/run/systemd/system": None, "/proc/1/comm": "tini\n"})
        program(tmp_path / "bin", "systemctl", "echo offline", "exit 1")
        assert init.read(system(root, PATH=str(tmp_path / "bin"))) == Init(system="tini")

    def test_nobody_knows_process_1(self, tmp_path):
        assert init.read(system(tmp_path)) == Init(system="none")

    def test_a_systemctl_that_hangs_leaves_the_state_unknown(self, tmp_path, monkeypatch):
        monkeypatch.setattr(init, "SYSTEMCTL_SECONDS", 0.3)
        root = plant(tmp_path / "tree", {"/run/systemd/system": None, "/proc/1/comm": "systemd\n"})
        program(tmp_path / "bin", "systemctl", "exec sleep 60")
        here = system(root, PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")
        assert init.read(here) == Init(system="systemd", state=None)
        assert [failure.probe for failure in here.failures] == ["init.state"]


class TestSudo:
    @pytest.mark.parametrize(
        ("lines", "expected"),
        [
            (['[ "$1 $2" = "-n true" ] || exit 9', "exit 0"], "passwordless"),
            (["echo 'sudo: a password is required' >&2", "exit 1"], "password"),
            (["echo 'sudo: sorry, you must have a tty to run sudo' >&2", "exit 1"], "password"),
            (["echo 'ada is not in the sudoers file.' >&2", "exit 1"], "absent"),
            (["echo 'sudo: The \"no new privileges\" flag is set' >&2", "exit 1"], "absent"),
            (["echo 'sudo: unable to load policy plugin' >&2", "exit 1"], None),
        ],
    )
    def test_what_sudo_says(self, tmp_path, lines, expected):
        program(tmp_path / "bin", "sudo", *lines)
        here = system(tmp_path, PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")
        assert user.read_sudo(here, 1000) == expected
        assert bool(here.failures) == (expected is None)

    def test_sudo_gets_no_terminal_and_no_input(self, tmp_path):
        program(tmp_path / "bin", "sudo", 'read word && echo "a terminal gave me $word" && exit 0', "exit 1")
        here = system(tmp_path, PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")
        assert user.read_sudo(here, 1000) is None

    def test_root_needs_none_and_absent_is_absent(self, tmp_path):
        program(tmp_path / "bin", "sudo", f"touch {tmp_path}/called")
        assert user.read_sudo(system(tmp_path, PATH=str(tmp_path / "bin")), 0) == "root"
        assert not (tmp_path / "called").exists()
        assert user.read_sudo(system(tmp_path), 1000) == "absent"

    def test_no_new_privileges_disarms_sudo(self, tmp_path):
        program(tmp_path / "bin", "sudo", "exit 0")
        plant(tmp_path, {"/proc/self/status": "NoNewPrivs:\t1\n"})
        assert user.read_sudo(system(tmp_path, PATH=str(tmp_path / "bin")), 1000) == "absent"


class TestLimits:
    def test_version_2_limits_of_every_level_count(self, tmp_path):
        group = "/sys/fs/cgroup/user.slice/user-1000.slice/session-2.scope"
        files = {
            **BARE,
            f"{group}/cpu.max": "max 100000\n",
            "/sys/fs/cgroup/user.slice/cpu.max": "250000 100000\n",
            f"{group}/memory.max": "8589934592\n",
            f"{group}/memory.current": "4294967296\n",
            f"{group}/memory.stat": "anon 1\ninactive_file 1073741824\n",
            "/sys/fs/cgroup/user.slice/memory.max": "max\n",
        }
        here = system(plant(tmp_path, files))
        assert cpu.read(here).cores == 3
        assert memory.read(here).total == 8 << 30
        assert memory.read(here).available == 5 << 30

    def test_version_1_in_a_container_that_sees_the_hosts_path(self, tmp_path):
        files = {
            **BARE,
            "/proc/self/cgroup": "9:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/docker/abc\n",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "400000\n",
            "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes": "2147483648\n",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes": "536870912\n",
        }
        here = system(plant(tmp_path, files))
        assert cpu.read(here).cores == 4
        assert memory.read(here).total == 2 << 30
        assert memory.read(here).available == (2 << 30) - (512 << 20)

    def test_no_limit_is_no_limit(self, tmp_path):
        files = {
            **BARE,
            "/proc/self/cgroup": "9:cpu:/\n4:memory:/\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        }
        here = system(plant(tmp_path, files))
        assert cpu.read(here).cores == 32
        assert memory.read(here).total == 263788284 * 1024

    def test_old_kernel_without_available_memory(self, tmp_path):
        text = "MemTotal: 1000 kB\nMemFree: 100 kB\nBuffers: 20 kB\nCached: 300 kB\n"
        assert memory.read(system(plant(tmp_path, {"/proc/meminfo": text}))).available == 420 * 1024


def test_arm_processor_is_named_by_its_part_number(tmp_path):
    text = "processor\t: 0\nFeatures\t: fp asimd sve bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n"
    files = {"/proc/cpuinfo": text, "/proc/self/status": "Cpus_allowed_list:\t0,2-4\n"}
    found = cpu.read(system(plant(tmp_path, files)))
    assert (found.model, found.cores, found.flags) == ("Neoverse-V2", 4, ["fp", "asimd", "sve", "bf16"])


def test_libraries_that_the_loader_does_not_find_are_named() -> None:
    assert missing_libraries(["libc.so.6", "libno-such-thing.so.1"]) == ["libno-such-thing.so.1"]
