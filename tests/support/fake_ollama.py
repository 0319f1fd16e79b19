"""Archives with the true layout of Ollama's releases, whose program is the small one of `ollama_program`.

What is true: the names of the archives, the members of each range of releases, links inside the tree, and the HTTP
surface of the program. What is not: the libraries are small files of random bytes, and no model runs (see
`ollama_program`).
"""

from __future__ import annotations

import functools
import importlib
import io
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

PROGRAM = Path(__file__).with_name("ollama_program.py")
LATEST = "0.35.1"
_CPUS = ("alderlake", "haswell", "icelake", "sandybridge", "skylakex", "sse42", "x64")
_CUBLAS = {"11": "11.5.1.109", "12": "12.8.4.1", "13": "13.1.0.3"}
_CUDART = {"11": "11.3.109", "12": "12.8.90", "13": "13.0.96"}


@dataclass(frozen=True)
class Member:
    """One member of an archive; `target` is what a link points to."""

    name: str
    kind: Literal["file", "dir", "link"] = "file"
    target: str = ""
    mode: int = 0o644


def numbers(release: str) -> tuple[int, int, int]:
    """Return a release's parts: `0.13.5` is (0, 13, 5)."""
    first, second, third = (int(part) for part in re.findall(r"\d+", release)[:3])
    return first, second, third


def asset_name(release: str = LATEST, arch: str = "amd64", variant: str | None = None) -> str:
    """Return the archive's name as the release spells it."""
    stem = f"ollama-linux-{arch}" + (f"-{variant}" if variant else "")
    if numbers(release) < (0, 3, 7) and variant is None:
        return stem
    return stem + (".tgz" if numbers(release) < (0, 14, 0) else ".tar.zst")


def layout(release: str = LATEST, arch: str = "amd64", variant: str | None = None) -> list[Member]:
    """Return the members of a release's archive, in order, without `./`."""
    version = numbers(release)
    if variant is not None:
        return list(_with_folders(_variant(version, variant)))
    members = [Member("bin/ollama", mode=0o755), *_libraries(version, arch)]
    return list(_with_folders(members))


def _libraries(version: tuple[int, int, int], arch: str) -> Iterator[Member]:
    base = "lib/ollama"
    if version < (0, 5, 8):
        for major in ("11", "12"):
            yield from _cuda(base, major, ggml=False)
        for runner in ("cpu_avx", "cpu_avx2", "cuda_v11_avx", "cuda_v12_avx", "rocm_avx"):
            if version >= (0, 5, 2):
                yield Member(f"{base}/runners/{runner}/ollama_llama_server", mode=0o755)
        return
    yield Member(f"{base}/libggml-base.so")
    yield from (Member(f"{base}/libggml-cpu-{cpu}.so") for cpu in (_CPUS if arch == "amd64" else ("armv8.0_1",)))
    if version >= (0, 30, 0):
        yield from (Member(f"{base}/{name}", mode=0o755) for name in ("llama-server", "llama-quantize"))
        yield Member(f"{base}/libllama.so.0.0.0")
        yield Member(f"{base}/libllama.so.0", "link", "libllama.so.0.0.0")
        yield Member(f"{base}/libllama.so", "link", "libllama.so.0")
    for folder, major in _cuda_folders(version, arch).items():
        yield from _cuda(f"{base}/{folder}".rstrip("/"), major)
    if version >= (0, 12, 11):
        yield Member(f"{base}/vulkan/libggml-vulkan.so")
    if (0, 14, 0) <= version < (0, 24, 0):
        yield Member(f"{base}/mlx/libmlx.so")


def _cuda_folders(version: tuple[int, int, int], arch: str) -> dict[str, str]:
    """Return the folders of CUDA libraries, each with its major CUDA."""
    if version < (0, 9, 3):
        return {"cuda_v11": "11", "cuda_v12": "12"}
    if version < (0, 11, 11):
        return {"" if arch == "amd64" else "cuda_sbsa": "12"}
    return {"cuda_v12": "12", "cuda_v13": "13"}


def _cuda(folder: str, major: str, *, ggml: bool = True) -> Iterator[Member]:
    for name, whole in (("cublas", _CUBLAS), ("cublasLt", _CUBLAS), ("cudart", _CUDART)):
        yield Member(f"{folder}/lib{name}.so.{whole[major]}")
        short = "11.0" if (name, major) == ("cudart", "11") else major
        yield Member(f"{folder}/lib{name}.so.{short}", "link", f"lib{name}.so.{whole[major]}")
    if ggml:
        yield Member(f"{folder}/libggml-cuda.so")


def _variant(version: tuple[int, int, int], variant: str) -> Iterator[Member]:
    base = "lib/ollama"
    if variant == "rocm":
        folder = "rocm_v7_2" if version >= (0, 30, 0) else "rocm"
        yield Member(f"{base}/{folder}/libggml-hip.so")
        yield Member(f"{base}/{folder}/librocblas.so.4.3")
        yield Member(f"{base}/{folder}/librocblas.so.4", "link", "librocblas.so.4.3")
    elif variant == "mlx":
        yield Member(f"{base}/mlx_cuda_v13/libmlx.so")
        yield Member(f"{base}/mlx_cuda_v13/libcublas.so.13", "link", "../cuda_v13/libcublas.so.13")
    else:
        yield from _cuda(f"{base}/cuda_{variant}", "11" if variant == "jetpack5" else "12")


def _with_folders(members: Iterator[Member] | list[Member]) -> Iterator[Member]:
    seen: set[str] = set()
    for member in members:
        parts = member.name.split("/")[:-1]
        for depth in range(1, len(parts) + 1):
            folder = "/".join(parts[:depth])
            if folder not in seen:
                seen.add(folder)
                yield Member(folder, "dir", mode=0o755)
        yield member


