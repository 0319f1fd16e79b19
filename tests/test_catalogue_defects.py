"""A catalogue with a defect: whoever breaks it is told the file and the line."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from support.catalogue_pages import ARCHIVE, CALM, CUDA, MIRRORS, RELEASES, SWIFT, TORCH, WHEELS, write_pages

from firstlight.catalogue.checking import check_catalogue


@pytest.fixture
def envs(tmp_path: Path) -> Path:
    return write_pages(tmp_path)


class Broken(NamedTuple):
    """What is broken: the file, what stands there, what it becomes, where that is told, and a part of the words."""

    file: str
    old: str
    new: str
    where: str
    words: str


BROKEN = {
    "a figure without source": Broken(
        SWIFT, 'wheel = "the project\'s releases"\n', "", "[build.wheel]", "swift-1.5.0-cu129, wheel: it has no source"
    ),
    "an empty source": Broken(SWIFT, '"scan of the wheel"', '" "', "capabilities = [", "it has no source"),
    "a source of nothing": Broken(SWIFT, 'pins = "a run"', 'pinz = "a run"', "pinz", "`pinz` is no key"),
    "a page's source of nothing": Broken(
        SWIFT, "{ release =", '{ relase = "", release =', "sources = { relase", "`relase` is no key"
    ),
    "a capability that is none": Broken(SWIFT, '"9.0a"', '"sm_90"', '["8.0", "sm_90"]', '"sm_90" is no compute'),
    "capabilities out of order": Broken(
        SWIFT, '["8.0", "9.0a"]', '["9.0a", "8.0"]', 'capabilities = ["9.0a"', "they must ascend"
    ),
    "capabilities that are not said": Broken(
        SWIFT, 'capabilities = ["8.0", "9.0a"]\n', "", '[[build]]\nid = "swift-1.5.0', "a CUDA build must say"
    ),
    "capabilities of a CPU build": Broken(
        SWIFT, "memory = 2_000", 'capabilities = ["8.0"]', 'capabilities = ["8.0"]\n', "a CPU build has none"
    ),
    "PTX that is none": Broken(SWIFT, "libc =", 'ptx = "compute_80"\nlibc =', 'ptx = "c', "is no compute capability"),
    "a C library that is none": Broken(
        SWIFT, 'libc = "2.28"', 'libc = "glibc 2.28"', "libc =", 'libc: "glibc 2.28" is no version'
    ),
    "a driver that is none": Broken(SWIFT, "libc =", 'driver = "R580"\nlibc =', "driver =", '"R580" is no version'),
    "a Python that is none": Broken(SWIFT, '"3.12"', '"312"', "pythons =", '"312" is no minor version'),
    "a Python twice": Broken(SWIFT, '["3.12"]', '["3.12", "3.12"]', "pythons =", "stands there twice"),
    "an arch that is none": Broken(SWIFT, '"x86_64"', '"x64"', "arch =", "arch: x64 is none of"),
    "sizes that shrink": Broken(SWIFT, "disk = 8_000", "disk = 800", "sizes = { download = 4", "they must be positive"),
    "what is filled in": Broken(
        SWIFT, "libc =", 'torch_capabilities = ["8.0"]\nlibc =', "torch_capabilities", "it is filled in"
    ),
    "an id of another release": Broken(
        SWIFT, 'id = "swift-1.4.0-cpu', 'id = "swift-1.4.1-cpu', 'id = "swift-1.4.1', "1.4.0"
    ),
    "an id of another CUDA": Broken(SWIFT, '"swift-1.4.0-cu129"', '"swift-1.4.0-cu130"', "-cu130", "cu129 is expected"),
    "an id without the arch": Broken(
        SWIFT, "-cpu-aarch64", "-cpu", 'id = "swift-1.4.0-cpu"', "cpu-aarch64 is expected"
    ),
    "an id of another arch": Broken(
        SWIFT, 'id = "swift-1.4.0-cu129', 'id = "swift-1.4.0-cu129-aarch64', "-cu129-aarch64", "cu129 is expected"
    ),
    "an id of another runner": Broken(CALM, "cuda-v12", "cuda-v13", "id =", "cuda-v12-x86_64 is expected"),
    "a wheel of another engine": Broken(SWIFT, "v1.5.0/swift-", "v1.5.0/slow-", "url =", "is not swift"),
    "a wheel of another release": Broken(
        SWIFT, "swift-1.5.0%2B", "swift-1.5.1%2B", "url =", "another release than 1.5.0"
    ),
    "a wheel in another folder": Broken(SWIFT, "/v1.5.0/", "/v1.5.1/", "url =", "another release than 1.5.0"),
    "a wheel of another CUDA": Broken(SWIFT, "%2Bcu129", "%2Bcu130", "url =", "says +cu130, the build +cu129"),
    "a wheel of another arch": Broken(
        SWIFT, "_2_28_x86_64", "_2_28_aarch64", "url =", "for aarch64, the build for x86_64"
    ),
    "a wheel that is none": Broken(SWIFT, "x86_64.whl", "x86_64.zip", "url =", "names no wheel"),
    "a wheel without TLS": Broken(
        SWIFT, "https://github.example/swift", "http://github.example/swift", "[build.wh", "https://"
    ),
    "a wheel for a newer C library": Broken(SWIFT, "_2_28_x86_64", "_2_35_x86_64", "libc =", "asks for glibc 2.35"),
    "a wheel for another Python": Broken(
        SWIFT, "cp312-cp312", "cp310-cp310", '[[build]]\nid = "swift-1.4.0-cu129"', "its wheel is not for 3.12"
    ),
    "one hash for several wheels": Broken(
        SWIFT,
        'pythons = ["3.12"]',
        'pythons = ["3.12", "3.11"]',
        "sha256 =",
        "the sha256 one alone",
    ),
    "a wheel's hash that is none": Broken(SWIFT, '"aa63', '"AA63', "sha256 =", "its sha256 is not 64"),
    "a wheel larger than all": Broken(SWIFT, "size = 3_000", "size = 5_000", "size = 5", "no more than the whole"),
    "a requirement that is none": Broken(
        SWIFT, '["gguf"]', '["gguf", "a b"]', "requirements =", '"a b" is no requirement'
    ),
    "a pin that is none": Broken(SWIFT, "s==5.19.0", "s=5", "pins =", '"transformers=5" is no requirement'),
    "a pin that holds nothing": Broken(SWIFT, "s==5.19.0", "s", "pins =", "constrains nothing"),
    "an exclude that is none": Broken(SWIFT, '["pynvml"]', '["pynvml<2"]', "excludes =", '"pynvml<2" is no name'),
    "another release asked for": Broken(
        SWIFT, "swift-cpu==1.4.0", "swift-cpu>=1.4", 'requirements = ["swift-cpu', "is not release 1.4.0"
    ),
    "nothing that installs it": Broken(
        SWIFT,
        '"swift-cpu==1.4.0"',
        '"gguf", "accelerate"',
        'requirements = ["gguf", "acc',
        "nothing there installs swift",
    ),
    "a range that is none": Broken(SWIFT, '">=1.3,<1.5"', '"1.3 to 1.5"', "covers =", "is no specifier"),
    "a torch that is not there": Broken(
        SWIFT,
        'release = "1.4.0"\ncovers',
        'torch = "9.1"\nrelease = "1.4.0"\ncovers',
        '[[build]]\nid = "swift-1.4.0-cu129"',
        "torch.toml has no torch 9.1+cu129",
    ),
    "a page in the wrong folder": Broken(SWIFT, '"swift"', '"quick"', "engine =", "the folder of swift"),
    "a page without builds": Broken(
        CALM, ARCHIVE[ARCHIVE.index("[[build]]") :], "build = []", "build =", "build: there is none"
    ),
    "wheels that nobody examines": Broken(SWIFT, "examination =", "# examination =", "", "what is examined"),
    "an asset of another arch": Broken(CALM, "amd64-more", "arm64-more", "arm64-more", "is not for x86_64"),
    "an asset's hash that is none": Broken(CALM, 'c6d1"', 'c6d"', "amd64-more", "is not 64 hexadecimal digits"),
    "an asset without a size": Broken(CALM, "size = 390", "size = 0", "size = 0", "is not positive"),
    "no assets": Broken(
        CALM,
        ARCHIVE[ARCHIVE.index("assets =") : ARCHIVE.index("\n[build.sources]")],
        "",
        "[[build]]",
        "assets: there is none",
    ),
    "a release twice": Broken(
        "calm/releases.toml", 'version = "0.6.2"', 'version =  "0.6.0"', 'version =  "', "0.6.0 stands here twice"
    ),
    "a release that nobody has seen": Broken("calm/releases.toml", '["tag"]', '["tga"]', "seen =", '"tga" is none of'),
    "a release's hash that is none": Broken("calm/releases.toml", '"aa63', '"aa6', "assets =", "is not 64 hex"),
    "a torch of no known CUDA": Broken("torch.toml", 'cuda = "12.9"', 'cuda = "12.7"', "cuda = ", "has no line 12.7"),
    "a torch without source": Broken(
        "torch.toml", 'libc = "wheel tag"\n', "", 'libc = "2.28"', "libc: it has no source"
    ),
    "a torch that nobody uses": Broken(
        "torch.toml",
        '"aarch64"',
        '"armv7"',
        '[[build]]\nrelease = "2.13.0"\narch = "armv7"',
        "no build uses torch 2.13.0",
    ),
    "a torch without Pythons": Broken("torch.toml", '["3.12"]', "[]", "pythons = []", "pythons: there is none"),
    "a torch twice": Broken(
        "torch.toml",
        '[[build]]\nrelease = "2.13.0"\narch = "aarch64"',
        '[[build]]\nrelease = "2.13.0"\narch = "aarch64"\nlocal = "cpu"\nlibc = "2.28"\npythons = ["3.11"]\n'
        'sources = { libc = "wheel tag", pythons = "index" }\n\n[[build]]\narch = "aarch64"\nrelease = "2.13.0"',
        'release = "2.13.0"\nlocal = "cpu"',
        "stands here twice",
    ),
    "a CUDA that nobody uses": Broken("cuda.toml", '"12.9"', '"12.7"', "[[line]]", "uses CUDA 12.7"),
    "a driver older than the lowest": Broken(
        "cuda.toml", '"575.51.03"', '"99.1"', "native_driver", "older than the lowest"
    ),
    "a CUDA without source": Broken(
        "cuda.toml", ', native_driver = "NVIDIA, release notes"', "", "native_driver", "native_driver: it has no source"
    ),
    "a mirror without TLS": Broken("mirrors.toml", '["https://one', '["http://one', "conda =", "begin with https://"),
    "a mirror with a slash": Broken(
        "mirrors.toml", "example/simple", "example/simple/", "pypi =", "not end in a slash"
    ),
    "a flat page that is no mirror": Broken(
        "mirrors.toml", 'flat = ["https://one', 'flat = ["https://two', "torch =", "not among"
    ),
    "a board without source": Broken(
        "platforms.toml", 'tegra = "NVIDIA\'s table"', "", "tegra =", "tegra: it has no source"
    ),
    "a pattern that is none": Broken("calm/causes.toml", "\\[Errno", "[Errno", "pattern =", "is no regular expression"),
    "a cause without a fix": Broken("calm/causes.toml", '"choose another port"', '""', "fix =", "its fix is empty"),
    # What loading refuses too, so that no command runs on a broken page.
    "TOML that is none": Broken(SWIFT, "port = 8000", "port = 8000 8001", "port =", "Expected newline"),
    "TOML without an end": Broken(
        CALM, 'assets = "its sums"', "assets = { a = 1", "assets = { a", "Unclosed inline table"
    ),
    "a key that is unknown": Broken(
        SWIFT, "pythons =", "pithons =", "pithons", "swift-1.5.0-cu129, pithons: there is no key"
    ),
    "a key that is missing": Broken(
        SWIFT, 'arch = "aarch64"\n', "", '[[build]]\nid = "swift-1.4.0-cpu', "missing required field `arch`"
    ),
    "a value of the wrong type": Broken(
        SWIFT, "memory = 2_000", 'memory = "2 GB"', "memory =", "swift-1.4.0-cpu-aarch64, memory: Expected `int"
    ),
    "a wrong type deep inside": Broken(
        CALM, "size = 390", "size = 3.9", "linux-amd64.tgz", "calm-linux-amd64.tgz, size: Expe"
    ),
    "a wrong type in an entry that is like another": Broken(
        SWIFT,
        'covers = ">',
        'cpu_flags = "avx"\ncovers = ">',
        "cpu_flags",
        "swift-1.4.0-cu129, cpu_flags: Expected `array`",
    ),
    "an id that stands twice": Broken(
        SWIFT,
        'id = "swift-1.4.0-cpu-aarch64"',
        'id = "swift-1.5.0-cu129"',
        'id = "swift-1.5.0-cu129"\nrelease = "1.4.0"',
        "this id stands on line 11 already",
    ),
    "like an entry that is not there": Broken(
        SWIFT,
        'like = "swift-1.5.0-cu129"',
        'like = "swift-1.6.0-cu129"',
        "like =",
        'there is no entry "swift-1.6.0-cu129"',
    ),
    "like an entry that is like it": Broken(
        SWIFT, "[[build]]", '[[build]]\nlike = "swift-1.4.0-cu129"', "like =", "one of them must stand for itself"
    ),
    "a wrong value that an entry above takes from it": Broken(
        SWIFT,
        WHEELS[WHEELS.index("[[build]]") :],
        '[[build]]\nid = "swift-1.6.0-cu129"\nlike = "swift-1.5.0-cu129"\n\n'
        + WHEELS[WHEELS.index("[[build]]") :].replace('arch = "x86_64"', "arch = 64"),
        "arch = 64",
        "build swift-1.5.0-cu129, arch: Expected `str`, got `int`",
    ),
    "an entry that is no table": Broken(
        "cuda.toml", "[[line]]", "line = [3]\n[other]", "line = [3]", "Expected `object`"
    ),
    "bytes that are no text": Broken("torch.toml", "[[build]]", "\udcff", "", "can't decode byte 0xff"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_defect_is_told_with_its_file_and_its_line(envs: Path, kind: str) -> None:
    broken = BROKEN[kind]
    file = envs / broken.file
    before = file.read_text()
    assert broken.old in before, "the test would change nothing"
    text = before.replace(broken.old, broken.new, 1)
    file.write_bytes(text.encode(errors="surrogateescape"))
    found = [defect for defect in check_catalogue(envs) if broken.words in defect.what]
    assert found, check_catalogue(envs)
    place = text.index(broken.where)
    assert (found[0].file, found[0].line or 1) == (file, text.count("\n", 0, place) + 1 if broken.where else 1)


def test_an_engine_and_its_torch_are_made_with_one_generation_of_cuda(envs: Path) -> None:
    newer = CUDA.replace("12.9", "13.0").replace("525.60.13", "580").replace("575.51.03", "580.65.06")
    (envs / "cuda.toml").write_text(CUDA + newer)
    (envs / "torch.toml").write_text(TORCH.replace('local = "cu129"\ncuda = "12.9"', 'cuda = "13.0"'))
    (envs / SWIFT).write_text(WHEELS.replace('torch_local = "cu129"\n', ""))
    found = {(defect.line, defect.what.partition(", ")[2]) for defect in check_catalogue(envs)}
    words = "cuda: it is made with CUDA 12.9 and its torch with CUDA 13.0"
    text = (envs / SWIFT).read_text()
    like = text[: text.index('[[build]]\nid = "swift-1.4.0-cu129')].count("\n") + 1
    assert found == {(text[: text.index('cuda = "12.9"')].count("\n") + 1, words), (like, words)}


def test_two_entries_of_one_kind_do_not_cover_one_release(envs: Path) -> None:
    covering = ARCHIVE.replace('runner = "cuda_v12"', 'runner = "cuda_v12"\ncovers = ">=0.5,<0.6.2"')
    covering = covering.replace('assets = "its sums"', 'assets = "its sums"\ncovers = "its build files"')
    (envs / CALM).write_text(covering)
    assert check_catalogue(envs) == []
    other = '\n[[build]]\nid = "calm-0.6.3-cuda-v12-x86_64"\nlike = "calm-0.6.2-cuda-v12-x86_64"\nrelease = "0.6.3"\n'
    (envs / CALM).write_text(covering + other)
    line = RELEASES[: RELEASES.index('version = "0.6.0"')].count("\n") + 1
    words = "release 0.6.0 is covered by several entries for cuda-v12-x86_64"
    assert [str(defect) for defect in check_catalogue(envs)] == [f"{envs / 'calm/releases.toml'}:{line}: {words}"]


def test_an_engine_without_compiled_parts_leaves_the_gpus_to_its_torch(envs: Path) -> None:
    pure = WHEELS.replace('extensions = ["swift/*.so"], ', "").replace('capabilities = ["8.0", "9.0a"]\n', "")
    (envs / SWIFT).write_text(pure)
    assert check_catalogue(envs) == []


def test_every_defect_of_a_page_is_told_at_once(envs: Path) -> None:
    text = WHEELS.replace('"9.0a"', '"90"').replace("s==5.19.0", "s").replace('"aa63', '"xx')
    (envs / SWIFT).write_text(text)
    (envs / "mirrors.toml").write_text(MIRRORS.replace("https://pypi", "http://pypi"))
    told = [str(defect) for defect in check_catalogue(envs)]
    assert len([line for line in told if "swift-1.5.0-cu129" in line]) == 3
    assert f"{envs / 'mirrors.toml'}:4: http://pypi.example/simple: a mirror's address must begin with https://" in told
