from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.local_channel import FULL, MINOR, SUBDIR, index_channel, session_channel, write_package
from support.loopback_index import serve

from firstlight.environments import conda_list
from firstlight.environments.conda import attempts, create_prefix, register_prefix, unregister_prefix
from firstlight.errors import FirstlightError, NetworkFailed, UsageError, VerificationFailed
from firstlight.events import Note, Step, StepProgress

SPECS = (f"python {MINOR}.*", "pip")


@pytest.fixture(autouse=True)
def _loopback(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="session")
def channel(tmp_path_factory):
    return session_channel(tmp_path_factory.getbasetemp())


@pytest.fixture
def mirrors(channel):
    """A server that holds the channel as /one/conda-forge and /two/conda-forge."""
    with serve() as server:
        server.folders = {"/one/conda-forge": channel, "/two/conda-forge": channel}
        server.python = next((channel / SUBDIR).glob("python-*.conda")).name
        yield server


class Place:
    def __init__(self, folder: Path) -> None:
        self.prefix = folder / "Präfix mit Leerzeichen"
        self.cache = folder / "cache"
        self.log = folder / "build.log"
        self.events: list[object] = []

    def create(self, *channels, specs=SPECS, stall=30.0):
        step = Step(self.events.append, "conda", "conda")
        return create_prefix(self.prefix, specs, channels, self.cache, step=step, log=self.log, stall=stall)

    def run(self, program: str) -> str:
        words = [self.prefix / "bin" / "python", "-c", program]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    @property
    def warnings(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Note) and event.level == "warn"]


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


def test_a_prefix_holds_a_python_of_its_own(place, channel):
    packages = {package.name: package for package in place.create(str(channel))}
    assert (packages["python"].version, packages["python"].subdir) == (FULL, SUBDIR)
    archive = channel / SUBDIR / packages["python"].url.rpartition("/")[2]
    assert packages["python"].sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
    assert packages["python"].size == archive.stat().st_size
    assert packages["python"].channel == channel.as_uri()
    told = place.run("import sys, ssl, sqlite3, ctypes, lzma, pip; print(sys.prefix); print(sys.base_prefix)")
    assert told.splitlines() == [str(place.prefix)] * 2
    loaded = place.run("import ssl, sqlite3; print(open('/proc/self/maps').read())")
    strangers = [line for line in loaded.splitlines() if sys.base_prefix in line and sys.base_prefix != "/usr"]
    assert strangers == []


def test_conda_finds_a_history_and_backups_find_no_cache(place, channel):
    place.create(channel.as_uri())
    history = (place.prefix / "conda-meta" / "history").read_text()
    assert f"+{channel.as_uri()}/{SUBDIR}::python-{FULL}-" in history
    assert f"# update specs: ['python {MINOR}.*', 'pip']" in history
    assert not (place.prefix / "CACHEDIR.TAG").exists()
    place.create(channel.as_uri())
    assert (place.prefix / "conda-meta" / "history").read_text() == history


def test_progress_counts_bytes_and_the_cache_is_used(place, mirrors, tmp_path):
    packages = place.create(f"{mirrors.url}/one/conda-forge")
    told = [event for event in place.events if isinstance(event, StepProgress)]
    assert told[-1].done == told[-1].total == sum(package.size for package in packages)
    assert packages[0].source.startswith(f"{mirrors.url}/one/conda-forge/")
    mirrors.requests.clear()
    place.prefix = tmp_path / "second"
    place.create(f"{mirrors.url}/one/conda-forge")
    assert not [request for request in mirrors.requests if request.endswith(".conda")]


def test_a_file_that_was_edited_in_one_prefix_does_not_come_into_the_next(place, channel, tmp_path):
    place.create(str(channel))
    with (place.prefix / "lib" / f"python{MINOR}" / "this.py").open("a") as module:
        module.write("raise SystemExit(3)\n")
    place.prefix = tmp_path / "second"
    place.create(str(channel))
    assert "Zen" in place.run("import this")


@pytest.mark.parametrize("fault", ["404", "corrupt", "stall"])
def test_the_next_mirror_stands_in_for_a_package(place, mirrors, fault):
    mirrors.faults = {f"/one/conda-forge/{SUBDIR}/{mirrors.python}": fault}
    packages = place.create(f"{mirrors.url}/one/conda-forge", f"{mirrors.url}/two/conda-forge", stall=2.0)
    assert {p.url.partition("/conda-forge/")[0] for p in packages} == {f"{mirrors.url}/two"}
    assert place.run("print(1)") == "1"
    assert place.warnings[0].startswith(f"{mirrors.url}/one/conda-forge: ")


@pytest.mark.parametrize("fault", ["500", "hang"])
def test_the_next_mirror_stands_in_for_a_channel(place, mirrors, fault):
    names = ("repodata_shards.msgpack.zst", "repodata.json.zst", "repodata.json")
    mirrors.faults = {f"/one/conda-forge/{sub}/{name}": fault for name in names for sub in ("noarch", SUBDIR)}
    place.create(
        "http://127.0.0.1:9/conda-forge", f"{mirrors.url}/one/conda-forge", f"{mirrors.url}/two/conda-forge", stall=2.0
    )
    assert place.run("print(1)") == "1"
    assert len(place.warnings) == 2


def test_when_no_mirror_delivers_each_is_named(place, mirrors):
    mirrors.faults = {f"/one/conda-forge/{SUBDIR}/{mirrors.python}": "hang"}
    with pytest.raises(NetworkFailed) as caught:
        place.create(
            f"{mirrors.url}/one/conda-forge", f"{mirrors.url}/none/conda-forge", "http://me:secret@127.0.0.1:9/conda-forge",
            stall=2.0,
        )  # fmt: skip
    assert f"{mirrors.url}/one/conda-forge: nothing arrived for 2 s" in caught.value.why
    assert f"{mirrors.url}/none/conda-forge: could not find subdir 'noarch'" in caught.value.why
    assert "http://***@127.0.0.1:9/conda-forge: " in caught.value.why
    assert "Connection refused" in caught.value.why
    assert "secret" not in caught.value.why + caught.value.evidence + place.log.read_text()


