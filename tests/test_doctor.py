"""The doctor as a whole: every machine, broken drivers, probes that hang or crash, exit codes, JSON."""

from __future__ import annotations

import itertools
import json
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
from support import fake_nvml
from support.command import firstlight
from support.fake_nvml import CUDA, NVML, FakeNvidia, device
from support.machine_tree import BARE, plant, program
from support.patience import with_patience

from firstlight.doctor import table
from firstlight.doctor.check import GROUPS, Check
from firstlight.doctor.examine import Wish, examine_described, examine_this_machine
from firstlight.doctor.findings import STATUSES, ok, warn
from firstlight.doctor.looking import DoctorProbe
from firstlight.doctor.report import exit_code
from firstlight.errors import UsageError
from firstlight.machine import disks as machine_disks
from firstlight.machine.facts import Machine, ProbeFailure, from_json, load

MACHINES = [
    path
    for path in sorted((Path(__file__).parent / "machines").glob("**/*.json"))
    if json.loads(path.read_text()).get("schema") == "firstlight.machine/1"
]
A100 = device("NVIDIA A100-SXM4-80GB", "8.0", 80, mig=0, virtualization=0, uuid="GPU-11")
SYSTEM = ("driver 535.183.01", "cuda 12020")
NODES = {"/dev/nvidia0": "", "/dev/nvidiactl": "", "/dev/nvidia-uvm": ""}
DRIVER = {"/sys/module/nvidia/version": "535.183.01\n"}
HOST = {**BARE, **DRIVER, **NODES, "/tmp": None}
HANGING = 600.0
"""Seconds that whatever hangs here would take; far more than the doctor waits, also on a busy machine."""
LIMITS = (3.6, 20.0, 100.0)
"""Seconds that the doctor waits for what hangs; the first is its own limit, and enough unless this machine stalls."""


@pytest.fixture(scope="session")
def libraries(tmp_path_factory):
    return fake_nvml.compile_libraries(tmp_path_factory.mktemp("nvidia"))


@pytest.fixture
def examined(tmp_path, libraries):
    """Return a function that examines a tree with fake libraries that behave as the lines say."""

    attempts = itertools.count()

    def examine(files, *lines, names=(NVML, CUDA), **environment):
        folder = tmp_path / str(next(attempts))
        root = plant(folder / "tree", files)
        fake = FakeNvidia.install(folder / "lib", libraries, *lines, names=names)
        variables = {"PATH": "", "HOME": "/nowhere", "FIRSTLIGHT_HOME": str(tmp_path / "home")}
        return examine_this_machine(Wish(), root=root, environment={**variables, **fake.environment, **environment})

    return examine


def of(examination, *statuses):
    return {finding.id for finding in examination.findings if finding.status in statuses}


def limit(monkeypatch, seconds):
    monkeypatch.setattr("firstlight.doctor.examine.MACHINE_SECONDS", seconds - 0.8)
    monkeypatch.setattr("firstlight.doctor.examine.SECONDS", seconds)


class TestTable:
    def test_ids_are_unique_words_and_groups_are_known(self):
        ids = [check.id for check in table.CHECKS]
        assert len(ids) == len(set(ids))
        assert all(name.replace("-", "").isalnum() and name.islower() for name in ids)
        assert {check.group for check in table.CHECKS} <= set(GROUPS)

    def test_what_checks_need_is_looked_at(self):
        probed = {probe.name for probe in table.PROBES}
        assert {name for check in table.CHECKS for name in check.needs} <= probed


