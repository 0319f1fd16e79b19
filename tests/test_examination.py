"""A new environment is examined before the proof: what an `import` does not show, on tiny engines made on the spot."""

from __future__ import annotations

import ctypes
from pathlib import Path

import msgspec
import pytest
from support.tiny_engine import ENGINE, TORCH, VERSIONS, compile_library, install, subject

from firstlight.catalogue.types import SystemLibrary
from firstlight.environments import examining
from firstlight.environments.examined import Check, Examined
from firstlight.environments.examining import examine, require_passed
from firstlight.errors import VerificationFailed
from firstlight.events import Event, Step, StepProgress, silent
from firstlight.machine.facts import Gpu
from firstlight.models.provide import MADE_HERE
from firstlight.models.synthetic import write_synthetic_model
from firstlight.planning.plan import Plan
from firstlight.planning.request import Request
from firstlight.proof.first_token import Proof
from firstlight.proof.receipts import ModelRecord, Receipt
from firstlight.ui.ending import summary

WHOLE = {**TORCH, **ENGINE}
CUDART = ("libcudart.so.12",)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_synthetic_model(tmp_path_factory.mktemp("model") / "proof")


@pytest.fixture
def look(tmp_path: Path, model: Path):
    """Installs a tiny engine with some of its files changed, examines it, and returns the checks by their id."""

    def _look(
        files: dict[str, str] | None = None,
        versions: dict[str, str] | None = None,
        library: dict[str, object] | None = None,
        **changes: object,
    ) -> dict[str, Check]:
        prefix = tmp_path / "tiny env"
        site = install(prefix, {**WHOLE, **(files or {})}, {**VERSIONS, **(versions or {})})
        compile_library(site / "tiny" / "_C.abi3.so", **{"needs": CUDART, **(library or {})})  # type: ignore[arg-type]
        return {check.id: check for check in run(prefix, tmp_path, model, **changes).checks}

    return _look


def run(prefix: Path, tmp_path: Path, model: Path, **changes: object) -> Examined:
    return examine(
        subject(prefix, **changes),
        model,
        step=Step(silent, "examine", "examine"),
        log=tmp_path / "examine.log",
        variables={"HOME": str(tmp_path), "PYTHONPATH": None},
    )


def test_a_whole_environment_passes_every_check(look) -> None:
    checks = look()
    names = ["distributions", "torch", "libraries", "libc", "capability", "kernels"]
    names += ["extensions", "command", "tokenizer", "modules"]
    assert {name: check.status for name, check in checks.items()} == dict.fromkeys(names, "ok"), checks
    assert checks["modules"].summary == "2 of 2 modules import"
    assert checks["tokenizer"].summary == "tiny.tokenizers:Loaded loads one, and it makes 6 tokens"
    assert "torch 2.6.0+cu124, made for CUDA 12.4" in checks["torch"].summary
    assert "8.0 by machine code" in checks["capability"].summary


