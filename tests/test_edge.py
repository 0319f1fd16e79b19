"""How the program ends: interruptions at every moment, streams that fail, folders that are not there."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from firstlight.errors import FirstlightError, UsageError
from firstlight.home import default_root
from firstlight.machine.reading import read_machine
from firstlight.tasks.edge import folder, guarded
from firstlight.ui.terminal import show_document
from firstlight.ui.views import machine_lines

PROGRAM = [sys.executable, "-m", "firstlight"]
SIGNALS = [(signal.SIGINT, 130, "Interrupted"), (signal.SIGTERM, 143, "Terminated")]


@pytest.mark.parametrize(("number", "code", "kind"), SIGNALS)
def test_an_interrupted_command_prints_one_document_and_one_line(
    tmp_path: Path, number: signal.Signals, code: int, kind: str
) -> None:
    facts = tmp_path / "facts.json"
    os.mkfifo(facts)
    with (
        subprocess.Popen(
            [*PROGRAM, "plan", "vllm", "--json", "--machine", str(facts)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        facts.open("w"),
    ):  # opening it waits until the command reads
        process.send_signal(number)
        out, err = process.communicate(timeout=300)
    assert process.returncode == code
    document = json.loads(out)
    assert document["schema"] == "firstlight.error/1"
    assert (document["error"]["code"], document["error"]["kind"]) == (code, kind)
    assert document["error"]["message"] == kind.lower()
    assert document["error"]["fix"] == "run the same command again to go on"
    assert err.splitlines() == [f"{kind.lower()}; nothing is lost: run the same command again to go on"]


@pytest.mark.parametrize(("number", "code", "kind"), SIGNALS)
def test_after_the_result_there_is_no_second_document(
    capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int, kind: str
) -> None:
    def work() -> int:
        show_document('{"result": 1}')
        os.kill(os.getpid(), number)
        return 0

    assert guarded(work, as_document=True) == code
    out, err = capsys.readouterr()
    assert json.loads(out) == {"result": 1}
    assert err.startswith(kind.lower())


def test_a_wished_traceback_comes_beside_the_error_and_changes_neither_code_nor_document(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> int:
        raise UsageError("no such word", fix="another one")

    monkeypatch.setenv("FIRSTLIGHT_DEBUG", "1")
    assert guarded(work, as_document=True) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == 2
    assert "Traceback" in err
    assert "fix: another one" in err


def test_an_error_after_the_result_is_told_and_makes_no_second_document(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> int:
        show_document('{"result": 1}')
        raise FirstlightError("the engine ended by itself")

    assert guarded(work, as_document=True) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"result": 1}
    assert "the engine ended by itself" in err


def test_a_defect_of_ours_is_one_document_and_tells_where_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    password = "terces"[::-1]  # the lines of the source are shown, and may hold none

    def work() -> int:
        return len({}[f"https://somebody:{password}@host/"])

    assert guarded(work, as_document=True) == 1
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert (error["code"], error["kind"]) == (1, "FirstlightError")
    assert error["why"].startswith("KeyError: ")
    assert password not in f"{out}{err}"
    assert "in work" in err
    assert "firstlight doctor --redact" in err


@pytest.mark.parametrize("room", ["firstlight.tasks", "invoke.program", "firstlight.tasks.up"])
@pytest.mark.parametrize(("number", "code", "kind"), SIGNALS)
def test_an_interruption_while_the_program_still_loads(room: str, number: signal.Signals, code: int, kind: str) -> None:
    script = f"""
import os, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {room!r}:
            os.kill(os.getpid(), {int(number)})
sys.meta_path.insert(0, Interrupting())
sys.argv = ["firstlight", "machine", *sys.argv[1:]]
from firstlight.cli import main
main()
"""
    for words in ([], ["--json"]):
        ended = subprocess.run(
            [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=300, check=False
        )
        assert ended.returncode == code
        assert ended.stderr == ("" if kind == "Interrupted" else "terminated\n")
        if words:
            error = json.loads(ended.stdout)["error"]
            assert (error["code"], error["kind"]) == (code, kind)
        else:
            assert ended.stdout == ""


def test_a_second_interruption_during_the_first_ones_cleaning_up() -> None:
    script = """
import sys
import firstlight.machine.reading, firstlight.process
def interrupted(*_arguments, **_words):
    raise KeyboardInterrupt
firstlight.machine.reading.read_machine = firstlight.process.stop_children = interrupted
sys.argv = ["firstlight", "machine"]
from firstlight.cli import main
main()
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 130
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize("words", ["machine", "machine --json", "--help", "--list"])
@pytest.mark.parametrize(("where", "why"), [(">/dev/full", "No space left"), (">&-", "Bad file descriptor")])
def test_a_standard_output_that_cannot_be_written(words: str, where: str, why: str) -> None:
    ended = in_shell(f"{words} {where}")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[0] == "error: cannot write to standard output"
    assert why in ended.stderr
    assert len(ended.stderr.splitlines()) == 3


@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_an_error_counts_more_than_the_output_that_could_not_take_it(where: str) -> None:
    ended = in_shell(f"plan vlm --json {where}")
    assert ended.returncode == 2
    assert 'did you mean "vllm"' in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("where", ["2>/dev/full", "2>&-", "0>&- 2>&-"])
def test_a_standard_error_that_cannot_be_written_changes_nothing(where: str) -> None:
    assert in_shell(f"plan vlm {where}").returncode == 2
    fine = in_shell(f"machine --json {where}")
    assert fine.returncode == 0
    assert json.loads(fine.stdout)["schema"] == "firstlight.machine/1"


def in_shell(words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -m firstlight {words}'],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody(uid: int) -> pwd.struct_passwd:
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for environment in ({}, {"FIRSTLIGHT_HOME": "~/x"}, {"FIRSTLIGHT_HOME": "~no-such-user/x"}):
        with pytest.raises(FirstlightError) as caught:
            default_root(environment, uid=54321)
        assert caught.value.fix == "export FIRSTLIGHT_HOME=/path/you/can/write"


def test_a_user_without_a_name_reads_well() -> None:
    machine = read_machine()
    host = msgspec.structs.replace(machine.host, user=None, uid=54321, sudo="absent")
    lines = machine_lines(msgspec.structs.replace(machine, host=host))
    assert any(line.endswith("uid 54321 (no name), sudo: absent") for line in lines)


def test_a_folder_that_is_not_there_is_looked_for_where_it_could_be(tmp_path: Path) -> None:
    assert folder("--adopt", str(tmp_path)) == tmp_path
    (tmp_path / "a b").mkdir()
    for word, fix in (
        ("/no-such-folder", "ls /"),
        (str(tmp_path / "none" / "x"), "ls /"),
        (str(tmp_path / "x"), f"ls -d {tmp_path}/*/"),
        (str(tmp_path / "a b" / "x"), f"ls -d '{tmp_path}/a b'/*/"),
        ("~no-such-user/x", "ls /"),
    ):
        with pytest.raises(UsageError) as caught:
            folder("--adopt", word)
        assert caught.value.fix == fix
