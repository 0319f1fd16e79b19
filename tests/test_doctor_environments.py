"""The doctor on environments: real folders with real libraries, in every broken state, and conda's base."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import msgspec
import pytest
from support import small_catalogue
from support.doctor_look import judge, look, told
from support.machine_tree import plant, program
from support.tiny_engine import TORCH, WISH, compile_library

from firstlight.catalogue.locks import lock_folder, lock_path
from firstlight.doctor.probes import conda_base, environments
from firstlight.environments.distributions import InstalledPackage
from firstlight.environments.examined import Check as Seen
from firstlight.environments.examined import Examined
from firstlight.environments.locking.lockfile import LockedWheel, PipLock, render
from firstlight.environments.spec import EnvironmentSpec, Generation, write_manifest
from firstlight.environments.wheelset import WheelSet
from firstlight.files import writer_lock

BUILD = small_catalogue.build("engine-1.0-cu124", cuda="12.4", torch="2.6.0")
NEWER = small_catalogue.build("engine-2.0-cu124", "2.0", cuda="12.4", torch="2.6.0")
CATALOGUE = small_catalogue.catalogue(small_catalogue.page(BUILD, examination=WISH))
VERSIONS = {"torch": "2.6.0+cu124", "tiny": "1.0"}


class Site:
    """The environments of one engine in a home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.folder = home / "environments" / "engine"

    def add(self, name: str, *, versions=None, manifest=None, kind="venv", prefix=None, current=True) -> Path:
        """Make an environment that looks whole; returns its site-packages."""
        folder = self.folder / name
        real = prefix or folder
        site = real / "lib" / "python3.12" / "site-packages"
        site.mkdir(parents=True)
        (real / "bin").mkdir()
        (real / "bin" / "python").symlink_to("/usr/bin/env")
        for distribution, version in (versions or VERSIONS).items():
            (site / f"{distribution.replace('-', '_')}-{version}.dist-info").mkdir()
        for file, text in TORCH.items():
            (site / file).parent.mkdir(exist_ok=True)
            (site / file).write_text(text)
        built = Generation(
            engine="engine",
            id=name,
            build="engine-1.0-cu124",
            kind=kind,
            python="3.12",
            prefix=real,
            state="proven",
            created="2026-11-23T00:00:00Z",
            wheels=[InstalledPackage(name=key, version=value) for key, value in VERSIONS.items()],
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_manifest(folder, msgspec.structs.replace(built, **(manifest or {})))
        if current:
            (self.folder / "current").unlink(missing_ok=True)
            (self.folder / "current").symlink_to(name)
        return site

    def seen(self, *, deep=False):
        return environments.read(look(home=self.home, deep=deep, catalogue=CATALOGUE))

    def judge(self, name: str, *, deep=False, **fields):
        return judge(name, catalogue=CATALOGUE, environments=self.seen(deep=deep), **fields)


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path / "home")


IDS = [
    "environments",
    "environment-cuda",
    "nccl-twice",
    "pynvml",
    "environment-changed",
    "environment-files",
    "environment-examination",
    "environment-leftovers",
    "environment-build",
    "environment-lock",
]


@pytest.mark.parametrize("name", IDS)
def test_without_environments_there_is_nothing_to_judge(tmp_path, name):
    seen = environments.read(look(home=tmp_path / "home"))
    assert [finding.status for finding in judge(name, environments=seen)] == ["skip"]


@pytest.mark.parametrize("name", IDS)
def test_a_whole_environment_is_ok(site, name):
    site.add("one")
    assert {finding.status for finding in site.judge(name)} == {"ok"}