FAULTS: dict[str, tuple[dict[str, object], str, str]] = {
    "pynvml beside nvidia-ml-py": (
        {"versions": {"pynvml": "13.0.1", "nvidia_ml_py": "13.580.82"}},
        "distributions",
        "pynvml 13.0.1 beside nvidia-ml-py 13.580.82",
    ),
    "a second nccl": (
        {"versions": {"nvidia-nccl-cu13": "2.29.7"}},
        "distributions",
        "nvidia-nccl-cu12 and nvidia-nccl-cu13: both bring libnccl.so.2",
    ),
    "libraries of two CUDA generations": (
        {"versions": {"nvidia-cublas": "13.1.1.3"}},
        "distributions",
        "2 of CUDA 12 (nvidia-cublas-cu12, …) and 1 of CUDA 13 (nvidia-cublas, …)",
    ),
    "another release of torch": ({"torch": "2.7.0"}, "torch", "the plan chose torch 2.7.0, there is 2.6.0+cu124"),
    "torch of another index": ({"torch_local": "cu118"}, "torch", "chose torch 2.6.0+cu118, there is 2.6.0+cu124"),
    "torch of another CUDA": ({"torch_cuda": "11.8"}, "torch", "the plan chose a torch for CUDA 11.8"),
    "torch for the CPU": (
        {"files": {"torch/version.py": "__version__ = '2.6.0+cpu'\ncuda = None\n"}},
        "torch",
        "the plan chose a torch for CUDA 12.4; torch 2.6.0+cpu, made for the CPU",
    ),
    "torch that does not import": (
        {"files": {"torch/_C.py": "import setuptools_of_old"}},
        "torch",
        "torch does not import: ModuleNotFoundError: No module named 'setuptools_of_old'",
    ),
    "a compiled part for CUDA 13": (
        {"library": {"needs": ("libcudart.so.13",)}},
        "libraries",
        "_C.abi3.so is linked with CUDA 13, torch with CUDA 12",
    ),
    "a compiled part for CUDA 11 beside a torch for the CPU": (
        {
            "library": {"needs": ("libcudart.so.11.0",)},
            "files": {"torch/version.py": "__version__ = '2.6.0+cpu'\ncuda = None\n"},
            "torch_local": "cpu",
            "torch_cuda": None,
        },
        "libraries",
        "_C.abi3.so is linked with CUDA 11, torch is made for the CPU",
    ),
    "a library that no wheel brought": (
        {"library": {"gone": CUDART}},
        "libraries",
        "_C.abi3.so is linked with libcudart.so.12, which is not there",
    ),
    "no compiled part at all": ({"extensions": ["tiny/_moe*.so"]}, "libraries", "is not there: tiny/_moe*.so"),
    "a wheel whose tag promises too much": (
        {"library": {"glibc": "2.34"}, "libc_version": "2.31"},
        "libc",
        "_C.abi3.so asks for glibc 2.34, the machine has 2.31",
    ),
    "a GPU that torch has no code for": (
        {"gpus": [Gpu(index=0, name="Tesla P40", compute_capability="6.1")]},
        "capability",
        "Tesla P40 has compute capability 6.1, torch holds code for 7.0, 8.0, 9.0a, PTX of 9.0",
    ),
    "a GPU that the engine has no code for": (
        {"library": {"gpus": (70, 90)}},
        "kernels",
        "NVIDIA A100 has compute capability 8.0, the engine's compiled part holds code for 7.0, 9.0",
    ),
    "an undefined symbol": (
        {"library": {"code": "int nowhere(void); int tiny(void) { return nowhere(); }"}},
        "extensions",
        "undefined symbol: nowhere",
    ),
    "a compiled part that crashes": (
        {"library": {"code": "#include <stdlib.h>\n__attribute__((constructor)) static void go(void) { abort(); }"}},
        "extensions",
        "_C.abi3.so: signal 6 ended the process that loaded it",
    ),
    "a tokenizer that does not load": (
        {"files": {"tiny/tokenizers.py": "class Loaded:\n    def __init__(self, folder):\n        self.extended\n"}},
        "tokenizer",
        "AttributeError: 'Loaded' object has no attribute 'extended'",
    ),
    "a tokenizer that makes nothing": (
        {"files": {"tiny/tokenizers.py": ENGINE["tiny/tokenizers.py"].replace("text.split()", "[]")}},
        "tokenizer",
        "makes no tokens",
    ),
    "no function that loads one": (
        {"tokenizer": ["tiny.old:load", "tiny.cli:load"]},
        "tokenizer",
        "this release has none of tiny.old:load, tiny.cli:load",
    ),
    "a command line that fails": (
        {"files": {"tiny/cli.py": "import partial_json_parser\n"}},
        "command",
        "python -m tiny ends with 1: ModuleNotFoundError: No module named 'partial_json_parser'",
    ),
    "a command line that says why": (
        {"files": {"tiny/cli.py": "print('loading')\nprint('tiny: error: no such option')\nraise SystemExit(2)\n"}},
        "command",
        "python -m tiny ends with 2: tiny: error: no such option",
    ),
    "half of the models": (
        {"files": {"tiny/models/one.py": "from torch import nn\n"}},
        "modules",
        "1 of 2 modules import; tiny.models.one: ImportError: cannot import name 'nn' from 'torch'",
    ),
    "a model that leaves": (
        {"files": {"tiny/models/one.py": "raise SystemExit('bye')\n"}},
        "modules",
        "1 of 2 modules import; tiny.models.one: SystemExit: bye",
    ),
    "a model that takes everything with it": (
        {"files": {"tiny/models/one.py": "import os\nos._exit(7)\n"}},
        "modules",
        "its Python ended with 7 at tiny.models.one",
    ),
    "no models at all": ({"packages": ["tiny.modelz"]}, "modules", "No module named 'tiny.modelz'"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_an_import_does_not_show_is_found(look, fault: str) -> None:
    changes, name, words = FAULTS[fault]
    checks = look(**changes)
    assert checks[name].status == "fail", checks
    assert words in checks[name].summary
    assert checks[name].fix


@pytest.mark.parametrize(("flags", "wanted", "words"), [("sm_80", "8.6", "machine code"), ("compute_70", "9.0", "PTX")])
def test_code_that_runs_a_newer_gpu_counts(look, flags: str, wanted: str, words: str) -> None:
    gpu = Gpu(index=0, name="newer", compute_capability=wanted)
    flags = TORCH["torch/_C.py"].replace("sm_70 sm_80 sm_90a compute_90", flags)
    check = look({"torch/_C.py": flags}, gpus=[gpu])["capability"]
    assert (check.status, check.summary) == ("ok", f"torch runs {wanted} by {words}")


def test_few_models_that_fail_are_told_and_stop_nothing(look) -> None:
    many = {f"tiny/models/m{number}.py": "" for number in range(37)}
    check = look({**many, "tiny/models/last.py": "from torch import WHISPER_CLASSES\n"})["modules"]
    assert check.status == "warn"
    assert check.summary.startswith("39 of 40 modules import; tiny.models.last: ImportError")


def test_known_gaps_are_no_failures_and_are_counted(look) -> None:
    models = {
        "two_of_these": "import never_there",  # tolerated by the build
        "maps": "import geography",  # no part of a plain install
        "beside": "import left_out.deep",  # excluded from this build
        "wrapped": "try:\n    import left_out\nexcept ImportError as error:\n    raise RuntimeError('no') from error",
    }
    check = look({f"tiny/models/{name}.py": text for name, text in models.items()})["modules"]
    assert check.status == "ok", check
    assert check.summary == (
        "2 of 6 modules import (2 not: left_out is left out of this build; "
        "1 not: geography is no part of a plain install (maps); 1 not: needs two of them)"
    )


def _has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def test_without_a_driver_it_goes_as_far_as_it_can(look) -> None:
    driver = "import ctypes\nctypes.CDLL('libcuda.so.1')\n"
    own = (
        "try:\n    import ctypes\n    ctypes.CDLL('libcuda.so.1')\nexcept OSError:\n    raise OSError('no device type')"
    )
    files = {"tiny/cli.py": own, **{f"tiny/models/{name}.py": driver for name in ("one", "two", "three")}}
    checks = look(files, library={"needs": (*CUDART, "libcuda.so.1"), "gone": ("libcuda.so.1",)})
    expected = "ok" if _has_driver() else "skip"
    assert checks["command"].status == checks["extensions"].status == expected, checks
    assert checks["modules"].status == "ok", checks
    if not _has_driver():
        assert checks["modules"].summary == "0 of 3 modules import (3 not: no NVIDIA driver is here)"
        assert checks["extensions"].summary == "0 of 1 shared libraries load (_C.abi3.so: no NVIDIA driver is here)"


def test_a_library_of_the_system_that_lacks_is_named_with_its_package(look) -> None:
    library = SystemLibrary(name="libnowhere.so.9", packages={"apt-get": "libnowhere9", "dnf": "nowhere-libs"})
    check = look(
        library={"needs": (*CUDART, "libnowhere.so.9"), "gone": ("libnowhere.so.9",)}, system_libraries=[library]
    )
    assert check["extensions"].status == "fail"
    assert check["extensions"].fix == "as root: apt-get install -y libnowhere9   (or: dnf install -y nowhere-libs)"


def test_what_took_the_python_with_it_is_named_and_the_rest_is_not_judged(look) -> None:
    checks = look({"tiny/cli.py": "import os\nprint('core dumped')\nos._exit(9)\n"})
    status = {name: check.status for name, check in checks.items()}
    assert [name for name, each in status.items() if each == "fail"] == ["command"], checks
    assert [name for name, each in status.items() if each == "skip"] == ["tokenizer", "modules"]
    assert "its Python ended with 9: core dumped" in checks["command"].summary
    assert checks["modules"].summary.startswith("not looked at: its Python ended with 9")


def test_two_variants_of_one_library_do_not_exclude_each_other(tmp_path: Path, model: Path) -> None:
    prefix = tmp_path / "env"
    site = install(prefix, WHOLE)
    first_comes = (
        "#include <stdlib.h>\n__attribute__((constructor)) static void go(void) "
        '{ if (getenv("TINY_LOADED")) abort(); setenv("TINY_LOADED", "1", 1); }'
    )
    for name in ("_C.so", "_C_AVX512.so"):
        compile_library(site / "tiny" / name, code=first_comes)
    check = {check.id: check for check in run(prefix, tmp_path, model).checks}["extensions"]
    assert (check.status, check.summary) == ("ok", "2 of 2 shared libraries load")


def test_an_adopted_environment_is_judged_by_what_it_does_and_stays_as_it_is(tmp_path: Path, model: Path) -> None:
    prefix = tmp_path / "env"
    site = install(prefix, {**WHOLE, "tiny/models/one.py": "import gone"}, {**VERSIONS, "nvidia-nccl-cu13": "2.29.7"})
    compile_library(site / "tiny" / "_C.so", needs=("libcudart.so.13",))
    before = sorted(path for path in prefix.rglob("*"))
    examined = run(prefix, tmp_path, model, kind="adopted", torch="9.9.9")
    assert sorted(path for path in prefix.rglob("*")) == before
    status = {check.id: check.status for check in examined.checks}
    assert [name for name, each in status.items() if each == "warn"] == ["distributions", "libraries", "modules"]
    assert status["torch"] == "ok"
    assert not examined.failed
    (site / "tiny" / "cli.py").write_text("import gone")
    assert [check.id for check in run(prefix, tmp_path, model, kind="adopted").failed] == ["command"]


def test_what_fails_is_one_error_with_all_of_it_and_the_fix_of_the_first(tmp_path: Path, model: Path) -> None:
    prefix = tmp_path / "env"
    install(prefix, {**WHOLE, "tiny/cli.py": "import gone", "tiny/models/one.py": "import gone"})
    examined = run(prefix, tmp_path, model, extensions=[])
    with pytest.raises(VerificationFailed) as caught:
        require_passed(examined, subject(prefix), tmp_path / "examine.log")
    error = caught.value
    assert error.what == "tiny-1.0-cu124-01234567 did not pass its examination: command, modules"
    assert "python -m tiny ends with 1: ModuleNotFoundError: No module named 'gone'" in (error.why or "")
    assert "1 of 2 modules import" in (error.why or "")
    assert (error.fix or "").startswith("firstlight setup.tiny --repair")
    assert "No module named 'gone'" in (error.evidence or "")
    told = msgspec.convert(error.document["examination"], Examined)
    assert [check.id for check in told.failed] == ["command", "modules"]
    assert "failed: command, modules" in examined.summary


def test_progress_names_the_module_and_silence_ends_it(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examining, "_SILENCE", 1.5)
    prefix = tmp_path / "env"
    install(prefix, {**WHOLE, "tiny/models/one.py": "import time\ntime.sleep(60)\n"})
    events: list[Event] = []
    examined = examine(
        subject(prefix, extensions=[]),
        model,
        step=Step(events.append, "examine", "examine"),
        log=tmp_path / "log",
        variables={"HOME": str(tmp_path)},
    )
    (check,) = [check for check in examined.checks if check.id == "modules"]
    assert check.status == "fail"
    assert "nothing was heard for 1.5 s at tiny.models.one" in check.summary
    assert examined.seconds < 20
    assert any(isinstance(event, StepProgress) and event.detail == "tiny.models.one" for event in events)


def test_a_path_with_spaces_and_what_libraries_print_do_no_harm(look) -> None:
    noisy = (
        'import sys, os\nprint(\'{"event": "torch", "version": 3}\')\nsys.stdout.write(\'half a line\')\n'
        "sys.stdout.flush()\nos.write(2, b'\\xff\\x00')\nsys.stdout = None\n"
    )
    checks = look({"tiny/models/one.py": noisy})
    assert {check.status for check in checks.values()} == {"ok"}, checks


def test_without_a_proof_the_examination_is_what_is_shown() -> None:
    checks = [
        Check(id="torch", status="ok", summary="torch 2.6.0+cu124, made for CUDA 12.4", seconds=1.0),
        Check(id="modules", status="skip", summary="a reason too long for a narrow terminal"),
    ]
    plan = Plan(
        engine="tiny", build=None, home=None, gpus=[0], environment="venv", because=[], launch=None, needs=None,
        refused=[], steps=[],
    )  # fmt: skip
    receipt = Receipt(
        what="setup.tiny", started="2026-11-23T00:00:00Z", seconds=2.0, bytes=0, request=Request(engine="tiny"),
        plan=plan, steps=[], path="/receipt.json",
        examination=Examined(at="2026-11-23T00:00:00Z", seconds=1.5, checks=checks),
    )  # fmt: skip
    assert summary(receipt, 56, unicode=True)[:7] == [
        "Examination",
        "  ok    torch          torch 2.6.0+cu124, made for CUDA",
        "                         12.4",
        "  skip  modules        a reason too long for a narrow",
        "                         terminal",
        "",
        "  examined  1 check holds; not looked at: modules",
    ]


@pytest.mark.parametrize(
    ("source", "answer", "model"),
    [
        (MADE_HERE, "jsWiy   (random weights make no words)", "/proof (3.0 MB, made here: random weights)"),
        ("huggingface.co", "jsWiy", "/proof (3.0 MB, from huggingface.co)"),
    ],
)
def test_letters_of_random_weights_are_no_broken_engine(source: str, answer: str, model: str) -> None:
    plan = Plan(
        engine="tiny", build=None, home=None, gpus=[0], environment="venv", because=[], launch=None, needs=None,
        refused=[], steps=[],
    )  # fmt: skip
    proof = Proof(
        model="proof", prompt="What?", text="jsWiy\n", first_token_seconds=0.1, seconds=0.2, tokens_per_second=None,
        tokens=3, finish_reason="length", device="cpu",
    )  # fmt: skip
    receipt = Receipt(
        what="setup.tiny", started="2026-11-23T00:00:00Z", seconds=2.0, bytes=0, request=Request(engine="tiny"),
        plan=plan, steps=[], path="/receipt.json", proof=proof,
        model=ModelRecord(name="proof", path="/proof", source=source, bytes=3_000_000, reused=False),
    )  # fmt: skip
    lines = summary(receipt, 80, unicode=True)
    assert f"  answer  {answer}" in lines
    assert f"  model    {model}" in lines
