"""The decision rests on what can be fetched: what the chosen build needs is asked for before anything is built."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import msgspec
import pytest
from support.loopback_index import make_wheel, serve

from firstlight.catalogue.types import Build, Catalogue, EngineEntry, Mirrors, MirrorSet, RegistryTorch, Sizes, Wheel
from firstlight.environments.deciding import decide
from firstlight.environments.generations import Store
from firstlight.environments.pipconfig import PipSettings
from firstlight.environments.preview import preview
from firstlight.environments.remembering import remember
from firstlight.environments.specify import specification
from firstlight.environments.supply import own_index
from firstlight.errors import NetworkFailed, NothingFits, UsageError
from firstlight.events import Note, Step
from firstlight.home import Home
from firstlight.machine.facts import Cpu, Disk, Gpu, Host, Machine, Memory, Nvidia, Python
from firstlight.planning.request import Request, Supply

ARCH = os.uname().machine
MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
CP = f"cp{MINOR.replace('.', '')}"
GB = 1_000_000_000
ENGINE = "engine-2.0+cu129-py3-none-any.whl"
DEAD = "http://127.0.0.1:9"
SOURCES = {"sizes": "a test"}


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("UV_", "PIP_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("UV_NO_CONFIG", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def torch_wheel(version, cp=CP):
    return f"torch-{version}-{cp}-{cp}-manylinux_2_28_{ARCH}.whl"


class World:
    """A machine with a GPU, an engine with three builds, and a server that has all of it until it is told otherwise."""

    def __init__(self, server, folder: Path) -> None:
        self.server, self.folder = server, folder
        _name, self.wheel = make_wheel("engine", "2.0+cu129")
        server.files[f"/o/e/releases/download/v2/{ENGINE}"] = self.wheel
        self.page("/whl/cu129/torch/", torch_wheel("2.13.0+cu129"), torch_wheel("2.13.0+cu129", "cp399"))
        self.page("/whl/cpu/torch/", torch_wheel("2.13.0+cpu"))
        server.add("packaging", "26.0")
        self.torch = MirrorSet(canonical=f"{server.url}/whl")
        self.github = MirrorSet(canonical=server.url)
        self.pypi = MirrorSet(canonical=server.simple)
        self.events: list[object] = []
        self.settings = PipSettings()

    def page(self, path, *names):
        links = "".join(f'<a href="/files/{name.replace("+", "%2B")}">x</a>' for name in names)
        self.server.files[path] = f"<html>{links}</html>".encode()
        self.server.files |= {f"/files/{name}": b"PK\x03\x04 a wheel" for name in names}

    @property
    def engine(self):
        common = {
            "arch": ARCH, "pythons": [MINOR], "sizes": Sizes(download=GB, disk=2 * GB), "sources": SOURCES,
            "driver": "525", "capabilities": ["8.0"], "torch_capabilities": ["8.0"],
        }  # fmt: skip
        wheel = Wheel(
            url=f"{self.server.url}/o/e/releases/download/v2/{ENGINE}",
            sha256=hashlib.sha256(self.wheel).hexdigest(), size=len(self.wheel),
        )  # fmt: skip
        cpu = {**common, "driver": None, "capabilities": None, "torch_capabilities": None}
        return EngineEntry(
            engine="engine", rank=1, summary="a test", cpu="always", port=8000,
            build=[
                Build(id="new", release="2.0", cuda="12.9", torch="2.13.0", torch_local="cu129", torch_cuda="12.9",
                      companions={"torchvision": "0.28.0"}, wheel=wheel, **common),
                Build(id="old", release="1.0", cuda="12.8", torch="2.8.0", torch_cuda="12.8",
                      requirements=["engine==1.0"], companions={"torchvision": "0.23.0"}, **common),
                Build(id="slow", release="2.0", torch="2.13.0", torch_local="cpu", requirements=["engine==2.0"],
                      registry_torch=RegistryTorch(download=GB, disk=GB, instead_of=GB // 10), **cpu),
            ],
        )  # fmt: skip

    def machine(self, **host):
        facts = {"arch": ARCH, "libc": "glibc", "libc_version": "2.35", **host}
        return Machine(
            host=Host(**facts), cpu=Cpu(cores=8), memory=Memory(total=64 * GB),
            disks=[Disk(mount="/", free=500 * GB, total=900 * GB, writable=True)], nvidia=Nvidia(driver="575.57"),
            gpus=[Gpu(index=0, name="A100", compute_capability="8.0")],
            pythons=[Python(path=sys.executable, version=f"{MINOR}.1")],
        )  # fmt: skip

    def decide(self, *, builds=("new", "old", "slow"), machine=None, **words):
        entry = msgspec.structs.replace(self.engine, build=[b for b in self.engine.build if b.id in builds])
        request = Request(engine="engine", home=self.folder / "home", **{"environment": "venv", **words})
        mirrors = Mirrors(
            conda=MirrorSet(canonical=f"{DEAD}/conda-forge"), torch=self.torch, pypi=self.pypi, github=self.github
        )
        step = Step(self.events.append, "plan", "plan")
        return decide(
            request, machine or self.machine(), self.settings, step,
            catalogue=Catalogue({"engine": entry}), mirrors=mirrors,
        )  # fmt: skip

    def spec(self, request, plan):
        build = next(build for build in self.engine.build if build.id == plan.build.id)
        return specification(plan, build, self.machine(libc_version=None), request)

    @property
    def warnings(self):
        return [event.text for event in self.events if isinstance(event, Note) and event.level == "warn"]


@pytest.fixture
def world(tmp_path):
    with serve() as server:
        yield World(server, tmp_path)


def test_what_the_newest_build_needs_is_found_and_wished_for(world):
    request, plan = world.decide()
    wheels = world.spec(request, plan).wheels
    assert plan.build.id == "new"
    assert [(item.name, item.version, item.asked) for item in wheels.owned] == [
        ("torch", "2.13.0+cu129", True), ("torchvision", "0.28.0+cu129", False),
    ]  # fmt: skip
    assert wheels.owned[0].places == (f"index:{world.server.url}/whl/cu129",)
    assert wheels.direct[0].urls == (f"{world.server.url}/o/e/releases/download/v2/{ENGINE.replace('+', '%2B')}",)
    assert wheels.direct[0].sha256 == hashlib.sha256(world.wheel).hexdigest()
    assert wheels.default_index is None
    assert world.warnings == []
    asked = [request.split()[1] for request in world.server.requests]
    assert sorted(set(asked)) == [
        f"/files/{torch_wheel('2.13.0+cu129', 'cp399')}", f"/o/e/releases/download/v2/{ENGINE}", "/simple/packaging/",
        "/whl/cu129/torch/",
    ]  # fmt: skip
    assert request.supply.silent == {}


def test_a_mirror_stands_in_for_a_silent_owner(world):
    world.page("/flat/cu129/", torch_wheel("2.13.0+cu129"))
    world.torch = MirrorSet(
        canonical=f"{DEAD}/whl", mirrors=[f"{world.server.url}/flat", f"{world.server.url}/whl"],
        flat=[f"{world.server.url}/flat"],
    )  # fmt: skip
    request, plan = world.decide()
    places = world.spec(request, plan).wheels.owned[0].places
    assert plan.build.id == "new"
    assert places == (f"find-links:{world.server.url}/flat/cu129/", f"index:{world.server.url}/whl/cu129")


def test_the_next_build_is_taken_loudly_where_nobody_has_the_torch(world):
    world.torch = MirrorSet(canonical=f"{DEAD}/whl", mirrors=[f"{world.server.url}/none"])
    request, plan = world.decide()
    assert plan.build.id == "old"
    (refusal,) = [item for item in plan.refused if item.build == "new"]
    assert refusal.rule == "source"
    assert world.warnings == [f"new passed over: {refusal.reason}"]
    assert refusal.reason == (
        f"no torch 2.13.0+cu129 for Python {MINOR} to be had ({DEAD}/whl/cu129: connection refused; "
        f"{world.server.url}/none/cu129: HTTP 404)"
    )
    wheels = world.spec(request, plan).wheels
    assert (wheels.requirements, wheels.constraints, wheels.owned) == (
        ("engine==1.0", "torch===2.8.0"), ("torchvision===0.23.0",), (),
    )  # fmt: skip


def test_the_next_build_is_taken_loudly_where_nobody_has_the_wheel(world):
    world.server.faults = {ENGINE: "503"}
    _request, plan = world.decide()
    assert plan.build.id == "old"
    assert f"no {ENGINE} to be had ({world.server.url}/o/e/releases/download/v2: HTTP 503)" in world.warnings[0]


def test_nobody_waits_twice_for_the_same_silent_host(world):
    """Many builds lie behind one host: its silence is waited for once."""
    world.server.faults = {"/torch": "hang"}
    other = msgspec.structs.replace(world.engine.build[0], id="newer", release="3.0", torch="2.14.0", wheel=None)
    entry = msgspec.structs.replace(world.engine, build=[other, *world.engine.build])
    world.__class__ = type("Two", (World,), {"engine": entry})
    _request, plan = world.decide(builds=("newer", "new", "old"))
    assert plan.build.id == "old"
    assert [warning.partition(" ")[0] for warning in world.warnings] == ["newer", "new"]
    assert all(f"{world.server.url}/whl/cu129: no answer in 4" in warning for warning in world.warnings)
    assert sum("/whl/cu129/" in request for request in world.server.requests) == 1


def test_builds_that_lack_the_same_are_told_in_one_sentence(world):
    world.torch = MirrorSet(canonical=f"{DEAD}/whl")
    other = msgspec.structs.replace(world.engine.build[0], id="newer", release="3.0")
    entry = msgspec.structs.replace(world.engine, build=[other, *world.engine.build])
    world.__class__ = type("Two", (World,), {"engine": entry})
    world.decide(builds=("newer", "new", "old"))
    (warning,) = world.warnings
    assert warning.startswith("newer, new passed over: no torch 2.13.0+cu129 ")


def test_a_torch_for_another_python_is_no_torch(world):
    world.page("/whl/cu129/torch/", torch_wheel("2.13.0+cu129", "cp399"))
    _request, plan = world.decide()
    assert plan.build.id == "old"
    assert "has it for Python 3.99" in world.warnings[0]


def test_a_build_that_was_named_is_not_exchanged(world):
    world.torch = MirrorSet(canonical=f"{DEAD}/whl")
    with pytest.raises(NetworkFailed, match=r"^new cannot be fetched$") as caught:
        world.decide(build="new")
    assert f"{DEAD}/whl/cu129: connection refused" in caught.value.why
    assert "--find-links" in caught.value.fix
    assert caught.value.document["plan"]["build"] is None
    assert caught.value.code == 4


def test_where_only_the_sources_are_in_the_way_it_is_the_network_that_failed(world):
    world.torch = MirrorSet(canonical=f"{DEAD}/whl")
    with pytest.raises(NetworkFailed, match=r"^new cannot be fetched$"):
        world.decide(builds=("new",))
    with pytest.raises(NothingFits):
        world.decide(builds=("new",), machine=world.machine(arch="riscv64"))


def test_a_gpu_is_not_left_idle_because_of_the_network(world):
    world.torch = MirrorSet(canonical=f"{DEAD}/whl")
    with pytest.raises(NetworkFailed) as caught:
        world.decide(builds=("new", "slow"))
    assert "--cuda cpu" in caught.value.fix
    request, plan = world.decide(builds=("new", "slow"), cuda="cpu")
    wheels = world.spec(request, plan).wheels
    assert (plan.build.id, plan.torch_source) == ("slow", "registry")
    assert (wheels.requirements, wheels.overrides) == (("engine==2.0", "torch===2.13.0"), ("torch===2.13.0",))


def test_folders_of_the_user_come_before_any_network(world, tmp_path):
    folder = tmp_path / "räder"
    folder.mkdir()
    (folder / torch_wheel("2.13.0+cu129")).touch()
    (folder / ENGINE).write_bytes(world.wheel)
    request, plan = world.decide(find_links=(str(folder),))
    wheels = world.spec(request, plan).wheels
    assert wheels.owned[0].places[0] == f"find-links:{folder}"
    assert wheels.direct[0].urls[0] == (folder / ENGINE).as_uri().replace("+", "%2B")
    world.torch = world.github = MirrorSet(canonical=DEAD)
    world.server.faults = {ENGINE: "503"}
    request, plan = world.decide(find_links=(str(folder),))
    assert plan.build.id == "new"
    assert len(world.spec(request, plan).wheels.direct[0].urls) == 1


def test_mirrors_of_github_stand_in_where_the_hash_is_known(world):
    with serve() as mirror:
        mirror.files = {path: body for path, body in world.server.files.items() if path.startswith("/o/")}
        world.server.faults = {ENGINE: "404"}
        world.github = MirrorSet(canonical=world.server.url, mirrors=[DEAD, mirror.url])
        request, plan = world.decide()
        assert plan.build.id == "new"
        assert [url.partition("/o/")[0] for url in world.spec(request, plan).wheels.direct[0].urls] == [mirror.url]


@pytest.mark.parametrize("fault", ["503", "hang"])
def test_a_mirror_of_the_package_index_stands_in_where_nobody_configured_one(world, fault):
    with serve() as mirror:
        mirror.add("packaging", "26.0")
        world.server.faults = {"/simple/packaging": fault}
        world.pypi = MirrorSet(canonical=world.server.simple, mirrors=[f"{DEAD}/simple", mirror.simple])
        request, plan = world.decide()
        assert world.spec(request, plan).wheels.default_index == mirror.simple
        (warning,) = world.warnings
        assert warning.startswith(f"{world.server.simple}: ")
        assert f"its mirror {mirror.simple}" in warning
        world.settings = PipSettings(index_url=world.server.simple)
        assert world.decide()[0].supply.index is None
        world.settings = PipSettings()
        assert world.spec(*world.decide(indexes=("https://mine/simple",))).wheels.default_index == "https://mine/simple"


def test_what_uv_is_configured_with_is_nobodys_to_change(tmp_path):
    (tmp_path / "uv.toml").write_text('[[index]]\nurl = "https://mine/simple"\ndefault = true\n')
    (tmp_path / "other.toml").write_text("offline = false\n")
    assert own_index({"UV_DEFAULT_INDEX": "https://mine/simple"})
    assert own_index({"UV_CONFIG_FILE": str(tmp_path / "uv.toml")})
    assert not own_index({"UV_CONFIG_FILE": str(tmp_path / "other.toml")})


def test_the_second_run_asks_nobody_and_says_what_was_passed_over(world):
    world.torch = MirrorSet(canonical=f"{DEAD}/whl")
    request, plan = world.decide()
    home = Home(world.folder / "home")
    store = Store(home, "engine")
    prefix = store.folder / "old-1"
    (prefix / "bin").mkdir(parents=True)
    (prefix / "bin" / "python").touch()
    manifest = {
        "engine": "engine", "id": "old-1", "build": "old", "kind": "venv", "python": MINOR, "prefix": str(prefix),
        "state": "proven", "created": "2026-11-23T00:00:00Z",
    }  # fmt: skip
    (prefix / "firstlight-generation.json").write_bytes(msgspec.json.encode(manifest))
    (store.folder / "current").symlink_to("old-1")
    remember(home, request)
    world.server.requests.clear()
    world.events.clear()
    again, same = world.decide(environment="auto")
    assert (again.supply, same.build.id) == (request.supply, plan.build.id)
    assert world.server.requests == []
    first = next(event.text for event in world.events if isinstance(event, Note))
    assert first.startswith("new was passed over before: ")
    world.torch = MirrorSet(canonical=f"{world.server.url}/whl")
    assert world.decide(build="new")[1].build.id == "new"


def test_credentials_of_the_users_index_are_in_no_supply(world):
    world.page("/mine/torch/", torch_wheel("2.13.0+cu129"))
    world.torch = MirrorSet(canonical=f"{DEAD}/whl")
    mine = f"{world.server.url}/mine".replace("http://", "http://me:s3cret@")
    world.settings = PipSettings(extra_index_urls=(mine,))
    request, plan = world.decide()
    assert plan.build.id == "new"
    assert "s3cret" not in repr(request) + repr(plan) + repr(world.events) + repr(world.spec(request, plan))


def test_another_architecture_is_refused_before_anything_is_asked(world):
    other = "aarch64" if ARCH == "x86_64" else "x86_64"
    entry = world.engine
    build = msgspec.structs.replace(entry.build[1], id="foreign", arch=other)
    world.__class__ = type("Foreign", (World,), {"engine": msgspec.structs.replace(entry, build=[build])})
    with pytest.raises(UsageError, match=f"an environment for {other} cannot be built on this machine"):
        world.decide(builds=("foreign",), machine=world.machine(arch=other))
    assert world.server.requests == []


def test_a_dry_run_shows_owner_wheel_and_platform(world):
    request, plan = world.decide()
    build = next(build for build in world.engine.build if build.id == "new")
    spec = specification(plan, build, world.machine(libc_version="2.31"), request)
    seen = preview(Store(Home(world.folder / "home"), "engine"), spec, world.settings)
    (project,) = [file.content for file in seen.files if file.path.endswith("/wish/pyproject.toml")]
    assert f'url = "{world.server.url}/whl/cu129"' in project
    assert f"/v2/{ENGINE.replace('+', '%2B')}#sha256=" in project
    assert f"--python-platform {ARCH}-manylinux_2_31" in " ".join(seen.commands[1])
    assert spec.key != msgspec.structs.replace(spec, wheels=msgspec.structs.replace(spec.wheels, platform=None)).key


def test_without_asking_the_canonical_sources_are_taken(world):
    plan = world.decide()[1]
    bare = Request(engine="engine", supply=Supply())
    wheels = world.spec(bare, msgspec.structs.replace(plan, torch_source=None)).wheels
    assert wheels.owned[0].places == ("index:https://download.pytorch.org/whl/cu129",)
    assert wheels.direct[0].urls == (f"{world.server.url}/o/e/releases/download/v2/{ENGINE.replace('+', '%2B')}",)
