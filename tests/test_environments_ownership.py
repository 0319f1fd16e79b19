"""Who owns a distribution: torch and its companions from one index, engines' wheels by their address."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from support.loopback_index import make_wheel, serve

from firstlight.catalogue.types import MirrorSet, Wheel
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.venvs import create_venv
from firstlight.environments.wheel_sources import probe_wheel
from firstlight.environments.wheels import DirectWheel, Owned, WheelSet, install_wheels
from firstlight.environments.wheelset import source_words, wish_files
from firstlight.errors import FirstlightError, NetworkFailed, VerificationFailed
from firstlight.events import Note, Step, silent

MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
CP = f"cp{MINOR.replace('.', '')}"
TAG = f"{CP}-{CP}-manylinux2014_{platform.machine()}"
ENGINE = "engine-1.0+cu129-py3-none-any.whl"


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    """No UV_* of the caller; a busy machine is not taken for silence."""
    for name in [name for name in os.environ if name.startswith("UV_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_HTTP_TIMEOUT", "60")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """An environment to begin with, made once."""
    folder = tmp_path_factory.mktemp("base")
    step = Step(silent, "venv", "venv")
    create_venv(folder / "v", sys.executable, cache=folder / "cache", step=step, log=folder / "log")
    return folder / "v"


class Place:
    """An environment and what was reported while wheels were installed into it."""

    def __init__(self, folder: Path, base: Path) -> None:
        self.folder, self.prefix = folder, folder / "environment"
        subprocess.run(["cp", "-a", str(base), str(self.prefix)], check=True)
        self.events: list[object] = []

    def install(self, settings, *requirements, **wishes):
        found = install_wheels(
            self.prefix / "bin" / "python",
            WheelSet(requirements=requirements, **wishes),
            settings,
            self.folder / "cache",
            step=Step(self.events.append, "wheels", "wheels"),
            log=self.folder / "log",
        )
        return {package.name: package for package in found}

    @property
    def warnings(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note) and event.level == "warn"]


@pytest.fixture
def place(tmp_path, base):
    return Place(tmp_path, base)


@pytest.fixture
def registry():
    """The default index, with everything that could be taken by mistake."""
    with serve() as server:
        for version in ("2.13.0", "2.13.0+cu129", "2.13.0+cu130", "2.14.0"):
            server.add("torch", version, requires=("parts",), tag=TAG)
        for version in ("0.28.0", "0.28.0+cu130", "0.29.0"):
            server.add("torchvision", version, requires=("torch",), tag=TAG)
        server.add("parts", "1.0")
        server.add("engine", "9.0", requires=("torch==2.13.0", "torchvision==0.28.0"))
        server.add("lean", "1.0", requires=("torch==2.13.0",))
        server.add("curious", "1.0", requires=("torchvision",))
        yield server


@pytest.fixture
def owner():
    """The index of a CUDA line."""
    with serve() as server:
        server.add("torch", "2.13.0+cu129", requires=("parts",), tag=TAG, files={"torch/owner": b"x"})
        server.add("torch", "2.13.1+cu129", tag=TAG)
        server.add("torchvision", "0.28.0+cu129", requires=("torch",), tag=TAG)
        server.add("parts", "1.0")
        server.add("engine", "99.0")
        yield server


def owned(*indexes, companions=True, kind="index"):
    places = tuple(f"{kind}:{index}" for index in indexes)
    torch = Owned(name="torch", version="2.13.0+cu129", places=places)
    vision = Owned(name="torchvision", version="0.28.0+cu129", places=places, asked=False)
    return (torch, vision) if companions else (torch,)


def versions(installed):
    return {name: package.version for name, package in installed.items()}


def test_torch_and_what_is_asked_of_its_kin_come_from_their_owner_alone(place, registry, owner):
    installed = place.install(PipSettings(index_url=registry.simple), "engine", owned=owned(owner.simple))
    assert versions(installed) == {
        "engine": "9.0", "torch": "2.13.0+cu129", "torchvision": "0.28.0+cu129", "parts": "1.0",
    }  # fmt: skip
    hosts = {name: str(package.source).partition("/files/")[0] for name, package in installed.items()}
    assert hosts == {"engine": registry.url, "parts": registry.url, "torch": owner.url, "torchvision": owner.url}
    file = f"torch-2.13.0+cu129-{TAG}.whl"
    assert installed["torch"].sha256 == hashlib.sha256(owner.wheels["torch"][file]).hexdigest()
    assert installed["torchvision"].sha256
    assert {request.split()[1].split("/")[2].partition("-")[0] for request in owner.requests} == {
        "torch",
        "torchvision",
    }
    assert not [request for request in registry.requests if "/torch" in request]


def test_a_companion_that_nobody_asks_for_stays_out(place, registry, owner):
    installed = place.install(PipSettings(index_url=registry.simple), "lean", owned=owned(owner.simple))
    assert versions(installed) == {"lean": "1.0", "torch": "2.13.0+cu129", "parts": "1.0"}


def test_a_companion_that_its_owner_lacks_does_not_come_from_elsewhere(place, registry, owner):
    del owner.wheels["torchvision"]
    with pytest.raises(FirstlightError, match="no set of wheels fits") as caught:
        place.install(PipSettings(index_url=registry.simple), "curious", owned=owned(owner.simple))
    assert "torchvision==0.28.0+cu129" in caught.value.why


def test_a_companion_is_looked_for_further_only_where_it_is_needed(place, registry, owner, tmp_path):
    """Torch was laid into a folder by hand; its kin was not."""
    wheels = tmp_path / "räder"
    wheels.mkdir()
    file = f"torch-2.13.0+cu129-{TAG}.whl"
    (wheels / file).write_bytes(owner.wheels["torch"][file])
    places = (f"find-links:{wheels}", f"index:{owner.simple}")
    both = tuple(
        Owned(name=name, version=version, places=places, asked=name == "torch")
        for name, version in (("torch", "2.13.0+cu129"), ("torchvision", "0.28.0+cu129"))
    )
    settings = PipSettings(index_url=registry.simple, find_links=(str(wheels),))
    assert versions(place.install(settings, "lean", owned=both))["torch"] == "2.13.0+cu129"
    assert owner.requests == []
    installed = place.install(settings, "curious", owned=both)
    assert installed["torchvision"].source.startswith(owner.url)


def test_a_companion_without_a_local_part_on_its_owners_page_is_the_owners(place, registry, owner):
    """So it is for aarch64."""
    owner.wheels["torchvision"] = {}
    owner.add("torchvision", "0.28.0", requires=("torch",), tag=TAG)
    installed = place.install(PipSettings(index_url=registry.simple), "curious", owned=owned(owner.simple))
    assert (installed["torchvision"].version, installed["torchvision"].source.partition("/files")[0]) == (
        "0.28.0", owner.url,
    )  # fmt: skip


def test_a_page_that_lists_all_files_can_be_the_owner(place, registry, owner):
    links = [f'<a href="/files/{n.replace("+", "%2B")}">{n}</a>' for held in owner.wheels.values() for n in held]
    owner.files["/flat/cu129/"] = f"<html>{''.join(links)}</html>".encode()
    flat = owned(f"{owner.url}/flat/cu129/", kind="find-links")
    installed = place.install(PipSettings(index_url=registry.simple), "engine", owned=flat)
    assert versions(installed)["torch"] == "2.13.0+cu129"
    assert installed["torchvision"].source.startswith(owner.url)
    assert versions(installed)["engine"] == "9.0"


def test_without_any_index_the_folder_is_enough(place, tmp_path):
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    for name, version, requires in (
        ("torch", "2.13.0+cu129", ()), ("torch", "2.13.0+cu130", ()), ("torchvision", "0.28.0+cu129", ("torch",)),
        ("engine", "1.0", ("torch==2.13.0", "torchvision")),
    ):  # fmt: skip
        file, content = make_wheel(name, version, requires=requires, tag=TAG)
        (wheels / file).write_bytes(content)
    settings = PipSettings(index_url="http://127.0.0.1:9/simple", no_index=True, find_links=(str(wheels),))
    installed = place.install(settings, "engine", owned=owned(str(wheels), kind="find-links"))
    assert versions(installed) == {"engine": "1.0", "torch": "2.13.0+cu129", "torchvision": "0.28.0+cu129"}


@pytest.mark.parametrize("fault", ["500", "404", "cut"])
def test_another_owner_stands_in_for_one_that_does_not_deliver(place, registry, owner, fault):
    with serve() as mirror:
        mirror.wheels = {name: dict(held) for name, held in owner.wheels.items()}
        owner.faults = {f"torch-2.13.0+cu129-{TAG}.whl": fault}
        settings = PipSettings(index_url=registry.simple)
        installed = place.install(settings, "engine", owned=owned(owner.simple, mirror.simple))
        assert {installed[name].source.partition("/files")[0] for name in ("torch", "torchvision")} == {mirror.url}
        assert place.warnings == [f"{owner.simple} does not deliver: {mirror.simple} stands in for it"]


@pytest.mark.root
def test_a_full_disk_is_not_blamed_on_the_owner(registry, owner, base, tmp_path):
    owner.wheels["torch"] = {}
    owner.add("torch", "2.13.0+cu129", tag=TAG, files={"torch/big.bin": os.urandom(24_000_000)})
    small = tmp_path / "small disk"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(small)], check=True)
    try:
        place = Place(small, base)
        with pytest.raises(FirstlightError, match=r"^no room for "):
            place.install(
                PipSettings(index_url=registry.simple), "lean", owned=owned(owner.simple, "http://127.0.0.1:9")
            )
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert place.warnings == []


def test_an_owner_without_another_is_an_error_that_names_it(place, registry):
    with pytest.raises(NetworkFailed) as caught:
        place.install(PipSettings(index_url=registry.simple), "lean", owned=owned("http://127.0.0.1:9/whl/cu129"))
    assert "http://127.0.0.1:9/whl/cu129: Connection refused" in caught.value.why


def test_credentials_of_an_owner_stand_in_no_file_and_no_argument(place, registry, owner):
    owner.password = "me:s3cret/ü"
    address = owner.simple.replace("http://", "http://me:s3cret%2F%C3%BC@")
    settings = PipSettings(index_url=registry.simple, extra_index_urls=(address,))
    wishes = owned(owner.simple.replace("http://", "http://***@"))
    installed = place.install(settings, "engine==9.0", owned=wishes)
    assert {installed[name].source.partition("/files")[0] for name in ("torch", "torchvision")} == {owner.url}
    written = "".join(file.read_text() for file in (place.prefix / "wish").iterdir())
    log = (place.folder / "log").read_text()
    shown = " ".join(source_words(WheelSet(requirements=(), owned=wishes), settings))
    for text in (written, log, shown, repr(installed)):
        assert "s3cret" not in text


def direct(*urls, sha256=None):
    return (DirectWheel(urls=urls, sha256=sha256),)


@pytest.fixture
def release():
    """A place where an engine's wheel lies that the registry lacks."""
    with serve() as server:
        _name, server.wheel = make_wheel("engine", "1.0+cu129", requires=("parts",))
        server.sha256 = hashlib.sha256(server.wheel).hexdigest()
        server.files[f"/owner/engine/releases/download/v1/{ENGINE}"] = server.wheel
        server.address = f"{server.url}/owner/engine/releases/download/v1/engine-1.0%2Bcu129-py3-none-any.whl"
        yield server


