"""Laws of the plan: what more of a fact may never take away, and that no facts at all can break it."""

from __future__ import annotations

import itertools
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.small_catalogue import GB

from firstlight.catalogue.loading import load_catalogue
from firstlight.catalogue.types import Catalogue
from firstlight.machine.facts import (
    Conda,
    Cpu,
    Disk,
    Gpu,
    Host,
    Machine,
    Memory,
    Nvidia,
    ProbeFailure,
    Python,
    from_json,
)
from firstlight.machine.facts import to_json as machine_json
from firstlight.planning.choose import choose
from firstlight.planning.devices import floor_of
from firstlight.planning.plan import Plan, to_json
from firstlight.planning.request import Request
from firstlight.planning.versions import numbers

CATALOGUE = load_catalogue()
ENGINES = list(CATALOGUE.engines)
LAW = settings(max_examples=120, deadline=None, derandomize=True, database=None)
"""The same examples on every run, so that CI says the same twice."""

DRIVERS = [
    ("418.226.00", "10.1"),
    ("450.80.02", "11.0"),
    ("470.256.02", "11.4"),
    ("515.105.01", "11.7"),
    ("520.61.05", "11.8"),
    ("525.60.13", "12.0"),
    ("530.30.02", "12.1"),
    ("535.183.01", "12.2"),
    ("545.23.08", "12.3"),
    ("550.54.15", "12.4"),
    ("560.35.03", "12.6"),
    ("570.124.06", "12.8"),
    ("575.57.08", "12.9"),
    ("580.65.06", "13.0"),
    ("580.95.05", "13.0"),
    ("595.58.03", "13.2"),
]
GLIBCS = ["2.12", "2.17", "2.27", "2.28", "2.29", "2.31", "2.34", "2.35", "2.39", "2.41"]
CAPABILITIES = [
    "3.5",
    "5.0",
    "5.2",
    "6.0",
    "6.1",
    "7.0",
    "7.5",
    "8.0",
    "8.6",
    "8.9",
    "9.0",
    "10.0",
    "10.3",
    "12.0",
    "12.1",
]
"""Of desktop and server GPUs; Jetson boards run code of their own capability alone."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine can have more of, as places on the ladders."""

    arch: str = "x86_64"
    driver: int = 0
    glibc: int = 0
    capabilities: tuple[int, ...] = (0,)
    memory: int = 64
    disk: int = 500

    def machine(self) -> Machine:
        number, cuda = DRIVERS[self.driver]
        gpus = enumerate(CAPABILITIES[place] for place in self.capabilities)
        return Machine(
            host=Host(arch=self.arch, libc="glibc", libc_version=GLIBCS[self.glibc], uid=0, kernel="5.15.0"),
            cpu=Cpu(cores=8, flags=["avx2"] if self.arch == "x86_64" else ["asimd"]),
            memory=Memory(total=self.memory * GB),
            disks=[Disk(mount="/", fs="ext4", total=900 * GB, free=self.disk * GB, writable=True)],
            nvidia=Nvidia(driver=number, cuda=cuda),
            gpus=[Gpu(index=index, name=f"GPU-{index}", compute_capability=wanted) for index, wanted in gpus],
            pythons=[Python(path="/usr/bin/python3", version="3.12.3")],
        )


facts = st.builds(
    Facts,
    arch=st.sampled_from(["x86_64", "aarch64"]),
    driver=st.integers(0, len(DRIVERS) - 1),
    glibc=st.integers(0, len(GLIBCS) - 1),
    capabilities=st.lists(st.integers(0, len(CAPABILITIES) - 1), min_size=1, max_size=3).map(tuple),
    memory=st.sampled_from([1, 4, 16, 64]),
    disk=st.sampled_from([1, 5, 12, 40, 500]),
)


ALONE = {
    name: Catalogue({name: CATALOGUE.engines[name]}, CATALOGUE.cuda, CATALOGUE.platforms) for name in CATALOGUE.engines
}
"""Each engine without the others, so that no alternatives are looked for."""


def plan(machine: Machine, engine: str) -> Plan:
    return choose(machine, ALONE[engine], Request(engine=engine))


def reach(machine: Machine, engine: str) -> int:
    """0: nothing fits, 1: on the CPU, 2: on a GPU."""
    build = plan(machine, engine).build
    return 0 if build is None else 1 if build.cuda is None else 2


@LAW
@given(less=facts, more=st.data(), engine=st.sampled_from(ENGINES))
def test_more_driver_glibc_memory_or_disk_takes_nothing_away(less: Facts, more: st.DataObject, engine: str) -> None:
    better = msgspec.structs.replace(
        less,
        driver=more.draw(st.integers(less.driver, len(DRIVERS) - 1)),
        glibc=more.draw(st.integers(less.glibc, len(GLIBCS) - 1)),
        memory=less.memory + more.draw(st.integers(0, 64)),
        disk=less.disk + more.draw(st.integers(0, 400)),
    )
    assert reach(better.machine(), engine) >= reach(less.machine(), engine)


