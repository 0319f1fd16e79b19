"""Pythons and conda, found and told without starting them wherever files tell."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from support.machine_tree import plant, program, system
from support.patience import with_patience

from firstlight.machine import conda, pythons
from firstlight.machine.facts import Python

ELF = b"\x7fELF" + bytes(60)


def binary(path: Path, text: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ELF + text)
    path.chmod(0o755)
    return path


def versions(found):
    return [(python.path, python.version) for python in found]


def test_a_static_interpreter_carries_its_version(tmp_path):
    binary(tmp_path / "usr/bin/python3.10", b"\x003.10.\0zlib 1.2.13\x003.10.12\0rest")
    (tmp_path / "usr/bin/python3").symlink_to("python3.10")
    plant(tmp_path, {"/usr/lib/python3.10/os.py": "", "/usr/lib/python3.10/ensurepip/README": ""})
    found = pythons.read(system(tmp_path, PATH=str(tmp_path / "usr/bin")))
    assert found == [Python(path=str(tmp_path / "usr/bin/python3"), version="3.10.12", ensurepip=False)]


def test_known_homes_are_found_and_told_by_files(tmp_path):
    home = tmp_path / "home/ada lovelace é"
    binary(tmp_path / "opt/conda/bin/python3.12")
    plant(tmp_path, {"/opt/conda/conda-meta/python-3.12.4-h5148396_1.json": "{}", "/opt/conda/bin/python3-config": ""})
    binary(home / "miniforge3/bin/python3")
    plant(home, {"miniforge3/conda-meta/python-3.11.9-hb806964_0_cpython.json": "{}"})
    binary(home / ".pyenv/versions/3.9.18/bin/python3.9")
    binary(home / ".local/share/uv/python/cpython-3.13.1-linux-x86_64-gnu/bin/python3.13")
    binary(tmp_path / "usr/local/bin/python3.8")
    plant(tmp_path, {"/usr/local/include/python3.8/patchlevel.h": '#define PY_VERSION              "3.8.20"\n'})
    found = pythons.read(system(tmp_path, HOME=str(home)))
    assert versions(found) == [
        (str(tmp_path / "usr/local/bin/python3.8"), "3.8.20"),
        (str(home / "miniforge3/bin/python3"), "3.11.9"),
        (str(tmp_path / "opt/conda/bin/python3.12"), "3.12.4"),
        (str(home / ".pyenv/versions/3.9.18/bin/python3.9"), "3.9.18"),
        (str(home / ".local/share/uv/python/cpython-3.13.1-linux-x86_64-gnu/bin/python3.13"), "3.13.1"),
    ]


def test_what_no_file_tells_is_asked(tmp_path):
    program(tmp_path / "bin", "python3", f'exec {sys.executable} "$@"')
    found = pythons.read(system(tmp_path, PATH=str(tmp_path / "bin")))
    assert versions(found) == [(str(tmp_path / "bin/python3"), ".".join(map(str, sys.version_info[:3])))]


def test_interpreters_that_do_not_answer_are_left_out_with_a_reason(tmp_path, monkeypatch):
    program(tmp_path / "a", "python3", "exec sleep 300")
    program(tmp_path / "b", "python3", "echo 'dyld: cannot load' >&2", "exit 127")
    program(tmp_path / "c", "python3", "echo 3.12.1")

    def claim(seconds):
        monkeypatch.setattr(pythons, "RUN_SECONDS", seconds)
        here = system(tmp_path, PATH=f"{tmp_path}/a:{tmp_path}/b:{tmp_path}/c:/bin")
        assert (str(tmp_path / "c/python3"), "3.12.1") in versions(pythons.read(here))
        reasons = {failure.probe: failure.reason for failure in here.failures}
        assert "did not end within" in reasons[f"pythons:{tmp_path}/a/python3"]
        assert reasons[f"pythons:{tmp_path}/b/python3"] == "it does not run"

    with_patience((0.4, 4.0, 40.0), claim)


def test_virtual_environments_shims_and_other_implementations(tmp_path):
    real = binary(tmp_path / "opt/py/bin/python3.11", b"\x003.11.2\0")
    plant(tmp_path, {"/venv/pyvenv.cfg": "home = /opt/py/bin\nversion = 3.11.1\n", "/venv/bin": None})
    (tmp_path / "venv/bin/python3").symlink_to(real)
    program(tmp_path / ".pyenv/shims", "python3", "exit 3")
    binary(tmp_path / "pypy/pypy3.10")
    (tmp_path / "pypy/python3").symlink_to("pypy3.10")
    (tmp_path / "pypy/python3.4").symlink_to("gone")
    (tmp_path / "pypy/python3.5").symlink_to("python3.5")
    path = os.pathsep.join(str(tmp_path / folder) for folder in ("venv/bin", ".pyenv/shims", "pypy", "opt/py/bin"))
    here = system(tmp_path, PATH=path)
    assert versions(pythons.read(here)) == [(str(real), "3.11.2")]
    assert here.failures == []


def test_windows_folders_of_a_wsl_path_are_not_searched(tmp_path):
    here = system(tmp_path, PATH=f"/mnt/c/Windows/system32:/mnt/d:/mnt/data/bin:{tmp_path}:relative::{tmp_path}")
    assert [str(folder) for folder in here.search_path()] == ["/mnt/data/bin", str(tmp_path)]


def conda_tree(root: Path, version: str = "24.5.0") -> Path:
    program(root / "bin", "conda", "exit 3")
    return plant(
        root,
        {
            f"conda-meta/conda-{version}-py312h06a4308_0.json": "{}",
            "conda-meta/conda-libmamba-solver-24.1.0-pyhd3eb1b0_0.json": "{}",
            "envs/my env/conda-meta/history": "",
            "envs/not-one/readme": "",
        },
    )


def test_conda_is_told_without_starting_it(tmp_path):
    home = tmp_path / "home/模型"
    root = conda_tree(home / "miniconda3")
    other = plant(tmp_path / "elsewhere", {"conda-meta/history": ""})
    plant(home, {".conda/environments.txt": f"{root}\n{root}/envs/my env\n{other}\n/gone\n\n"})
    found = conda.read(system(tmp_path, HOME=str(home)))
    assert found.root == str(root)
    assert found.executable == str(root / "bin/conda")
    assert found.version == "24.5.0"
    assert found.environments == [str(root / "envs/my env"), str(other)]


@pytest.mark.parametrize("way", ["CONDA_EXE", "CONDA_PREFIX", "CONDA_PREFIX of an environment", "PATH", "/opt/conda"])
def test_every_way_to_conda(tmp_path, way):
    root = conda_tree(tmp_path / "opt/conda" if way == "/opt/conda" else tmp_path / "apps/conda")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/conda").symlink_to(root / "bin/conda")
    variables = {
        "CONDA_EXE": {"CONDA_EXE": str(root / "bin/conda")},
        "CONDA_PREFIX": {"CONDA_PREFIX": str(root)},
        "CONDA_PREFIX of an environment": {"CONDA_PREFIX": str(root / "envs/my env")},
        "PATH": {"PATH": str(tmp_path / "bin")},
        "/opt/conda": {},
    }[way]
    assert conda.read(system(tmp_path, **variables)).root == str(root)


def test_no_conda(tmp_path):
    plant(tmp_path, {"/opt/conda/conda-meta/history": ""})  # a prefix that micromamba made: no conda in it
    assert conda.read(system(tmp_path, CONDA_EXE="/gone/bin/conda", HOME=str(tmp_path))) is None
