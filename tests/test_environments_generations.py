from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from support.local_channel import MINOR, index_channel, session_channel, write_package
from support.loopback_index import serve

from firstlight.environments import conda_list
from firstlight.environments.generations import EnvironmentSpec, Store, all_generations
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.preview import preview
from firstlight.environments.uv_program import clear_cache_leftovers, find_uv
from firstlight.environments.wheels import DirectWheel, Owned, WheelSet
from firstlight.errors import FirstlightError, NetworkFailed, UsageError
from firstlight.events import Note, Step
from firstlight.home import Home

# A build in a process of its own, so that it can be killed: argv is home, index, requirements.
BUILD = """
import sys
from pathlib import Path
from firstlight.environments.generations import EnvironmentSpec, Store
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.wheels import WheelSet
from firstlight.events import Step, silent
from firstlight.home import Home
home, index, *wishes = sys.argv[1:]
minor = "%d.%d" % sys.version_info[:2]
spec = EnvironmentSpec(build="b-1", kind="venv", python=minor, python_path=sys.executable,
    wheels=WheelSet(requirements=tuple(wishes)), expected_download=0, expected_disk=0)
store = Store(Home(Path(home)), "engine")
with store.lock() as held:
    print("locked", flush=True)
    settings = PipSettings(index_url=index)
    store.build(spec, step=Step(silent, "x", "x"), log=Path(home) / "log", settings=settings, hold=held)
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """The user's list of conda environments lies elsewhere, and nothing waits long."""
    (tmp_path / "user").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setattr(conda_list.pwd, "getpwuid", lambda _uid: SimpleNamespace(pw_dir=str(tmp_path / "user")))
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "60")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def channel(tmp_path_factory):
    return session_channel(tmp_path_factory.getbasetemp())


@pytest.fixture
def index():
    with serve() as server:
        server.add("aaa", "1.0", files={"aaa/data.txt": b"as it should be\n"})
        server.add("bbb", "2.0", files={"bbb/big.bin": os.urandom(300_000)})
        yield server


class Site:
    def __init__(self, folder: Path, index) -> None:
        self.home = Home(folder / "Haus für Motoren")
        self.store = Store(self.home, "engine")
        self.log = folder / "build.log"
        self.settings = PipSettings(index_url=index.simple)
        self.events: list[object] = []

    def spec(self, *requirements, **changes):
        wanted = EnvironmentSpec(
            build="b-1", kind="venv", python=MINOR, python_path=sys.executable,
            wheels=WheelSet(requirements=requirements or ("aaa",)), expected_download=1000, expected_disk=1000,
        )  # fmt: skip
        return msgspec.structs.replace(wanted, **changes)

    def build(self, spec):
        with self.store.lock() as held:
            step = Step(self.events.append, "environment", "environment")
            return self.store.build(spec, step=step, log=self.log, settings=self.settings, hold=(held,))

    @property
    def folders(self) -> list[str]:
        return sorted(entry.name for entry in self.store.folder.iterdir() if entry.is_dir() and not entry.is_symlink())


@pytest.fixture
def site(tmp_path, index):
    return Site(tmp_path, index)