class TestMachines:
    @pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
    def test_every_captured_machine_is_examined(self, path):
        found = examine_described(Wish(), load(path))
        assert of(found, "crash") == set()
        assert {finding.status for finding in found.findings} <= set(STATUSES)
        assert [verdict.engine for verdict in found.verdicts]
        assert sum(msgspec.structs.astuple(found.counts)) == len(found.findings)
        assert found.next
        assert all(finding.summary and finding.id and finding.group for finding in found.findings)
        assert not any("--network" in finding.summary for finding in found.findings)  # it would tell of another machine
        # What only the machine itself can tell is skipped, never guessed.
        assert {"ports", "open-files"} <= of(found, "skip")

    def test_an_old_driver_an_old_card_and_a_whole_machine(self):
        by_name = {path.stem: path for path in MACHINES}
        assert "driver-cuda" in of(
            examine_described(Wish(), load(by_name["a100-driver470-ubuntu2004"])), "warn", "fail"
        )
        assert "compute-capability" in of(examine_described(Wish(), load(by_name["p100-driver535"])), "warn")
        assert "bfloat16" in of(examine_described(Wish(), load(by_name["v100-driver535-ubuntu2004"])), "warn")
        assert "gpu-slices" in of(examine_described(Wish(), load(by_name["arch-vgpu-a100d-4c-driver525"])), "warn")
        whole = examine_described(Wish(), load(by_name["h100-driver580-ubuntu2204"]))
        assert of(whole, "fail") == set()
        assert exit_code(whole, strict=False) == 0
        laptop = examine_described(Wish(), load(by_name["no-gpu-laptop"]))
        assert of(laptop, "fail") == set()

    def test_facts_without_sense_are_findings(self):
        text = {
            "schema": "firstlight.machine/1",
            "later": {"key": [1]},
            "host": {"arch": "vax", "libc": "moon", "libc_version": "x.y", "kernel": "", "uid": -4, "new": 1},
            "memory": {"total": -1, "shm": -5},
            "disks": [{"mount": "", "free": -1}, {"mount": "/", "free": 10**30, "total": 1}],
            "nvidia": {"driver": "banana", "cuda": "twelve"},
            "gpus": [
                {"index": -1, "compute_capability": "x"},
                {"index": -1, "compute_capability": "", "memory_total": -3, "memory_free": 9},
            ],
            "pythons": [{"version": ""}, {"version": "three"}],
            "init": {"system": ""},
        }
        found = examine_described(Wish(), from_json(json.dumps(text), "nonsense"))
        assert found.verdicts or of(found, "crash", "fail")
        assert "contradictions" in of(found, "warn")
        assert {finding.id for finding in found.findings if finding.status == "crash"} <= {"catalogue"}

    def test_an_empty_machine(self):
        found = examine_described(Wish(), Machine())
        assert of(found, "fail", "crash") == set()


class TestBrokenDrivers:
    def test_a_whole_one(self, examined):
        found = examined(HOST, *SYSTEM, A100)
        assert of(found, "crash") == set()
        assert {"driver", "driver-library", "device-nodes", "nvml", "gpu-memory"} <= of(found, "ok")

    def test_module_and_library_of_two_versions(self, examined):
        found = examined(HOST, "return nvmlInit 18", "return cuInit 803", *SYSTEM)
        assert of(found, "fail") == {"driver-library"}
        assert found.next is not None
        assert found.next.removeprefix("sudo ") == "reboot"  # root needs no sudo
        assert exit_code(found, strict=False) == 1

    def test_a_library_that_crashes(self, examined):
        found = examined(HOST, *SYSTEM, "crash nvmlInit", A100, names=(NVML,))
        (broken,) = [item for item in found.findings if item.id == "driver-answers"]
        assert (broken.status, of(found, "crash")) == ("fail", set())
        assert "SIGSEGV" in broken.evidence

    def test_no_device_nodes_in_a_container(self, examined):
        found = examined(
            {**BARE, **DRIVER, "/.dockerenv": "", "/tmp": None}, *SYSTEM, "return nvmlInit 9", names=(NVML,)
        )
        assert of(found, "fail") == {"device-nodes"}
        assert "--gpus all" in found.next

    def test_fabric_manager(self, examined):
        h100 = device("NVIDIA H100 80GB HBM3", "9.0", 80, fabric=1)
        found = examined(HOST, "driver 580.95.05", "cuda 13000", h100, names=(NVML,))
        assert of(found, "fail") == {"fabric-manager"}

    def test_half_of_nvml(self, examined):
        lines = ["return nvmlDeviceGetMemoryInfo 4", "return nvmlDeviceGetHandleByIndex:0 15", A100, A100]
        found = examined(HOST, *SYSTEM, *lines)
        (facts,) = [item for item in found.findings if item.id == "facts"]
        assert facts.status == "warn"
        assert {"GPU 0: GPU is lost", "GPU 1: memory: Insufficient Permissions"} <= set(facts.evidence.splitlines())
        assert of(found, "crash") == set()


