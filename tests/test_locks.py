"""The locks of the catalogue's builds: whole, of today's wishes, readable by others; refused where they were edited."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import msgspec
import pytest
from support import small_catalogue
from support.command import REPOSITORY, firstlight
from support.loopback_index import make_wheel, serve
from support.small_catalogue import build as made_build

from firstlight.catalogue.loading import load_catalogue
from firstlight.catalogue.locks import lock_folder, lock_path
from firstlight.environments.locking.applying import lock_for
from firstlight.environments.locking.checking import check, foreign_parsers, unreadable
from firstlight.environments.locking.conda_files import CANONICAL, read_conda_lock
from firstlight.environments.locking.conda_layer import conda_lock as make_conda_layer
from firstlight.environments.locking.conda_layer import load_records, write_channel
from firstlight.environments.locking.lockfile import LockedWheel, PipLock, read_lock, render
from firstlight.environments.locking.updating import lockable
from firstlight.environments.locking.wish import wish_of
from firstlight.errors import FirstlightError, VerificationFailed
from firstlight.machine.facts import Machine
from firstlight.planning.choose import choose
from firstlight.planning.request import Request
from firstlight.resources import data_folder

BUILDS = {build.id: (engine, build) for engine, build in lockable(load_catalogue())}
CPU = "transformers-5.23.0-cpu"
OLD = "vllm-0.7.3-cu121"
OPEN = "vllm-0.31.0-cu129"
PIP = """
import sys
from pip._internal.network.session import PipSession
from pip._internal.req import parse_requirements
for one in parse_requirements(sys.argv[1], session=PipSession()):
    assert one.options["hashes"]
    print(one.requirement)
