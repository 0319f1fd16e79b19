"""The doctor over every machine file: remedies that can be pasted, and verdicts that do not contradict findings."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

import msgspec
import pytest

from firstlight.catalogue.loading import load_catalogue
from firstlight.doctor.examine import Wish, all_ids, examine_described
from firstlight.doctor.logs import known_pages
from firstlight.doctor.redacting import redacted
from firstlight.doctor.story import remedy_of
from firstlight.machine.facts import Disk, Gpu, Host, Machine, Memory, Nvidia, load
from firstlight.serving.causes import load_causes

REPOSITORY = Path(__file__).parents[1]
MACHINES = sorted(
    path for path in (REPOSITORY / "tests/machines").rglob("*.json") if path.name not in {"index.json", "expected.json"}
)
PROGRAMS = frozenset(
    {
        *("apt-get", "cat", "curl", "df", "dmesg", "docker", "dnf", "echo", "export", "file", "firstlight", "ip"),
        *("journalctl", "kill", "less", "ls", "mkdir", "namei", "nohup", "nvidia-smi", "ollama", "pip", "ps", "rm"),
        *("ssh", "sudo", "systemctl", "unset", "wsl"),
        # Where root needs no sudo, what stands behind it begins the line.
        *("apk", "chmod", "chown", "modprobe", "mount", "nvidia-modprobe", "pacman", "reboot", "timedatectl"),
        *("ubuntu-drivers", "umount", "yum"),
    }
)
"""Programs and words of the shell with which a line to paste may begin."""
CAUSES = [
    (engine, cause)
    for engine in sorted(path.parent.name for path in REPOSITORY.glob("envs/*/causes.toml"))
    for cause in load_causes(engine)
]


@cache
def examined(name):
    (path,) = (path for path in MACHINES if path.stem == name)
    return examine_described(Wish(), load(path))


def found(examination, check):
    return [finding for finding in examination.findings if finding.id == check]


def verdict(examination, engine):
    return next(item for item in examination.verdicts if item.engine == engine)


@cache
def task_names():
    from firstlight.tasks import namespace

    return frozenset(namespace.task_names)


def first_word(command):
    words = [word for word in command.split() if not re.fullmatch(r"[A-Z_]+=\S*", word)]
    return words[0].rstrip(";") if words else ""


def wrong_words(text):
    """Return the tasks and checks named in a text that there are not."""
    tasks = {name.rstrip(".") for name in re.findall(r"\bfirstlight ([a-z]+\.[a-z_-]+)", text)}
    tasks |= set(re.findall(r"(?:^|: |; |&& )(?:sudo )?firstlight ([a-z]+)(?![.\w])", text))
    checks = {name for line in re.findall(r"--only ([\w,-]+)", text) for name in line.split(",")}
    return (tasks - task_names()) | (checks - set(all_ids()))


def test_the_words_that_do_not_exist_are_seen():
    assert wrong_words("x: firstlight setup.nothing") == {"setup.nothing"}
    assert wrong_words("firstlight doctor --only driver-version") == {"driver-version"}
    assert wrong_words("firstlight up --engine vllm; firstlight nothing") == {"nothing"}


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_every_command_of_a_remedy_can_be_pasted(path):
    examination = examine_described(Wish(), load(path))
    remedies = [finding.remedy for finding in examination.findings if finding.remedy is not None]
    for remedy in remedies:
        for command in remedy.commands:
            assert first_word(command) in PROGRAMS, command
            assert "…" not in command
            assert wrong_words(command) == set()
    for item in examination.verdicts:
        assert wrong_words(item.command) == set()


@pytest.mark.parametrize(("engine", "cause"), CAUSES, ids=lambda value: value if isinstance(value, str) else value.id)
def test_every_fix_of_a_cause_names_what_there_is(engine, cause):
    assert wrong_words(cause.fix) == set(), engine
    for command in remedy_of(cause).commands:
        assert first_word(command) in PROGRAMS | {"PREFIX/bin/python"}, command


@pytest.mark.parametrize("path", MACHINES, ids=lambda path: path.stem)
def test_no_verdict_is_green_where_a_failure_names_its_engine(path):
    examination = examine_described(Wish(), load(path))
    failed = {engine for item in examination.findings if item.status == "fail" for engine in item.affects}
    assert [
        item.engine for item in examination.verdicts if item.state in {"ready", "possible"} and item.engine in failed
    ] == []


class TestDisk:
    def test_no_room_is_one_failure_with_words(self):
        failure, *others = (item for item in found(examined("h100-driver580-small-disk"), "disk-room") if item.affects)
        assert (failure.status, failure.affects) == ("fail", ["vllm", "lmdeploy", "ollama"])
        assert failure.remedy.commands == []
        assert [(item.status, item.affects) for item in others] == [("warn", ["transformers"])]
        assert "on the CPU" in others[0].detail

    def test_another_mount_is_a_line_to_paste(self):
        here = load(next(path for path in MACHINES if path.stem == "h100-driver580-small-disk"))
        data = Disk(mount="/data", fs="ext4", free=6 * 10**9, total=9 * 10**11, writable=True)
        more = msgspec.structs.replace(here, disks=[*here.disks, data])
        warned = [item for item in found(examine_described(Wish(), more), "disk-room") if item.status != "ok"]
        assert warned

    def test_a_home_that_cannot_be_written_is_told_once(self):
        here = load(next(path for path in MACHINES if path.stem == "h100-driver580-small-disk"))
        closed = msgspec.structs.replace(here, disks=[Disk(mount="/", fs="ext4", free=10**12, writable=False)])
        examination = examine_described(Wish(), closed)
        assert [item.id for item in examination.findings if item.status in {"warn", "fail"}] == ["disk-writable"]


class TestLibrary:
    def test_without_a_gpu_the_builds_for_processors_are_judged(self):
        findings = {item.affects[0]: item for item in found(examined("centos7-no-gpu"), "libc") if item.affects}
        assert {name: item.status for name, item in findings.items()} == {"vllm": "fail", "ollama": "warn"}
        assert "2.28" in findings["vllm"].evidence

    def test_musl_is_one_finding_and_nothing_is_called_new_enough(self):
        examination = examined("t4-driver550-alpine")
        (failure,) = found(examination, "libc")
        assert failure.affects == ["vllm", "lmdeploy", "transformers", "ollama"]
        assert "another C library" in failure.summary
        assert [item.status for item in found(examination, "driver-cuda")] == ["skip"]

    def test_what_a_processor_lacks(self):
        here = load(next(path for path in MACHINES if path.stem == "no-gpu-laptop"))
        plain = msgspec.structs.replace(here, cpu=msgspec.structs.replace(here.cpu, flags=["sse2"]))
        assert any(item.status == "warn" for item in found(examine_described(Wish(), plain), "processor"))
        small = msgspec.structs.replace(here, memory=Memory(total=10**9))
        assert any(item.status == "warn" for item in found(examine_described(Wish(), small), "main-memory"))


def test_nothing_known_is_nothing_well():
    examination = examine_described(Wish(), Machine())
    assert {item.id for item in examination.findings if item.status == "ok"} == {"catalogue", "contradictions"}
    from firstlight.ui.doctor import page

    assert "C library unknown, unknown processor, GPUs unknown" in page(examination, 100, unicode=True)[0]


def test_a_driver_of_which_nothing_is_known_is_not_new_enough():
    here = Machine(host=Host(arch="x86_64"), gpus=[Gpu(index=0)], nvidia=Nvidia())
    examination = examine_described(Wish(), here)
    assert [item.status for item in found(examination, "driver-cuda")] == ["skip"]
    assert "None" not in json.dumps([item.summary for item in examination.findings])


class TestCards:
    def test_cards_that_no_one_build_runs_together(self):
        examination = examined("rtx5090-v100-driver580")
        (finding,) = (item for item in found(examination, "compute-capability") if item.affects == ["vllm"])
        assert finding.summary == "no build of vllm holds code for all of the GPUs here, only for some"
        assert finding.remedy.commands == ["firstlight up --engine vllm --gpus 0"]
        told = verdict(examination, "vllm")
        assert (told.state, told.command) == ("limited", "firstlight up --engine vllm --gpus 0")
        assert told.text.startswith("only with --gpus 0")

    @pytest.mark.parametrize(
        ("name", "affected"),
        [
            ("rtx5090-v100-driver580", ["lmdeploy", "transformers"]),
            ("h100-p100-driver550", ["transformers"]),
            ("rtx5090-gtx980-driver580", []),
            ("t4-driver550-alpine", []),
        ],
    )
    def test_bfloat16_is_missed_by_engines_that_use_the_old_card(self, name, affected):
        (finding,) = found(examined(name), "bfloat16")
        assert finding.affects == affected
        assert finding.status == ("warn" if affected else "ok")
        for engine in load_catalogue().engines:
            assert (f"{engine} with dtype" in (finding.detail or "")) is (engine in affected)

    def test_a_virtual_gpu_is_no_mig_card(self):
        (finding,) = found(examined("a10-vgpu-driver550"), "gpu-slices")
        assert "MIG" not in finding.detail

    def test_slices_of_one_kind_are_told_together(self):
        cards = [Gpu(index=n, name="A100", compute_capability="8.0", mig=True, memory_total=10**10) for n in range(3)]
        here = Machine(host=Host(arch="x86_64"), gpus=cards, nvidia=Nvidia(driver="580.95.05"))
        (finding,) = found(examine_described(Wish(), here), "gpu-slices")
        assert finding.summary == "GPU 0, 1 and 2 are cut by MIG (10.0 GB each)"
        assert "CUDA_VISIBLE_DEVICES" in finding.detail

    def test_memory_in_use_is_told_from_facts_alone(self):
        here = load(next(path for path in MACHINES if path.stem == "h100-driver580-ubuntu2204"))
        (card,) = here.gpus[:1]
        held = msgspec.structs.replace(card, memory_total=80 * 10**9, memory_free=10**9)
        (finding,) = found(examine_described(Wish(), msgspec.structs.replace(here, gpus=[held])), "gpu-memory")
        assert (finding.status, finding.subject) == ("warn", f"GPU {card.index}")


def test_a_contradiction_prints_the_figure_that_counts():
    (line,) = (item.summary for item in found(examined("a100-driver470-cuda13"), "driver"))
    assert line == "NVIDIA driver 470.256.02"
    (line,) = (item.summary for item in found(examined("h100-driver580-cuda122"), "driver"))
    assert line.endswith("runs CUDA up to 12.2")


def test_finding_and_verdict_name_one_driver():
    examination = examined("a100-driver470-ubuntu2004")
    (failure,) = (item for item in found(examination, "driver-cuda") if item.affects == ["lmdeploy"])
    assert failure.evidence.rpartition(": ")[2] in verdict(examination, "lmdeploy").text


def test_a_driver_with_a_problem_takes_the_shine_off_the_verdicts():
    here = load(next(path for path in MACHINES if path.stem == "h100-driver580-ubuntu2204"))
    ill = msgspec.structs.replace(here.nvidia, problem="other", problem_detail="GPU is lost")
    examination = examine_described(Wish(), msgspec.structs.replace(here, nvidia=ill))
    told = verdict(examination, "vllm")
    assert told.state == "limited"
    assert "but: the NVIDIA driver does not answer" in told.text


def test_an_engine_that_this_version_does_not_set_up_is_not_offered():
    from firstlight.catalogue.names import engine_names, installable_names

    only_planned = set(engine_names()) - set(installable_names())
    for told in examined("h100-driver580-ubuntu2204").verdicts:
        assert ("does not set it up yet" in told.text) is (told.engine in only_planned)
        assert told.command.startswith("firstlight plan") is (told.engine in only_planned)


def test_redaction_keeps_the_ids_of_builds_and_takes_addresses_out():
    here = load(next(path for path in MACHINES if path.stem == "v100-driver535-ubuntu2004"))
    examination = redacted(examine_described(Wish(), here))
    ids = {build.id for page in load_catalogue().engines.values() for build in page.build}
    assert {told.build for told in examination.verdicts if told.build} <= ids
    assert "<address>" not in json.dumps(msgspec.to_builtins(examination))
    line = "vllm 0.10.1.1 and 0.10.1.1+cu128 at 10.1.2.3:8000, server-192.168.1.20, 10.0.0.1-10.0.0.9"
    secret = msgspec.structs.replace(examination, next=line)
    kept = redacted(secret).next
    assert "0.10.1.1 and 0.10.1.1+cu128" in kept
    assert not re.search(r"10\.1\.2\.3|192\.168|10\.0\.0", kept)


@pytest.mark.parametrize(
    "path", sorted(REPOSITORY.glob("firstlight/doctor/**/*.py")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
def test_the_doctors_own_sentences_name_tasks_that_there_are(path):
    named = set(re.findall(r"firstlight ([a-z]+\.[a-z_-]+)(?!\{)\b", path.read_text()))
    assert named <= task_names()


def test_signs_of_engines_are_on_their_pages():
    assert set(known_pages()) >= {engine for engine, _cause in CAUSES} - {"systemd"}