class TestLinks:
    def test_a_link_that_leads_nowhere_is_told_with_the_way_back(self, site):
        site.add("one", current=False)
        (site.folder / "previous").symlink_to("one")
        (site.folder / "current").symlink_to("gone")
        (finding,) = [found for found in site.judge("environments") if found.status == "fail"]
        assert finding.subject == "engine"
        assert finding.evidence.endswith("current leads to gone")
        assert finding.remedy.commands == ["firstlight setup.rollback engine"]

    def test_without_another_one_it_is_built_again(self, site):
        site.folder.mkdir(parents=True)
        (site.folder / "current").symlink_to("gone")
        (finding,) = site.judge("environments")
        assert finding.remedy.commands == ["firstlight setup.engine"]

    def test_an_environment_that_was_moved_or_has_lost_its_python_is_told(self, site):
        site.add("one", manifest={"prefix": Path("/somewhere/else")})
        (finding,) = [found for found in site.judge("environments") if found.status == "fail"]
        assert finding.remedy.commands == ["firstlight setup.repair engine"]
        (site.folder / "one" / "bin" / "python").unlink()
        (finding,) = [found for found in site.judge("environments") if found.status == "fail"]
        assert "is gone" in finding.detail

    def test_a_manifest_that_cannot_be_read_is_told(self, site):
        site.add("one", current=False)
        (site.folder / "one" / "firstlight-generation.json").write_text("{")
        site.add("two")
        found = site.judge("environments")
        assert ("ok", "current") in told(found)
        assert any("cannot be read" in item for seen in site.seen().found for item in seen.problems)


class TestCuda:
    def test_an_engine_linked_with_another_cuda_than_its_torch(self, site):
        root = site.add("one")
        compile_library(root / "tiny" / "_C.abi3.so", needs=("libcudart.so.13",))
        (finding,) = site.judge("environment-cuda")
        assert (finding.status, finding.subject) == ("fail", "one:_C.abi3.so")
        assert finding.summary == "engine: _C.abi3.so needs CUDA 13, torch CUDA 12"
        assert finding.remedy.commands == ["firstlight setup.repair engine"]

    def test_the_same_cuda_is_ok(self, site):
        root = site.add("one")
        compile_library(root / "tiny" / "_C.abi3.so", needs=("libcudart.so.12",))
        assert told(site.judge("environment-cuda")) == [("ok", None)]

    def test_a_library_of_the_wheels_that_is_gone(self, site):
        root = site.add("one")
        compile_library(root / "tiny" / "_C.abi3.so", needs=("libnccl.so.2",), gone=("libnccl.so.2",))
        (finding,) = site.judge("environment-cuda")
        assert (finding.status, finding.evidence) == ("fail", "libnccl.so.2")

    def test_a_file_that_is_no_library_is_passed_over(self, site):
        root = site.add("one")
        (root / "tiny").mkdir()
        (root / "tiny" / "_C.abi3.so").write_bytes(b"\x7fELF nonsense")
        assert told(site.judge("environment-cuda")) == [("ok", None)]

    def test_what_was_examined_and_is_unchanged_is_not_read_again(self, site):
        root = site.add("one", manifest={"examination": Examined(at="x", seconds=1.0, checks=[])})
        compile_library(root / "tiny" / "_C.abi3.so", needs=("libcudart.so.13",))
        assert site.seen().current[0].linked == ()

    @pytest.mark.parametrize(
        ("text", "cuda"),
        [
            ("cuda: Optional[str] = '12.9'\nhip: Optional[str] = None\n", "12.9"),
            ("__version__ = '2.1'\ncuda = '12.1'\n", "12.1"),
            ('cuda = "13.0"\n', "13.0"),
            ("cuda: Optional[str] = None\n", None),
            ("", None),
        ],
    )
    def test_the_cuda_of_torch_is_read_from_its_own_file(self, tmp_path, text, cuda):
        (tmp_path / "torch").mkdir()
        (tmp_path / "torch" / "version.py").write_text(text)
        assert environments.torch_cuda(tmp_path) == cuda
        assert environments.torch_cuda(tmp_path / "absent") is None