"""


class TestCatalogue:
    def test_every_build_has_a_lock_that_agrees_with_it_and_that_others_can_read(self):
        found = list(check(list(BUILDS.values()), envs=data_folder("envs")))
        assert [fault for each in found for fault in each.faults] == []
        assert {each.build for each in found} == set(BUILDS)
        assert all(each.conda > 20 and each.wheels > 40 for each in found)

    def test_both_foreign_parsers_are_here(self):
        assert foreign_parsers() == ["rattler", "conda_lock"]

    def test_what_they_cannot_read_is_told_by_both(self, tmp_path):
        (tmp_path / "broken.yml").write_text("version: 1\npackage: 7\n")
        told = unreadable([tmp_path / "broken.yml"])
        assert set(told) == {tmp_path / "broken.yml"}
        assert "rattler cannot read it" in told[tmp_path / "broken.yml"]
        assert "conda_lock cannot read it" in told[tmp_path / "broken.yml"]

    def test_no_lock_names_a_host_of_wheels(self):
        for path in data_folder("envs").glob("*/*/requirements.*"):
            assert "://" not in path.read_text(), path

    def test_conda_packages_are_named_by_their_canonical_address(self):
        for path in data_folder("envs").glob("*/*/conda-lock.yml"):
            urls = [line.strip() for line in path.read_text().splitlines() if line.strip().startswith("url: ")]
            assert {url.split("/")[2] for url in urls} == {"conda.anaconda.org"}, path

    @pytest.mark.parametrize(
        ("name", "pin"),
        [
            (OLD, "transformers==4.49.0"),
            ("lmdeploy-0.7.2-cu121", "transformers==4.49.0"),
            ("vllm-0.32.0-cu130", "transformers==5.19.0"),
        ],
    )
    def test_the_pins_that_matter_are_held(self, name, pin):
        engine, build = BUILDS[name]
        lines = lock_path(lock_folder(engine, name), build, build.pythons[0]).read_text().splitlines()
        assert any(line.startswith(f"{pin} ") for line in lines)
        assert not any(line.startswith("pynvml==") for line in lines)

    def test_a_cpu_build_is_locked_for_every_python_that_it_runs_on(self):
        assert BUILDS[CPU][1].locks == {"3.12": "locked", "3.11": "locked", "3.13": "locked"}

    def test_a_build_whose_cuda_libraries_its_torch_names_itself_is_pinned(self):
        engine, build = BUILDS[OPEN]
        lock = read_lock(lock_folder(engine, OPEN), build, "3.12")
        assert lock.open
        assert build.locks == {"3.12": "pinned"}
        assert {wheel.name for wheel in lock.pinned} >= {"vllm"}
        assert not any(wheel.name.startswith("nvidia-nccl") for wheel in lock.wheels)


class TestPlan:
    def plan(self, **words):
        machine = Machine(host=msgspec.convert({"arch": "x86_64", "libc": "glibc", "libc_version": "2.36"}, _host()))
        return choose(machine, load_catalogue(), Request(engine="transformers", cuda="cpu", **words))

    def test_it_says_which_kind_a_build_is(self):
        assert self.plan().build.integrity == "locked"

    def test_resolved_afresh_it_is_not_locked_and_says_so(self):
        plan = self.plan(unlocked=True)
        assert plan.build.integrity == "pinned"
        assert any("--unlocked" in line for line in plan.warnings)
        assert lock_for(plan, BUILDS[CPU][1], Request(engine="transformers", unlocked=True)) is None

    def test_a_python_without_a_lock_is_told(self):
        machine = small_catalogue.machine("8.0", driver="535.104.05")
        for python, told in (("3.11", True), ("3.12", False)):
            wish = Request(engine="vllm", release="0.7.3", python=python)
            plan = choose(machine, load_catalogue(), wish)
            assert (plan.build.id, plan.build.python) == (OLD, python)
            assert any(f"no lock for Python {python}" in line for line in plan.warnings) is told
            assert plan.build.integrity == ("pinned" if told else "locked")

    def test_a_build_without_any_lock_is_told(self):
        for locks, told in (({}, True), ({"3.12": "locked"}, False)):
            plan = small_catalogue.decide(small_catalogue.machine("9.0"), made_build("engine-1-cu121", locks=locks))
            assert plan.build.id == "engine-1-cu121"
            assert any("no lock for this build" in line for line in plan.warnings) is told

    def test_a_python_without_a_lock_is_resolved_afresh(self):
        plan, build = self.plan(python="3.12"), msgspec.structs.replace(BUILDS[CPU][1], locks={})
        assert lock_for(plan, build, Request(engine="transformers")) is None

    def test_a_lock_older_than_its_wish_is_refused_with_its_file(self):
        build = msgspec.structs.replace(BUILDS[CPU][1], pins=["accelerate<2"])
        with pytest.raises(VerificationFailed, match="older than its wish") as caught:
            lock_for(self.plan(), build, Request(engine="transformers"))
        assert "requirements.linux-64.lock" in caught.value.why
        assert "--unlocked" in caught.value.fix


def _host():
    from firstlight.machine.facts import Host

    return Host


class TestText:
    def test_what_is_written_is_read_back(self, tmp_path):
        build = made_build("engine-1-cpu", cuda=None)
        sums = ("a" * 64, "b" * 64)
        lock = PipLock(
            build=build.id, python="3.12", platform="x86_64-manylinux_2_28", wish="c" * 64, resolved="2026-01-02",
            newest="2025-01-01", wheels=(LockedWheel(name="one", version="1.0+cpu", sha256=sums),),
            pinned=(LockedWheel(name="two", version="2"),), open=True,
        )  # fmt: skip
        hashed, pins = render(lock)
        lock_path(tmp_path, build, "3.12").write_text(hashed)
        lock_path(tmp_path, build, "3.12", "pins").write_text(pins)
        assert read_lock(tmp_path, build, "3.12") == lock

    def test_a_whole_lock_has_no_pins(self):
        lock = PipLock(build="b", python="3", platform="p", wish="w", resolved="2026-01-02", wheels=())
        assert (lock.whole, lock.integrity, render(lock)[1]) == (True, "locked", "")

    def test_pip_reads_a_lock_as_requirements(self):
        engine, build = BUILDS[OLD]
        path = lock_path(lock_folder(engine, OLD), build, "3.12")
        lock = read_lock(path.parent, build, "3.12")
        ended = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", PIP, str(path)], check=True, text=True, capture_output=True
        )
        assert ended.stdout.split() == [f"{wheel.name}=={wheel.version}" for wheel in lock.wheels]

    def test_pip_takes_the_wheel_that_the_lock_has_where_a_newer_c_library_offers_another(self, tmp_path):
        with serve() as index:
            for tag in ("py3-none-manylinux_2_17_x86_64", "py3-none-manylinux_2_31_x86_64"):
                name, content = make_wheel("native", "1.0", tag=tag, files={"native/tag.txt": tag.encode()})
                index.wheels.setdefault("native", {})[name] = content
            old = hashlib.sha256(index.wheels["native"]["native-1.0-py3-none-manylinux_2_17_x86_64.whl"]).hexdigest()
            (tmp_path / "lock").write_text(f"# firstlight.lock/1\nnative==1.0 --hash=sha256:{old}\n")
            words = ["install", "--no-deps", "--require-hashes", "--requirement", str(tmp_path / "lock")]
            words += ["--index-url", index.simple, "--target", str(tmp_path / "there"), "--no-cache-dir"]
            words += ["--platform", "manylinux_2_31_x86_64", "--platform", "manylinux_2_17_x86_64"]
            own = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "127.0.0.1"}
            command = [sys.executable, "-m", "pip", *words, "--only-binary", ":all:"]
            subprocess.run(command, check=True, env=own, capture_output=True)
        assert (tmp_path / "there" / "native" / "tag.txt").read_text() == "py3-none-manylinux_2_17_x86_64"

    def test_the_line_of_the_manual_makes_condas_own_list_of_the_conda_layer(self, tmp_path):
        manual = (REPOSITORY / "docs" / "locks.md").read_text().splitlines()
        (line,) = [line.strip() for line in manual if line.startswith("    awk ")]
        folder = lock_folder("vllm", OLD)
        subprocess.run(["sh", "-c", f"{line.partition(' > ')[0]} > {tmp_path}/conda.txt"], check=True, cwd=folder)
        told = (tmp_path / "conda.txt").read_text().splitlines()
        assert told[0] == "@EXPLICIT"
        packages = read_conda_lock(folder, "linux-64")
        assert told[1:] == [f"{CANONICAL}/{package.path}#{package.md5}" for package in packages]

    def test_what_decides_changes_the_digest_and_nothing_else_does(self):
        engine, build = BUILDS[OPEN]
        digest = wish_of(engine, build, "3.12").digest
        changed = msgspec.structs.replace
        assert wish_of(engine, changed(build, sizes=BUILDS[CPU][1].sizes, driver="1"), "3.12").digest == digest
        for other in ({"pins": []}, {"excludes": []}, {"torch_local": "cu130"}, {"libc": "2.31"}):
            assert wish_of(engine, changed(build, **other), "3.12").digest != digest


class TestCondaLayer:
    def test_conda_lock_makes_it_of_the_records_and_of_nothing_else(self, tmp_path):
        write_channel(tmp_path, load_records())
        text = make_conda_layer("3.13", ["linux-64"], tmp_path.as_uri())
        (tmp_path / "conda-lock.yml").write_text(text)
        packages = {package.parts[0]: package for package in read_conda_lock(tmp_path, "linux-64")}
        assert packages["python"].parts[1].startswith("3.13.")
        records = load_records().packages
        for package in packages.values():
            subdir, _, file = package.path.partition("/")
            assert records[subdir][file]["sha256"] == package.sha256
        assert unreadable([tmp_path / "conda-lock.yml"]) == {}
        assert str(tmp_path) not in text

    def test_a_python_that_nobody_has_is_refused(self, tmp_path):
        write_channel(tmp_path, load_records())
        with pytest.raises(FirstlightError, match=r"no packages for Python 3\.7") as caught:
            make_conda_layer("3.7", ["linux-64"], tmp_path.as_uri())
        assert "python" in caught.value.why.lower()


class TestCommands:
    def test_check_is_green_and_tells_each_build(self, tmp_path):
        ended = firstlight("lock.check", "--engine", "lmdeploy", home=tmp_path)
        assert ended.code == 0
        assert "lmdeploy-0.7.2-cu121" in ended.out
        assert "no faults" in ended.out

    def test_check_in_json(self, tmp_path):
        ended = firstlight("lock.check", "--build", OLD, "--json", home=tmp_path)
        assert ended.code == 0
        assert ended.document["ok"] is True
        assert [each["build"] for each in ended.document["builds"]] == [OLD]

    @pytest.mark.parametrize("words", [("--engine", "vlm"), ("--build", "vllm-0.7.4")])
    def test_unknown_names_are_told(self, tmp_path, words):
        ended = firstlight("lock.check", *words, home=tmp_path)
        assert ended.code == 2
        assert "fix" in ended.err