@LAW
@given(less=facts, more=st.data(), engine=st.sampled_from(ENGINES))
def test_more_driver_or_glibc_never_means_an_older_release(less: Facts, more: st.DataObject, engine: str) -> None:
    driver = more.draw(st.integers(less.driver, len(DRIVERS) - 1))
    glibc = more.draw(st.integers(less.glibc, len(GLIBCS) - 1))
    before = plan(less.machine(), engine).build
    after = plan(msgspec.structs.replace(less, driver=driver, glibc=glibc).machine(), engine).build
    if before is not None and before.cuda is not None:
        assert after is not None
        assert numbers(after.release) >= numbers(before.release)


class Exemption(msgspec.Struct, frozen=True, kw_only=True):
    """A fact for which a GPU of a higher capability does less than one of a lower, on old drivers or C libraries."""

    engine: str
    capabilities: tuple[str, ...]
    driver_below: str = "0"
    glibc_below: str = "0"
    arch: tuple[str, ...] = ("x86_64", "aarch64")
    why: str


EXEMPTIONS = [
    Exemption(
        engine="vllm",
        capabilities=("10.0",),
        driver_below="525.60.13",
        glibc_below="2.28",
        arch=("x86_64",),
        why="nothing before CUDA 12.8 compiles for Blackwell, and its torch needs glibc 2.28",
    ),
    Exemption(
        engine="vllm",
        capabilities=("10.3", "12.1"),
        driver_below="580",
        glibc_below="2.28",
        why="wheels with CUDA 12 hold 10.0a and 12.0a, which run on 10.0 and 12.0 alone",
    ),
    Exemption(
        engine="vllm",
        capabilities=("10.3", "12.1"),
        glibc_below="2.34",
        arch=("aarch64",),
        why="the Arm wheels with CUDA 13 need glibc 2.34",
    ),
    Exemption(
        engine="lmdeploy",
        capabilities=("10.0",),
        driver_below="525.60.13",
        glibc_below="2.28",
        arch=("x86_64",),
        why="its wheels with code for Blackwell are made with CUDA 12.8 and need glibc 2.28",
    ),
    Exemption(
        engine="lmdeploy",
        capabilities=("10.3", "12.1"),
        driver_below="1000",
        arch=("x86_64",),
        why="no wheel of it holds code for them",
    ),
    Exemption(
        engine="transformers",
        capabilities=("10.0",),
        driver_below="525.60.13",
        glibc_below="2.28",
        arch=("x86_64",),
        why="nothing before CUDA 12.8 compiles for Blackwell, and torch since 2.7 needs glibc 2.28",
    ),
    Exemption(
        engine="ollama",
        capabilities=("9.0",),
        driver_below="530.30.02",
        why="the libraries for CUDA 11 end at 8.6",
    ),
]


def excused(engine: str, arch: str, driver: str, glibc: str, capability: str) -> Exemption | None:
    """Return the named fact that allows a GPU to do less than the one below it."""
    for known in EXEMPTIONS:
        old = numbers(driver) < numbers(known.driver_below) or numbers(glibc) < numbers(known.glibc_below)
        if known.engine == engine and capability in known.capabilities and arch in known.arch and old:
            return known
    return None


def test_more_capability_takes_nothing_away_but_for_named_facts() -> None:
    met = set()
    for engine, arch in itertools.product(ENGINES, ("x86_64", "aarch64")):
        for driver, glibc in itertools.product((1, 2, 5, 7, 9, 11, 14), (1, 2, 3, 5, 7)):
            ladder = [Facts(arch=arch, driver=driver, glibc=glibc, capabilities=(n,)) for n in range(len(CAPABILITIES))]
            reached = [reach(each.machine(), engine) for each in ladder]
            for n, (less, more) in enumerate(itertools.pairwise(reached)):
                if more < less:
                    at = (engine, arch, DRIVERS[driver][0], GLIBCS[glibc], CAPABILITIES[n + 1])
                    fact = excused(*at)
                    assert fact is not None, at
                    met.add((fact.engine, fact.why))
    assert met == {(fact.engine, fact.why) for fact in EXEMPTIONS}, "an exemption that excuses nothing"


@LAW
@given(machine=facts.map(Facts.machine), engine=st.sampled_from(ENGINES))
def test_a_chosen_gpu_build_runs_every_gpu_that_is_not_left_out(machine: Machine, engine: str) -> None:
    decided = plan(machine, engine)
    if decided.build is None or decided.build.cuda is None:
        return
    floor = floor_of(CATALOGUE.engines[engine], machine.host.arch)
    left = [gpu for gpu in machine.gpus or [] if gpu.index not in decided.gpus]
    assert decided.gpus
    told = [re.findall(r"\d+", line.partition("(")[0]) for line in decided.warnings if "left out" in line]
    for gpu in left:
        assert any(str(gpu.index) in indexes for indexes in told)
        assert numbers(gpu.compute_capability or "") < floor or CATALOGUE.engines[engine].cpu == "always"
    assert (decided.launch is not None and decided.launch.visible_devices is not None) is bool(left)


