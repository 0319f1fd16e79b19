"""A tiny inference engine made on the spot: a fake torch, really linked libraries, models, a command line."""

from __future__ import annotations

import io
import struct
import subprocess
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path

import msgspec
from support.loopback_index import make_wheel

from firstlight.catalogue.types import Build, Examination, Sizes
from firstlight.environments.examination_report import Subject
from firstlight.environments.generations import Generation
from firstlight.machine.facts import Gpu, Host, Machine

TORCH = {
    "torch/__init__.py": "from torch import _C, version\n__version__ = version.__version__\n",
    "torch/version.py": "__version__ = '2.6.0+cu124'\ncuda = '12.4'\n",
    "torch/_C.py": "def _cuda_getArchFlags():\n    return 'sm_70 sm_80 sm_90a compute_90'\n",
}
ENGINE = {
    "tiny/__init__.py": "",
    "tiny/__main__.py": "import tiny.cli\n",
    "tiny/cli.py": "print('tiny 1.0')\n",
    "tiny/tokenizers.py": (
        "import json, pathlib\n"
        "class Loaded:\n"
        "    def __init__(self, folder):\n"
        "        self.words = json.loads((pathlib.Path(folder) / 'tokenizer.json').read_text())\n"
        "    def encode(self, text):\n"
        "        return text.split()\n"
    ),
    "tiny/models/__init__.py": "",
    "tiny/models/one.py": "import torch\n",
    "tiny/models/two.py": "",
}
VERSIONS = {"torch": "2.6.0+cu124", "tiny": "1.0", "nvidia-nccl-cu12": "2.21.5", "nvidia-cublas-cu12": "12.4.5.8"}
WISH = Examination(
    command=["-m", "tiny"],
    packages=["tiny.models"],
    extensions=["tiny/_C*.so"],
    tokenizer=["tiny.old:load", "tiny.tokenizers:Loaded"],
    optional={"geography": "maps"},
    without_gpu=["no device type"],
)
BUILD = Build(
    id="tiny-1.0-cu124",
    release="1.0",
    arch="x86_64",
    cuda="12.4",
    torch="2.6.0",
    torch_cuda="12.4",
    excludes=["left-out"],
    tolerated={"two_of_*": "needs two of them"},
    sizes=Sizes(download=1, disk=1),
    sources={},
)
MACHINE = Machine(host=Host(libc="glibc", libc_version="2.99"))
A100 = Gpu(index=0, name="NVIDIA A100", compute_capability="8.0")


def compile_library(
    target: Path,
    *,
    needs: tuple[str, ...] = (),
    code: str = "int tiny(void) { return 1; }",
    gpus: tuple[int, ...] = (70, 80, 90),
    glibc: str | None = None,
    gone: tuple[str, ...] = (),
) -> None:
    """Compile a shared library that is linked with fake ones of the names in `needs`.

    Args:
        target: the library.
        needs: sonames; each fake library lies beside it, and is found there when it is loaded.
        code: its C source.
        gpus: architectures that it holds (empty) GPU code for, as nvcc packs it.
        glibc: the version of the C library that one of its symbols asks for.
        gone: those of the fake libraries that are taken away again.
    """
    folder = target.parent
    folder.mkdir(parents=True, exist_ok=True)
    packed = folder / "fatbin"
    entries = b"".join(struct.pack("<HHIQ12xI8xQ", 2, 0x101, 64, 0, each, 0x11).ljust(64, b"\0") for each in gpus)
    packed.write_bytes(struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries)
    future: list[Path] = [packed]
    for number, name in enumerate(needs):
        _compile(folder / name, f"int fake_{number}(void) {{ return 0; }}", f"-Wl,-soname,{name}")
    words = [f"-L{folder}", "-Wl,-rpath,$ORIGIN", "-Wl,--no-as-needed", *(f"-l:{name}" for name in needs)]
    if glibc is not None:
        script = folder / "versions"
        script.write_text(f"GLIBC_{glibc} {{ global: from_the_future; }};\n")
        fake = folder / "libc-of-the-future.so"
        _compile(
            fake, "int from_the_future(void) { return 0; }", f"-Wl,--version-script={script}", "-Wl,-soname,libc.so.6"
        )
        code = "int from_the_future(void); int tiny(void) { return from_the_future(); }"
        words += [str(fake)]
        future += [script, fake]
    section = f'__asm__(".section .nv_fatbin,\\"a\\"\\n.balign 8\\n.incbin \\"{packed}\\"\\n.text\\n");' if gpus else ""
    _compile(target, f"{code}\n{section}", *words)
    for path in [*future, *(folder / name for name in gone)]:
        path.unlink()


def _compile(target: Path, code: str, *words: str) -> None:
    source = target.with_name(f"{target.name}.c")
    source.write_text(code)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(target), str(source), *words], check=True, capture_output=True)
    source.unlink()


def install(prefix: Path, files: Mapping[str, str], versions: Mapping[str, str] = VERSIONS) -> Path:
    """Make a virtual environment with these files, and metadata of distributions; returns its site-packages."""
    venv.EnvBuilder(symlinks=True, with_pip=False).create(prefix)
    (site,) = prefix.glob("lib/python3*/site-packages")
    for name, version in versions.items():
        _, wheel = make_wheel(name, version)
        with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
            archive.extractall(site, [member for member in archive.namelist() if ".dist-info/" in member])
    for name, text in files.items():
        (site / name).parent.mkdir(parents=True, exist_ok=True)
        (site / name).write_text(text)
    return site


def subject(prefix: Path, **changes: object) -> Subject:
    """What the environment in `prefix` must be; `changes` are fields of Subject or of one of its parts."""

    def laid(value: object) -> object:
        own = {name: changes.pop(name) for name in list(changes) if name in value.__struct_fields__}  # type: ignore[attr-defined]
        return msgspec.structs.replace(value, **own)  # type: ignore[type-var]

    generation = Generation(
        engine="tiny", id="tiny-1.0-cu124-01234567", build=BUILD.id, kind="venv", python="3", prefix=prefix,
        state="built", created="2026-11-23T00:00:00Z",
    )  # fmt: skip
    whole = Subject(
        engine="tiny", wish=WISH, build=BUILD, generation=generation, machine=MACHINE, gpus=[A100], tegra=["8.7"],
    )  # fmt: skip
    parts = {name: laid(getattr(whole, name)) for name in ("wish", "build", "generation")}
    host = laid(whole.machine.host)
    parts["machine"] = msgspec.structs.replace(whole.machine, host=host)
    return msgspec.structs.replace(whole, **parts, **changes)