class TestPackages:
    def test_two_packages_that_write_one_nccl(self, site):
        versions = {**VERSIONS, "nvidia-nccl-cu12": "2.32.3", "nvidia-nccl-cu13": "2.29.7"}
        site.add("one", versions=versions)
        (finding,) = site.judge("nccl-twice")
        assert finding.status == "fail"
        assert finding.evidence == "nvidia-nccl-cu12 2.32.3, nvidia-nccl-cu13 2.29.7"

    def test_pynvml_beside_nvidia_ml_py(self, site):
        site.add("one", versions={**VERSIONS, "pynvml": "13.0.1", "nvidia_ml_py": "13.580.65"})
        assert [finding.status for finding in site.judge("pynvml")] == ["warn"]

    def test_what_was_changed_by_hand_is_named(self, site):
        site.add("one", versions={"torch": "2.9.0"})
        (finding,) = site.judge("environment-changed")
        assert finding.status == "warn"
        assert finding.evidence.splitlines() == ["tiny 1.0 is gone", "torch 2.6.0+cu124 became 2.9.0"]

    def test_an_adopted_environment_may_change_and_is_never_repaired(self, site, tmp_path):
        prefix = tmp_path / "theirs"
        both = {"pynvml": "13.0.1", "nvidia-ml-py": "13.580.65"}
        site.add("one", versions=both, kind="adopted", prefix=prefix)
        assert told(site.judge("environment-changed")) == [("ok", None)]
        (finding,) = site.judge("pynvml")
        assert finding.remedy.commands == []
        assert "never writes" in finding.remedy.text


def record(root: Path, name: str, content: bytes) -> Path:
    """Put a file on disk and into the list of the distribution `tiny`, as uv does; returns the file."""
    file = root / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
    metadata = root / "tiny-1.0.dist-info"
    (metadata / "INSTALLER").write_text("uv")
    with (metadata / "RECORD").open("a") as stream:
        stream.write(f"{name},sha256={digest},{len(content)}\n")
    return file


class TestFiles:
    def test_libraries_that_are_gone_or_cut_short(self, site):
        root = site.add("one")
        record(root, "tiny/_A.so", b"a" * 1000).unlink()
        record(root, "tiny/libb.so.12", b"b" * 1000).write_bytes(b"b" * 10)
        record(root, "tiny/c.py", b"c").unlink()
        (finding,) = site.judge("environment-files")
        assert finding.status == "fail"
        assert finding.evidence.splitlines() == [
            "tiny/_A.so is gone",
            "tiny/libb.so.12 has 10 bytes instead of 1,000",
        ]

    def test_only_deep_looks_at_the_bytes(self, site):
        root = site.add("one")
        record(root, "tiny/_A.so", b"a" * 1000).write_bytes(b"b" * 1000)
        assert told(site.judge("environment-files")) == [("ok", None)]
        (finding,) = site.judge("environment-files", deep=True)
        assert (finding.status, finding.evidence) == ("fail", "tiny: tiny/_A.so")

    def test_bytecode_may_differ(self, site):
        root = site.add("one")
        record(root, "tiny/one.cpython-312.pyc", b"a").write_bytes(b"b")
        assert [finding.status for finding in site.judge("environment-files", deep=True)] == ["ok"]

    def test_deep_says_that_all_is_well(self, site):
        root = site.add("one")
        record(root, "tiny/_A.so", b"a" * 1000)
        (finding,) = site.judge("environment-files", deep=True)
        assert (finding.status, finding.summary) == ("ok", "engine: every file of one has its hash")

    def test_many_damaged_files_stay_a_short_list(self, site):
        root = site.add("one")
        for number in range(60):
            record(root, f"tiny/_{number:02}.so", b"a").unlink()
        assert len(site.seen().current[0].not_whole) == 21


class TestLeftovers:
    def test_what_killed_builds_have_left_can_be_removed(self, site):
        site.add("one")
        site.add("two", manifest={"state": "building"}, current=False)
        (site.folder / ".removed-three-12-34").mkdir()
        (finding,) = site.judge("environment-leftovers")
        assert finding.status == "warn"
        assert finding.remedy.automatic
        paths = [action.path for action in finding.remedy.actions]
        assert paths == [str(site.folder / "two"), str(site.folder / ".removed-three-12-34")]

    def test_a_build_at_work_leaves_nothing_over(self, site):
        site.add("one")
        site.add("two", manifest={"state": "building"}, current=False)
        with writer_lock(site.folder / ".lock", "engine environments"):
            assert site.seen().folders[0].busy
            assert told(site.judge("environment-leftovers")) == [("ok", None)]


class TestBuilds:
    def test_a_build_that_the_catalogue_no_longer_has(self, site):
        site.add("one", manifest={"build": "engine-0.1-cu118"})
        (finding,) = site.judge("environment-build")
        assert (finding.status, finding.remedy.commands) == ("warn", ["firstlight setup.engine"])

    def test_a_newer_build_that_fits_is_offered_without_a_warning(self, site):
        site.add("one")
        plan = small_catalogue.decide(small_catalogue.machine("8.0"), BUILD, NEWER)
        assert plan.build.id == NEWER.id
        (finding,) = site.judge("environment-build", plans=(plan,))
        assert (finding.status, finding.summary) == ("ok", "engine 1.0 is installed; 2.0 fits this machine too")

    def test_what_did_not_hold_at_the_examination_is_told_again(self, site):
        checks = [Seen(id="libraries", status="fail", summary="linked with CUDA 13")]
        site.add("one", manifest={"examination": Examined(at="x", seconds=1.0, checks=checks)})
        (finding,) = site.judge("environment-examination")
        assert finding.status == "warn"
        assert finding.evidence == "linked with CUDA 13"


class TestLocks:
    """An environment that was made from a lock, and the catalogue's lock of its build today."""

    @pytest.fixture
    def judged(self, site, tmp_path, monkeypatch):
        monkeypatch.setattr("firstlight.catalogue.locks.data_folder", tmp_path.joinpath)
        before = {"torch": "2.6.0", "tiny": "1.0", "gone": "1.0"}

        def judged(now, *, locked=True, locks=True):
            old, new = self.lock(before), self.lock(now)
            path = lock_path(lock_folder("engine", BUILD.id), BUILD, "3.12")
            path.parent.mkdir(parents=True)
            path.write_text(render(new)[0])
            lines = tuple(wheel.line for wheel in old.wheels)
            wheels = WheelSet(requirements=(), locked=lines, lock=old.digest) if locked else WheelSet(requirements=())
            spec = EnvironmentSpec(
                build=BUILD.id, kind="venv", python="3.12", wheels=wheels, expected_download=1, expected_disk=1
            )
            site.add("one", manifest={"spec": spec})
            build = msgspec.structs.replace(BUILD, locks={"3.12": "locked"} if locks else {})
            shelf = small_catalogue.catalogue(small_catalogue.page(build, examination=WISH))
            seen = environments.read(look(home=site.home, catalogue=shelf))
            return judge("environment-lock", catalogue=shelf, environments=seen)

        judged.before = before
        return judged

    def lock(self, versions):
        wheels = (LockedWheel(name=name, version=version, sha256=("a" * 64,)) for name, version in versions.items())
        return PipLock(
            build=BUILD.id, python="3.12", platform="p", wish="w", resolved="2026-11-23", wheels=tuple(sorted(wheels))
        )

    def test_the_lock_of_today_is_ok(self, judged):
        assert [finding.status for finding in judged(judged.before)] == ["ok"]

    def test_another_lock_is_told_with_what_changed(self, judged):
        (finding,) = judged({"torch": "2.6.0", "tiny": "1.1", "fresh": "3.0"})
        assert (finding.status, finding.remedy.commands) == ("warn", ["firstlight setup.engine"])
        assert finding.evidence == "tiny 1.0 → 1.1\nfresh 3.0 is new"

    @pytest.mark.parametrize("words", [{"locked": False}, {"locks": False}])
    def test_without_a_lock_on_either_side_there_is_nothing_to_compare(self, judged, words):
        assert [finding.status for finding in judged({"tiny": "1.1"}, **words)] == ["ok"]


def test_a_home_that_cannot_be_read_is_no_traceback(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "environments").write_text("not a folder")
    assert environments.read(look(home=home)) == environments.Environments()


INIT = "# >>> conda initialize >>>\n__conda_setup=\"$('/opt/conda/bin/conda' 'shell.bash' 'hook' 2> /dev/null)\"\n"


