"""What narrows the choice: --build, --release, --cuda, --python, --gpus, and sources that are silent."""

from __future__ import annotations

import pytest
from support.small_catalogue import build, catalogue, decide, machine, page, refusals

from firstlight.catalogue.loading import load_catalogue
from firstlight.errors import UsageError
from firstlight.machine.facts import Gpu, Host, Machine, ProbeFailure
from firstlight.planning.choose import choose
from firstlight.planning.failing import nothing_fits
from firstlight.planning.plan import Plan
from firstlight.planning.request import Request, Supply
from firstlight.tasks.edge import cuda_version

BUILDS = [
    build("cu118", "1.0", "11.8", pythons=["3.10", "3.9"]),
    build("cu121", "2.0", "12.1"),
    build("cu129", "3.0", "12.9"),
    build("cu130", "3.0", "13.0"),
    build("cpu", "3.0", None),
    build("arm", "3.0", "13.0", arch="aarch64"),
]


def chosen(plan: Plan) -> str | None:
    return plan.build.id if plan.build else None


def ask(**words: object) -> Plan:
    return decide(machine("8.0", "9.0"), *BUILDS, cpu="no_gpu", request=words)


@pytest.mark.parametrize(
    ("words", "build_id"),
    [
        ({}, "cu130"),
        ({"cuda": "12.1"}, "cu121"),
        ({"cuda": "12"}, "cu129"),
        ({"cuda": "11"}, "cu118"),
        ({"cuda": "1"}, None),
        ({"cuda": "12.2"}, None),
        ({"cuda": "cpu"}, "cpu"),
        ({"release": "2.0"}, "cu121"),
        ({"release": "3.0", "cuda": "12"}, "cu129"),
        ({"release": "1.0", "cuda": "12"}, None),
        ({"build": "cu121"}, "cu121"),
        ({"build": "cu121", "cuda": "13.0"}, None),
        ({"build": "arm"}, None),
        ({"python": "3.9"}, "cu118"),
        ({"python": "3.12"}, "cu130"),
        ({"python": "2.7"}, None),
        ({"gpus": (1,)}, "cu130"),
        ({"gpus": (0, 1)}, "cu130"),
        ({"gpus": (0,), "cuda": "cpu"}, None),
        ({"build": "cpu"}, None),
    ],
)
def test_words_narrow_the_choice(words: dict[str, object], build_id: str | None) -> None:
    assert chosen(ask(**words)) == build_id


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("12.1", "12.1"),
        ("12", "12"),
        ("cpu", "cpu"),
        ("cu121", "12.1"),
        ("cu118", "11.8"),
        ("cu13", "13"),
        (None, None),
    ],
)
def test_the_spellings_of_cuda(word: str | None, value: str | None) -> None:
    assert cuda_version(word) == value


@pytest.mark.parametrize("word", ["", "new", "12.", "12.1.0", ".1", "cuda12", "-12", "12,1"])
def test_what_is_no_cuda_is_a_wrong_word(word: str) -> None:
    with pytest.raises(UsageError, match="--cuda does not take"):
        cuda_version(word)


def test_gpus_that_are_not_there_are_named_with_those_that_are() -> None:
    plan = ask(gpus=(0, 7))
    assert chosen(plan) is None
    rule, reason = refusals(plan)["cu130"]
    assert (rule, "GPU 7 is no NVIDIA GPU of this machine (there: 0, 1)" in reason) == ("device", True)
    assert plan.remedies[0] == "choose among those that are: --gpus 0,1"
    amd = machine(gpus=[Gpu(index=0, vendor="amd", name="Radeon"), Gpu(index=1, compute_capability="8.0")])
    plan = decide(amd, *BUILDS, request={"gpus": (0,)})
    assert refusals(plan)["cu130"][0] == "device"


def test_gpus_of_an_unknown_list_are_taken_for_granted() -> None:
    plan = decide(machine(gpus=None), *BUILDS, request={"gpus": (0, 3)})
    assert chosen(plan) == "cu130"
    assert "the GPUs 0, 3" in plan.assumed


def test_the_chosen_gpus_are_made_visible() -> None:
    plan = ask(gpus=(1,))
    assert plan.launch is not None
    assert (plan.gpus, plan.launch.visible_devices) == ([1], "1")
    both = ask(gpus=(0, 1))
    assert both.launch is not None
    assert both.launch.visible_devices is None


def test_a_build_of_another_architecture_is_refused_as_that_even_when_asked_for() -> None:
    found = refusals(ask(build="arm"))
    assert found["arm"] == ("arch", "it is for aarch64, this machine is x86_64")
    assert found["cu130"] == ("requested", "--build arm was asked for")