class TestHanging:
    def test_driver_and_nvidia_smi(self, examined, tmp_path, monkeypatch):
        program(tmp_path / "bin", "nvidia-smi", f"exec /bin/sleep {HANGING:.0f}")

        def claim(seconds):
            limit(monkeypatch, seconds)
            began = time.monotonic()
            found = examined(HOST, *SYSTEM, "hang nvmlInit", "hang cuDriverGetVersion", PATH=str(tmp_path / "bin"))
            assert time.monotonic() - began < HANGING / 2
            broken = [item for item in found.findings if item.id == "driver-answers"]
            assert ["did not answer" in item.evidence for item in broken] == [True]
            assert {"ports", "disk-answers", "supervisor"} <= of(found, "ok", "warn")

        with_patience(LIMITS, claim)

    def test_the_whole_program(self, libraries, tmp_path):
        fake = FakeNvidia.install(tmp_path / "lib", libraries, "hang nvmlInit", "hang cuInit", A100)

        def claim(seconds):
            code = (
                "import firstlight.doctor.examine as examine, firstlight.cli as cli\n"
                f"examine.MACHINE_SECONDS, examine.SECONDS = {seconds - 0.8}, {seconds}\n"
                "cli.main()"
            )
            own = None if seconds == LIMITS[0] else [sys.executable, "-c", code]
            began = time.monotonic()
            ended = firstlight("doctor", "--json", home=tmp_path / "home", variables=fake.environment, program=own)
            assert time.monotonic() - began < HANGING / 2
            assert ended.code == 1
            broken = [item for item in ended.document["findings"] if item["status"] == "fail"]
            assert [item["id"] for item in broken] == ["driver-answers"]

        with_patience(LIMITS, claim)

    def test_a_mount(self, monkeypatch):
        release = threading.Event()
        real = machine_disks.measure_mount

        def ask(mount, path, own):
            if mount.point == "/":
                release.wait(HANGING)
            return real(mount, path, own)

        monkeypatch.setattr(machine_disks, "measure_mount", ask)

        def claim(seconds):
            limit(monkeypatch, seconds)
            monkeypatch.setattr(machine_disks, "PATIENCE", seconds / 2)
            began = time.monotonic()
            found = examine_this_machine(Wish())
            assert time.monotonic() - began < HANGING / 2
            silent = [(item.status, item.subject) for item in found.findings if item.id == "disk-answers"]
            assert silent == [("fail", "/")]

        try:
            with_patience(LIMITS, claim)
        finally:
            release.set()

    def test_the_facts_and_the_home_and_a_probe(self, monkeypatch):
        release = threading.Event()
        monkeypatch.setattr(
            "firstlight.doctor.examine.read_machine", lambda *_a, **_k: release.wait(HANGING) and Machine()
        )
        monkeypatch.setattr("firstlight.doctor.looking.find_home", lambda *_a: release.wait(HANGING))

        def claim(seconds):
            monkeypatch.setattr("firstlight.doctor.examine.SECONDS", seconds)
            began = time.monotonic()
            found = examine_this_machine(Wish())
            assert time.monotonic() - began < HANGING / 2
            (facts,) = [item for item in found.findings if item.id == "facts"]
            assert (facts.status, facts.subject) == ("warn", "machine")
            assert of(found, "ok") >= {"library-path", "no-proxy"}

        try:
            with_patience((0.5, 5.0, 50.0), claim)
        finally:
            release.set()


