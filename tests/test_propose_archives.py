"""scripts/propose_build.py for engines that come as archives: the entries of a release, made from its list of sums."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.loopback_index import LoopbackIndex, serve
from support.proposing_lab import propose, write_catalogue

PAGE = """
# A page of archives.
engine = "calm"
rank = 2
summary = "an engine"
cpu = "always"
port = 9000
kind = "archive"
sources = { release = "its releases", sizes = "its releases", assets = "its sums", covers = "its build files" }

[[build]]
id = "calm-0.35.1-cpu-x86_64"
release = "0.35.1"
arch = "x86_64"
covers = ">=0.32.2,<0.35.1"
assets = [
    { name = "calm-linux-amd64.tgz", sha256 = "OLD" },  # 0.35.1
    { name = "calm-linux-amd64-more.tgz" },
]
sizes = { download = 400, disk = 800 }
sources = {}

[[build]]
id = "calm-0.32.1-cpu-x86_64"
like = "calm-0.35.1-cpu-x86_64"
release = "0.32.1"
covers = ">=0.30,<0.32.1"
""".replace("OLD", "0" * 64)
RELEASES = """
[sources]
tag = "its tags"

[[release]]
version = "0.35.1"
seen = ["tag"]
"""


@pytest.fixture
def envs(tmp_path: Path) -> Path:
    return write_catalogue(tmp_path)


@pytest.fixture
def index() -> Iterator[LoopbackIndex]:
    with serve() as held:
        yield held


def test_archives_of_a_new_release_take_the_place_of_the_last_ones(index: LoopbackIndex, envs: Path) -> None:
    (envs / "calm").mkdir()
    (envs / "calm" / "builds.toml").write_text(PAGE)
    (envs / "calm" / "releases.toml").write_text(RELEASES)
    archive = b"archive" * 100
    sums = f"{'1' * 64}  ./calm-linux-amd64.tar.zst\n{'2' * 64}  ./calm-linux-arm64.tgz\n{'3' * 64} *calm-mac.zip\n"
    index.files["/v0.36.0/sha256sum.txt"] = sums.encode()
    index.files["/v0.36.0/calm-linux-amd64.tar.zst"] = archive
    done = propose(envs, "calm", "0.36.0", "--sums", f"{index.url}/v0.36.0/sha256sum.txt")
    changed = [
        line for line in done.stdout.splitlines() if line.startswith(("+", "-")) and line[:3] not in {"+++", "---"}
    ]
    entry = f'    {{ name = "calm-linux-amd64.tar.zst", sha256 = "{"1" * 64}" }},'
    assert [line for line in changed if line.startswith("-")] == [
        '-id = "calm-0.35.1-cpu-x86_64"',
        '-release = "0.35.1"',
        '-covers = ">=0.32.2,<0.35.1"',
        f'-    {{ name = "calm-linux-amd64.tgz", sha256 = "{"0" * 64}" }},  # 0.35.1',
        '-like = "calm-0.35.1-cpu-x86_64"',
    ]
    assert [line[1:] for line in changed if line.startswith("+")] == [
        'id = "calm-0.36.0-cpu-x86_64"',
        'release = "0.36.0"',
        'covers = ">=0.32.2,<0.36.0"',
        f"{entry}  # 0.35.1",
        'like = "calm-0.36.0-cpu-x86_64"',
        'sums = "the release\'s own sha256sum.txt"',
        "",
        "[[release]]",
        'version = "0.36.0"',
        'seen = ["sums"]',
        "assets = [",
        entry,
        "]",
    ]
    assert "calm-linux-amd64-more.tgz is not in the list" in done.stdout
    assert "files for Linux that no entry names: calm-linux-arm64.tgz" in done.stdout
    assert "whether its build files are those of 0.35.1" in done.stdout


def test_archives_without_their_sums_are_not_proposed(envs: Path, tmp_path: Path) -> None:
    (envs / "calm").mkdir()
    (envs / "calm" / "builds.toml").write_text(PAGE)
    assert "--sums URL" in propose(envs, "calm", "0.36.0", code=2).stderr
    empty = tmp_path / "sums.txt"
    empty.write_text("<html>not found</html>\n")
    assert "holds no SHA-256 sums" in propose(envs, "calm", "0.36.0", "--sums", str(empty), code=1).stderr
    empty.write_text(f"{'1' * 64}  ./calm-linux-amd64.tgz\n")
    assert "no release before 0.1.0" in propose(envs, "calm", "0.1.0", "--sums", str(empty), code=1).stderr