def test_the_spelling_of_the_architecture_does_not_matter() -> None:
    for name, build_id in (("amd64", "cu130"), ("AMD64", "cu130"), ("arm64", "arm"), ("ppc64le", None)):
        here = machine("9.0", host=Host(arch=name, libc="glibc", libc_version="2.35"))
        assert chosen(decide(here, *BUILDS)) == build_id


def test_builds_whose_bytes_cannot_be_had_are_refused_last() -> None:
    silent = {"cu130": "github.com does not answer", "cu129": "its torch index does not answer"}
    plan = ask(supply=Supply(silent=silent))
    assert chosen(plan) == "cu121"
    assert refusals(plan)["cu130"] == ("source", "github.com does not answer")
    told = [line for line in plan.warnings if "cannot be had" in line]
    assert told == [
        "cu130 would be the better build, but it cannot be had: github.com does not answer",
        "cu129 would be the better build, but it cannot be had: its torch index does not answer",
    ]
    none = ask(cuda="12.9", supply=Supply(silent=silent))
    assert chosen(none) is None
    fixes = (nothing_fits(none).fix or "").splitlines()
    assert fixes == ["check the network, or name a source: --find-links DIR", "leave --cuda 12.9 out: cu121 fits then"]


def test_builds_that_fit_too_are_told_with_why_the_other_is_better() -> None:
    fitting = {item.build: item for item in ask().refused if item.fits}
    assert set(fitting) == {"cu129", "cu121", "cu118"}
    assert fitting["cu121"].reason == "it fits too; cu130 is newer"
    assert fitting["cu129"].reason == "it fits too; cu130 has the newer CUDA or torch"
    assert fitting["cu121"].remedy == "firstlight setup.engine --build cu121"
    assert {item.rule for item in fitting.values()} == {"requested"}


def test_refusals_stand_newest_first() -> None:
    assert [item.build for item in ask(cuda="11.8").refused] == ["cu130", "arm", "cu129", "cpu", "cu121"]


def test_what_is_nearest_to_fitting_is_told_first_and_once() -> None:
    many = [build(f"b{n}", f"1.{n}", "13.0") for n in range(9)]
    error = nothing_fits(decide(machine("9.0", driver="535.54.03"), *many, build("arm", arch="aarch64")))
    assert error.why == "b8 and 8 others: needs driver >= 580, this machine has 535.54.03"
    assert error.fix == "install driver 580 or newer"


def test_where_there_is_no_gpu_the_remedy_is_not_to_buy_one() -> None:
    laptop = Machine(host=Host(arch="x86_64", libc="glibc", libc_version="2.36"), gpus=[])
    error = nothing_fits(decide(laptop, *BUILDS, cpu="always", request={"python": "2.7"}))
    assert error.fix == "leave --python 2.7 out: cpu fits then"
    never = nothing_fits(decide(laptop, *BUILDS[:4]))
    assert never.fix == "use a machine with an NVIDIA GPU"


def test_engines_that_fit_are_offered_without_the_wishes_of_the_asked_one() -> None:
    other = page(build("other-cpu", cuda=None), engine="other", rank=2, cpu="always")
    here = catalogue(page(*BUILDS[:4]), other)
    plan = choose(Machine(gpus=[]), here, Request(engine="engine", cuda="12.1"))
    assert [(item.engine, item.build) for item in plan.alternatives] == [("other", "other-cpu")]
    assert "take an engine that fits: firstlight plan other" in (nothing_fits(plan).fix or "")


def test_an_unknown_gpu_refuses_nothing_where_the_probe_says_that_it_failed() -> None:
    failed = Machine(problems=[ProbeFailure(probe="nvidia", reason="no answer")])
    plan = decide(failed, *BUILDS[:4])
    assert chosen(plan) == "cu130"
    assert any("NVIDIA GPU" in line for line in plan.assumed)


@pytest.mark.parametrize(
    ("words", "near", "fix"),
    [
        ({"engine": "engin"}, "engine", "choose one of: engine"),
        ({"build": "cu13"}, "cu130", "--build takes one of: cu118"),
        ({"release": "3"}, "3.0", "--release takes one of: 3.0, 2.0, 1.0"),
    ],
)
def test_unknown_names_offer_a_near_one(words: dict[str, str], near: str, fix: str) -> None:
    with pytest.raises(UsageError) as caught:
        choose(machine("8.0"), catalogue(page(*BUILDS)), Request(**{"engine": "engine", **words}))
    assert f'did you mean "{near}"' in caught.value.what
    assert (caught.value.fix or "").startswith(fix)