class Conda:
    """A conda installation under a user's home, with what pip has put into its base."""

    def __init__(self, folder: Path) -> None:
        self.user = folder / "user"
        self.root = self.user / "miniconda3"
        self.site = self.root / "lib" / "python3.12" / "site-packages"
        self.site.mkdir(parents=True)
        (self.root / "conda-meta").mkdir()
        program(self.root / "bin", "conda", "exit 1")

    def add(self, name: str, version: str, installer: str) -> None:
        metadata = self.site / f"{name}-{version}.dist-info"
        metadata.mkdir()
        (metadata / "INSTALLER").write_text(f"{installer}\n")

    def judge(self, name: str, root: Path | None = None, **variables: str):
        tree = root or self.user
        seen = conda_base.read(look(tree, home=self.user / "home", HOME=str(self.user), **variables))
        return judge(name, conda_base=seen)


@pytest.fixture
def conda(tmp_path):
    return Conda(tmp_path)


class TestConda:
    def test_without_conda_there_is_nothing_to_judge(self, tmp_path):
        seen = conda_base.read(look(tmp_path, home=tmp_path, HOME=str(tmp_path)))
        for name in ("conda-base", "conda-shell"):
            assert [finding.status for finding in judge(name, conda_base=seen)] == ["skip"]

    def test_a_clean_base_is_ok(self, conda):
        conda.add("requests", "2.32", "pip")
        conda.add("torch", "2.6.0", "conda")
        assert [finding.status for finding in conda.judge("conda-base")] == ["ok"]

    def test_engines_and_torch_that_pip_put_into_base_are_named(self, conda):
        conda.add("torch", "2.6.0", "pip")
        conda.add("vllm", "0.8.5", "uv")
        conda.add("flash_attn", "2.7", "pip")
        (conda.user / ".bashrc").write_text(INIT)
        (finding,) = conda.judge("conda-base")
        assert finding.status == "warn"
        assert finding.summary == "conda's base holds flash-attn 2.7, torch 2.6.0, vllm 0.8.5"
        assert "activated in every new shell" in finding.detail
        assert not finding.remedy.automatic

    @pytest.mark.parametrize("line", ["auto_activate_base: false", "auto_activate: no"])
    def test_shells_that_start_without_base_are_not_told_that_they_do(self, conda, line):
        conda.add("torch", "2.6.0", "pip")
        (conda.user / ".bashrc").write_text(INIT)
        (conda.user / ".condarc").write_text(f"channels: [conda-forge]\n{line}\n")
        (finding,) = conda.judge("conda-base")
        assert "every new shell" not in finding.detail

    def test_a_base_of_somebody_else_names_who_can_mend_it(self):
        base = conda_base.CondaBase(root="/opt/conda", polluted=("torch 2.6.0",), writable=False, owner="admin")
        (finding,) = judge("conda-base", conda_base=base)
        assert "Only admin can mend it." in finding.detail

    def test_a_shell_that_knows_of_conda_is_ok(self, conda):
        (conda.user / ".bashrc").write_text(INIT)
        assert [finding.status for finding in conda.judge("conda-shell")] == ["ok"]

    def test_a_conda_on_the_path_is_ok(self, conda):
        assert [finding.status for finding in conda.judge("conda-shell", PATH=str(conda.root / "bin"))] == ["ok"]

    def test_a_forgotten_conda_names_the_command_that_brings_it_back(self, conda):
        (finding,) = conda.judge("conda-shell", SHELL="/usr/bin/zsh")
        assert finding.status == "warn"
        assert finding.remedy.commands == [f"{conda.root}/bin/conda init zsh"]

    def test_on_a_rented_instance_the_restart_is_named_as_the_reason(self, conda, tmp_path):
        mounts = "27 1 259:2 / / rw - overlay overlay rw\n30 27 8:1 / /root/autodl-tmp rw - xfs /dev/sdb rw\n"
        tree = plant(tmp_path / "tree", {"/proc/self/mountinfo": mounts, "/root/autodl-tmp": None})
        (finding,) = conda.judge("conda-shell", root=tree)
        assert "only /root/autodl-tmp outlives a restart" in finding.detail
