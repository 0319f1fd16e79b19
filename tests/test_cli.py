"""The program's edge: exit codes, JSON documents, near words, and the same tasks under stock Invoke."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import REPOSITORY, firstlight

from firstlight.errors import UsageError
from firstlight.planning.request import Request
from firstlight.tasks.edge import cuda_version, gpu_indexes, one_of, port_number, python_minor

MACHINES = Path(__file__).parent / "machines"


def test_machine_prints_one_document_and_nothing_else() -> None:
    ended = firstlight("machine", "--json")
    assert ended.code == 0
    assert ended.document["schema"] == "firstlight.machine/1"
    assert ended.err == ""
    for key in ("host", "init", "cpu", "memory", "disks", "nvidia", "gpus", "pythons", "conda"):
        assert key in ended.document


def test_a_machine_read_here_can_be_replayed(tmp_path: Path) -> None:
    facts = tmp_path / "facts with späces.json"
    facts.write_text(firstlight("machine", "--json").out)
    here = firstlight("plan", "transformers", "--json", home=tmp_path / "home")
    there = firstlight("plan", "transformers", "--json", "--machine", str(facts), home=tmp_path / "home")
    assert here.code == there.code == 0
    assert here.document["build"] == there.document["build"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["plan", "vlm"], 2, 'did you mean "vllm"'),
        (["plna", "vllm"], 2, 'did you mean "plan"'),
        (["setup.vlm"], 2, 'did you mean "setup.vllm"'),
        (["plan", "vllm", "--cude", "12.1"], 2, 'did you mean "--cuda"'),
        (["plan"], 2, "ENGINE"),
        (["plan", "vllm", "--cuda", "new"], 2, "--cuda takes cpu or a version"),
        (["plan", "vllm", "--gpus", "a"], 2, "--gpus 0,1"),
        (["plan", "vllm", "--gpus", "0", "--gpus", "1"], 2, "--gpus was given more than once"),
        (["plan", "vllm", "--model=a", "--model=b"], 2, "--model was given more than once"),
        (["-R", "plan", "vllm"], 2, "firstlight up --dry-run"),
        (["plan", "vllm", "--dry"], 2, "firstlight up --dry-run"),
        (["plan", "vllm", "--python", "12"], 2, "--python 3.12"),
        (["plan", "vllm", "--build", "vllm-0.32.0-gpu"], 2, "did you mean"),
        (["plan", "vllm", "--release", "0.32"], 2, "--release takes one of"),
        (["plan", "vllm", "--machine", "/no/such/file"], 2, "cannot read /no/such/file"),
        (["up", "--port", "99999"], 2, "1 to 65535"),
        (["up", "--detach", "--once"], 2, "exclude each other"),
        (["setup.vllm", "--environment", "conad"], 2, 'did you mean "conda"'),
        (["setup.vllm", "--machine", str(MACHINES / "no-gpu-laptop.json")], 2, "--no-proof"),
        (["setup.vllm", "--index", "host/simple"], 2, "--index https://HOST/simple"),
        (["setup.vllm", "--index", "~no-such-user/simple"], 2, "--index https://HOST/simple"),
        (["setup.vllm", "--adopt", "/no/such/folder"], 2, "is no folder"),
        (["setup.rollback", "vlm"], 2, 'did you mean "vllm"'),
        (["serve.vllm"], 2, "no model was named"),
        (["down", "nobody"], 2, "nobody"),
        (["service.status", "nobody"], 2, 'there is no service "nobody"'),
        (["service.logs", "--lines", "3", "--follow", "nobody"], 2, 'there is no service "nobody"'),
        (["setup"], 2, "setup is a group of commands: setup."),
        (["setup", "--help"], 2, "fix: firstlight --list setup"),
        (["--help", "plna"], 2, 'did you mean "plan"'),
        (["help", "plna"], 2, 'did you mean "plan"'),
        (["--list", "setp"], 2, 'did you mean "setup"'),
        (["--list", "--list-format=josn"], 2, 'did you mean "json"'),
        (["--list", "--list-depth=x"], 2, "--list-depth takes a number"),
        (["setup.repair", "vllm"], 1, "firstlight setup.vllm"),
        (["ask", "What", "is", "it?", "--model", "a b"], 2, "firstlight ask 'What is it?' --model 'a b'"),
    ],
)
def test_wrong_words_end_with_two_and_say_what_to_do(words: list[str], code: int, said: str, tmp_path: Path) -> None:
    ended = firstlight(*words, home=tmp_path)
    assert (ended.code, ended.out) == (code, ""), ended.err
    assert said in ended.err
    assert "fix:" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("content", "said"),
    [("{not json", "is not JSON"), ('{"schema": "x/9"}', "does not describe a machine"), ("[]", "no schema")],
)
def test_a_machine_file_that_is_none(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "m.json").write_text(content)
    ended = firstlight("plan", "vllm", "--json", "--machine", str(tmp_path / "m.json"))
    assert ended.code == 2
    assert ended.document["schema"] == "firstlight.error/1"
    assert ended.document["error"]["kind"] == "UsageError"
    assert said in ended.err


def test_a_value_of_the_wrong_kind_in_a_machine_file_is_named(tmp_path: Path) -> None:
    document = json.loads((MACHINES / "no-gpu-laptop.json").read_text())
    document["cpu"]["cores"] = "two"
    (tmp_path / "m.json").write_text(json.dumps(document))
    ended = firstlight("plan", "vllm", "--machine", str(tmp_path / "m.json"))
    assert ended.code == 2
    assert "cpu.cores" in ended.err


def test_nothing_fits_is_three_and_still_a_plan() -> None:
    ended = firstlight("plan", "vllm", "--json", "--machine", str(MACHINES / "p100-driver535.json"))
    assert ended.code == 3
    assert ended.document["build"] is None
    assert ended.document["alternatives"][0]["engine"] == "transformers"


def test_setup_where_nothing_fits_puts_the_plan_into_the_error(tmp_path: Path) -> None:
    machine = str(MACHINES / "p100-driver535.json")
    ended = firstlight("setup.vllm", "--machine", machine, "--no-proof", "--json", home=tmp_path)
    assert ended.code == 3
    assert ended.document["error"]["kind"] == "NothingFits"
    assert ended.document["plan"]["refused"]
    assert "compute capability 6.0" in ended.err


def test_usage_errors_are_documents_too() -> None:
    ended = firstlight("plan", "vllm", "--jsn", "--json")
    assert ended.code == 2
    assert ended.document["error"]["code"] == 2
    listed = firstlight("--list", "--json")
    assert listed.code == 2
    assert listed.document["error"]["fix"] == "firstlight --list --list-format=json"


def test_stock_invoke_runs_the_same_tasks_with_the_same_codes() -> None:
    invoke = [sys.executable, "-m", "invoke"]
    fine = firstlight(
        "plan", "vllm", "--json", "--machine", str(MACHINES / "no-gpu-laptop.json"), program=invoke, folder=REPOSITORY
    )
    assert fine.code == 0
    assert fine.document["build"]["id"] == "vllm-0.32.0-cpu"
    wrong = firstlight("plan", "vlm", program=invoke, folder=REPOSITORY)
    assert wrong.code == 2
    assert 'did you mean "vllm"' in wrong.err
    dry = firstlight("--dry", "plan", "vllm", program=invoke, folder=REPOSITORY)
    assert dry.code == 2
    assert "up --dry-run" in dry.err
    for words in (["down", "nobody"], ["service.stop", "nobody"], ["service.logs", "--lines", "3", "nobody"]):
        named = firstlight(*words, program=invoke, folder=REPOSITORY)
        assert (named.code, "there is no ser" in named.err, '"nobody"' in named.err) == (2, True, True), named.err
    listed = firstlight("--list", program=invoke, folder=REPOSITORY)
    for name in ("up", "down", "machine", "plan", "setup.vllm", "setup.transformers", "serve.vllm", "chat", "ask"):
        assert f" {name} " in listed.out


def test_help_is_a_word_too() -> None:
    assert firstlight("help").out == firstlight("--help").out
    assert firstlight("help", "plan").out == firstlight("plan", "--help").out


def test_what_lies_in_the_current_folder_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "firstlight.json").touch()  # what `firstlight machine --json > firstlight.json` begins with
    (tmp_path / "firstlight.yaml").write_text("run: [")
    ended = firstlight("machine", "--json", folder=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.document["schema"] == "firstlight.machine/1"


def test_every_command_has_help_for_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    from firstlight.tasks.program import run

    listed = json.loads(firstlight("--list", "--list-format=json").out)
    names = [task["name"] for task in listed["tasks"]]
    names += [f"{room['name']}.{task['name']}" for room in listed["collections"] for task in room["tasks"]]
    assert len(names) >= 15
    for name in names:
        assert run(["firstlight", name, "--help"]) == 0, name
        options = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  -")]
        assert options, name
        for line in options:
            words = line.split()
            assert len(words) > 2 or (len(words) == 2 and not words[1].isupper()), f"{name}: {line} has no help"


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = f'"{sys.executable}" -m firstlight machine --json | head -c 1'
    ended = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "BrokenPipe" not in ended.stderr


def test_values_of_options() -> None:
    assert cuda_version("cpu") == "cpu"
    assert cuda_version("12.1") == "12.1"
    assert gpu_indexes("0, 2") == (0, 2)
    assert port_number("8000") == 8000
    assert python_minor("3.12.1") == "3.12"
    assert one_of("--x", None, ["a"], "a") == "a"
    with pytest.raises(UsageError):
        port_number("0")
    assert Request(engine="vllm").environment == "auto"
