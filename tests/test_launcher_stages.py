"""`scripts/firstlight test`: which checks run, in which order, and what it says about those that do not."""

from __future__ import annotations

import os
import re

import pytest
from support.tiny_checkout import TinyCheckout

# Stands where ruff, mypy, import-linter and pytest stand: tells its call, and fails where a test wants it.
CHECK = """
import os, sys

def main():
    name = {name!r}
    if "--collect-only" in sys.argv:
        print("tests/test_a.py::test_one\\ntests/test_a.py::test_two\\n\\n2 tests collected")
        return 0
    print("ran", name, sys.argv[1:], flush=True)
    return 3 if os.environ.get("RED") == name else 0

if __name__ == "__main__":
    sys.exit(main())
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    made = TinyCheckout(tmp_path_factory.mktemp("stages"))
    for name in ("ruff", "mypy", "rules", "pytest"):
        (made.root / f"{name}.py").write_text(CHECK.format(name=name))
    return made


def results(text):
    """The table at the end: stage -> result; every stage that ran has its seconds."""
    rows = re.findall(r"^(\S+) +(-|\d+\.\d\d) s  (.+)$", text, re.MULTILINE)
    assert all((seconds == "-") == (outcome == "not run") for _, seconds, outcome in rows)
    return {stage: outcome for stage, _, outcome in rows}


def test_every_stage_runs_and_pytest_gets_the_arguments(checkout):
    run = checkout.start("test", "-k", "a b")
    assert run.returncode == 0, run.stdout + run.stderr
    table = results(run.stdout)
    assert list(table) == ["prepare", "shellcheck", "ruff-check", "ruff-format", "mypy", "import-rules", "pytest"]
    assert table.pop("shellcheck") in {"ok", "left out"}
    assert set(table.values()) == {"ok"}
    ran = [line for line in run.stdout.splitlines() if line.startswith("ran ")]
    assert ran[:4] == ["ran ruff ['check', '.']", "ran ruff ['format', '--check', '.']", "ran mypy []", "ran rules []"]
    assert ran[4].endswith("'-k', 'a b']")


def test_first_red_stage_ends_the_run_with_its_exit_code(checkout):
    run = checkout.start("test", RED="mypy")
    assert run.returncode == 3
    table = results(run.stdout)
    assert (table["ruff-format"], table["mypy"]) == ("ok", "FAILED (exit 3)")
    assert (table["import-rules"], table["pytest"]) == ("not run", "not run")
    assert "ran pytest" not in run.stdout


def test_ci_runs_the_same(checkout):
    run = checkout.start(script=checkout.root / ".ci" / "run", shell=("bash",), RED="pytest")
    assert run.returncode == 3
    assert results(run.stdout)["pytest"] == "FAILED (exit 3)"


def test_tests_that_need_root_are_left_out_loudly(checkout, tmp_path):
    refusing = tmp_path / "unshare"
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    run = checkout.start("test", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert run.returncode == 0
    assert "LEFT OUT: 2 tests that need root" in run.stderr
    assert "ran pytest ['-m', 'not gpu and not real_install and not root', '--reruns', '1', '-raR']" in run.stdout