@pytest.mark.parametrize(
    ("words", "without"),
    [
        ({"cuda": "99"}, [("--cuda 99", "cu130")]),
        ({"build": "arm"}, [("--build arm", "cu130")]),
        ({"python": "3.99"}, [("--python 3.99", "cu130")]),
        ({"gpus": (0, 9)}, [("--gpus 0,9", "cu130")]),
        ({"release": "1.0", "cuda": "12"}, [("--release 1.0", "cu129"), ("--cuda 12", "cu118")]),
        ({"build": "arm", "python": "2.7"}, [("--build arm --python 2.7", "cu130")]),
        ({"environment": "venv", "python": "3.9"}, [("--environment venv", "cu118"), ("--python 3.9", "cu130")]),
    ],
)
def test_where_only_the_words_fit_nothing_each_word_in_the_way_is_named(
    words: dict[str, object], without: list[tuple[str, str]]
) -> None:
    plan = ask(**words)
    assert chosen(plan) is None
    found = [(each.words, each.build) for each in plan.without]
    assert sorted(found) == sorted(without)
    error = nothing_fits(plan)
    assert (error.code, error.what) == (3, "no build of engine fits this machine as asked")
    for name, build_id in without:
        assert f"leave {name} out: {build_id} fits then" in (error.fix or "")


def test_where_the_machine_fits_nothing_no_word_is_blamed() -> None:
    plan = decide(machine("8.0", driver="470.57.02"), *BUILDS[1:4], request={"cuda": "12.9"})
    assert (chosen(plan), plan.without) == (None, [])
    assert nothing_fits(plan).what == "no build of engine fits this machine"


def test_a_cuda_that_no_build_was_made_with_lists_those_that_there_are() -> None:
    assert ask(cuda="99").remedies[0] == "choose a CUDA that engine has builds for: --cuda 13.0, 12.9, 12.1, 11.8, cpu"
    assert not any("choose a CUDA" in remedy for remedy in ask(cuda="12.1", build="cu130").remedies)


def test_without_a_gpu_a_cpu_build_for_another_processor_is_the_nearest() -> None:
    arm = Machine(host=Host(arch="aarch64", libc="glibc", libc_version="2.36"), gpus=[])
    plan = decide(arm, *BUILDS, cpu="no_gpu")
    assert refusals(plan)["cpu"] == ("cpu", "the CPU build is for x86_64 only; this machine is aarch64")
    assert plan.remedies == []
    why = nothing_fits(plan).why or ""
    assert why.index("the CPU build is for x86_64 only") < why.index("there is no NVIDIA GPU here")
    with_gpu = machine("9.0", host=Host(arch="aarch64", libc="glibc", libc_version="2.36"))
    assert refusals(decide(with_gpu, *BUILDS, cpu="no_gpu"))["cpu"][0] == "arch"


def test_what_the_catalogue_warns_of_is_said_below_the_capability_that_it_names() -> None:
    wary = build("wary", caution="no attention back end below 8.0", caution_below="8.0", capabilities=["7.5", "8.0"])
    for capability, told in (("7.5", True), ("8.0", False), ("8.6", False)):
        plan = decide(machine(capability), wary)
        assert (wary.caution in plan.warnings, wary.caution in plan.because) == (told, told)
    always = build("always", caution="mind the step")
    assert "mind the step" in decide(machine("8.0"), always).warnings


def test_of_many_releases_the_newest_are_listed_and_the_near_ones_apart() -> None:
    many = [build(f"b{n}", f"1.{n}", "13.0") for n in range(40)]
    with pytest.raises(UsageError) as caught:
        choose(machine("8.0"), catalogue(page(*many)), Request(engine="engine", release="1.77"))
    assert (caught.value.fix or "").startswith("--release takes one of: 1.39, 1.38, 1.37, ")
    assert (caught.value.fix or "").endswith(", 1.28, … (40 in all)")
    assert "1.7" in (caught.value.why or "")


def test_of_many_names_the_near_ones_are_listed() -> None:
    many = [build(f"b{n}", f"1.{n}", "13.0") for n in range(40)]
    with pytest.raises(UsageError) as caught:
        choose(machine("8.0"), catalogue(page(*many)), Request(engine="engine", build="b777"))
    assert len((caught.value.fix or "").split(", ")) <= 13
    assert (caught.value.fix or "").endswith(", … (40 in all)")
    assert "b37" in (caught.value.why or "")


def test_a_release_that_another_ones_entry_covers_can_be_asked_for() -> None:
    real = load_catalogue()
    here = machine("8.0", driver="535.183.01", cuda="12.2")
    plan = choose(here, real, Request(engine="ollama", release="0.9.0"))
    assert plan.build is not None
    assert (plan.build.release, plan.build.id) == ("0.9.0", "ollama-0.9.0-cuda-v12-x86_64")
    by_id = choose(here, real, Request(engine="ollama", build="ollama-0.9.0-cuda-v11-x86_64"))
    assert chosen(by_id) == "ollama-0.9.0-cuda-v11-x86_64"
    with pytest.raises(UsageError, match=r'did you mean "0\.9\.\d+"'):
        choose(here, real, Request(engine="ollama", release="0.9.99"))