class TestIsolation:
    def checks(self):
        def breaks(_evidence):
            raise ZeroDivisionError("the drawer is empty\nsecond line")

        def halfway(_evidence):
            yield ok("one")
            raise KeyError("two")

        return [
            Check(id="breaks", group="host", title="a", look=breaks),
            Check(id="halfway", group="host", title="b", look=halfway),
            Check(id="silent", group="gpu", title="all is well", look=lambda _evidence: ()),
            Check(id="late", group="gpu", title="c", look=lambda _evidence: (), needs=("limits",)),
            Check(id="raised", group="gpu", title="d", look=lambda _evidence: (), needs=("variables",)),
            Check(id="far", group="network", title="e", look=lambda _evidence: (), speed="network"),
            Check(id="warned", group="disk", title="f", look=lambda _evidence: [warn("g")], source="somewhere"),
        ]

    def test_a_crash_is_a_finding_and_the_others_go_on(self, monkeypatch):
        release = threading.Event()

        def raising(_look):
            raise PermissionError(13, "Permission denied", "/proc/self/x")

        probes = [
            DoctorProbe(name="limits", read=lambda _look: release.wait(HANGING)),
            DoctorProbe(name="variables", read=raising),
        ]

        def claim(seconds):
            monkeypatch.setattr("firstlight.doctor.examine.SECONDS", seconds)
            found = examine_this_machine(Wish(), checks=self.checks(), probes=probes)
            told = {item.id: item for item in found.findings}
            assert [item.id for item in found.findings][:4] == ["breaks", "halfway", "silent", "late"]
            assert {name: item.status for name, item in told.items()} == {
                "breaks": "crash",
                "halfway": "crash",
                "silent": "ok",
                "late": "crash",
                "raised": "crash",
                "far": "skip",
                "warned": "warn",
            }
            assert told["breaks"].evidence == "ZeroDivisionError: the drawer is empty"
            assert "in time" in told["late"].evidence
            assert "Permission denied" in told["raised"].evidence
            assert told["silent"].summary == "all is well"
            assert "--network" in told["far"].summary
            assert told["warned"].source == "somewhere"
            assert (found.counts.crash, exit_code(found, strict=False), exit_code(found, strict=True)) == (4, 0, 1)

        try:
            with_patience((0.5, 5.0, 50.0), claim)
        finally:
            release.set()

    def test_a_damaged_page_of_the_catalogue_takes_no_other_engine_with_it(self, monkeypatch, tmp_path):
        import shutil

        from support.tiny_checkout import REPOSITORY

        folder = tmp_path / "envs"
        shutil.copytree(REPOSITORY / "envs", folder)
        (folder / "transformers/builds.toml").write_text("engine = [")
        for name in ("firstlight.catalogue.loading.data_folder", "firstlight.catalogue.names.data_folder"):
            monkeypatch.setattr(name, lambda _name: folder)
        found = examine_this_machine(Wish())
        (damaged,) = [item for item in found.findings if item.id == "catalogue"]
        assert damaged.status == "fail"
        assert "builds.toml" in damaged.evidence
        engines = [verdict.engine for verdict in found.verdicts]
        assert engines
        assert "transformers" not in engines
        assert of(found, "crash") == set()

    def test_an_unreadable_proc(self, tmp_path):
        root = plant(tmp_path, {"/etc/os-release": "ID=ubuntu\n", "/tmp": None})
        found = examine_this_machine(Wish(), root=root, environment={"PATH": "", "HOME": "/nowhere"})
        assert of(found, "crash") == set()
        assert "facts" in of(found, "warn") | of(found, "ok")
        assert {"open-files", "disk-room"} <= of(found, "skip")


