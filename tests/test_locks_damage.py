"""Locks that were edited, cut off or lost: each is refused, and `lock.check` tells the file, the line, the package."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import msgspec
import pytest
import yaml
from support import small_catalogue

from firstlight.catalogue.loading import load_catalogue
from firstlight.catalogue.locks import lock_folder, lock_path, locks_of
from firstlight.environments.locking.applying import conda_lock_for
from firstlight.environments.locking.checking import check
from firstlight.environments.locking.conda_files import read_conda_lock, require_conda_lock
from firstlight.environments.locking.lockfile import Damage, LockedWheel, read_lock, render
from firstlight.environments.locking.updating import lockable
from firstlight.planning.choose import choose
from firstlight.planning.request import Request

BUILDS = {build.id: (engine, build) for engine, build in lockable(load_catalogue())}
CPU = "transformers-5.23.0-cpu"
OLD = "vllm-0.7.3-cu121"
OPEN = "vllm-0.31.0-cu129"


@pytest.fixture
def envs(tmp_path):
    """A catalogue's folder with the locks of three builds."""
    for name in (CPU, OLD, OPEN):
        engine = BUILDS[name][0]
        shutil.copytree(lock_folder(engine, name), lock_folder(engine, name, tmp_path))
    return tmp_path


def looked_at(envs: Path, name: str):
    (checked,) = check([BUILDS[name]], envs=envs)
    return checked


def remade(envs: Path, name: str, gone: str, instead: LockedWheel) -> None:
    """Write a lock with another wheel in place of one, as a resolver would that has other ideas."""
    engine, build = BUILDS[name]
    folder = lock_folder(engine, name, envs)
    lock = read_lock(folder, build, build.pythons[0])
    wheels = tuple(sorted([*(wheel for wheel in lock.wheels if wheel.name != gone), instead]))
    lock_path(folder, build, lock.python).write_text(render(msgspec.structs.replace(lock, wheels=wheels))[0])