WORDS = st.one_of(
    st.none(),
    st.sampled_from(
        ["", "0", "9", "x86_64", "glibc", "musl", "2.35", "580", "580.95.05", "12.2", "8.0", "cpu", "Tesla T4"]
    ),
    st.text("0123456789.-abx ", max_size=8),
)
SIZES = st.one_of(st.none(), st.integers(-1, 10**13))
FLAGS = st.one_of(st.none(), st.booleans())


def perhaps(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), strategy)


def lists(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return perhaps(st.lists(strategy, max_size=3))


PROBLEMS = st.sampled_from(
    ["driver_library_mismatch", "no_device_nodes", "nvml_missing", "uvm_not_loaded", "fabric_manager", "other"]
)
machines = st.builds(
    Machine,
    host=st.builds(
        Host,
        os=WORDS,
        kernel=st.one_of(WORDS, st.sampled_from(["3.10.0-1160.el7.x86_64", "5.15.148-tegra", "6.8.12-tegra"])),
        arch=st.one_of(WORDS, st.sampled_from(["x86_64", "aarch64", "amd64"])),
        libc=WORDS,
        libc_version=WORDS,
        wsl=WORDS,
        container=WORDS,
        user=WORDS,
        uid=perhaps(st.integers(0, 70_000)),
        product=WORDS,
    ),
    cpu=st.builds(Cpu, cores=perhaps(st.integers(0, 512)), flags=lists(st.sampled_from(["avx2", "avx512f", ""]))),
    memory=st.builds(Memory, total=SIZES, available=SIZES, shm=SIZES),
    disks=lists(
        st.builds(
            Disk,
            mount=st.sampled_from(["/", "/var", "/root", "data", "", "/mnt/数据"]),
            fs=WORDS,
            total=SIZES,
            free=SIZES,
            writable=FLAGS,
            persistent=FLAGS,
        )
    ),
    nvidia=perhaps(st.builds(Nvidia, driver=WORDS, cuda=WORDS, toolkit=WORDS, problem=perhaps(PROBLEMS))),
    gpus=lists(
        st.builds(
            Gpu,
            index=st.integers(0, 9),
            vendor=st.sampled_from(["nvidia", "amd", "intel", ""]),
            name=WORDS,
            compute_capability=st.one_of(WORDS, st.sampled_from(CAPABILITIES), st.sampled_from(["8.7", "11.0"])),
            memory_total=SIZES,
            mig=FLAGS,
            vgpu=FLAGS,
        )
    ),
    pythons=lists(st.builds(Python, path=WORDS, version=st.sampled_from(["3.12.3", "3.8", "", "x"]))),
    conda=perhaps(st.builds(Conda, root=st.just("/opt/conda"))),
    problems=st.lists(st.builds(ProbeFailure, probe=st.just("gpu"), reason=st.just("late")), max_size=1),
)
requests = st.builds(
    Request,
    engine=st.sampled_from(ENGINES),
    gpus=perhaps(st.lists(st.integers(0, 3), max_size=2).map(tuple)),
    cuda=st.sampled_from([None, "cpu", "12", "12.1", "99.9"]),
    python=st.sampled_from([None, "3.12", "2.7"]),
    environment=st.sampled_from(["auto", "conda", "venv"]),
)


@settings(LAW, max_examples=250)
@given(machine=machines, request=requests)
def test_any_facts_give_a_plan_in_which_every_build_stands_once(machine: Machine, request: Request) -> None:
    decided = choose(machine, CATALOGUE, request)
    named = [item.build for item in decided.refused] + ([decided.build.id] if decided.build else [])
    assert sorted(named) == sorted(build.id for build in CATALOGUE.engines[request.engine].build)
    assert all(item.reason and item.rule for item in decided.refused)
    assert msgspec.json.decode(to_json(decided), type=Plan) == decided
    again = choose(from_json(machine_json(machine), "again"), CATALOGUE, request)
    assert again == decided


@LAW
@given(
    machine=facts.map(Facts.machine),
    engine=st.sampled_from(ENGINES),
    hidden=st.sampled_from(["driver", "libc", "capability", "arch"]),
)
def test_an_unknown_fact_refuses_nothing(machine: Machine, engine: str, hidden: str) -> None:
    known = reach(machine, engine)
    host, nvidia = machine.host, machine.nvidia
    unknown = {
        "driver": lambda: msgspec.structs.replace(machine, nvidia=Nvidia()),
        "libc": lambda: msgspec.structs.replace(machine, host=msgspec.structs.replace(host, libc_version=None)),
        "capability": lambda: msgspec.structs.replace(
            machine, gpus=[msgspec.structs.replace(gpu, compute_capability=None) for gpu in machine.gpus or []]
        ),
        "arch": lambda: msgspec.structs.replace(machine, host=msgspec.structs.replace(host, arch=None)),
    }[hidden]()
    assert nvidia is not None
    assert reach(unknown, engine) >= known


@pytest.mark.parametrize("engine", ENGINES)
def test_the_plan_for_an_empty_machine_says_what_it_takes_for_granted(engine: str) -> None:
    decided = plan(Machine(), engine)
    assert decided.build is None or decided.assumed
