"""scripts/firstlight on a small checkout: making, mending, handing over. On a bare machine: test_launcher_bare.py."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest
from support.tiny_checkout import PYPROJECT, TinyCheckout, path_without_python, python_below

SHELLS = [
    command for command in (("sh",), ("dash",), ("bash", "--posix"), ("busybox", "sh")) if shutil.which(command[0])
]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkout that has been started once; tests that share it leave it as it was."""
    checkout = TinyCheckout(tmp_path_factory.mktemp("made"))
    first = checkout.start("machine", "--json")
    assert first.returncode == 0, first.stderr
    assert json.loads(first.stdout)["arguments"] == ["machine", "--json"]
    assert all(line.startswith("firstlight: ") for line in first.stderr.splitlines())
    return checkout


@pytest.fixture
def fresh(tmp_path):
    return TinyCheckout(tmp_path)


def wait_until(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
def test_arguments_and_folder_reach_the_program_unchanged(made, shell, tmp_path):
    arguments = ["a  b", "", "*", "ä'\"$HOME", "--", "-n", "line\nline"]
    run = made.start(*arguments, shell=shell, folder=tmp_path)
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout)["arguments"] == arguments
    assert json.loads(run.stdout)["folder"] == str(tmp_path)


def test_second_start_runs_no_other_program(made):
    run = made.start("machine", shell=(shutil.which("sh"),), PATH="/nowhere")
    assert (run.returncode, run.stderr) == (0, "")
    assert made.builds() == 1


@pytest.mark.parametrize("form", ["link", "relative", "beside", "dots"])
def test_checkout_is_found_however_the_script_is_named(made, form, tmp_path):
    link = tmp_path / "fl"
    link.symlink_to(os.path.relpath(made.script, tmp_path))
    script, folder = {
        "link": (link, tmp_path),
        "relative": (Path("scripts/firstlight"), made.root),
        "beside": (Path("firstlight"), made.script.parent),
        "dots": (Path("../scripts/../scripts/firstlight"), made.script.parent),
    }[form]
    run = made.start("x", script=script, folder=folder)
    assert (run.returncode, run.stderr) == (0, "")
    assert json.loads(run.stdout)["prefix"] == str(made.venv)