def test_an_engines_wheel_comes_by_its_address(place, registry, release):
    settings = PipSettings(index_url=registry.simple)
    installed = place.install(settings, direct=direct(release.address, sha256=release.sha256))
    assert versions(installed) == {"engine": "1.0+cu129", "parts": "1.0"}
    assert (installed["engine"].source, installed["engine"].sha256) == (release.address, release.sha256)
    assert not [request for request in registry.requests if "/engine" in request]


def test_an_engines_wheel_of_another_hash_is_refused(place, registry, release):
    with pytest.raises(VerificationFailed, match=r"the wheel of engine is not the one that was promised") as caught:
        place.install(PipSettings(index_url=registry.simple), direct=direct(release.address, sha256="0" * 64))
    assert f"expected sha256:{'0' * 64}, got sha256:{release.sha256} from {release.address}" in caught.value.why
    assert "--find-links" in caught.value.fix


def test_a_mirror_that_lies_is_passed_over_loudly(place, registry, release):
    _name, other = make_wheel("engine", "1.0+cu129", requires=("parts",), files={"engine/evil.py": b"x"})
    release.files[f"/mirror/{ENGINE}"] = other
    lying = f"{release.url}/mirror/engine-1.0%2Bcu129-py3-none-any.whl"
    installed = place.install(
        PipSettings(index_url=registry.simple), direct=direct(lying, release.address, sha256=release.sha256)
    )
    assert installed["engine"].source == release.address
    assert place.warnings == [f"{lying} does not deliver: {release.address} stands in for it"]


