"""Environments from locks: no resolver, every byte checked, and nothing taken that the lock does not name."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from support.local_channel import MINOR, session_channel
from support.loopback_index import make_wheel, serve
from support.small_catalogue import build as made_build

from firstlight.environments.conda import create_prefix
from firstlight.environments.distributions import InstalledPackage
from firstlight.environments.locking.applying import with_lock
from firstlight.environments.locking.conda_files import LockedConda, from_canonical, specs_of, stock
from firstlight.environments.locking.holding import hold, holding
from firstlight.environments.locking.lockfile import LockedWheel, PipLock
from firstlight.environments.owning import DirectWheel, Owned
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.spec import EnvironmentSpec, Generation
from firstlight.environments.venvs import create_venv
from firstlight.environments.wheels import WheelSet, freeze, install_wheels
from firstlight.errors import FirstlightError, NetworkFailed, VerificationFailed
from firstlight.events import Step, silent
from firstlight.home import Home

ZEROS = "0" * 64


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "10")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Place:
    """An environment and its cache."""

    def __init__(self, folder):
        self.folder, self.cache, self.log = folder, folder / "cache", folder / "log"
        quiet = Step(silent, "venv", "venv")
        self.python = create_venv(folder / "prefix", sys.executable, cache=self.cache, step=quiet, log=self.log)

    def install(self, index, *lines, whole=True, **more):
        wheels = WheelSet(requirements=more.pop("requirements", ()), locked=lines, whole=whole, **more)
        step = Step(silent, "wheels", "wheels")
        settings = PipSettings(index_url=index.simple)
        return install_wheels(self.python, wheels, settings, self.cache, step=step, log=self.log)

    @property
    def there(self):
        return {package.name: package.version for package in freeze(self.python)}


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def index():
    with serve() as server:
        server.sums = {
            "aaa": server.add("aaa", "1.0", requires=("bbb", "missing>=3")),
            "bbb": server.add("bbb", "2.0"),
        }
        server.add("aaa", "1.1")
        yield server


def line(index, name, version, sha256=None):
    return f"{name}=={version} --hash=sha256:{sha256 or index.sums[name]}"


def test_what_the_lock_names_is_installed_without_a_resolver(place, index):
    installed = place.install(index, line(index, "aaa", "1.0"), line(index, "bbb", "2.0"))
    assert place.there == {"aaa": "1.0", "bbb": "2.0"}, "a newer release and what the metadata lacks are left alone"
    assert {(one.name, one.sha256) for one in installed} == set(index.sums.items())


def test_no_package_is_asked_for_more_than_one_page(place, index):
    place.install(index, line(index, "aaa", "1.0"), line(index, "bbb", "2.0"))
    pages = [request for request in index.requests if "/simple/" in request]
    assert sorted(pages) == ["GET /simple/aaa/", "GET /simple/bbb/"]
    assert not any("missing" in request for request in index.requests)


def test_a_warm_cache_asks_for_no_wheel(place, index, tmp_path):
    lines = line(index, "aaa", "1.0"), line(index, "bbb", "2.0")
    place.install(index, *lines)
    index.requests.clear()
    again = Place.__new__(Place)
    again.folder, again.cache, again.log = tmp_path, place.cache, place.log
    quiet = Step(silent, "venv", "venv")
    again.python = create_venv(tmp_path / "again", sys.executable, cache=place.cache, step=quiet, log=place.log)
    again.install(index, *lines)
    assert again.there == {"aaa": "1.0", "bbb": "2.0"}
    assert [request for request in index.requests if "/files/" in request] == []


def test_other_bytes_under_the_same_name_are_refused_by_their_name(place, index):
    _name, other = make_wheel("bbb", "2.0", files={"bbb/evil.py": b"steal()"})
    index.wheels["bbb"]["bbb-2.0-py3-none-any.whl"] = other
    with pytest.raises(VerificationFailed) as caught:
        place.install(index, line(index, "aaa", "1.0"), line(index, "bbb", "2.0"), lock_file="b/requirements.lock")
    assert "bbb" in caught.value.what
    assert "b/requirements.lock" in caught.value.why
    assert "--unlocked" in caught.value.fix
    assert "bbb" not in place.there


@pytest.mark.root
def test_a_full_disk_is_not_blamed_on_the_lock(tmp_path, index):
    index.sums["huge"] = index.add("huge", "1.0", files={"huge/bytes.bin": os.urandom(24_000_000)})
    small = tmp_path / "small disk"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(small)], check=True)
    try:
        with pytest.raises(FirstlightError, match="no room") as caught:
            Place(small).install(index, line(index, "huge", "1.0"), lock_file="b/requirements.lock")
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert f"make room on {small}" in caught.value.fix
    assert "--unlocked" not in caught.value.fix


def test_a_hash_that_does_not_hold_is_refused(place, index):
    with pytest.raises(VerificationFailed, match="aaa"):
        place.install(index, line(index, "aaa", "1.0", ZEROS))
    assert place.there == {}


def test_a_package_that_has_vanished_is_named(place, index):
    with pytest.raises(FirstlightError) as caught:
        place.install(
            index, line(index, "aaa", "1.0"), f"gone==3.0 --hash=sha256:{ZEROS}", lock_file="b/requirements.lock"
        )
    assert "b/requirements.lock" in caught.value.what
    assert "gone" in caught.value.why
    assert place.there == {}


def test_a_version_that_has_vanished_is_named(place, index):
    with pytest.raises(FirstlightError) as caught:
        place.install(index, f"aaa==0.9 --hash=sha256:{ZEROS}")
    assert "aaa==0.9" in f"{caught.value.what} {caught.value.why} {caught.value.evidence}"


def test_what_others_own_is_taken_from_them_and_held_to_the_hash_of_the_lock(place, index):
    name, owned = make_wheel("torch", "1.0+cu1", files={"torch/owned.txt": b"x"})
    index.files["/whl/cu1/torch/"] = f'<a href="/files2/{name.replace("+", "%2B")}">{name}</a>'.encode()
    index.files[f"/files2/{name}"] = owned
    index.add("torch", "1.0")
    owner = Owned(name="torch", version="1.0+cu1", places=(f"index:{index.url}/whl/cu1",))
    whole = f"torch==1.0+cu1 --hash=sha256:{hashlib.sha256(owned).hexdigest()}"
    place.install(index, line(index, "bbb", "2.0"), whole, owned=(owner,))
    assert place.there == {"bbb": "2.0", "torch": "1.0+cu1"}
    index.files[f"/files2/{name}"] = make_wheel("torch", "1.0+cu1", files={"torch/other.txt": b"y"})[1]
    other = Place(place.folder / "other")
    with pytest.raises(VerificationFailed, match="torch"):
        other.install(index, whole, owned=(owner,))


def test_the_second_mirror_stands_in_for_the_first(place, index):
    name, content = make_wheel("engine", "1.0")
    index.files[f"/good/{name}"] = content
    wheel = DirectWheel(urls=(f"{index.url}/bad/{name}", f"{index.url}/good/{name}"), sha256=None)
    locked = f"engine==1.0 --hash=sha256:{hashlib.sha256(content).hexdigest()}"
    place.install(index, locked, direct=(wheel,))
    assert place.there == {"engine": "1.0"}


def test_a_pinned_build_is_installed_in_two_steps(place, index):
    index.add("open", "5.0", requires=("bbb", "cuda-one<3"))
    index.add("cuda-one", "2.0")
    index.add("bbb", "3.0")
    place.install(
        index, line(index, "bbb", "2.0"), whole=False, requirements=("open==5.0",), constraints=("bbb==2.0",)
    )  # fmt: skip
    assert place.there == {"bbb": "2.0", "open": "5.0", "cuda-one": "2.0"}


def test_what_a_pinned_build_fetched_by_its_address_is_fetched_once_and_keeps_its_sum(place, index):
    name, torch = make_wheel("torch", "1.0+cu1", requires=("cuda-one<3",))
    quoted = name.replace("+", "%2B")
    index.files["/whl/cu1/torch/"] = f'<!DOCTYPE html><html><a href="/files2/{quoted}">{name}</a></html>'.encode()
    index.files[f"/files2/{name}"] = torch
    index.add("cuda-one", "2.0")
    file, engine = make_wheel("engine", "1.0+cu1", requires=("bbb", "torch==1.0"))
    index.files[f"/releases/{file}"] = engine
    sums = {"torch": hashlib.sha256(torch).hexdigest(), "engine": hashlib.sha256(engine).hexdigest()}
    installed = place.install(
        index,
        line(index, "bbb", "2.0"),
        *(f"{name}==1.0+cu1 --hash=sha256:{value}" for name, value in sums.items()),
        whole=False,
        constraints=("bbb==2.0",),
        owned=(Owned(name="torch", version="1.0+cu1", places=(f"index:{index.url}/whl/cu1",)),),
        direct=(DirectWheel(urls=(f"{index.url}/releases/{file}",)),),
    )
    assert place.there == {"bbb": "2.0", "torch": "1.0+cu1", "engine": "1.0+cu1", "cuda-one": "2.0"}
    assert {one.name: one.sha256 for one in installed if one.name in sums} == sums
    assert all(one.sha256 for one in installed)
    for path in (f"GET /files2/{name}", f"GET /releases/{file}"):
        assert index.requests.count(path) == 1


def test_the_last_words_of_uv_are_told_though_they_stand_on_its_spinners_line(place, index):
    index.files["/whl/cu1/torch/"] = b"no page"
    owner = Owned(name="torch", version="1.0+cu1", places=(f"index:{index.url}/whl/cu1",))
    with pytest.raises(FirstlightError) as caught:
        place.install(index, line(index, "bbb", "2.0"), whole=False, owned=(owner,))
    assert "Content-Type" in caught.value.why


class TestConda:
    @pytest.fixture
    def locked(self, tmp_path_factory):
        """The packages of a channel of this machine, as a lock has them, and a server that holds them."""
        channel = session_channel(tmp_path_factory.getbasetemp())
        found = []
        for subdir in ("linux-64", "linux-aarch64", "noarch"):
            listing = channel / subdir / "repodata.json"
            if not listing.is_file():
                continue
            for name, one in json.loads(listing.read_text())["packages.conda"].items():
                if one["name"] in {"python", "pip", "setuptools", "ca-certificates", "tzdata", "python_abi"}:
                    found.append(
                        LockedConda(
                            path=f"{subdir}/{name}", md5=one["md5"], sha256=one["sha256"], depends=tuple(one["depends"])
                        )
                    )
        with serve() as server:
            server.folders["/mirror/conda-forge"] = channel
            yield server, found

    def stocked(self, locked, folder, channels=None):
        server, packages = locked
        step = Step(silent, "conda", "conda")
        places = channels or [f"{server.url}/mirror/conda-forge"]
        return stock(packages, places, folder, PipSettings(), step=step)

    def test_an_environment_is_made_of_the_very_packages_and_knows_where_they_are_from(self, locked, tmp_path):
        channel = self.stocked(locked, tmp_path / "archives")
        _server, packages = locked
        prefix = tmp_path / "prefix"
        step = Step(silent, "conda", "conda")
        made = create_prefix(
            prefix, specs_of(packages), (channel,), tmp_path / "cache", step=step, log=tmp_path / "log"
        )
        made = from_canonical(made, channel, prefix)
        assert {one.sha256 for one in made} == {package.sha256 for package in packages}
        assert {one.channel for one in made} == {"https://conda.anaconda.org/conda-forge"}
        records = [json.loads(path.read_text()) for path in (prefix / "conda-meta").glob("*.json")]
        assert not any(channel in json.dumps(record) for record in records)
        assert (prefix / "bin" / f"python{MINOR}").exists()

    def test_what_is_there_already_is_not_fetched_again(self, locked, tmp_path):
        self.stocked(locked, tmp_path / "archives")
        locked[0].requests.clear()
        self.stocked(locked, tmp_path / "archives")
        assert locked[0].requests == []

    def test_two_sets_do_not_change_each_others_listing(self, locked, tmp_path):
        server, packages = locked
        first = self.stocked(locked, tmp_path / "archives")
        listing = Path(first.removeprefix("file://")) / "noarch" / "repodata.json"
        before = listing.read_text()
        second = self.stocked((server, packages[:1]), tmp_path / "archives")
        assert second != first
        assert listing.read_text() == before

    def test_a_mirror_that_lies_is_refused_by_the_package_name(self, locked, tmp_path, monkeypatch):
        monkeypatch.setattr("firstlight.environments.locking.conda_files.CANONICAL", f"{locked[0].url}/none")
        small = next(package for package in locked[1] if package.path.startswith("noarch/"))
        whole = locked[0].body(f"/mirror/conda-forge/{small.path}")
        locked[0].files[f"/mirror/conda-forge/{small.path}"] = bytes([whole[0] ^ 1]) + whole[1:]
        with pytest.raises((VerificationFailed, NetworkFailed)) as caught:
            self.stocked(locked, tmp_path / "archives")
        assert small.file in f"{caught.value.what} {caught.value.why}"
        assert not (tmp_path / "archives" / small.path).exists()

    def test_a_package_that_has_vanished_is_named(self, locked, tmp_path, monkeypatch):
        monkeypatch.setattr("firstlight.environments.locking.conda_files.CANONICAL", f"{locked[0].url}/none")
        gone = LockedConda(path="noarch/gone-1.0-0.conda", md5="0" * 32, sha256=ZEROS)
        with pytest.raises(NetworkFailed) as caught:
            self.stocked((locked[0], [*locked[1], gone]), tmp_path / "archives")
        assert "gone-1.0-0.conda" in f"{caught.value.what} {caught.value.why}"


class TestHeld:
    """A pinned build: what its first install came to is what later ones take."""

    @pytest.fixture
    def lock(self):
        return PipLock(
            build="engine-1-cu1", python=MINOR, platform="p", wish="w", resolved="2026-01-02", open=True,
            wheels=(LockedWheel(name="bbb", version="2.0", sha256=("b" * 64,)),),
        )  # fmt: skip

    def generation(self, lock, folder, *wheels):
        wanted = WheelSet(requirements=("open",), locked=("bbb==2.0",), lock=lock.digest, locked_platform="p")
        spec = EnvironmentSpec(
            build=lock.build, kind="venv", python=MINOR, wheels=wanted, expected_download=1, expected_disk=1
        )
        return Generation(
            engine="engine", id="g", build=lock.build, kind="venv", python=MINOR, prefix=folder, state="built",
            created="", spec=spec, wheels=list(wheels),
        )  # fmt: skip

    def test_later_installs_take_the_very_files(self, lock, tmp_path):
        home, build = Home(tmp_path), made_build(lock.build, pythons=[MINOR])
        came = InstalledPackage(name="Open_Library", version="5.0", sha256="A" * 64)
        hold(home, self.generation(lock, tmp_path, came))
        held = with_lock(WheelSet(requirements=("open",)), lock, build, home)
        assert held.whole
        assert held.locked == (f"open-library==5.0 --hash=sha256:{'a' * 64}",)

    def test_what_came_without_a_hash_is_held_by_its_version(self, lock, tmp_path):
        home, build = Home(tmp_path), made_build(lock.build, pythons=[MINOR])
        hold(home, self.generation(lock, tmp_path, InstalledPackage(name="open", version="5.0")))
        held = with_lock(WheelSet(requirements=("open",)), lock, build, home)
        assert (held.whole, held.locked, held.constraints) == (False, (), ("open==5.0",))

    def test_the_first_one_stays(self, lock, tmp_path):
        home = Home(tmp_path)
        hold(home, self.generation(lock, tmp_path, InstalledPackage(name="open", version="5.0", sha256="a" * 64)))
        path = hold(
            home, self.generation(lock, tmp_path, InstalledPackage(name="open", version="6.0", sha256="b" * 64))
        )
        assert "open==5.0" in path.read_text()

    def test_each_lock_of_the_catalogue_has_its_own(self, lock, tmp_path):
        home, build = Home(tmp_path), made_build(lock.build, pythons=[MINOR])
        newer = msgspec.structs.replace(lock, resolved="2026-02-03")
        for each, version in ((lock, "5.0"), (newer, "6.0")):
            came = InstalledPackage(name="open", version=version, sha256="a" * 64)
            hold(home, self.generation(each, tmp_path, came))
        for each, version in ((lock, "5.0"), (newer, "6.0")):
            held = with_lock(WheelSet(requirements=("open",)), each, build, home)
            assert held.locked == (f"open=={version} --hash=sha256:{'a' * 64}",)

    def test_what_cannot_be_read_any_more_is_written_anew(self, lock, tmp_path):
        home, build = Home(tmp_path), made_build(lock.build, pythons=[MINOR])
        came = self.generation(lock, tmp_path, InstalledPackage(name="open", version="5.0", sha256="a" * 64))
        path = hold(home, came)
        path.write_text(path.read_text()[:-20])
        assert not with_lock(WheelSet(requirements=("open",)), lock, build, home).whole
        assert hold(home, came) == path
        assert with_lock(WheelSet(requirements=("open",)), lock, build, home).whole

    def test_a_repair_takes_the_very_files_too(self, lock, tmp_path):
        home = Home(tmp_path)
        came = self.generation(lock, tmp_path, InstalledPackage(name="open", version="5.0", sha256="a" * 64))
        hold(home, came)
        again = holding(home, came.spec.wheels, lock.build, MINOR)
        assert again.whole
        assert again.locked == (f"open==5.0 --hash=sha256:{'a' * 64}",)
        assert msgspec.structs.replace(came.spec, wheels=again).key == came.spec.key

    def test_a_newer_lock_of_the_catalogue_is_not_held_back(self, lock, tmp_path):
        home, build = Home(tmp_path), made_build(lock.build, pythons=[MINOR])
        hold(home, self.generation(lock, tmp_path, InstalledPackage(name="open", version="5.0", sha256="a" * 64)))
        newer = msgspec.structs.replace(lock, wheels=(LockedWheel(name="bbb", version="3.0", sha256=("c" * 64,)),))
        held = with_lock(WheelSet(requirements=("open",)), newer, build, home)
        assert held.locked == (f"bbb==3.0 --hash=sha256:{'c' * 64}",)

    def test_the_second_setup_wants_the_same_environment_as_the_first(self, lock, tmp_path):
        home, build = Home(tmp_path), made_build(lock.build, pythons=[MINOR])
        asked = WheelSet(requirements=("open",))

        def key():
            wheels = with_lock(asked, lock, build, home)
            return EnvironmentSpec(
                build=lock.build, kind="venv", python=MINOR, wheels=wheels, expected_download=1, expected_disk=1
            ).key

        before = key()
        hold(home, self.generation(lock, tmp_path, InstalledPackage(name="open", version="5.0", sha256="a" * 64)))
        assert key() == before