def test_settings_of_another_python_do_not_reach_the_program(made, tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')")
    run = made.start("x", folder=tmp_path, PYTHONPATH=str(tmp_path), PYTHONHOME=str(tmp_path))
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["environment"] == {"PYTHONPATH": None, "PYTHONHOME": None, "PYTHONNOUSERSITE": "1"}


def test_code_edits_act_at_once(made):
    program = made.root / "firstlight" / "cli.py"
    before = program.read_text()
    program.write_text("def main():\n    print('edited, and longer or shorter than before')\n")
    try:
        assert made.start("x").stdout == "edited, and longer or shorter than before\n"
    finally:
        program.write_text(before)


def test_changed_pyproject_installs_again_and_a_mere_touch_does_not(fresh):
    assert fresh.start("x").returncode == 0
    pyproject = fresh.root / "pyproject.toml"
    os.utime(pyproject, (1_600_000_000, 1_600_000_000))
    assert fresh.start("x").stderr == ""
    assert fresh.builds() == 1
    pyproject.write_text(PYPROJECT + "# changed\n")
    os.utime(pyproject, (1_500_000_000, 1_500_000_000))  # an older file put in place is a change too
    changed = fresh.start("x")
    assert changed.returncode == 0
    assert "pyproject.toml has changed" in changed.stderr
    assert fresh.builds() == 2
    assert fresh.start("x", PATH="/nowhere", shell=(shutil.which("sh"),)).stderr == ""


def test_vanished_interpreter_is_replaced(fresh):
    assert fresh.start("x").returncode == 0
    for link in (fresh.venv / "bin").glob("python*"):
        link.unlink()
        link.symlink_to("/usr/bin/python3.0-was-here-before-the-upgrade")
    run = fresh.start("x")
    assert run.returncode == 0, run.stderr
    assert "making it again" in run.stderr
    assert json.loads(run.stdout)["arguments"] == ["x"]


def test_moved_checkout_is_made_again(fresh):
    assert fresh.start("x").returncode == 0
    moved = fresh.root.with_name("moved")
    fresh.root.rename(moved)
    run = fresh.start("x", script=moved / "scripts" / "firstlight")
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["prefix"] == str(moved / ".venv")
    assert "was made for" in run.stderr


def test_start_killed_in_the_middle_is_repaired_by_the_next(fresh):
    fresh.hold.touch()
    killed = fresh.begin("x")
    wait_until(fresh.builds)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    fresh.hold.unlink()
    (fresh.venv / "bin" / "python").unlink()  # what a half-made environment may look like
    run = fresh.start("x")
    assert run.returncode == 0, run.stderr
    assert "did not finish" in run.stderr
    assert json.loads(run.stdout)["arguments"] == ["x"]
    assert fresh.start("x").stderr == ""


def test_two_starts_at_once_make_one_environment(fresh):
    fresh.hold.touch()
    first = fresh.begin("one")
    wait_until(fresh.builds)
    second = fresh.begin("two")
    assert "waiting" in second.stderr.readline()
    fresh.hold.unlink()
    said = [start.communicate(timeout=300)[0] for start in (first, second)]
    assert [json.loads(text)["arguments"] for text in said] == [["one"], ["two"]]
    assert fresh.builds() == 1


def test_environment_of_the_user_is_used_and_not_emptied(fresh):
    subprocess.run([python_below(), "-m", "venv", "--without-pip", fresh.venv], check=True)
    (fresh.venv / "mine").write_text("kept")
    run = fresh.start("x")
    assert run.returncode == 0, run.stderr
    assert "already in" in run.stderr
    assert (fresh.venv / "mine").read_text() == "kept"


def test_folder_that_is_no_environment_is_left_alone(fresh):
    fresh.venv.mkdir()
    (fresh.venv / "thesis.txt").write_text("kept")
    run = fresh.start("x")
    assert run.returncode == 1
    assert "is no Python environment" in run.stderr
    assert (fresh.venv / "thesis.txt").read_text() == "kept"


def test_dead_index_is_told_with_its_cause_and_what_to_do(fresh):
    (fresh.root / "pyproject.toml").write_text(PYPROJECT.replace("requires = []", 'requires = ["absent-thing"]'))
    run = fresh.start("machine", "--json", PIP_INDEX_URL="http://someone:secret@127.0.0.1:9/simple")
    assert run.returncode == 4
    error = json.loads(run.stdout)
    assert error["schema"] == "firstlight.error/1"
    assert error["error"]["code"] == 4
    assert "PIP_INDEX_URL" in error["error"]["fix"]
    assert "absent-thing" in run.stderr
    assert "secret" not in run.stderr + run.stdout
    (fresh.root / "pyproject.toml").write_text(PYPROJECT)
    assert fresh.start("x").returncode == 0


def test_unusable_python_named_by_the_user_is_refused(fresh):
    false = fresh.home / "python3"
    false.write_text("#!/bin/sh\necho broken >&2\nexit 127\n")
    false.chmod(0o755)
    run = fresh.start("x", FIRSTLIGHT_PYTHON=str(false))
    assert run.returncode == 1
    assert f"{false}: broken" in run.stderr


def test_shim_that_does_not_run_hides_no_python(fresh):
    shims = fresh.home / "shims"
    shims.mkdir()
    for name in ("python3.13", "python3.12", "python3.11", "python3.10", "python3", "python"):
        (shims / name).write_text("#!/bin/sh\necho 'no version is set' >&2\nexit 127\n")
        (shims / name).chmod(0o755)
    real = fresh.home / "real"
    real.mkdir()
    (real / "python3").symlink_to(python_below())
    programs = path_without_python(fresh.home / "programs")
    run = fresh.start("x", FIRSTLIGHT_PYTHON="", PATH=f"{shims}:{real}:{programs}")
    assert run.returncode == 0, run.stderr
    assert f"with {python_below()} " in run.stderr


def test_conda_base_is_found_and_left_untouched(fresh):
    base = fresh.home / "miniconda3"
    version = Path(sysconfig.get_path("stdlib")).name
    (base / "bin").mkdir(parents=True)
    (base / "lib").mkdir()
    shutil.copy2(python_below(), base / "bin" / version)
    (base / "bin" / "python3").symlink_to(version)
    (base / "lib" / version).symlink_to(sysconfig.get_path("stdlib"))

    def snapshot():
        found = {path: path.lstat() for path in base.rglob("*")}
        return {path: (entry.st_mode, entry.st_size, entry.st_mtime_ns) for path, entry in found.items()}

    before = snapshot()
    run = fresh.start("x", FIRSTLIGHT_PYTHON="", PATH=path_without_python(fresh.home / "programs"))
    assert run.returncode == 0, run.stderr
    assert f"with {base / 'bin' / version} " in run.stderr
    assert snapshot() == before


def test_pip_settings_meant_for_other_places_do_not_spoil_the_install(fresh):
    settings = {"PIP_USER": "1", "PIP_TARGET": str(fresh.home / "t"), "PIP_CONSTRAINT": str(fresh.home / "absent.txt")}
    run = fresh.start("x", **settings)
    assert run.returncode == 0, run.stderr
    assert not (fresh.home / "t").exists()
