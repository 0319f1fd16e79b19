"""Options of `doctor` that would be dropped, logs that are none, and remedies that do not fit the machine."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from support.command import firstlight

from firstlight.doctor.examine import Wish, examine_described
from firstlight.doctor.findings import by_hand, skip, warn, without_sudo
from firstlight.doctor.logs import read_log
from firstlight.doctor.redacting import redacted
from firstlight.doctor.report import Examination, counted
from firstlight.doctor.secrets import without_secrets
from firstlight.doctor.story import remedy_of
from firstlight.machine.facts import Host, Init, Machine, Nvidia
from firstlight.serving.causes import load_causes
from firstlight.ui.doctor import page

LOGS = Path(__file__).parent / "data" / "logs"
INSIDE = Machine(host=Host(container="docker"), init=Init(system="none"))


def cause(engine, name):
    return next(item for item in load_causes(engine) if item.id == name)


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["--only", ""], "--only"),
        (["--only", ","], "--only"),
        (["--log", ""], "--log"),
        (["--machine", ""], "--machine"),
        (["--dry-run"], "--dry-run"),
        (["--yes"], "--yes"),
        (["--fix", "--dry-run", "--yes"], "--yes"),
        (["--log", "x.log", "--only", "sudo"], "--only"),
        (["--log", "x.log", "--machine", "m.json"], "--machine"),
        (["--log", "x.log", "--deep"], "--deep"),
        (["--machine", "m.json", "--network"], "--network"),
        (["--list-checks", "--fix"], "--fix"),
    ],
)
def test_an_option_that_would_be_dropped_is_refused_by_name(tmp_path, words, option):
    ended = firstlight("doctor", *words, home=tmp_path)
    assert ended.code == 2
    assert ended.err.splitlines()[0].removeprefix("error: ").startswith(option), ended.err


def test_a_document_is_no_log():
    (found,) = read_log(Path(__file__).parents[1] / "README.md")
    assert found.status == "warn"
    assert "does not look like the log of an engine" in found.summary


@pytest.mark.parametrize("line", ["usage: lmdeploy serve api_server [-h]", "lmdeploy: error: the following arguments"])
def test_a_command_line_that_was_refused_is_known_by_its_program(tmp_path, line):
    log = tmp_path / "server.log"
    log.write_text(f"{line}\nerror: unrecognized arguments: --moon\n")
    assert read_log(log)[0].affects == ["lmdeploy"]


def test_what_another_engine_may_have_written_is_told_without_a_name(tmp_path):
    log = tmp_path / "server.log"
    log.write_text("error: unrecognized arguments: --moon\n")
    found = read_log(log)[0]
    assert found.affects == []
    assert "the engine does not know one of the flags" in found.summary
    assert found.remedy.commands == []


class TestRemedies:
    def test_in_a_container_what_is_the_hosts_is_done_there(self):
        mismatch = cause("ollama", "driver-library-mismatch")
        assert remedy_of(mismatch).commands == ["sudo reboot"]
        inside = remedy_of(mismatch, INSIDE)
        assert inside.commands == []
        assert inside.text == "on the host of this container: sudo reboot, then start the container again"

    def test_without_systemd_its_commands_are_words(self):
        inside = remedy_of(cause("ollama", "home-missing"), INSIDE)
        assert inside.commands == []
        assert "where systemd runs: sudo systemctl edit ollama" in inside.text
        here = Machine(init=Init(system="systemd"))
        assert remedy_of(cause("ollama", "home-missing"), here).commands == ["sudo systemctl edit ollama"]

    @pytest.mark.parametrize("engine", ["vllm", "lmdeploy"])
    def test_a_container_without_an_image_is_no_line_to_paste(self, engine):
        remedy = remedy_of(cause(engine, "shared-memory"))
        assert remedy.commands == []
        assert "docker run --ipc=host" in remedy.text


def test_what_was_skipped_is_counted_by_its_reason():
    findings = [
        skip("mirrors answer: only with --network"),
        skip("ports: only the machine itself can tell"),
        skip("there is no NVIDIA GPU here"),
        skip("this is not the Windows Subsystem for Linux"),
        skip("the size of /dev/shm is unknown"),
    ]
    signed = [msgspec.structs.replace(item, id="check", group="host") for item in findings]
    examination = Examination(machine=Machine(), counts=counted(signed), findings=signed)
    text = " ".join(" ".join(page(examination, 200, unicode=True)).split())
    assert "1 waiting for --network, 2 not for this machine, 1 unknown, 1 only the machine itself can tell" in text


def test_root_is_root_without_sudo():
    from firstlight.doctor.examine import Wish, examine_described

    (found,) = examine_described(Wish(only=("sudo",)), Machine(host=Host(uid=0, sudo="absent"))).findings
    assert found.summary == "you are root"


def test_keys_of_clouds_and_addresses_of_mail_stay_out():
    key = "AKIA" + "ABCDEFGHIJKLMNOP"
    told = without_secrets(f"id {key} and AWS_SECRET_ACCESS_KEY=abc/def+ghi")
    assert "ABCDEFGH" not in told
    assert "abc/def" not in told
    examination = Examination(
        machine=None, counts=counted([]), findings=[], next="ask somebody@mail.example.org, see user@1000.service"
    )
    assert redacted(examination, {}).next == "ask <user>@<host>, see user@1000.service"


class TestSudo:
    """A rented container is root's and has no sudo: its lines must run there as they are."""

    @pytest.mark.parametrize(("who", "line"), [("root", "reboot"), ("absent", "reboot"), ("password", "sudo reboot")])
    def test_stands_before_a_line_only_where_it_is_used(self, who, line):
        machine = Machine(host=Host(sudo=who), nvidia=Nvidia(driver="580.95.05", problem="driver_library_mismatch"))
        found = examine_described(Wish(only=("driver-library",)), machine)
        (finding,) = [each for each in found.findings if each.status == "fail"]
        assert finding.remedy.commands == [line]
        assert finding.remedy.needs_root
        assert found.next == line

    @pytest.mark.parametrize(
        ("line", "plain"),
        [
            ("echo a | sudo tee /b", "echo a | tee /b"),
            ("sudo rm /a && sudo ldconfig", "rm /a && ldconfig"),
            ("sudo -u ollama firstlight doctor", "sudo -u ollama firstlight doctor"),
            ("ls /etc/sudo /a/sudo b", "ls /etc/sudo /a/sudo b"),
        ],
    )
    def test_the_rest_of_a_line_stays(self, line, plain):
        finding = without_sudo(warn("w", remedy=by_hand("do it", line)), Machine(host=Host(sudo="root")))
        assert finding.remedy.commands == [plain]