def test_damaged_packages_everywhere_are_a_failed_verification(place, mirrors):
    mirrors.faults = {mirrors.python: "corrupt"}
    with pytest.raises(VerificationFailed, match="arrive damaged") as caught:
        place.create(f"{mirrors.url}/one/conda-forge")
    assert "Invalid checksum" in caught.value.why
    mirrors.faults = {}
    place.create(f"{mirrors.url}/one/conda-forge")
    assert place.run("print(1)") == "1"


def test_the_solver_explains_what_does_not_fit(tmp_path):
    folder = tmp_path / "lonely" / "conda-forge"
    write_package(folder, "newer", "1.0", depends=["__glibc >=9.99"], noarch="generic")
    index_channel(folder)
    place = Place(tmp_path)
    with pytest.raises(FirstlightError, match="no set of conda packages fits: newer") as caught:
        place.create(str(folder), specs=("newer",))
    assert "__glibc >=9.99" in caught.value.why
    with pytest.raises(FirstlightError) as caught:
        place.create(str(folder), specs=("nowhere 3.*",))
    assert "No candidates were found for nowhere 3.*" in caught.value.why
    assert folder.as_uri() in caught.value.why


def test_wrong_words_are_usage_errors(place, channel):
    with pytest.raises(UsageError):
        place.create(str(channel), specs=("python==/",))
    with pytest.raises(UsageError, match="no conda channel was named"):
        place.create()


def test_mirrors_are_channels_of_one_name():
    assert attempts(
        ["https://a/cloud/conda-forge", "https://a/cloud/nvidia", "conda-forge", "https://a/cloud/conda-forge/"]
    ) == [
        ("https://a/cloud/conda-forge", "https://a/cloud/nvidia"),
        ("https://conda.anaconda.org/conda-forge", "https://a/cloud/nvidia"),
    ]


def test_a_base_installation_and_the_active_environment_stay_untouched(channel, tmp_path, monkeypatch):
    base = Place(tmp_path / "base")
    base.create(str(channel))
    before = _snapshot(base.prefix)
    monkeypatch.setenv("CONDA_PREFIX", str(base.prefix))
    monkeypatch.setenv("CONDA_ROOT", str(base.prefix))
    monkeypatch.setenv("PATH", f"{base.prefix / 'bin'}:{os.environ['PATH']}")
    other = Place(tmp_path / "other")
    other.create(str(channel))
    assert other.run("import sys; print(sys.prefix)") == str(other.prefix)
    assert _snapshot(base.prefix) == before


def _snapshot(root: Path) -> dict[str, tuple[int, int, str]]:
    found = {}
    for path in sorted(root.rglob("*")):
        facts = path.lstat()
        link = str(path.readlink()) if path.is_symlink() else ""
        found[str(path.relative_to(root))] = (facts.st_mtime_ns if path.is_file() else 0, facts.st_size, link)
    return found


def test_many_prefixes_at_once_share_a_cache(channel, tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    places = [Place(tmp_path) for _ in range(3)]
    for number, place in enumerate(places):
        place.prefix = tmp_path / f"p{number}"
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda place: place.create(str(channel)), places))
    assert [place.run("import pip, sys; print(sys.prefix)") for place in places] == [str(p.prefix) for p in places]


@pytest.fixture
def listing(tmp_path, monkeypatch):
    """The home of whoever runs the tests is elsewhere."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(conda_list.pwd, "getpwuid", lambda _uid: SimpleNamespace(pw_dir=str(tmp_path)))
    return tmp_path / ".conda" / "environments.txt"


def test_the_list_of_environments_is_added_to_once_and_given_back(listing, tmp_path):
    prefix = tmp_path / "envs ü" / "one"
    assert register_prefix(prefix) == listing
    assert listing.read_text() == f"{prefix}\n"
    listing.write_text(f"/opt/conda\n\n# mine\n{prefix}")
    assert register_prefix(prefix) is None
    assert register_prefix(tmp_path / "two") == listing
    assert listing.read_text() == f"/opt/conda\n\n# mine\n{prefix}\n{tmp_path / 'two'}\n"
    assert unregister_prefix(prefix) == listing
    assert unregister_prefix(prefix) is None
    assert listing.read_text() == f"/opt/conda\n\n# mine\n{tmp_path / 'two'}\n"


def test_a_list_that_cannot_be_written_is_no_failure(listing, tmp_path):
    listing.parent.write_text("a file where the folder should be")
    assert register_prefix(tmp_path / "one") is None
    assert unregister_prefix(tmp_path / "one") is None


def test_the_conda_metadata_is_what_conda_reads(place, channel):
    place.create(str(channel))
    record = json.loads(next((place.prefix / "conda-meta").glob("python-*.json")).read_text())
    assert record["requested_specs"] == [f"python {MINOR}.*"]
    assert f"lib/python{MINOR}/this.py" in record["files"]


@pytest.mark.root
def test_a_full_disk_is_named(tmp_path, channel):
    small = tmp_path / "small disk"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(small)], check=True)
    try:
        with pytest.raises(FirstlightError) as caught:
            Place(small).create(str(channel))
    finally:
        subprocess.run(["umount", str(small)], check=True)
    assert f"on {small}" in caught.value.what
    assert f"make room on {small}" in caught.value.fix