class TestProgram:
    def test_json_is_the_contracts_document(self, tmp_path):
        ended = firstlight("doctor", "--json", home=tmp_path)
        document = ended.document
        assert document["schema"] == "firstlight.doctor/1"
        assert set(document["counts"]) == {"ok", "warn", "fail", "skip", "crash"}
        for finding in document["findings"]:
            assert {"id", "status", "group", "summary", "detail", "evidence", "affects", "remedy", "source"} <= set(
                finding
            )
            if finding["remedy"] is not None:
                assert {"text", "commands", "needs_root", "automatic"} <= set(finding["remedy"])
        counted = {name: sum(item["status"] == name for item in document["findings"]) for name in document["counts"]}
        assert counted == document["counts"]
        assert document["machine"]["schema"] == "firstlight.machine/1"
        assert ended.code == (1 if document["counts"]["fail"] else 0)

    def test_only_and_list_checks(self, tmp_path):
        listed = firstlight("doctor", "--list-checks", home=tmp_path)
        assert listed.code == 0
        for check in table.CHECKS:
            assert f"  {check.id} " in f"{listed.out}\n".replace("\n", " \n")
        ended = firstlight("doctor", "--only", "ports", "--only", "sudo", "--json", home=tmp_path)
        assert {item["id"] for item in ended.document["findings"]} == {"ports", "sudo"}
        as_document = firstlight("doctor", "--list-checks", "--json", home=tmp_path).document
        assert [item["id"] for item in as_document["checks"]]

    def test_an_unknown_id_offers_the_near_one(self, tmp_path):
        ended = firstlight("doctor", "--only", "prots", home=tmp_path)
        assert ended.code == 2
        assert 'did you mean "ports"' in ended.err
        assert ended.out == ""
        with pytest.raises(UsageError, match="no check"):
            examine_described(Wish(only=("nothing",)), Machine())

    def test_strict_counts_warnings(self, tmp_path):
        machine = tmp_path / "m.json"
        problems = [ProbeFailure(probe="cpu", reason="no")]
        machine.write_bytes(msgspec.json.encode(Machine(problems=problems)))
        words = ["doctor", "--machine", str(machine), "--only", "facts"]
        assert firstlight(*words, home=tmp_path).code == 0
        assert firstlight(*words, "--strict", home=tmp_path).code == 1

    @pytest.mark.parametrize(
        ("content", "word"),
        [
            (b"", "not JSON"),
            (b"\x7fELF\x02\x01\xff\xfe\x00", "not JSON"),
            (b'{"schema": "firstlight.machine/2"}', "firstlight.machine/2"),
            (b'{"schema": "firstlight.machine/1", "gpus": [{"index": "zero"}]}', "wrong kind"),
            (b"[1, 2]", "does not describe a machine"),
        ],
    )
    def test_a_machine_file_that_is_none(self, tmp_path, content, word):
        path = tmp_path / "m.json"
        path.write_bytes(content)
        ended = firstlight("doctor", "--machine", str(path), "--json", home=tmp_path)
        assert ended.code == 2
        assert word in ended.document["error"]["message"] + ended.document["error"]["why"]
        assert "Traceback" not in ended.err

    def test_a_machine_file_of_a_newer_schema_within_the_version(self, tmp_path):
        path = tmp_path / "m.json"
        path.write_text(
            '{"schema": "firstlight.machine/1", "host": {"os": "ubuntu", "moon": 1}, "quantum": {"bits": 3}}'
        )
        assert firstlight("doctor", "--machine", str(path), "--json", home=tmp_path).code == 0

    def test_fix_mends_this_machine_and_no_file(self, tmp_path):
        ended = firstlight("doctor", "--fix", "--machine", str(MACHINES[0]), home=tmp_path)
        assert ended.code == 2

    def test_invoke_spells_commands_its_own_way(self, tmp_path):
        beside = Path(sys.executable).with_name("invoke")
        checkout = Path(__file__).resolve().parents[1]
        machine = str(next(path for path in MACHINES if path.stem == "no-gpu-laptop"))
        ended = firstlight("doctor", "--machine", machine, home=tmp_path, program=[str(beside)], folder=checkout)
        assert ended.out.rstrip().endswith("next: invoke up")
