"""The doctor's page as a person sees it, what it shows to strangers, and what --fix does."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from support.command import firstlight

from firstlight.doctor.check import Check
from firstlight.doctor.examine import Wish, examine_described
from firstlight.doctor.findings import (
    MakeFolder,
    RemovePath,
    RunCommand,
    SetMode,
    by_hand,
    by_itself,
    fail,
    ok,
    skip,
    warn,
)
from firstlight.doctor.fixing import in_words, mend, mendable
from firstlight.doctor.probes.installed import Installed, InstalledSeen
from firstlight.doctor.redacting import redacted
from firstlight.doctor.report import Examination, Verdict, counted, to_json
from firstlight.doctor.table import CHECKS
from firstlight.doctor.verdicts import next_step
from firstlight.home import Home
from firstlight.machine.facts import Gpu, Host, Machine, Nvidia
from firstlight.ui.doctor import list_of_checks, page
from firstlight.ui.tables import cells

LONG = "sudo a-command-that-must-stay-whole --with=" + "words" * 20


def examination(*findings, **figures):
    signed = [msgspec.structs.replace(item, id=item.id or "check", group=item.group or "gpu") for item in findings]
    values = {"machine": Machine(), "counts": counted(signed), "findings": signed}
    return Examination(**{**values, **figures})


FINDINGS = (
    ok("all is well here, and the sentence is long enough to be broken at sixty columns or at eighty"),
    warn(
        "a warning 模型",
        detail="Because of this and that, which takes a good many words to explain to a person who meets it first.",
        evidence="a line\n" + "\n".join(f"line {n}" for n in range(20)),
        affects=["vllm", "lmdeploy"],
        remedy=by_hand("do it by hand", LONG, root=True),
    ),
    fail("a failure", remedy=by_itself("let it be done", RemovePath(path="/x"))),
    skip("not here: only with --network"),
    msgspec.structs.replace(ok("broken"), status="crash", evidence="KeyError: x"),
)
VERDICTS = [
    Verdict(engine="vllm", state="ready", build="v", text="ready (vllm-0.32.0-cu130, proven, of 2026-11-23)"),
    Verdict(engine="transformers", state="impossible", build=None, text="can't: " + "because it is so, " * 8),
]


class TestPage:
    @pytest.mark.parametrize("columns", [60, 80, 120])
    @pytest.mark.parametrize("unicode", [True, False])
    def test_fits_its_columns_and_commands_stay_whole(self, columns, unicode):
        machine = Machine(
            host=Host(os_name="Ubuntu 22.04.5 LTS", kernel="5.15.0-122-generic", arch="x86_64", container="docker"),
            gpus=[Gpu(index=n, name="NVIDIA A100-SXM4-80GB", memory_total=80 << 30) for n in range(8)],
            nvidia=Nvidia(driver="535.183.01"),
        )
        whole = examination(*FINDINGS, verdicts=VERDICTS, machine=machine, next="firstlight up")
        lines = page(whole, columns, unicode=unicode)
        commands = [line for line in lines if line.lstrip().startswith("$ ")]
        assert [line.strip() for line in commands] == [f"$ {LONG}"]
        assert max(cells(line) for line in lines if line not in commands) <= columns
        text = "\n".join(lines)
        assert "8 x NVIDIA A100-SXM4-80GB" in text.replace("\n  ", " ")
        if not unicode:
            assert text.replace("模型", "").isascii()

    def test_marks_groups_counts_and_the_next_command(self):
        text = "\n".join(page(examination(*FINDINGS, verdicts=VERDICTS, next="firstlight up"), 80, unicode=True))
        for mark in (
            "[✓] all is well",
            "[!] a warning",
            "[✗] a failure",
            "[☠] broken",
            "[✓] vllm:",
            "[-] transformers:",
        ):
            assert mark in text
        assert "1 ok, 1 warning, 1 failure, 1 broken check, 1 waiting for --network" in text
        assert "more is looked at with --network" in text
        assert "only with --network" not in text  # what was skipped is counted, not listed
        assert "13 lines more" in text
        assert "affects: vllm, lmdeploy" in text
        assert "(as root)" in text
        assert "doctor --fix does it" in text
        assert text.endswith("next: firstlight up")
        plain = "\n".join(page(examination(*FINDINGS), 80, unicode=False))
        for mark in ("[ok] all is well", "[!!] a warning", "[XX] a failure", "[??] broken"):
            assert mark in plain

    def test_what_was_asked_for_by_name_is_shown_though_it_was_skipped(self):
        text = "\n".join(page(examination(*FINDINGS), 80, unicode=True, everything=True))
        assert "[-] not here" in text

    def test_a_next_step_in_words_is_broken_and_a_command_is_not(self):
        words = "start the container again with its GPUs, by the one who has the host in hand"
        broken = page(examination(fail("x", remedy=by_hand(words)), next=words), 40, unicode=True)
        assert max(map(len, broken)) <= 40
        whole = page(examination(fail("x", remedy=by_hand("y", LONG)), next=LONG), 40, unicode=True)
        assert whole[-1] == f"next: {LONG}"

    def test_what_is_simply_well_is_one_line_of_its_group(self):
        titles = {check.id: check.title for check in CHECKS}
        names = ["device-nodes", "nvml", "driver-answers"]
        quiet = [msgspec.structs.replace(ok(titles[name]), id=name) for name in names]
        text = "\n".join(page(examination(ok("driver 580"), *quiet), 80, unicode=True))
        assert "[✓] driver 580\n[✓] also well: device-nodes, nvml, driver-answers" in text
        assert titles["nvml"] not in text
        assert "[✓] all well: device-nodes" in "\n".join(page(examination(*quiet), 80, unicode=True))
        assert titles["nvml"] in "\n".join(page(examination(*quiet), 80, unicode=True, everything=True))

    def test_groups_come_in_their_order_with_unknown_ones_last(self):
        findings = [msgspec.structs.replace(ok(name), group=name) for name in ("moon", "disk", "host", "log")]
        titles = [line for line in page(examination(*findings), 80, unicode=True) if line and not line.startswith("[")]
        assert titles[1:-1] == ["System", "Disks", "moon", "Log"]

    def test_list_of_checks_at_every_width(self):
        check = Check(id="a-check", group="gpu", title="a title that says what is right", look=lambda _e: ())
        wide = list_of_checks([check], 80)
        assert wide == ["GPU and driver", "  a-check  a title that says what is right"]
        assert list_of_checks([check], 30)[1:] == ["  a-check", "    a title that says what is", "      right"]

    @pytest.mark.parametrize("columns", ["60", "80", "120"])
    def test_the_program_on_a_terminal_of_that_width(self, columns):
        home = Path(tempfile.mkdtemp(dir="/tmp"))  # a path is never broken: this one is short
        variables = {"COLUMNS": columns, "LC_ALL": "C", "NO_COLOR": "1"}
        ended = firstlight("doctor", home=home, variables=variables)
        home.rmdir()
        assert ended.out.isascii()
        lines = ended.out.splitlines()
        assert "\x1b" not in ended.out
        long = [line for line in lines if len(line) > int(columns)]
        assert not [line for line in long if not line.lstrip().startswith(("$ ", "next: "))]  # no command is broken
        assert any(re.match(r"\[ok\] |\[!!\] ", line) for line in lines)
        assert lines[-1].startswith("next: ")


class TestVerdicts:
    def present(self, machine, **figures):
        from support.small_catalogue import build, catalogue
        from support.small_catalogue import page as engine_page

        from firstlight.doctor.evidence import Evidence
        from firstlight.doctor.verdicts import verdicts
        from firstlight.planning.choose import choose
        from firstlight.planning.request import Request

        shelf = catalogue(engine_page(build("new", "2.0", "13.0", capabilities=["8.0"]), build("old", "1.0", "12.1")))
        values = {
            "engine": "engine",
            "generation": "g",
            "state": "proven",
            "created": "2026-11-23T10:00:00Z",
            **figures,
        }
        seen = InstalledSeen(current=(Installed(**values),)) if figures else None
        plan = choose(machine, shelf, Request(engine="engine"))
        (verdict,) = verdicts(Evidence(machine=machine, catalogue=shelf, plans=(plan,), installed=seen))
        return verdict

    def test_ready_broken_possible_and_impossible(self):
        from support.small_catalogue import machine

        good = machine("8.0", driver="580.95.05")
        ready = self.present(good, build="new")
        assert (ready.state, ready.text) == ("ready", "ready (new, proven, of 2026-11-23)")
        unproven = self.present(good, build="new", state="built")
        assert unproven.command == "firstlight setup.prove engine"
        moved = self.present(good, build="new", problems=("its Python is gone",))
        assert (moved.state, moved.command) == ("broken", "firstlight setup.repair engine")
        # The driver was taken back after the build was set up.
        outgrown = self.present(machine("8.0", driver="535.183.01"), build="new")
        assert outgrown.state == "broken"
        assert "driver" in outgrown.text
        possible = self.present(good)
        assert possible.text.startswith("can be set up as new (CUDA 13.0")
        impossible = self.present(machine("5.2", driver="580.95.05"))
        assert impossible.text.startswith("can't: ")
        assert "5.2" in impossible.text

    def test_the_next_step(self):
        def verdict(state, command):
            return Verdict(engine="e", state=state, build=None, text="", command=command)

        both = [verdict("possible", "x"), verdict("ready", "firstlight up --engine e")]
        assert next_step([], both) == "firstlight up --engine e"
        assert next_step([], both[:1]) == "firstlight up"
        assert next_step([], [verdict("impossible", "firstlight plan e --explain")]) == "firstlight plan e --explain"
        assert next_step([fail("x", remedy=by_hand("words", "one", "two"))], both) == "one"
        assert next_step([fail("x", remedy=by_hand("words"))], both) == "words"
        assert (
            next_step([fail("x", remedy=by_itself("words", RemovePath(path="/x")))], both) == "firstlight doctor --fix"
        )
        assert next_step([warn("x", remedy=by_hand("words", "one"))], both[:1]) == "firstlight up"
        assert next_step([], []) is None


SECRETS = {
    "user": "adalovelace",
    "host": "engine-room-7",
    "domain": "engine-room-7.corp.example",
    "mirror": "pypi.corp.example",
    "ipv4": "10.20.30.40",
    "ipv6": "fe80::1ff:fe23:4567:890a",
    "uuid": "GPU-8f6cf1d3-2b1a-4c3e-9f00-123456789abc",
    "mig": "MIG-8f6cf1d3-2b1a-4c3e-9f00-123456789abd",
    "token": "hf_AbCdEfGhIjKlMnOp",
    "key": "s3cretvalue",
    "project": "analytical-notes",
    "other": "charlesb",
}


VARIABLES = {"USER": SECRETS["user"], "HOME": f"/home/{SECRETS['user']}"}


class TestRedaction:
    def whole(self):
        words = SECRETS
        home = VARIABLES["HOME"]
        evidence = "\n".join(
            [
                f"process 7 (user {words['user']}): python {home}/{words['project']}/run.py --api-key {words['key']}",
                f"https://ada:pw@{words['mirror']}/simple and http://{words['ipv4']}:8080/x, {words['ipv6']}",
                f"http_proxy=http://{words['domain']}:3128 no_proxy=localhost,.{words['mirror']}",
                f"{words['uuid']} {words['mig']} HF_TOKEN={words['token']}",
                f"{home}/.local/share/firstlight/services /home/{words['other']}/x on {words['host']}",
                "127.0.0.1:8000 and 0.0.0.0 stay, 535.183.01 and 12:34:56 too",
            ]
        )
        found = warn(
            f"held by {words['user']} on {words['host']}",
            detail=evidence,
            evidence=evidence,
            remedy=by_hand(
                f"ask {words['user']}", f"cat {home}/.{words['project']}", f"ls {home}/{words['project']}/deep"
            ),
            subject=f"{home}/{words['project']}",
        )
        machine = Machine(
            host=Host(user=words["user"], hostname=words["host"], os="ubuntu", arch="x86_64"),
            gpus=[Gpu(index=0, uuid=words["uuid"], name="NVIDIA A100")],
        )
        return examination(found, machine=machine, next=f"cd {home}/{words['project']}")

    def test_nothing_leaks_and_what_helps_stays(self):
        told = to_json(redacted(self.whole(), VARIABLES))
        lines = "\n".join(page(redacted(self.whole(), VARIABLES), 80, unicode=True))
        for text in (told, lines):
            assert [word for word in (*SECRETS.values(), "ada:pw") if word in text] == []
        for kept in ("~/.local/share/firstlight", "127.0.0.1:8000", "0.0.0.0", "535.183.01", "12:34:56", "NVIDIA A100"):
            assert kept in told
        document = json.loads(told)
        assert (document["machine"]["host"]["os"], document["machine"]["host"]["user"]) == ("ubuntu", "<user>")
        assert document["machine"]["gpus"][0]["uuid"] == "<uuid>"

    def test_mirrors_of_the_catalogue_are_no_secret(self):
        found = warn("x", evidence="https://pypi.org/simple/torch and https://download.pytorch.org/whl/cu129")
        told = redacted(examination(found), {"HOME": "/root", "USER": "root"}).findings[0].evidence
        assert "https://pypi.org/simple/torch" in told
        assert "https://download.pytorch.org/whl/cu129" in told

    def test_a_user_with_the_name_of_a_word_of_the_schema(self):
        machine = Machine(host=Host(user="ok", os="ubuntu", hostname="gpu"))
        found = redacted(examination(ok("it is ok on gpu"), machine=machine), {"USER": "ok", "HOME": "/home/ok"})
        assert (found.findings[0].status, found.findings[0].group) == ("ok", "gpu")
        assert found.findings[0].summary == "it is <user> on <host>"

    def test_root_is_everybodys_name(self):
        machine = Machine(host=Host(user="root", hostname="localhost"))
        found = redacted(examination(ok("you are root, at /root/secret-plan/x"), machine=machine), {"HOME": "/root"})
        assert found.findings[0].summary == "you are root, at ~/…"

    def test_the_program(self, tmp_path):
        import os
        import socket

        home = tmp_path / "quux-family" / "state"
        home.parent.mkdir()
        variables = {
            "USER": "quuxperson",
            "HOME": str(tmp_path / "quux-family"),
            "https_proxy": "http://u:pw@10.9.8.7:1",
        }
        for words in (["doctor", "--redact"], ["doctor", "--redact", "--json"]):
            ended = firstlight(*words, home=home, variables=variables)
            for secret in ("quuxperson", "quux-family", "10.9.8.7", "u:pw", str(tmp_path)):
                assert secret not in ended.out, secret
            if len(socket.gethostname()) > 3:
                assert socket.gethostname() not in ended.out
        assert os.environ.get("USER") != "quuxperson"


class TestFixing:
    def test_actions_in_words_name_what_lies_outside_the_home(self, tmp_path):
        home = Home(tmp_path)
        assert in_words(RemovePath(path=str(tmp_path / "x")), home) == f"remove {tmp_path}/x"
        assert "outside firstlight's home" in in_words(RemovePath(path="/opt/x"), home)
        assert "outside firstlight's home" in in_words(MakeFolder(path="/opt/x"), None)
        assert (
            in_words(SetMode(path=str(tmp_path / "x"), mode=0o755), home) == f"change the mode of {tmp_path}/x to 0755"
        )
        run = RunCommand(argv=["loginctl", "enable-linger", "a b"], changes="/var/lib/systemd/linger/ab")
        assert in_words(run, home) == "run loginctl enable-linger 'a b'   (changes /var/lib/systemd/linger/ab)"

    def finding(self, *actions, **figures):
        remedy = msgspec.structs.replace(by_itself("mend it", *actions), **figures)
        return msgspec.structs.replace(warn("broken", remedy=remedy, subject="it"), id="check")

    def test_work_is_done_after_a_yes_alone(self, tmp_path):
        (tmp_path / "folder/deep").mkdir(parents=True)
        (tmp_path / "file").write_text("x")
        (tmp_path / "link").symlink_to(tmp_path / "folder")
        (tmp_path / "mode").write_text("x")
        broken = self.finding(
            RemovePath(path=str(tmp_path / "link")),
            RemovePath(path=str(tmp_path / "file")),
            MakeFolder(path=str(tmp_path / "new/one")),
            SetMode(path=str(tmp_path / "mode"), mode=0o640),
            RunCommand(argv=[sys.executable, "-c", f"open({str(tmp_path / 'ran')!r}, 'w')"], changes=""),
        )
        refused = mend(broken, lambda _finding: False)
        assert (refused.outcome, (tmp_path / "file").exists()) == ("refused", True)
        done = mend(broken, lambda _finding: True)
        assert (done.outcome, done.subject, done.why) == ("done", "it", None)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "mode", "new", "ran"]
        assert (tmp_path / "mode").stat().st_mode & 0o777 == 0o640
        assert mend(self.finding(RemovePath(path=str(tmp_path / "folder"))), lambda _finding: True).outcome == "done"
        assert not (tmp_path / "folder").exists()

    @pytest.mark.parametrize("path", ["/", "/etc", "/usr/lib", "relative/x", "/x/../etc", "~"])
    def test_some_places_are_never_touched(self, path):
        place = str(Path.home()) if path == "~" else path
        outcome = mend(self.finding(RemovePath(path=place)), lambda _finding: True)
        assert outcome.outcome == "failed"
        assert "not for a program to change" in outcome.why

    def test_a_failing_command_ends_the_remedy_and_says_why(self, tmp_path):
        words = [sys.executable, "-c", "print('no such user'); raise SystemExit(3)"]
        broken = self.finding(RunCommand(argv=words, changes=""), MakeFolder(path=str(tmp_path / "after")))
        outcome = mend(broken, lambda _finding: True)
        assert outcome.outcome == "failed"
        assert outcome.why.endswith("no such user")
        assert not (tmp_path / "after").exists()

    def test_what_needs_root_is_not_tried_without_it(self, monkeypatch, tmp_path):
        monkeypatch.setattr("firstlight.doctor.fixing.os.geteuid", lambda: 1000)
        outcome = mend(self.finding(MakeFolder(path=str(tmp_path / "x")), needs_root=True), lambda _finding: True)
        assert (outcome.outcome, outcome.why) == ("failed", "it needs root")

    def test_only_what_is_broken_and_automatic_is_mended(self):
        automatic = self.finding(RemovePath(path="/x"))
        healthy = msgspec.structs.replace(automatic, status="ok")
        assert mendable([automatic, healthy, fail("x", remedy=by_hand("y")), ok("z")]) == [automatic]

    def test_no_remedy_of_a_driver_is_automatic(self):
        for problem in (
            "driver_library_mismatch",
            "no_device_nodes",
            "uvm_not_loaded",
            "fabric_manager",
            "nvml_missing",
        ):
            machine = Machine(nvidia=Nvidia(driver="1.2", problem=problem), gpus=[Gpu(index=0, name="x")])
            found = examine_described(Wish(), machine).findings
            assert [item for item in mendable(found) if item.group == "gpu"] == []

    def test_after_the_work_there_is_a_second_look(self, monkeypatch, tmp_path, capsys):
        from firstlight.tasks import mending

        (tmp_path / "stale").write_text("x")
        before = examination(self.finding(RemovePath(path=str(tmp_path / "stale"))), machine=Machine(disks=[]))
        monkeypatch.setattr(mending, "examine_this_machine", lambda _wish: examination(ok("whole")))
        after = mending.mended(before, Wish(), yes=True)
        assert [(item.id, item.outcome) for item in after.mended] == [("check", "done")]
        assert (after.counts.ok, after.counts.warn) == (1, 0)
        assert not (tmp_path / "stale").exists()
        assert f"remove {tmp_path}/stale   (outside firstlight's home)" in capsys.readouterr().err
        assert "[✓] done: mend it (it)" in page(after, 80, unicode=True)

    def test_a_no_leaves_everything_as_it_is(self, monkeypatch, tmp_path):
        from firstlight.tasks import mending

        (tmp_path / "stale").write_text("x")
        before = examination(self.finding(RemovePath(path=str(tmp_path / "stale"))), machine=Machine(disks=[]))
        monkeypatch.setattr(mending, "confirmed", lambda *_words, **_figures: False)
        monkeypatch.setattr(mending, "examine_this_machine", lambda _wish: before)
        assert [item.outcome for item in mending.mended(before, Wish(), yes=False).mended] == ["refused"]
        assert (tmp_path / "stale").exists()

    def test_the_program_with_nothing_to_mend(self, tmp_path):
        before = sorted(tmp_path.iterdir())
        dry = firstlight("doctor", "--fix", "--dry-run", "--only", "sudo", home=tmp_path / "home")
        assert (dry.code, dry.out.strip()) == (0, "nothing here has an automatic remedy")
        document = firstlight(
            "doctor", "--fix", "--dry-run", "--json", "--only", "sudo", home=tmp_path / "home"
        ).document
        assert (document["schema"], document["commands"], document["files"]) == ("firstlight.dryrun/1", [], [])
        mended = firstlight("doctor", "--fix", "--yes", "--json", "--only", "sudo", home=tmp_path / "home")
        assert mended.document["mended"] == []
        assert "nothing here has an automatic remedy" in mended.err
        assert sorted(tmp_path.iterdir()) == before
