"""Releases without an entry of their own follow the one that covers them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.command import firstlight

from firstlight.catalogue.loading import CatalogueError, find_build, load_catalogue, read_toml
from firstlight.catalogue.releases import ReleasesPage, covers, known_releases, release_builds, release_of_id
from firstlight.resources import data_folder

MACHINES = Path(__file__).parent / "machines"
ENTRY = load_catalogue().engines["ollama"]
CURATED = {build.release for build in ENTRY.build}
COVERED = [name for name in known_releases("ollama") if name not in CURATED and release_builds(ENTRY, name)]


def figures(build):
    return (
        build.cuda,
        build.runner,
        build.capabilities,
        build.ptx,
        build.driver,
        build.libc,
        build.arch,
        build.jetpack,
    )


@pytest.mark.parametrize(
    ("release", "like", "asset"),
    [
        ("0.5.4", "0.5.7", "ollama-linux-amd64.tgz"),
        ("0.6.2", "0.9.2", "ollama-linux-amd64.tgz"),
        ("0.6.7", "0.9.2", "ollama-linux-amd64.tgz"),
        ("0.10.1", "0.11.10", "ollama-linux-amd64.tgz"),
        ("0.12.3", "0.13.5", "ollama-linux-amd64.tgz"),
        ("0.20.4", "0.24.0", "ollama-linux-amd64.tar.zst"),
        ("0.30.8", "0.30.10", "ollama-linux-amd64.tar.zst"),
        ("0.34.0", "0.35.1", "ollama-linux-amd64.tar.zst"),
    ],
)
def test_a_covered_release_has_the_figures_of_its_entry_and_hashes_of_its_own(release, like, asset):
    found = release_builds(ENTRY, release)
    base = [build for build in ENTRY.build if build.release == like]
    assert [figures(build) for build in found] == [figures(build) for build in base]
    assert {build.release for build in found} == {release}
    assert [build.id for build in found] == [build.id.replace(like, release) for build in base]
    mine, theirs = found[0].assets[0], base[0].assets[0]
    assert mine.name == theirs.name == asset
    assert mine.sha256 not in {None, theirs.sha256}


def test_the_hash_of_a_well_known_archive():
    build = next(build for build in release_builds(ENTRY, "0.6.2") if build.arch == "x86_64")
    assert build.assets[0].sha256 == "d59967750335233d2c116acae63d7927f0b91409aba47eb8636d8f990ad46bd1"


def test_a_file_without_a_public_hash_has_none():
    build = next(build for build in release_builds(ENTRY, "0.6.7") if build.jetpack == "6")
    assert [(asset.name, asset.sha256 is None) for asset in build.assets] == [
        ("ollama-linux-arm64.tgz", False),
        ("ollama-linux-arm64-jetpack6.tgz", True),
    ]


@pytest.mark.parametrize("release", ["0.3.6", "0.99.0", "1.0", "", "latest", *sorted(CURATED)])
def test_what_is_not_covered_not_known_or_has_entries_of_its_own_gives_nothing(release):
    assert release_builds(ENTRY, release) == []


def test_each_covered_release_is_covered_once_and_every_entry_covers_something():
    for release in COVERED:
        found = release_builds(ENTRY, release)
        assert len({build.id for build in found}) == len(found)
        assert len({build.covers is None for build in found}) == 1
    for build in ENTRY.build:
        assert any(covers(build, release) for release in COVERED), build.id


def test_assets_end_in_what_their_time_packed_with():
    """The archives became .tar.zst with 0.14.0 (release workflow at its tag)."""
    for release in COVERED:
        zst = tuple(map(int, release.split("."))) >= (0, 14, 0)
        for build in release_builds(ENTRY, release):
            assert all(asset.name.endswith(".tar.zst" if zst else ".tgz") for asset in build.assets), build.id


def test_every_hash_has_a_source_and_no_release_stands_twice():
    page = read_toml(data_folder("envs") / "ollama" / "releases.toml", ReleasesPage)
    names = [release.version for release in page.release]
    assert len(set(names)) == len(names)
    for release in page.release:
        assert release.seen
        assert set(release.seen) <= set(page.sources)
    hashes = [asset.sha256 for release in page.release for asset in release.assets]
    assert all(len(digest or "") == 64 for digest in hashes)
    assert len(set(hashes)) == len(hashes)  # the same sum for two files is a recipe that was not updated


def test_hashes_of_entries_and_of_the_list_agree():
    for build in ENTRY.build:
        known = known_releases("ollama")[build.release]
        listed = {asset.name: asset.sha256 for asset in known.assets}
        for asset in build.assets:
            assert asset.sha256 == listed.get(asset.name), build.id


@pytest.mark.parametrize(
    ("build_id", "release"),
    [
        ("ollama-0.6.7-cpu-x86_64", "0.6.7"),
        ("ollama-0.35.1-cuda-v13-x86_64", "0.35.1"),
        ("ollama-0.99.0-cpu-x86_64", None),
        ("vllm-0.6.7-cpu-x86_64", None),
        ("ollama", None),
    ],
)
def test_the_release_in_the_id_of_a_build(build_id, release):
    assert release_of_id(ENTRY, build_id) == release


def test_an_engine_without_a_list_of_releases_knows_none():
    assert dict(known_releases("vllm")) == {}


def test_a_wrong_list_is_told_with_its_line(tmp_path):
    (tmp_path / "ollama").mkdir()
    source = data_folder("envs") / "ollama" / "releases.toml"
    shutil.copy(source, tmp_path / "ollama" / "releases.toml")
    assert known_releases("ollama", tmp_path)
    other = tmp_path / "other"
    (other / "ollama").mkdir(parents=True)
    (other / "ollama" / "releases.toml").write_text('[sources]\n\n[[release]]\nversion = "1"\nseen = []\nmd5 = "x"\n')
    with pytest.raises(CatalogueError) as caught:
        known_releases("ollama", other)
    assert caught.value.line == 6


@pytest.mark.parametrize(
    ("machine", "release", "build"),
    [
        ("a100-driver535-ubuntu2004", "0.6.7", "ollama-0.6.7-cuda-v12-x86_64"),
        ("t4-driver525-ubuntu1804", "0.6.2", "ollama-0.6.2-cuda-v11-x86_64"),
        ("real/centos7-a100x8-driver525", "0.5.9", "ollama-0.5.9-cuda-v11-x86_64"),
        ("real/thor-jetpack7-driver580", "0.32.5", "ollama-0.32.5-cuda-v13-aarch64"),
        ("no-gpu-laptop", "0.20.4", "ollama-0.20.4-cpu-x86_64"),
    ],
)
def test_a_covered_release_can_be_asked_for(machine, release, build):
    words = ("plan", "ollama", "--machine", str(MACHINES / f"{machine}.json"), "--json")
    assert firstlight(*words, "--release", release).document["build"]["id"] == build
    assert firstlight(*words, "--build", build).document["build"]["id"] == build


def test_an_unknown_release_is_refused_with_near_ones():
    ended = firstlight("plan", "ollama", "--machine", str(MACHINES / "no-gpu-laptop.json"), "--release", "0.35.11")
    assert ended.code == 2
    assert "did you mean" in ended.err
    assert "--release takes one of: 0.35.1," in ended.err


def test_a_build_of_a_covered_release_is_found_by_its_id_and_no_other_is():
    from firstlight.errors import UsageError

    build = find_build(ENTRY, "ollama-0.6.7-cpu-x86_64")
    assert (build.release, build.covers) == ("0.6.7", None)
    assert build.id not in [entry.id for entry in ENTRY.build]
    for unknown in ("ollama-0.6.999-cpu-x86_64", "ollama-0.6.7-cuda-v99-x86_64"):
        with pytest.raises(UsageError):
            find_build(ENTRY, unknown)
