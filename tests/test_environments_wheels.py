from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from support.loopback_index import make_wheel, serve

from firstlight.environments.pipconfig import PipSettings, network_variables, read_pip_settings
from firstlight.environments.platforms import python_platform, this_libc
from firstlight.environments.venvs import create_venv
from firstlight.environments.wheels import WheelSet, add_metadata_shim, freeze, install_wheels
from firstlight.errors import FirstlightError, NetworkFailed, VerificationFailed
from firstlight.events import Note, Step, StepProgress, silent
from firstlight.machine.facts import Host

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
ARCH = platform.machine()
ZEROS = "0" * 64


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """No UV_* of the caller; a busy machine is not taken for silence (what hangs has a shorter limit, in its test)."""
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "60")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Place:
    """An environment in a folder with a space and letters beyond ASCII, its cache, and what was reported."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.prefix = folder / "Umgebung für alle"
        self.cache = folder / "cache"
        self.log = folder / "build.log"
        self.events: list[object] = []
        quiet = Step(silent, "venv", "venv")
        self.python = create_venv(self.prefix, sys.executable, cache=self.cache, step=quiet, log=self.log)

    def install(self, settings, *requirements, expected_bytes=None, **wishes):
        wheels = WheelSet(requirements=requirements, **wishes)
        step = Step(self.events.append, "wheels", "wheels")
        return install_wheels(
            self.python, wheels, settings, self.cache, step=step, log=self.log, expected_bytes=expected_bytes
        )

    def run(self, program: str) -> str:
        return subprocess.run([self.python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()

    @property
    def notes(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note)]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def index():
    with serve() as server:
        server.hash_of = {
            "aaa": server.add("aaa", "1.0", requires=("bbb",)),
            "bbb": server.add("bbb", "2.0", files={"bbb/big.bin": os.urandom(400_000)}),
        }
        yield server


def test_wheels_come_with_source_hash_and_progress(place, index):
    installed = place.install(PipSettings(index_url=index.simple), "aaa", expected_bytes=500_000)
    assert {(p.name, p.version, p.source, p.sha256) for p in installed} == {
        ("aaa", "1.0", f"{index.url}/files/aaa-1.0-py3-none-any.whl", index.hash_of["aaa"]),
        ("bbb", "2.0", f"{index.url}/files/bbb-2.0-py3-none-any.whl", index.hash_of["bbb"]),
    }
    assert place.run("import aaa, bbb, sys; print(aaa.VERSION, sys.prefix)") == f"1.0 {place.prefix}"
    told = [event for event in place.events if isinstance(event, StepProgress)]
    done = [event.done for event in told]
    assert done == sorted(done)
    assert told[-1].done == told[-1].total == pytest.approx(401_000, rel=0.02)
    assert " + bbb==2.0" in place.log.read_text().splitlines()
    assert sorted((p.name, p.version) for p in freeze(place.python)) == [("aaa", "1.0"), ("bbb", "2.0")]


def test_without_a_terminal_large_wheels_still_count(place, index, monkeypatch):
    def no_terminal():
        raise OSError(2, "No such file or directory: '/dev/ptmx'")

    index.add("huge", "1.0", files={"huge/bytes.bin": os.urandom(3_000_000)})
    monkeypatch.setattr(os, "openpty", no_terminal)
    assert place.install(PipSettings(index_url=index.simple), "huge")[0].source
    told = [event for event in place.events if isinstance(event, StepProgress)]
    assert told[-1].done == pytest.approx(3_000_000, rel=0.05)
    assert " + huge==1.0" in place.log.read_text().splitlines()


def test_the_second_environment_fetches_nothing_and_shares_the_files(place, index, tmp_path):
    settings = PipSettings(index_url=index.simple)
    place.install(settings, "aaa")
    index.requests.clear()
    (tmp_path / "second").mkdir()
    other = Place(tmp_path / "second")
    other.cache = place.cache
    assert len(other.install(settings, "aaa")) == 2
    assert not [request for request in index.requests if request.startswith("GET /files/") and "bytes=" not in request]
    big = f"lib/python{MINOR}/site-packages/bbb/big.bin"
    assert (place.prefix / big).samefile(other.prefix / big)


def test_the_callers_shell_has_no_say(place, index, monkeypatch, tmp_path):
    monkeypatch.setenv("VIRTUAL_ENV", sys.prefix)
    monkeypatch.setenv("CONDA_PREFIX", sys.prefix)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "pyproject.toml").write_text('[tool.uv]\nno-index = true\n[project]\nname="x"\nversion="1"\n')
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    place.cache = tmp_path / "home" / "cache"
    place.cache.parent.mkdir()
    place.install(PipSettings(index_url=index.simple), "bbb")
    assert place.run("import bbb; print(bbb.__file__)").startswith(str(place.prefix))


def test_constraints_excludes_and_overrides_are_kept(place, index):
    index.add("bbb", "3.0")
    index.add("ccc", "1.0", requires=("bbb", "unwanted", "pinned==1"))
    index.add("pinned", "2.0")
    installed = place.install(
        PipSettings(index_url=index.simple), "ccc",
        constraints=("bbb<3",), excludes=("unwanted",), overrides=("pinned==2.0",), python_version=MINOR,
    )  # fmt: skip
    assert sorted((p.name, p.version) for p in installed) == [("bbb", "2.0"), ("ccc", "1.0"), ("pinned", "2.0")]


def test_indexes_are_merged_as_pip_merges_them(place, index, tmp_path):
    """An older version in an extra index must not hide the newer one, and a folder that lacks a project is no error."""
    (tmp_path / "simple" / "other").mkdir(parents=True)
    with serve() as stale:
        stale.add("bbb", "1.0")
        settings = PipSettings(index_url=index.simple, extra_index_urls=(stale.simple, (tmp_path / "simple").as_uri()))
        installed = place.install(settings, "aaa", "bbb>=2")
    assert {(p.name, p.version) for p in installed} == {("aaa", "1.0"), ("bbb", "2.0")}


def test_an_index_that_is_named_stands_for_one_that_is_configured(place, index):
    with serve() as given:
        given.add("given", "1.0", requires=("aaa",))
        given.wheels |= index.wheels
        dead = PipSettings(index_url="http://127.0.0.1:9/simple", no_index=True)
        installed = place.install(dead, "given", default_index=given.simple)
    assert {p.source.partition("/files/")[0] for p in installed} == {given.url}


def test_local_folders_are_used_and_named(place, index, tmp_path):
    (tmp_path / "räder").mkdir()
    name, content = make_wheel("local", "1.0+cpu", requires=("bbb",))
    (tmp_path / "räder" / name).write_bytes(content)
    settings = PipSettings(index_url=index.simple, find_links=(str(tmp_path / "gone"),))
    installed = {p.name: p for p in place.install(settings, "local==1.0+cpu", find_links=(str(tmp_path / "räder"),))}
    assert installed["local"].source == (tmp_path / "räder" / name).as_uri()
    assert installed["bbb"].sha256 == index.hash_of["bbb"]


def test_a_dead_extra_index_of_the_user_is_left_out_loudly(place, index):
    dead = "http://me:secret@127.0.0.1:9/simple"
    assert place.install(PipSettings(index_url=index.simple, extra_index_urls=(dead,)), "bbb")
    assert place.notes == ["http://***@127.0.0.1:9/simple does not answer: it is left out"]
    assert "secret" not in place.log.read_text()


@pytest.mark.parametrize("fault", ["500", "hang", "404"])
def test_a_wheel_that_cannot_be_had_names_source_and_reason(place, index, fault, monkeypatch):
    if fault == "hang":
        monkeypatch.setenv("UV_HTTP_TIMEOUT", "1")
    index.faults = {"/files/bbb-2.0-py3-none-any.whl": fault}
    with pytest.raises(NetworkFailed) as caught:
        place.install(PipSettings(index_url=index.simple), "aaa")
    reason = {"500": "HTTP 500", "404": "HTTP 404", "hang": "timed out"}[fault]
    assert f"{index.simple}: " in caught.value.why
    assert reason in caught.value.why
    assert "--index" in caught.value.fix


def test_a_transfer_that_stalls_ends_as_a_network_failure_and_goes_on_later(place, index, monkeypatch):
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "1")
    index.faults = {"/files/bbb-2.0-py3-none-any.whl": "stall"}
    with pytest.raises(NetworkFailed, match="could not be fetched"):
        place.install(PipSettings(index_url=index.simple), "aaa")
    index.faults = {}
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "60")
    assert len(place.install(PipSettings(index_url=index.simple), "aaa")) == 2


def test_an_index_that_hangs_ends_in_bounded_time(place, index, monkeypatch):
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "1")
    index.faults = {"/simple/aaa": "hang"}
    with pytest.raises(NetworkFailed) as caught:
        place.install(PipSettings(index_url=index.simple), "aaa")
    assert f"{index.simple}: operation timed out" in caught.value.why


def test_a_name_that_is_unknown_says_so(place):
    with pytest.raises(NetworkFailed) as caught:
        place.install(PipSettings(index_url="http://me:secret@no-such-host.invalid/simple"), "aaa")
    assert "http://***@no-such-host.invalid/simple: " in caught.value.why
    assert "secret" not in caught.value.why + (caught.value.evidence or "")


def test_a_project_that_is_nowhere_is_explained(place, index):
    with pytest.raises(FirstlightError) as caught:
        place.install(PipSettings(index_url=index.simple), "nowhere>3")
    assert caught.value.code == 1
    assert "nowhere was not found in the package registry" in caught.value.why
    assert index.simple in caught.value.why


def test_what_exists_only_as_source_is_not_compiled_and_says_so(place, index):
    index.wheels["sourceonly"] = {"sourceonly-1.0.tar.gz": b"never read"}
    index.add("ccc", "1.0", requires=("sourceonly",))
    with pytest.raises(FirstlightError, match="sourceonly has no wheel for this machine") as caught:
        place.install(PipSettings(index_url=index.simple), "ccc")
    assert index.simple in caught.value.why
    assert "pip wheel --no-deps sourceonly" in caught.value.fix
    assert not [request for request in index.requests if "tar.gz" in request]


@pytest.mark.parametrize(("libc", "version"), [("2.17", "1.0"), ("2.30", "2.0")])
def test_another_machines_glibc_chooses_the_wheel(place, index, libc, version):
    tag = f"cp{MINOR.replace('.', '')}-cp{MINOR.replace('.', '')}"
    index.add("numbers", "2.0", tag=f"{tag}-manylinux_2_28_{ARCH}")
    index.add("numbers", "1.0", tag=f"{tag}-manylinux2014_{ARCH}")
    index.wheels["numbers"]["numbers-2.0.tar.gz"] = b"never read"
    target = python_platform(Host(arch=ARCH, libc="glibc", libc_version=libc))
    installed = place.install(PipSettings(index_url=index.simple), "numbers", platform=target)
    assert [(p.name, p.version) for p in installed] == [("numbers", version)]


def test_the_platform_is_the_newest_that_the_other_machine_can_have():
    def chosen(version, arch="x86_64"):
        return python_platform(Host(arch=arch, libc="glibc", libc_version=version))

    assert chosen(this_libc()) is None
    assert chosen(None) is None
    assert chosen("2.17", "arm64") == "aarch64-manylinux_2_17"
    assert python_platform(Host(arch="x86_64"), floor="2.28") == "x86_64-manylinux_2_28"
    assert [chosen(version) for version in ("2.27", "2.30", "2.99")] == [
        "x86_64-manylinux_2_17", "x86_64-manylinux_2_28", "x86_64-manylinux_2_40",
    ]  # fmt: skip
    with pytest.raises(FirstlightError, match=r"no wheels are made for glibc 2\.12"):
        chosen("2.12")


def test_versions_that_do_not_fit_are_explained(place, index):
    index.add("ccc", "1.0", requires=("bbb<2",))
    with pytest.raises(FirstlightError, match="no set of wheels fits") as caught:
        place.install(PipSettings(index_url=index.simple), "ccc", "bbb==2.0")
    assert "ccc" in caught.value.why
    assert len(caught.value.why) < 800


def test_a_corrupt_wheel_is_refused(place, index):
    index.faults = {"/files/bbb-2.0-py3-none-any.whl": "corrupt"}
    with pytest.raises(VerificationFailed):
        place.install(PipSettings(index_url=index.simple), "aaa")
    assert freeze(place.python) == []


@pytest.mark.parametrize("where", ["index", "requirement"])
def test_a_wrong_hash_tells_both(place, index, where):
    wish = "bbb"
    if where == "index":
        index.hashes = {"bbb-2.0-py3-none-any.whl": ZEROS}
    else:
        wish = f"bbb==2.0 --hash=sha256:{ZEROS}"
    with pytest.raises(VerificationFailed) as caught:
        place.install(PipSettings(index_url=index.simple), wish)
    assert f"expected sha256:{ZEROS}" in caught.value.why
    assert f"got sha256:{index.hash_of['bbb']}" in caught.value.why
    assert freeze(place.python) == []


def test_an_index_without_hashes_still_tells_the_sources(place, index):
    index.with_hashes = False
    installed = place.install(PipSettings(index_url=index.simple), "aaa")
    assert {p.source for p in installed} == {f"{index.url}/files/{n}-py3-none-any.whl" for n in ("aaa-1.0", "bbb-2.0")}
    assert [request for request in index.requests if request == "GET /files/bbb-2.0-py3-none-any.whl"] == [
        "GET /files/bbb-2.0-py3-none-any.whl"
    ]


def test_wheels_for_another_python_are_not_installed(place, index):
    with pytest.raises(FirstlightError, match=r"has Python .*, the wheels are for 3\.1$"):
        place.install(PipSettings(index_url=index.simple), "aaa", python_version="3.1")


def test_what_is_no_environment_is_named(tmp_path, index):
    place = Place(tmp_path)
    place.python = tmp_path / "nothing" / "bin" / "python"
    with pytest.raises(FirstlightError, match="is not a Python environment"):
        place.install(PipSettings(index_url=index.simple), "aaa")


def test_a_python_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FirstlightError, match=r"no virtual environment could be made with Python 3\.99") as caught:
        create_venv(tmp_path / "v", "3.99", cache=tmp_path / "c", step=Step(silent, "v", "v"), log=tmp_path / "log")
    assert "3.99" in caught.value.why


def test_a_shim_answers_for_a_name_without_metadata(place):
    add_metadata_shim(place.python, "the-engine", "0.32.0+cpu")
    assert place.run("import importlib.metadata as m; print(m.version('the-engine'))") == "0.32.0+cpu"
    assert place.run("import importlib.metadata as m; print(all(f.locate().exists() for f in m.files('the-engine')))")
    assert [(p.name, p.version) for p in freeze(place.python)] == [("the-engine", "0.32.0+cpu")]


def test_freeze_agrees_with_pythons_own_view():
    """Against the environment that runs the tests, with all its oddities."""
    root = Path(sys.prefix) / "lib" / f"python{MINOR}" / "site-packages"
    expected = {(d.metadata["Name"], d.version) for d in metadata.distributions(path=[str(root)])}
    assert {(p.name, p.version) for p in freeze(Path(sys.prefix) / "bin" / "python")} == expected


def test_real_wheels_from_the_users_own_registry(place):
    installed = place.install(read_pip_settings(), "markdown-it-py")
    assert {p.name for p in installed} == {"markdown-it-py", "mdurl"}
    assert all(p.source and p.sha256 for p in installed)
    assert place.run("import markdown_it; print(markdown_it.MarkdownIt().render('*x*'))") == "<p><em>x</em></p>"


@pytest.mark.root
def test_a_full_disk_is_named_with_what_is_missing(tmp_path, index):
    index.add("huge", "1.0", files={"huge/bytes.bin": os.urandom(24_000_000)})
    small = tmp_path / "small disk"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(small)], check=True)
    try:
        place = Place(small)
        with pytest.raises(FirstlightError) as caught:
            place.install(PipSettings(index_url=index.simple), "huge", expected_bytes=24_000_000)
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert caught.value.what == f"no room for the wheels of huge on {small}"
    assert "missing" in caught.value.why
    assert f"make room on {small}" in caught.value.fix


def test_a_silent_index_is_waited_for_in_words_and_given_up_within_a_minute(place, index, monkeypatch):
    """What a user's configuration may ask of uv, and what is told while an index says nothing."""
    index.faults = {"/simple/aaa": "hang"}
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "3")
    with pytest.raises(NetworkFailed) as caught:
        place.install(PipSettings(index_url=index.simple), "aaa")
    host = index.simple.split("/")[2]
    assert host in caught.value.why
    told = [event.detail for event in place.events if isinstance(event, StepProgress)]
    assert f"asking {host}" in told
    additions = network_variables(PipSettings(timeout=180.0), {})
    assert float(additions["UV_HTTP_TIMEOUT"]) * (1 + int(additions["UV_HTTP_RETRIES"])) <= 60
    assert network_variables(PipSettings(timeout=180.0), {"UV_HTTP_TIMEOUT": "300", "UV_HTTP_RETRIES": "9"}) == {}