def probe(release, *, links=(), wheel=None, mirrors=(), settings=None, seconds=60.0):
    wheel = wheel or Wheel(url=release.address, sha256=release.sha256, size=len(release.wheel))
    github = MirrorSet(canonical=release.url, mirrors=list(mirrors))
    return probe_wheel(wheel, "3.12", github, links, settings or PipSettings(), timeout=seconds)


def test_a_wheel_is_asked_for_by_its_first_bytes(release):
    assert [(found.url, found.whole) for found in probe(release)] == [(release.address, False)]
    assert [request.partition(" /")[0] + request.rpartition("whl")[2] for request in release.requests] == [
        "GET bytes=0-1048575", "HEAD",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("404", "HTTP 404"), ("503", "HTTP 503"), ("hang", "no answer in 1"),
        ("html", "it answers with a web page"), ("text", "what it sends is not a wheel"),
        ("short", "its file has 100 bytes, the wheel has "), ("head-501", "it fails on HEAD, which uv begins with"),
    ],
)  # fmt: skip
def test_what_is_no_wheel_is_told_in_words(release, what, reason):
    path = f"/owner/engine/releases/download/v1/{ENGINE}"
    bodies = {
        "html": b"<html>please wait</html>",
        "text": b"too many requests, come back later",
        "short": release.wheel[:100],
    }
    release.faults = {} if what in bodies else {path: what}
    release.files[path] = bodies.get(what, release.wheel)
    found = probe(release, seconds=1.0 if what == "hang" else 60.0)
    assert [(item.url, item.place) for item in found] == [(None, f"{release.url}/owner/engine/releases/download/v1")]
    assert found[0].reason.startswith(reason)