class TestDamage:
    @pytest.fixture(autouse=True)
    def _ours_alone(self, monkeypatch):
        """Leave the parsers of others out, which take seconds to start and have tests of their own."""
        monkeypatch.setattr("firstlight.environments.locking.checking.unreadable", lambda _paths: {})

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda text: text.replace("accelerate==", "accelerate>=", 1), "accelerate"),
            (lambda text: text.replace(" --hash=sha256:", " --hash=sha1:", 1), "accelerate"),
            (lambda text: text.replace("accelerate==", "zzz==", 1), "order"),
            (lambda text: text[: len(text) // 2], "cut off"),
            (lambda text: text.replace("# python: 3.12\n", ""), "python"),
            (lambda text: text.replace("# build: transformers-5.23.0-cpu", "# build: other"), "other"),
            (lambda _text: "", "cut off"),
            (lambda text: text + "anyio\n", "anyio"),
            (lambda text: text.replace("\nanyio==4", "\nanyio==5", 1), "anyio: it is not what was locked"),
            (
                lambda text: re.sub(r"(anyio\S+ --hash=sha256:).{4}", r"\g<1>ffff", text, count=1),
                "anyio: it is not what",
            ),
            (lambda text: re.sub(r"(?m)^# sum: .*\n", "", text), "its sum does not hold"),
            (lambda text: re.sub(r"(?m)^# marks: .*\n", "", text), "its sum does not hold"),
            (lambda text: re.sub(r"(?m)^anyio==.*\n", "", text), "was taken out: its sum does not hold"),
            (lambda text: text + f"zzz==1 --hash=sha256:{'0' * 64}\n", "zzz: it was put in by hand"),
            (lambda text: text[: text.index("\naccelerate==") + 1], "what stood there was taken out"),
            (lambda text: text + "\n", "empty line"),
            (lambda text: text.replace("firstlight.lock/1", "firstlight.lock/9"), "no lock"),
        ],
    )
    def test_an_edited_lock_is_refused_with_file_and_package(self, envs, change, told):
        engine, build = BUILDS[CPU]
        path = lock_path(lock_folder(engine, CPU, envs), build, "3.12")
        path.write_text(change(path.read_text()))
        with pytest.raises(Damage) as caught:
            read_lock(path.parent, build, "3.12")
        assert str(path) in caught.value.what
        assert told in f"{caught.value.what} {caught.value.why}"
        assert caught.value.code == 5
        assert [fault.path for fault in looked_at(envs, CPU).faults] == [str(path)]

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda text: text.replace("    sha256: ", "    sha256: zz", 1), "_openmp_mutex: it has no valid sha256"),
            (lambda text: text.replace("https://conda.anaconda.org/", "https://evil.example/", 1), "_openmp_mutex"),
            (lambda text: text.replace("version: '4.5'", "version: '4.6'", 1), "its address is that of"),
            (lambda text: text.replace("version: 1\n", "version: 2\n", 1), "format 1"),
            (lambda text: text.replace("package:", "package: [", 1), "found '-' at line "),
            (lambda text: text.replace("package:\n", "package:\n- 7\n", 1), "package number 1 is no entry: 7"),
            (
                lambda text: text.replace("  hash:\n", "  hash: [a]\n  were:\n", 1),
                "_openmp_mutex: its hashes are no table",
            ),
            (
                lambda text: text.replace("  dependencies:\n", "  dependencies: [a]\n  were:\n", 1),
                "dependencies are no table",
            ),
            (lambda _text: "", "format 1"),
            (lambda _text: "version: 1\npackage: []\nsince: 2026-99-99\n", "month"),
        ],
    )
    def test_an_edited_conda_layer_is_refused_with_file_and_package(self, envs, change, told):
        path = lock_folder("transformers", CPU, envs) / "conda-lock.yml"
        path.write_text(change(path.read_text()))
        with pytest.raises(Damage) as caught:
            read_conda_lock(path.parent, "linux-64")
        assert str(path) in caught.value.what
        assert told in f"{caught.value.what} {caught.value.why}"
        assert str(path) in {fault.path for fault in looked_at(envs, CPU).faults}

    @pytest.mark.parametrize("kind", ["lock", "pins", "conda", "wish"])
    def test_a_file_that_is_no_text_is_refused_by_its_name(self, envs, kind):
        engine, build = BUILDS[OPEN]
        folder = lock_folder(engine, OPEN, envs)
        names = {"conda": "conda-lock.yml", "wish": "environment.yml"}
        path = folder / names[kind] if kind in names else lock_path(folder, build, "3.12", kind)
        path.write_bytes(bytes(range(256)))
        assert str(path) in {fault.path for fault in looked_at(envs, OPEN).faults}
        if kind in {"lock", "pins"}:
            with pytest.raises(Damage, match=re.escape(str(path))):
                read_lock(folder, build, "3.12")

    def test_line_ends_of_another_system_change_nothing(self, envs):
        folder = lock_folder("transformers", CPU, envs)
        for path in folder.iterdir():
            if path.name != "environment.yml":
                path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
        assert looked_at(envs, CPU).faults == []

    def test_a_conda_layer_without_the_platform_is_refused_and_a_fault(self, envs):
        folder = lock_folder("transformers", CPU, envs)
        path = folder / "conda-lock.yml"
        path.write_text(path.read_text().replace("  platform: linux-64\n", "  platform: osx-64\n"))
        with pytest.raises(Damage, match=re.escape(str(path))) as caught:
            require_conda_lock(folder, "linux-64")
        assert caught.value.why == "it has no packages for linux-64"
        assert [fault.why for fault in looked_at(envs, CPU).faults if fault.path == str(path)] == [caught.value.why]

    def test_a_conda_layer_that_is_missing_is_refused_where_it_is_to_be_installed(self, envs):
        folder = lock_folder("transformers", CPU, envs)
        (folder / "conda-lock.yml").unlink()
        plan = choose(small_catalogue.machine(None), load_catalogue(), Request(engine="transformers", cuda="cpu"))
        assert plan.build.id == CPU
        assert len(conda_lock_for(plan, BUILDS[CPU][1], Request(engine="transformers"))) > 20
        with pytest.raises(Damage, match="conda-lock") as caught:
            require_conda_lock(folder, "linux-64")
        assert (caught.value.why, "--unlocked" in caught.value.fix) == ("it is missing", True)

    def test_a_conda_package_that_was_taken_out_is_a_fault(self, envs):
        path = lock_folder("transformers", CPU, envs) / "conda-lock.yml"
        document = yaml.safe_load(path.read_text())
        document["package"] = [each for each in document["package"] if each["name"] != "openssl"]
        path.write_text(yaml.safe_dump(document))
        assert "openssl is missing, which python needs" in [fault.why for fault in looked_at(envs, CPU).faults]

    def test_a_conda_package_with_another_hash_is_a_fault(self, envs):
        path = lock_folder("transformers", CPU, envs) / "conda-lock.yml"
        path.write_text(re.sub(r"(    sha256: ).{4}", r"\g<1>ffff", path.read_text(), count=1))
        (why,) = [fault.why for fault in looked_at(envs, CPU).faults]
        assert "_openmp_mutex: its sha256 is not that of _openmp_mutex-" in why

    def test_a_missing_lock_is_a_fault_and_no_lock(self, envs):
        engine, build = BUILDS[CPU]
        folder = lock_folder(engine, CPU, envs)
        lock_path(folder, build, "3.13").unlink()
        assert locks_of(folder, build) == {"3.12": "locked", "3.11": "locked"}
        assert [fault.why for fault in looked_at(envs, CPU).faults] == ["it is missing"]

    def test_a_version_that_breaks_a_pin_is_a_fault(self, envs):
        remade(envs, OLD, "transformers", LockedWheel(name="transformers", version="5.23.0", sha256=("0" * 64,)))
        assert [fault.why for fault in looked_at(envs, OLD).faults] == ["transformers is 5.23.0, and must be ==4.49.0"]

    def test_what_must_stay_out_is_a_fault(self, envs):
        remade(envs, OLD, "pytest", LockedWheel(name="pynvml", version="12.0.0", sha256=("0" * 64,)))
        assert "pynvml must stay out" in [fault.why for fault in looked_at(envs, OLD).faults]

    def test_an_edited_wish_is_a_fault(self, envs):
        path = lock_folder("vllm", OPEN, envs) / "environment.yml"
        path.write_text(path.read_text().replace("python 3.12", "python 3.11"))
        assert [fault.path for fault in looked_at(envs, OPEN).faults] == [str(path)]

    def test_pins_that_are_missing_do_not_make_a_lock_whole(self, envs):
        engine, build = BUILDS[OPEN]
        path = lock_path(lock_folder(engine, OPEN, envs), build, "3.12", "pins")
        path.unlink()
        with pytest.raises(Damage, match="pins") as caught:
            read_lock(path.parent, build, "3.12")
        assert "pinned wheels" in caught.value.why

    def test_pins_of_another_lock_are_refused(self, envs):
        engine, build = BUILDS[OPEN]
        path = lock_path(lock_folder(engine, OPEN, envs), build, "3.12", "pins")
        path.write_text(path.read_text().replace("# resolved: ", "# resolved: 1"))
        with pytest.raises(Damage, match="pins"):
            read_lock(path.parent, build, "3.12")