def program(release: str = LATEST, behaviour: Mapping[str, str] | None = None) -> bytes:
    """Return the program of a release: a shell line that finds this Python, then Python.

    Args:
        release: what it says it is.
        behaviour: FAKE_OLLAMA_… knobs that it is born with.
    """
    text = _body(release, behaviour)
    # The first lines are both: for sh a command that never comes back, for Python a text.
    return f"#!/bin/sh\n''':'\nexec '{sys.executable}' -B -S -s -E \"$0\" \"$@\"\n'''\n{text}".encode()


def _body(release: str, behaviour: Mapping[str, str] | None) -> str:
    text = PROGRAM.read_text().partition("from __future__ import annotations\n")[2]
    text = text.replace('RELEASE = "0.0.0"', f"RELEASE = {release!r}", 1)
    return text.replace("BEHAVIOUR: dict[str, str] = {}", f"BEHAVIOUR: dict[str, str] = {dict(behaviour or {})!r}", 1)


@functools.cache
def _elf(text: bytes) -> bytes:
    """Return the program of the oldest releases, which are one file: a compiled one."""
    code = "\n".join(f"    {', '.join(str(byte) for byte in text[at : at + 32])}," for at in range(0, len(text), 32))
    source = (
        "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n"
        f"static const char text[] = {{\n{code}\n    0\n}};\n"
        "int main(int count, char **words) {\n"
        '    char *path = realpath("/proc/self/exe", NULL);\n'
        '    const char *head = "import sys\\nsys.argv.pop(0)\\n";\n'
        "    char *whole = malloc(sizeof text + strlen(head) + 1);\n"
        "    strcpy(whole, head); strcat(whole, text);\n"
        "    char **all = calloc(count + 8, sizeof *all);\n"
        f'    all[0] = "{sys.executable}"; all[1] = "-B"; all[2] = "-S";\n'
        '    all[3] = "-c"; all[4] = whole; all[5] = path;\n'
        "    for (int at = 1; at < count; at++) all[5 + at] = words[at];\n"
        "    execv(all[0], all);\n    return 126;\n}\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "ollama"
        command = ["gcc", "-x", "c", "-O0", "-o", str(target), "-"]
        subprocess.run(command, input=source.encode(), check=True, capture_output=True)
        return target.read_bytes()


def content(member: Member, release: str, behaviour: Mapping[str, str] | None = None) -> bytes:
    """Return the bytes of a member: the program, else a few kB that depend on its name and release alone."""
    if member.name == "bin/ollama":
        return program(release, behaviour)
    source = random.Random(zlib.crc32(f"{release}/{member.name}".encode()))
    return b"\x7fELF" + source.randbytes(3000) + bytes(2000)


def build_archive(
    folder: Path,
    release: str = LATEST,
    arch: str = "amd64",
    variant: str | None = None,
    *,
    filler: int = 0,
    behaviour: Mapping[str, str] | None = None,
) -> Path:
    """Write a release's archive into `folder` and return it.

    Args:
        folder: where.
        release: which one: its layout, its compression and what its program says.
        arch: `amd64` or `arm64`.
        variant: `rocm`, `mlx`, `jetpack5`, `jetpack6`; None is the main archive.
        filler: bytes of noise in one more library, where the size matters.
        behaviour: FAKE_OLLAMA_… knobs that the program is born with.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / asset_name(release, arch, variant)
    if not path.name.endswith((".tgz", ".tar.zst")):
        path.write_bytes(_elf(_body(release, behaviour).encode()))
        path.chmod(0o755)
        return path
    plain = io.BytesIO()
    dotted = "./" if numbers(release) < (0, 5, 8) else ""
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for member in layout(release, arch, variant):
            tar.addfile(*_entry(member, dotted, release, behaviour))
        if filler:
            info = tarfile.TarInfo(f"{dotted}lib/ollama/libfiller.so")
            info.size = filler
            tar.addfile(info, io.BytesIO(random.Random(release).randbytes(filler)))
    path.write_bytes(_compressed(plain.getvalue(), path.name))
    return path


def _entry(
    member: Member, dotted: str, release: str, behaviour: Mapping[str, str] | None
) -> tuple[tarfile.TarInfo, io.BytesIO | None]:
    info = tarfile.TarInfo(f"{dotted}{member.name}")
    info.mode = 0o777 if member.kind == "link" else member.mode
    if member.kind == "dir":
        info.type = tarfile.DIRTYPE
    elif member.kind == "link":
        info.type, info.linkname = tarfile.SYMTYPE, member.target
    else:
        data = content(member, release, behaviour)
        info.size = len(data)
        return info, io.BytesIO(data)
    return info, None


def _compressed(data: bytes, name: str) -> bytes:
    if name.endswith(".tgz"):
        packer = zlib.compressobj(6, zlib.DEFLATED, 31)
        return packer.compress(data) + packer.flush()
    for module in ("compression.zstd", "backports.zstd"):
        try:
            packed: bytes = importlib.import_module(module).compress(data)
        except ImportError:
            continue
        return packed
    raise RuntimeError("no zstd here: pip install backports.zstd")


def unpack(
    prefix: Path, release: str = LATEST, arch: str = "amd64", *, behaviour: Mapping[str, str] | None = None
) -> Path:
    """Lay a release out under `prefix`, as if its archive had been unpacked there; returns the program."""
    for member in layout(release, arch):
        path = prefix / member.name
        path.parent.mkdir(parents=True, exist_ok=True)
        if member.kind == "dir":
            path.mkdir(exist_ok=True)
        elif member.kind == "link":
            path.symlink_to(member.target)
        else:
            path.write_bytes(content(member, release, behaviour))
            path.chmod(member.mode)
    return prefix / "bin" / "ollama"
