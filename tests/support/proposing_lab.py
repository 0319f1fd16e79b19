"""What scripts/propose_build.py is run on: a small catalogue, wheels with GPU code compiled here, their index."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli
from support.loopback_index import LoopbackIndex, serve

PROGRAM = Path(__file__).parents[2] / "scripts" / "propose_build.py"
NOISE = os.urandom(1 << 20)  # what nobody needs of a wheel, so that it counts when it is fetched
CUDA_12 = ["nvidia-cuda-runtime-cu12==12.8.90; platform_system == 'Linux'"]
CUDA_13 = ["cuda-toolkit[cudart]==13.0.3; platform_system == 'Linux'"]
TAG = "cp38-abi3-manylinux_2_17_x86_64"
TORCH_TAG = "cp312-cp312-manylinux_2_28_x86_64"

CATALOGUE = {
    "cuda.toml": "".join(
        f'[[line]]\nversion = "{version}"\ndriver = "525"\nnative_driver = "570"\n'
        'sources = { driver = "NVIDIA", native_driver = "NVIDIA" }\n'
        for version in ("12.8", "12.9", "13.0")
    ),
    "torch.toml": """
[[build]]
release = "2.10.0"
arch = "x86_64"
cuda = "12.8"
capabilities = ["7.5", "9.0"]
libc = "2.28"
pythons = ["3.12", "3.11"]
sources = { cuda = "metadata", capabilities = "build list", libc = "tag", pythons = "tags" }
""",
    "platforms.toml": "",
    "mirrors.toml": "".join(
        f'{kind} = {{ canonical = "https://{kind}.invalid" }}\n' for kind in ("conda", "torch", "pypi", "github")
    ),
    "swift/builds.toml": """
engine = "swift"
rank = 1
summary = "an engine"
cpu = "never"
port = 8000

[[build]]
id = "swift-1.5.0-cu128"
release = "1.5.0"
arch = "x86_64"
cuda = "12.8"
torch = "2.10.0"
libc = "2.28"
pythons = ["3.12", "3.11"]
capabilities = ["7.5", "9.0"]
requirements = ["swift==1.5.0", "gguf"]
pins = ["gguf==0.19.0"]
sizes = { download = 5_000, disk = 9_000 }
sources = { release = "PyPI", libc = "tag", pythons = "tags", capabilities = "scan", pins = "a run", sizes = "sums" }
""",
}
LIBRARY = """
#include <math.h>
double swift_power(double base) { return pow(base, 2.5); }
extern int cudaGetDevice(int *);
int swift_device(void) { int device; return cudaGetDevice(&device); }
__asm__(".section .nv_fatbin,\\"a\\"\\n.balign 8\\n.incbin \\"fatbin\\"\\n.text\\n");
"""


def container(*entries: tuple[int, int, int]) -> bytes:
    """A fatbin container as nvcc writes it, of (kind, architecture, flags) with some code each."""
    body = b""
    for number, (kind, architecture, flags) in enumerate(entries):
        size, code = 64 + 32 * (number % 2), b"\x7fELF code" * (number + 1)
        header = struct.pack("<HHIQ12xI8xQ", kind, 0x101, size, len(code), architecture, flags)
        body += header.ljust(size, b"\0") + code
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


MACHINE, PTX, SPECIFIC, FAMILY = 2, 1, 0x100011, 0x1208011
PLAIN = container(
    (MACHINE, 75, 0x11),
    (MACHINE, 80, 0x11),
    (MACHINE, 90, 0x11),
    (MACHINE, 90, SPECIFIC),
    (MACHINE, 100, SPECIFIC),
    (MACHINE, 120, FAMILY),
    (PTX, 120, 0x11),
)
# Kernels for one board, with PTX of their own; a stray piece of a default; a container that is none; one that is cut.
FATBIN = PLAIN * 6 + container((MACHINE, 87, 0x11), (PTX, 80, 0x11)) * 3
FATBIN += container((MACHINE, 52, 0x11), (PTX, 52, 0x11)) + struct.pack("<IHHQ", 0xBA55ED50, 7, 16, 99)
FATBIN += b"noise" + PLAIN + b"Cuda compilation tools, release 12.8, V12.8.93\0" + PLAIN[:16]


def compile_library(folder: Path) -> bytes:
    """An extension module that is linked with libcudart.so.12 and glibc 2.29 and holds GPU code."""
    (folder / "fatbin").write_bytes(FATBIN)
    (folder / "cudart.c").write_text("int cudaGetDevice(int *d) { return *d = 0; }")
    (folder / "library.c").write_text(LIBRARY)
    shared = ["gcc", "-shared", "-fPIC", "-O0", "-fno-builtin", "-o"]
    cudart = [*shared, "libcudart.so.12", "-Wl,-soname,libcudart.so.12", "cudart.c"]
    subprocess.run(cudart, cwd=folder, check=True)
    subprocess.run([*shared, "swift.so", "library.c", "-L.", "-l:libcudart.so.12", "-lm"], cwd=folder, check=True)
    return (folder / "swift.so").read_bytes()


def write_catalogue(folder: Path) -> Path:
    """Write the catalogue under a folder, and return its own."""
    for name, text in CATALOGUE.items():
        (folder / "envs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "envs" / name).write_text(text)
    return folder / "envs"


@contextlib.contextmanager
def held_wheels(library: bytes) -> Iterator[LoopbackIndex]:
    """Serve the wheels of two releases and of their torch."""
    with serve() as held:
        files = {"swift/_C.abi3.so": library, "swift/noise.bin": NOISE}
        held.add("swift", "1.6.0", requires=("torch==2.10.0", "gguf>=0.19"), files=files, tag=TAG)
        held.add("swift", "1.5.0", requires=("torch==2.10.0", "gguf>=0.18"), tag=TAG)
        held.add("torch", "2.10.0", requires=tuple(CUDA_12), tag=TORCH_TAG)
        yield held


def propose(envs: Path, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith(("PIP_", "UV_INDEX", "UV_DEFAULT"))}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *words, "--catalogue", str(envs)],
        env={**own, "PIP_CONFIG_FILE": os.devnull},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stderr + done.stdout
    return done


def entries(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    """The entries that were printed, as TOML: comments and all must be pasteable."""
    found: list[dict[str, Any]] = tomli.loads(done.stdout)["build"]
    return found
