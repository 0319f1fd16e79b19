"""What the doctor looks at beside the machine's facts: trees on disk stand for machines."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import fake_nvml
from support.fake_nvml import GIB, NVML, FakeNvidia, device
from support.machine_tree import BARE, plant, program, system
from support.patience import with_patience
from support.small_catalogue import catalogue, page

from firstlight.doctor.looking import Look
from firstlight.doctor.probes import (
    compiler,
    holders,
    home_folder,
    installed,
    libraries,
    limits,
    ports,
    supervision,
    temporary,
)
from firstlight.doctor.probes.variables import parse as parse_variables
from firstlight.doctor.secrets import without_secrets
from firstlight.machine.facts import Machine, Python
from firstlight.machine.system import System


@pytest.fixture(scope="session")
def driver_libraries(tmp_path_factory):
    return fake_nvml.compile_libraries(tmp_path_factory.mktemp("nvidia"))


@pytest.fixture
def look(tmp_path):
    """Return a function that looks at a tree, with these variables alone."""

    def at(files=None, *pages, machine=None, seconds=120.0, **environment):
        root = plant(tmp_path / "tree", {**BARE, **(files or {})})
        here = system(root, seconds=seconds, **{"FIRSTLIGHT_HOME": str(tmp_path / "home"), **environment})
        return Look(here, catalogue(*(pages or (page(),))), lambda: machine or Machine())

    return at


class TestVariables:
    def test_passwords_of_proxies_are_left_out(self):
        found = parse_variables({"https_proxy": "http://ada:s3cret@proxy:3128", "HTTP_PROXY": "bob:pw@proxy:1"})
        assert found.get("https_proxy") == "http://proxy:3128"
        assert found.get("HTTP_PROXY") == "proxy:1"
        assert found.proxy("http_proxy") == "proxy:1"

    def test_other_variables_are_nobodys_business(self):
        found = parse_variables({"HF_TOKEN": "hf_abcdefgh", "LD_LIBRARY_PATH": "/x", "SHELL": "/bin/sh"})
        assert found.values == (("LD_LIBRARY_PATH", "/x"),)


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("serve --api-key abc123 --port 1", "serve --api-key <secret> --port 1"),
        ("serve --api-key=abc123", "serve --api-key=<secret>"),
        ("HF_TOKEN=hf_abcdefghij python", "HF_TOKEN=<secret> python"),
        ('{"password": "a b"}', '{"password": <secret>}'),
        ("fetch https://user:pw@host/x", "fetch https://host/x"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer <secret>"),
        ("key sk-abcdefghijkl here", "key <secret> here"),
        ("eyJhbGciOiJI.eyJzdWIiOiIx.abc", "<secret>"),
        ("the token was refused, --max-tokens 5", "the token was refused, --max-tokens 5"),
    ],
)
def test_secrets_are_taken_out(text, clean):
    assert without_secrets(text) == clean
    assert without_secrets(clean) == clean


class TestLimits:
    TEXT = (
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max locked memory         8388608              unlimited            bytes     \n"
        "Max open files            1024                 4096                 files     \n"
    )

    def test_by_the_kernels_file(self, look):
        found = limits.read(look({"/proc/self/limits": self.TEXT, "/sys/class/infiniband/mlx5_0": None}))
        assert (found.open_files.soft, found.open_files.hard) == (1024, 4096)
        assert (found.locked_memory.soft, found.locked_memory.hard) == (8388608, None)
        assert found.infiniband

    def test_without_it(self, look):
        found = limits.read(look())
        assert (found.open_files, found.locked_memory, found.infiniband) == (None, None, False)


class TestTemporary:
    TABLE = "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:2 / /tmp rw - tmpfs tmpfs rw\n"

    def test_tmp_on_memory(self, look):
        found = temporary.read(look({"/proc/self/mountinfo": self.TABLE, "/tmp": None}))
        assert (found.folder, found.fs, found.set_by, found.writable) == ("/tmp", "tmpfs", None, True)
        assert found.total >= found.free > 0

    def test_tmpdir(self, look, tmp_path):
        found = temporary.read(look({}, TMPDIR=str(tmp_path)))
        assert (found.folder, found.set_by) == (str(tmp_path), "TMPDIR")
        gone = temporary.read(look({}, TMPDIR=str(tmp_path / "gone")))
        assert (gone.exists, gone.writable) == (False, False)


class TestPorts:
    TABLE = "  sl  local_address rem_address   st\n"

    def here(self, *pages):
        environment = {"PATH": "", "FIRSTLIGHT_HOME": "/nowhere"}
        return Look(System(Path("/"), environment, 8.0), catalogue(*pages), Machine)

    def test_the_holder_is_found_and_the_port_belongs_to_engines(self):
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            number = server.getsockname()[1]
            pages = [page(engine="a", port=number), page(engine="b", port=number)]
            (found,) = ports.read(self.here(*pages)).ports
        assert (found.port, found.engines, found.taken, found.ours) == (number, ("a", "b"), True, None)
        assert (found.holder.pid, found.holder.address) == (os.getpid(), "127.0.0.1")
        (free,) = ports.read(self.here(*pages)).ports
        assert (free.taken, free.holder) == (False, None)

    def test_without_the_kernels_table_the_port_still_counts_as_taken(self, monkeypatch):
        monkeypatch.setattr("firstlight.doctor.probes.ports.listeners", lambda _look: None)
        with socket.socket() as server:
            server.bind(("127.0.0.1", 0))
            server.listen()
            (found,) = ports.read(self.here(page(port=server.getsockname()[1]))).ports
        assert (found.taken, found.holder) == (True, None)
        (free,) = ports.read(self.here(page(port=found.port))).ports
        assert not free.taken

    def test_what_is_looked_at_once_is_shared(self, look):
        seen = look({"/proc/net/tcp": self.TABLE})
        calls = []
        assert [seen.once(calls.append), seen.once(calls.append)] == [None, None]
        assert calls == [seen]


class TestCompiler:
    def test_order_and_headers(self, look, tmp_path):
        for name in ("cc", "clang", "gcc"):
            program(tmp_path / "bin", name)
        plant(tmp_path / "opt", {"include/python3.12/Python.h": "", "bin/python3.12": ""})
        pythons = [
            Python(path=str(tmp_path / "opt/bin/python3.12"), version="3.12.1"),
            Python(path=str(tmp_path / "none/bin/python3.9"), version="3.9.1"),
        ]
        found = compiler.read(look({}, machine=Machine(pythons=pythons), PATH=str(tmp_path / "bin")))
        assert found.compiler == str(tmp_path / "bin/gcc")
        assert [item.present for item in found.headers] == [True, False]

    def test_cc_names_one_that_is_not_there(self, look):
        found = compiler.read(look({}, CC="/opt/none/gcc -O2"))
        assert (found.compiler, found.named) == (None, "/opt/none/gcc -O2")


class TestLibraries:
    def test_a_compatibility_folder_in_front(self, look, tmp_path):
        folder = tmp_path / "cuda-13.0/compat"
        plant(folder, {"libcuda.so.580.65.06": ""})
        (folder / "libcuda.so.1").symlink_to("libcuda.so.580.65.06")
        files = {
            "/sys/module/nvidia/version": "535.183.01\n",
            "/etc/ld.so.conf.d/00-cuda-compat.conf": "# comment /usr/local/cuda/compat\n/usr/local/cuda/compat\n",
            "/etc/ld.so.conf.d/libc.conf": "/usr/local/lib\n",
        }
        found = libraries.read(look(files, LD_LIBRARY_PATH=str(folder)))
        assert (found.cuda.version, found.cuda.compat, found.kernel_driver) == ("580.65.06", True, "535.183.01")
        assert found.compat_lines == ("/etc/ld.so.conf.d/00-cuda-compat.conf: /usr/local/cuda/compat",)

    def test_cuda_libraries_in_the_search_path(self, look, tmp_path):
        names = ("libcudart.so.11.0", "libcublas.so.11", "libnccl.so.2", "libcudnn.so.8", "libnvrtc.so.11")
        plant(tmp_path / "cuda", {**dict.fromkeys(names, ""), "libz.so.1": ""})
        plant(tmp_path / "plain", {"libz.so.1": ""})
        found = libraries.read(look(LD_LIBRARY_PATH=f"{tmp_path}/cuda::{tmp_path}/plain:relative:{tmp_path}/cuda"))
        assert [item.folder for item in found.shadows] == [f"{tmp_path}/cuda"]
        assert len(found.shadows[0].libraries) == 5
        assert found.shadows[0].libraries[-1] == "…"
        assert found.cuda is None


class TestHolders:
    def test_processes_have_names_users_and_sizes(self, look, tmp_path, driver_libraries):
        used = f"4242:{3 * GIB},777:{GIB}"
        lines = [device("NVIDIA A100", "8.0", 80, processes=used), device("NVIDIA A100", "8.0", 80)]
        fake = FakeNvidia.install(tmp_path / "lib", driver_libraries, *lines, names=(NVML,))
        files = {
            "/proc/4242/cmdline": b"python\0-m\0engine\0--api-key\0s3cret\0",
            "/proc/4242/stat": "4242 (py thon) S 1 4242 4242 0\n",
        }
        found = holders.read(look(files, **fake.environment))
        assert found.problem is None
        first, second = found.gpus
        assert second.processes == ()
        known, unknown = first.processes
        assert (known.pid, known.bytes, known.ours) == (4242, 3 * GIB, None)
        assert known.command == "python -m engine --api-key <secret>"
        assert known.user is not None
        assert (unknown.pid, unknown.command, unknown.user) == (777, None, None)

    @pytest.mark.parametrize(
        ("line", "word"),
        [("hang nvmlInit", "did not answer"), ("crash nvmlInit", "status"), ("return nvmlInit 9", "Not Loaded")],
    )
    def test_a_broken_library_is_told(self, look, tmp_path, driver_libraries, line, word):
        fake = FakeNvidia.install(tmp_path / "lib", driver_libraries, line, names=(NVML,))
        limit = {"seconds": 1.5} if line.startswith("hang") else {}
        found = holders.read(look({}, **limit, **fake.environment))
        assert found.gpus == ()
        assert word in found.problem

    def test_one_card_that_refuses_does_not_hide_the_other(self, look, tmp_path, driver_libraries):
        lines = ["return nvmlDeviceGetHandleByIndex:0 15", *[device("A", "8.0", 80, processes="1:1")] * 2]
        fake = FakeNvidia.install(tmp_path / "lib", driver_libraries, *lines, names=(NVML,))
        found = holders.read(look({}, **fake.environment))
        assert [gpu.processes is None for gpu in found.gpus] == [True, False]

    def test_nothing_is_started_without_nvml(self, look):
        assert holders.read(look()) == holders.GpuHolders()

    def test_broken_lines_are_passed_over(self):
        lines = ["noise", f"{holders.MARK}{{cut", f'{holders.MARK}{{"gpu": 0, "processes": null}}']
        assert [gpu.processes for gpu in holders.parse(lines).gpus] == [None]


class TestSupervision:
    UNIT = "[Service]\nExecStart=/opt/engine serve --x\nEnvironmentFile=-/etc/default/engine\n"

    def test_units_of_engines_and_their_proxies(self, look, tmp_path):
        files = {
            "/etc/systemd/system/engine.service": self.UNIT,
            "/etc/systemd/system/other.service": "[Service]\nExecStart=/usr/bin/other\n# engine\n",
            "/etc/systemd/system/second.service": "[Service]\nExecStart=/usr/bin/env engine\n",
            "/etc/systemd/system/second.service.d/proxy.conf": "[Service]\nEnvironment=HTTPS_PROXY=http://p:1\n",
        }
        plant(tmp_path / "ada", {".config/systemd/user/mine.service": "[Service]\nExecStart=%h/bin/engine serve\n"})
        found = supervision.read(look(files, HOME=str(tmp_path / "ada")))
        told = [(unit.name, unit.scope, unit.proxies) for unit in found.units]
        assert told == [("engine", "system", False), ("second", "system", True), ("mine", "user", False)]
        assert not found.manager_proxies

    def test_proxies_of_an_environment_file_and_of_the_manager(self, look):
        files = {
            "/etc/systemd/system/engine.service": self.UNIT,
            "/etc/default/engine": "http_proxy=http://p:1\n",
            "/etc/systemd/system.conf.d/proxy.conf": "[Manager]\nDefaultEnvironment=https_proxy=http://p:1\n",
        }
        found = supervision.read(look(files))
        assert found.units[0].proxies
        assert found.manager_proxies

    def test_supervisord(self, look, tmp_path):
        program(tmp_path / "bin", "supervisord")
        found = supervision.read(look({"/proc/7/comm": "supervisord\n"}, PATH=str(tmp_path / "bin")))
        assert (found.supervisord, found.supervisord_runs) == (str(tmp_path / "bin/supervisord"), True)
        assert found.linger is None

    def test_linger(self, look):
        user = supervision.read(look()).user
        assert user is not None
        assert supervision.read(look({"/var/lib/systemd": None})).linger is False
        assert supervision.read(look({f"/var/lib/systemd/linger/{user}": ""})).linger is True


class TestHomeFolder:
    def test_there_and_not_there_yet(self, look, tmp_path):
        found = home_folder.read(look())
        assert (found.path, found.above, found.writable) == (str(tmp_path / "home"), str(tmp_path), True)
        (tmp_path / "home").mkdir()
        assert home_folder.read(look()).above == str(tmp_path / "home")

    def test_a_file_stands_in_its_place(self, look, tmp_path):
        (tmp_path / "home").write_text("x")
        assert not home_folder.read(look()).writable

    def test_noexec_of_the_last_mount_at_its_point(self, look, tmp_path):
        point = str(tmp_path).replace(" ", "\\040")
        table = f"1 0 8:1 / / rw - ext4 a rw\n2 1 8:2 / {point} rw,noexec - ext4 b rw\n"
        found = home_folder.read(look({"/proc/self/mountinfo": table}))
        assert (found.mount, found.no_exec) == (str(tmp_path), True)
        again = table + f"3 2 8:3 / {point} rw,relatime - ext4 c rw\n"
        assert not home_folder.read(look({"/proc/self/mountinfo": again})).no_exec


class TestHome:
    def test_a_mount_that_hangs_hides_no_home_on_another_one(self, look, monkeypatch):
        table = (
            "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:5 / /nfs rw - nfs4 s rw\n3 1 8:2 / /data rw - ext4 /dev/sdb rw\n"
        )
        release = threading.Event()

        def find(points, _variables):
            if points == ["/nfs"]:
                release.wait(300)
            return Path("/data/firstlight") if points == ["/data"] else None

        monkeypatch.setattr("firstlight.doctor.looking.find_home", find)

        def claim(seconds):
            monkeypatch.setattr("firstlight.doctor.looking.MOUNT_SECONDS", seconds)
            assert str(look({"/proc/self/mountinfo": table}).home().root) == "/data/firstlight"

        try:
            with_patience((0.3, 3.0, 30.0), claim)
        finally:
            release.set()


class TestInstalled:
    def test_archives_by_their_link(self, look, tmp_path):
        plant(tmp_path / "home", {"arc/1.2.3/bin/arc": ""})
        (tmp_path / "home/arc/current").symlink_to("1.2.3")
        (found,) = installed.read(look({}, page(engine="arc", kind="archive"))).current
        assert (found.engine, found.build, found.problems) == ("arc", "1.2.3", ())
        (tmp_path / "home/arc/1.2.3").rename(tmp_path / "away")
        (found,) = installed.read(look({}, page(engine="arc", kind="archive"))).current
        assert "is gone" in found.problems[0]

    def test_nothing(self, look):
        assert installed.read(look({}, page())).current == ()


def test_worker_runs_without_our_package(tmp_path):
    """It is started by path with an isolated interpreter: it may import the standard library alone."""
    script = holders.__file__.replace("holders.py", "holders_worker.py")
    done = subprocess.run(
        [sys.executable, "-I", "-S", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(holders.MARK)
    assert "pynvml" in done.stdout