def run(python: Path, program: str) -> str:
    return subprocess.run([python, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


def test_a_conda_generation_from_the_ground_up(site, channel, tmp_path):
    spec = site.spec(
        "aaa", "bbb", kind="conda", python_path=None, channels=(str(channel),),
        conda_specs=(f"python {MINOR}.*", "pip"), shims=(("the-engine", "9.9+cpu"),),
    )  # fmt: skip
    built = site.build(spec)
    listing = tmp_path / "user" / ".conda" / "environments.txt"
    assert (built.state, built.kind, built.channel, built.registered) == ("built", "conda", channel.as_uri(), listing)
    assert listing.read_text() == f"{built.prefix}\n"
    assert {package.name for package in built.conda} == {"python", "pip"}
    assert {package.name for package in built.wheels} == {"aaa", "bbb"}
    program = "import aaa, sys, importlib.metadata as m; print(sys.prefix, m.version('the-engine'))"
    assert run(built.python_path, program) == f"{built.prefix} 9.9+cpu"
    assert site.store.list() == [built]
    assert site.store.find(spec.key) == built
    with site.store.lock():
        assert site.store.remove() == [f"took {built.prefix} off {listing}", f"removed {built.prefix}"]
    assert listing.read_text() == ""
    assert site.folders == []


def test_a_conda_generation_for_an_older_glibc_takes_packages_for_it(site, channel, tmp_path):
    mixed = tmp_path / "mixed" / "conda-forge"
    shutil.copytree(channel, mixed)
    write_package(mixed, "tool", "2.0", depends=["__glibc >=2.30"], noarch="generic")
    write_package(mixed, "tool", "1.0", depends=["__glibc >=2.17"], noarch="generic")
    index_channel(mixed)
    wheels = WheelSet(requirements=("aaa",), platform=f"{os.uname().machine}-manylinux_2_28")
    spec = site.spec(
        kind="conda", python_path=None, channels=(str(mixed),), conda_specs=(f"python {MINOR}.*", "tool"), wheels=wheels
    )
    assert {package.name: package.version for package in site.build(spec).conda}["tool"] == "1.0"


def test_current_and_previous_are_relative_links(site):
    first, second = site.build(site.spec("aaa")), site.build(site.spec("bbb"))
    site.store.switch(first)
    assert (site.store.current(), site.store.previous()) == (first, None)
    site.store.switch(second)
    site.store.switch(second)
    links = {name: str((site.store.folder / name).readlink()) for name in ("current", "previous")}
    assert links == {"current": second.id, "previous": first.id}
    proven = site.store.mark_proven(second)
    assert site.store.current() == proven
    assert site.store.rollback() == first
    assert (site.store.current(), site.store.previous()) == (first, proven)
    assert site.store.rollback() == proven
    assert [(item.id, item.current, item.previous) for item in all_generations(site.home)] == [
        (item.id, item.id == second.id, item.id == first.id) for item in site.store.list()
    ]


def test_there_is_no_way_back_where_nothing_was(site):
    with pytest.raises(FirstlightError, match="engine has no previous environment"):
        site.store.rollback()


def test_a_damaged_previous_is_not_gone_back_to(site):
    first, second = site.build(site.spec("aaa")), site.build(site.spec("bbb"))
    site.store.switch(first)
    site.store.switch(second)
    first.python_path.unlink()
    with pytest.raises(FirstlightError, match="cannot be used") as caught:
        site.store.rollback()
    assert "is gone" in caught.value.why
    assert site.store.current() == second
    assert site.store.find(first.key) is None


def test_the_current_one_is_not_removed_by_name(site):
    first, second = site.build(site.spec("aaa")), site.build(site.spec("bbb"))
    site.store.switch(first)
    site.store.switch(second)
    with pytest.raises(UsageError, match="is the current environment"):
        site.store.remove(second.id)
    with pytest.raises(UsageError, match=f'did you mean "{first.id}"'):
        site.store.remove(first.id[:-1])
    assert site.store.remove(first.id) == [f"removed {first.prefix}"]
    assert site.store.previous() is None
    assert site.folders == [second.id]
    assert site.store.remove() == [f"removed {second.prefix}"]
    assert (site.store.current(), site.folders) == (None, [])
    assert sorted(entry.name for entry in site.store.folder.iterdir()) == [".lock"]


def test_a_killed_build_goes_on_from_its_bytes(site, index):
    """kill -9 in the middle: the lock holds as long as uv lives, the rest is removed, nothing is fetched twice."""
    index.faults = {"/files/bbb-2.0-py3-none-any.whl": "stall"}
    site.home.prepare()
    words = [sys.executable, "-c", BUILD, str(site.home.root), index.simple, "aaa", "bbb"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as builder:
        wait_for(
            lambda: (
                {"GET /files/aaa-1.0-py3-none-any.whl", "GET /files/bbb-2.0-py3-none-any.whl"} <= set(index.requests)
            )
        )
        wait_for(lambda: list(site.home.wheel_cache.glob("wheels-v*/index/*/aaa/*.http")))  # it is whole
        with pytest.raises(FirstlightError, match="another firstlight is changing") as caught, site.store.lock():
            pass
        assert str(builder.pid) in caught.value.what
        builder.send_signal(signal.SIGKILL)
    left = site.folders
    assert [item.state for item in site.store.list()] == ["building"]
    assert site.store.list()[0].problems
    index.faults = {}
    with site.store.lock(wait=300):  # what the dead parent started has ended
        pass
    index.requests.clear()
    built = site.build(site.spec("aaa", "bbb"))
    assert built.state == "built"
    assert run(built.python_path, "import aaa, bbb; print(aaa.VERSION, bbb.VERSION)") == "1.0 2.0"
    assert site.folders == [built.id]
    assert left == [built.id]
    fetched = [request for request in index.requests if request.startswith("GET /files/") and "bytes=" not in request]
    assert fetched == ["GET /files/bbb-2.0-py3-none-any.whl"]


def test_what_a_killed_uv_left_in_the_cache_is_removed_but_not_under_a_working_one(site):
    site.build(site.spec("aaa"))
    left = site.home.wheel_cache / ".tmpAbC123"
    left.mkdir()
    (left / "half.whl").write_bytes(b"half")
    with (site.home.wheel_cache / ".lock").open("rb") as working:
        fcntl.flock(working, fcntl.LOCK_SH)
        clear_cache_leftovers(site.home.wheel_cache)
        assert left.exists()
    site.build(site.spec("bbb"))
    assert not left.exists()


def test_the_preview_names_what_is_written_and_words_that_work(site, index, tmp_path):
    spec = site.spec("aaa", "bbb")
    spec = msgspec.structs.replace(spec, wheels=msgspec.structs.replace(spec.wheels, constraints=("aaa<2",)))
    settings = msgspec.structs.replace(
        site.settings, find_links=(str(tmp_path),), extra_index_urls=("http://me:secret@127.0.0.1:1/simple",)
    )
    seen = preview(site.store, spec, settings)
    base, wheels = seen.commands
    assert wheels[wheels.index("--find-links") + 1] == str(tmp_path)
    assert wheels[wheels.index("--index") + 1] == "http://***@127.0.0.1:1/simple"
    assert wheels[wheels.index("--default-index") + 1] == index.simple
    for words in (base, preview(site.store, spec, site.settings).commands[1]):
        for file in seen.files:
            if file.content is not None:
                Path(file.path).parent.mkdir(parents=True, exist_ok=True)
                Path(file.path).write_text(file.content)
        subprocess.run([str(find_uv()), *words[1:]], check=True, capture_output=True)
    prefix = Path(wheels[wheels.index("--python") + 1]).parent.parent
    assert run(prefix / "bin" / "python", "import aaa, bbb; print(bbb.VERSION)") == "2.0"
    shutil.rmtree(prefix)
    built = site.build(spec)
    written = {str(path) for path in built.prefix.glob("wish/*")}
    assert written == {file.path for file in seen.files if "/wish/" in file.path}


def test_an_interrupted_build_leaves_nothing_running_and_can_be_run_again(site, index):
    index.faults = {"/files/bbb-2.0-py3-none-any.whl": "stall"}
    site.home.prepare()
    words = [sys.executable, "-c", BUILD, str(site.home.root), index.simple, "bbb"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as builder:
        wait_for(lambda: "GET /files/bbb-2.0-py3-none-any.whl" in index.requests)
        builder.send_signal(signal.SIGINT)
    assert builder.returncode != 0
    index.faults = {}
    built = site.build(site.spec("bbb"))  # the lock is free at once
    assert site.folders == [built.id]


def wait_for(true) -> None:
    deadline = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_failed_build_leaves_the_machine_as_it_was(site, index):
    current = site.build(site.spec("aaa"))
    site.store.switch(current)
    index.faults = {"/files/bbb-2.0-py3-none-any.whl": "500"}
    with pytest.raises(NetworkFailed):
        site.build(site.spec("bbb"))
    assert site.folders == [current.id]
    assert site.store.current() == current


def test_one_writer_at_a_time(site):
    with site.store.lock():
        with pytest.raises(FirstlightError, match=f"process {os.getpid()}"), Store(site.home, "engine").lock():
            pass
        with Store(site.home, "other").lock():
            pass
        assert site.store.list() == []


def test_two_engines_are_built_at_the_same_time(tmp_path, index):
    from concurrent.futures import ThreadPoolExecutor

    sites = [Site(tmp_path, index), Site(tmp_path, index)]
    sites[1].store = Store(sites[1].home, "other")
    with ThreadPoolExecutor(2) as pool:
        built = list(pool.map(lambda site: site.build(site.spec("aaa", "bbb")), sites))
    assert [run(item.python_path, "import aaa, bbb; print(1)") for item in built] == ["1", "1"]
    assert [item.engine for item in all_generations(sites[0].home)] == ["engine", "other"]


def test_repair_heals_what_was_edited_in_the_environment_and_so_in_the_cache(site):
    first = site.build(site.spec("aaa", "bbb"))
    data = f"lib/python{MINOR}/site-packages/aaa/data.txt"
    (first.prefix / data).write_text("edited in place, and with it the file in the cache\n")
    with site.store.lock() as held:
        second = site.store.repair(
            first, step=Step(site.events.append, "e", "e"), log=site.log, settings=site.settings, hold=held
        )
    assert (second.prefix / data).read_text() == "as it should be\n"
    assert (second.id, second.key) == (f"{first.id}.2", first.key)
    assert {package.name for package in second.wheels} == {"aaa", "bbb"}
    assert [event.text for event in site.events if isinstance(event, Note)] == [
        "damaged in the cache, fetched again: aaa"
    ]


def test_the_key_knows_what_matters():
    def key(**changes):
        wheels = {"requirements": ("engine==1",), "owned": owned(), "direct": direct(), **changes.pop("wheels", {})}
        spec = EnvironmentSpec(
            build="b", kind="conda", python="3.12", channels=("https://a/conda-forge",), conda_specs=("python 3.12.*",),
            wheels=WheelSet(**wheels), expected_download=1, expected_disk=1,
        )  # fmt: skip
        return msgspec.structs.replace(spec, **changes).key

    def owned(place="index:https://a/whl/cu129", version="2.13.0+cu129", asked=True):
        return (Owned(name="torch", version=version, places=(place,), asked=asked),)

    def direct(host="a", sha256="0" * 64):
        return (DirectWheel(urls=(f"https://{host}/v1/engine-1%2Bcu129-py3-none-any.whl",), sha256=sha256),)

    same = key()
    assert len(same) == 64
    assert key(channels=("https://b/cloud/conda-forge", "https://a/conda-forge")) == same
    assert key(expected_download=5, expected_disk=7) == same
    assert key(python_path="/opt/python3.12/bin/python3.12") == same
    assert key(wheels={"owned": owned("find-links:/usb"), "find_links": ("/usb",)}) == same
    assert key(wheels={"direct": direct("mirror")}) == same
    assert key(wheels={"default_index": "https://mirror/pypi/simple"}) == same
    others = [
        key(python="3.11"), key(kind="venv"), key(shims=(("a", "1"),)), key(channels=("https://a/nvidia",)),
        key(conda_specs=("python 3.11.*",)), key(wheels={"requirements": ("engine==2",)}),
        key(wheels={"owned": owned(version="2.13.0+cpu")}), key(wheels={"owned": owned(asked=False)}),
        key(wheels={"direct": direct(sha256="1" * 64)}), key(wheels={"platform": "x86_64-manylinux_2_17"}),
        key(wheels={"excludes": ("triton",)}),
    ]  # fmt: skip
    assert len({same, *others}) == len(others) + 1


def test_rubbish_in_the_folder_is_told_and_harms_nothing(site):
    good = site.build(site.spec("aaa"))
    site.store.switch(good)
    for name, text in (("broken", "{not json"), ("alien", '{"engine": 7}'), ("binary", "\0\xff")):
        (site.store.folder / name).mkdir()
        (site.store.folder / name / "firstlight-generation.json").write_text(text, encoding="latin-1")
    (site.store.folder / "empty").mkdir()
    (site.store.folder / "a file").write_text("x")
    (site.store.folder / "previous").symlink_to("nowhere")
    (site.home.environments / "stray file").write_text("x")
    listed = {item.id: item for item in site.store.list()}
    assert set(listed) == {good.id, "broken", "alien", "binary"}
    assert all("cannot be read" in listed[name].problems[0] for name in ("broken", "alien", "binary"))
    assert (site.store.current(), site.store.previous()) == (good, None)
    assert len(all_generations(site.home)) == 4
    again = site.build(site.spec("bbb"))
    assert site.store.find(again.key) == again
    assert "empty" in site.folders
    site.store.remove("broken")
    site.store.remove()
    assert site.store.list() == []


def test_a_moved_home_is_told(site, tmp_path):
    built = site.build(site.spec("aaa"))
    site.home.root.rename(tmp_path / "elsewhere")
    moved = Store(Home(tmp_path / "elsewhere"), "engine").list()[0]
    assert moved.id == built.id
    assert moved.problems == (f"{built.python_path} is gone",)


def test_an_environment_that_is_there_is_adopted_and_never_written_into(site, tmp_path):
    mine = tmp_path / "my env ü"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(mine)], check=True)
    info = mine / "lib" / f"python{MINOR}" / "site-packages" / "thing-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.5\n")
    before = {str(p): p.lstat().st_mtime_ns for p in mine.rglob("*")}
    adopted = site.store.adopt(mine)
    site.store.switch(adopted)
    assert (adopted.kind, adopted.prefix, adopted.python) == ("adopted", mine, MINOR)
    assert [(package.name, package.version) for package in adopted.wheels] == [("thing", "1.5")]
    assert site.store.current() == adopted
    assert run(adopted.python_path, "import sys; print(sys.prefix)") == str(mine)
    with pytest.raises(UsageError, match="was not built by firstlight"):
        site.store.repair(adopted, step=Step(site.events.append, "e", "e"), log=site.log, settings=site.settings)
    assert site.store.adopt(mine).id == adopted.id
    assert site.store.remove() == [f"removed {site.store.folder / adopted.id}; {mine} itself stays as it is"]
    assert {str(p): p.lstat().st_mtime_ns for p in mine.rglob("*")} == before


@pytest.mark.parametrize("kind", ["empty", "broken", "absent", "own"])
def test_what_cannot_be_adopted_is_refused_clearly(site, tmp_path, kind):
    prefix = tmp_path / "candidate"
    if kind in {"empty", "broken"}:
        (prefix / "bin").mkdir(parents=True)
    if kind == "broken":
        (prefix / "bin" / "python").write_text("#!/bin/sh\necho damaged >&2\nexit 3\n")
        (prefix / "bin" / "python").chmod(0o755)
    if kind == "own":
        prefix = site.build(site.spec("aaa")).prefix
    with pytest.raises(UsageError) as caught:
        site.store.adopt(prefix)
    told = f"{caught.value.what} {caught.value.why}"
    assert {"empty": "is not there", "absent": "is not there", "broken": "damaged", "own": "own environment"}[
        kind
    ] in told
    assert caught.value.fix


def test_what_does_not_fit_on_the_disk_is_said_before_anything_is_written(site):
    with pytest.raises(FirstlightError, match="no room for the environment b-1") as caught:
        site.build(site.spec("aaa", expected_disk=1 << 60))
    assert "missing" in caught.value.why
    assert site.folders == []


def test_an_equal_environment_beside_needs_little_room(site):
    first = site.build(site.spec("aaa"))
    free = os.statvfs(site.home.root)
    more_than_there_is = free.f_bavail * free.f_frsize * 2
    assert site.build(site.spec("aaa", expected_disk=more_than_there_is)).id == f"{first.id}.2"


def test_a_python_that_is_not_the_planned_one_is_refused(site):
    with pytest.raises(FirstlightError, match=rf"has Python {MINOR}, not 3\.1$"):
        site.build(site.spec("aaa", python="3.1"))
    assert site.folders == []


@pytest.mark.root
def test_a_small_disk_is_named_and_another_is_proposed(tmp_path, index):
    small = tmp_path / "small disk"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=5m", "tmpfs", str(small)], check=True)
    try:
        site = Site(small, index)
        with pytest.raises(FirstlightError) as caught:
            site.build(site.spec("aaa", expected_disk=50_000_000))
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert caught.value.what == f"no room for the environment b-1 on {small}"
    assert "needs 50.0 MB" in caught.value.why
    assert "export FIRSTLIGHT_HOME=" in caught.value.fix