def test_a_place_that_refuses_head_is_the_last_choice(release):
    release.files[f"/mirror/owner/engine/releases/download/v1/{ENGINE}"] = release.wheel
    release.faults = {f"/v1/{ENGINE}": "head-405"}
    with serve() as mirror:
        mirror.files = dict(release.files)
        found = probe(release, mirrors=[mirror.url])
        assert [(item.url.partition("/owner")[0], item.whole) for item in found] == [
            (mirror.url, False), (release.url, True),
        ]  # fmt: skip


def test_mirrors_are_asked_only_for_what_has_a_hash(release):
    with serve() as mirror:
        mirror.files = dict(release.files)
        mirror.files[f"/{release.url}/owner/engine/releases/download/v1/{ENGINE}"] = release.wheel
        mirrors = [mirror.url, f"{mirror.url}/{release.url}"]
        known = [found.url for found in probe(release, mirrors=mirrors)]
        assert known == [release.address, *(release.address.replace(release.url, other) for other in mirrors)]
        mirror.requests.clear()
        unknown = probe(release, wheel=Wheel(url=release.address), mirrors=mirrors)
        assert [found.url for found in unknown] == [release.address]
        assert mirror.requests == []


def test_the_projects_own_index_holds_it_too(release):
    release.wheels["engine"] = {ENGINE: release.wheel}
    wheel = Wheel(url=f"{release.url}/gone/{ENGINE}", sha256=release.sha256, indexes=[release.simple])
    found = probe(release, wheel=wheel)
    assert [item.url for item in found] == [f"{release.url}/files/engine-1.0%2Bcu129-py3-none-any.whl", None]
    release.hashes = {ENGINE: "1" * 64}
    assert "has another hash" in probe(release, wheel=wheel)[1].reason


def test_the_file_in_a_folder_comes_first_and_needs_no_network(release, tmp_path):
    folder = tmp_path / "räder"
    folder.mkdir()
    (folder / ENGINE).write_bytes(release.wheel)
    local = (folder / ENGINE).as_uri().replace("+", "%2B")
    assert [found.url for found in probe(release, links=[str(folder)])] == [local, release.address]
    release.requests.clear()
    settings = PipSettings(no_index=True, find_links=(str(folder),))
    assert [found.url for found in probe(release, settings=settings)] == [local]
    assert release.requests == []
    (folder / ENGINE).write_bytes(b"PK\x03\x04 half")
    assert "its file has 9 bytes" in probe(release, settings=settings)[0].reason


def test_the_address_follows_the_python(release):
    wheel = Wheel(url=f"{release.url}/v1/engine-1.0+cu118-{{cp}}-{{cp}}-manylinux2014_x86_64.whl")
    release.files["/v1/engine-1.0+cu118-cp312-cp312-manylinux2014_x86_64.whl"] = release.wheel
    assert probe(release, wheel=wheel)[0].url == (
        f"{release.url}/v1/engine-1.0%2Bcu118-cp312-cp312-manylinux2014_x86_64.whl"
    )


def test_the_wish_can_be_read_before_anything_is_asked(tmp_path):
    address = "https://github.com/o/e/releases/download/v1/engine-1.0%2Bcu129-py3-none-any.whl"
    line = "https://download.pytorch.org/whl/cu129"
    wheels = WheelSet(requirements=(), owned=owned(line), direct=direct(address, sha256="a" * 64))
    project, companions = wish_files(wheels, tmp_path)
    wish = f'    "engine @ {address}#sha256={"a" * 64}",'
    assert project.content.splitlines() == [
        "[project]", 'name = "firstlight-wish"', 'version = "0"',
        "dependencies = [", '    "torch==2.13.0+cu129",', wish, "]",
        "", "[tool.uv.sources]", 'torch = { index = "owner" }',
        "", "[[tool.uv.index]]", 'name = "owner"', f'url = "{line}"', "explicit = true",
    ]  # fmt: skip
    assert (companions.file.name, companions.content) == ("companions.txt", None)
