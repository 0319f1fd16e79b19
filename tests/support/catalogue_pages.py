"""A small catalogue of two engines without a defect, as the texts of its files."""

from __future__ import annotations

from pathlib import Path

CUDA = """
[[line]]
version = "12.9"
driver = "525.60.13"
native_driver = "575.51.03"
sources = { driver = "NVIDIA, minor version compatibility", native_driver = "NVIDIA, release notes" }
"""
TORCH = """
[[build]]
release = "2.13.0"
arch = "x86_64"
local = "cu129"
cuda = "12.9"
capabilities = ["7.5", "8.0", "9.0", "12.0"]
ptx = "12.0"
libc = "2.28"
pythons = ["3.12", "3.11"]
companions = { torchvision = "0.28.0" }

[build.sources]
cuda = "its local version"
capabilities = "PyTorch's build list"
ptx = "the same"
libc = "wheel tag"
pythons = "wheels of the index"
companions = "a public lock file"

[[build]]
release = "2.13.0"
arch = "aarch64"
local = "cpu"
libc = "2.28"
pythons = ["3.12"]
sources = { libc = "wheel tag", pythons = "wheels of the index" }
"""
PLATFORMS = """
tegra = ["8.7"]
sources = { tegra = "NVIDIA's table" }
"""
MIRRORS = """
conda = { canonical = "https://conda.example/forge", mirrors = ["https://one.example/forge"] }
torch = { canonical = "https://torch.example/whl", mirrors = ["https://one.example"], flat = ["https://one.example"] }
pypi = { canonical = "https://pypi.example/simple" }
github = { canonical = "https://github.example" }
"""
WHEELS = """
engine = "swift"
rank = 1
summary = "an engine of wheels"
cpu = "never"
port = 8000
examination = { command = ["-m", "swift", "--help"], extensions = ["swift/*.so"], tokenizer = ["swift:load"] }
sources = { release = "its registry", cuda = "the wheel", sizes = "sums of the wheels" }

[[build]]
id = "swift-1.5.0-cu129"
release = "1.5.0"
arch = "x86_64"
cuda = "12.9"
torch = "2.13.0"
torch_local = "cu129"
capabilities = ["8.0", "9.0a"]
libc = "2.28"
pythons = ["3.12"]
requirements = ["gguf"]
pins = ["transformers==5.19.0"]
excludes = ["pynvml"]
sizes = { download = 4_000, disk = 8_000 }

[build.wheel]
url = "https://github.example/swift/releases/download/v1.5.0/swift-1.5.0%2Bcu129-{cp}-{cp}-manylinux_2_28_x86_64.whl"
sha256 = "aa63f47c7a2d8b1d7aee8a2bd0c8bb48d0b1e6e5f1a4a4a8d2bd5d8ab1f5c6d1"
size = 3_000

[build.sources]
capabilities = "scan of the wheel"
libc = "wheel tag"
pythons = "wheel tags"
pins = "a run"
excludes = "a run"
wheel = "the project's releases"

[[build]]
id = "swift-1.4.0-cu129"
like = "swift-1.5.0-cu129"
release = "1.4.0"
covers = ">=1.3,<1.5"

[build.wheel]
url = "https://github.example/swift/releases/download/v1.4.0/swift-1.4.0+cu129-cp312-cp312-manylinux2014_x86_64.whl"

[build.sources]
covers = "the same pins"

[[build]]
id = "swift-1.4.0-cpu-aarch64"
release = "1.4.0"
arch = "aarch64"
torch = "2.13.0"
torch_local = "cpu"
memory = 2_000
requirements = ["swift-cpu==1.4.0"]
sizes = { download = 400, disk = 800 }
sources = { memory = "measured" }
"""
ARCHIVE = """
engine = "calm"
rank = 2
summary = "an engine in an archive"
cpu = "always"
port = 9000
kind = "archive"

[[build]]
id = "calm-0.6.2-cuda-v12-x86_64"
release = "0.6.2"
arch = "x86_64"
cuda = "12.9"
runner = "cuda_v12"
capabilities = ["5.0", "8.0"]
sizes = { download = 400, disk = 800 }
assets = [
    { name = "calm-linux-amd64.tgz", size = 390 },
    { name = "calm-linux-amd64-more.tgz", sha256 = "aa63f47c7a2d8b1d7aee8a2bd0c8bb48d0b1e6e5f1a4a4a8d2bd5d8ab1f5c6d1" },
]

[build.sources]
release = "its releases"
cuda = "its build files"
capabilities = "its build files"
sizes = "its releases"
assets = "its sums"
"""
RELEASES = """
[sources]
tag = "it has this tag"

[[release]]
version = "0.6.0"
seen = ["tag"]
assets = [{ name = "calm-linux.tgz", sha256 = "aa63f47c7a2d8b1d7aee8a2bd0c8bb48d0b1e6e5f1a4a4a8d2bd5d8ab1f5c6d1" }]

[[release]]
version = "0.6.2"
seen = ["tag"]
"""
CAUSES = """
[[cause]]
id = "port-taken"
pattern = '''\\[Errno 98\\]'''
cause = "another program got the port first"
fix = "choose another port"
source = "Linux errno 98"
"""
PAGES = {
    "cuda.toml": CUDA,
    "torch.toml": TORCH,
    "platforms.toml": PLATFORMS,
    "mirrors.toml": MIRRORS,
    "swift/builds.toml": WHEELS,
    "swift/causes.toml": CAUSES,
    "calm/builds.toml": ARCHIVE,
    "calm/causes.toml": CAUSES,
    "calm/releases.toml": RELEASES,
}
SWIFT, CALM = "swift/builds.toml", "calm/builds.toml"


def write_pages(folder: Path) -> Path:
    """Write the catalogue into a folder, and return it."""
    for name, text in PAGES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder
