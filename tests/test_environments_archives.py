"""Versions of an engine that comes as an archive: side by side, switched at the end, never a moment without one."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from support.archives import entry, tar_of
from support.command import firstlight
from support.faults import Faults
from support.faulty_server import faulty_server
from support.fetching_lab import asked_again, kept_runs

from firstlight.catalogue.loading import load_catalogue
from firstlight.environments.archives import ArchivePart, ArchiveSpec, ArchiveStore, store_for, store_named
from firstlight.environments.generations import Store, all_generations
from firstlight.environments.spec import MANIFEST
from firstlight.errors import FirstlightError, UsageError, VerificationFailed
from firstlight.events import Step, silent
from firstlight.fetching.types import Policy, Source, Wanted
from firstlight.fetching.unpacking import Selection
from firstlight.home import Home

QUIET = Step(silent, "x", "x")
POLICY = Policy(stall_seconds=5, retry_wait=0.02, retry_wait_max=0.1)
ENGINE = next(name for name, entry in load_catalogue().engines.items() if entry.kind == "archive")


def archive_of(*entries: bytes, program: bytes = b"#!/bin/sh\n") -> bytes:
    # The same bytes in every second: the hash of an archive is part of its environment's key.
    return gzip.compress(tar_of(entry("bin/engine", program, mode=0o755), *entries), mtime=0)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Site:
    def __init__(self, folder: Path) -> None:
        self.home = Home(folder / "home")
        self.store = ArchiveStore(self.home, ENGINE)
        self.folder = folder / "archives"
        self.folder.mkdir()

    def part(self, name: str, data: bytes, **words) -> ArchivePart:
        (self.folder / name).write_bytes(data)
        wanted = Wanted(name=name, sources=(), sha256=sha256(data), size=len(data))
        return ArchivePart(wanted=wanted, local=self.folder / name, **words)

    def spec(self, release: str, *parts: ArchivePart, **words) -> ArchiveSpec:
        chosen = parts or (self.part(f"engine-{release}.tgz", archive_of(entry("lib/a", release.encode()))),)
        plain = {"build": f"engine-{release}-cpu", "program": "bin/engine", "expected_disk": 100_000}
        return ArchiveSpec(**{**plain, "release": release, "parts": chosen, **words})

    def build(self, release: str, *parts: ArchivePart, **words):
        with self.store.lock() as held:
            return self.store.build(self.spec(release, *parts, **words), step=QUIET, policy=POLICY, hold=held)

    @property
    def there(self) -> list[str]:
        return sorted(path.name for path in self.store.folder.iterdir() if path.name != ".lock")


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def server():
    with faulty_server() as running:
        yield running


def test_a_version_from_a_local_file(site):
    built = site.build("1.2.3")
    assert (built.id, built.kind, built.state, built.release) == ("1.2.3", "archive", "built", "1.2.3")
    assert built.prefix == site.home.root / ENGINE / "1.2.3"
    assert built.program_path.read_bytes() == b"#!/bin/sh\n"
    assert [(file.name, file.size) for file in built.files] == [("bin/engine", 10), ("lib/a", 5)]
    data = (site.folder / "engine-1.2.3.tgz").read_bytes()
    record = built.archives[0]
    assert (record.sha256, record.size, record.hash_known) == (sha256(data), len(data), True)
    assert site.store.list() == [built]
    assert site.store.find(site.spec("1.2.3").key) == built
    assert (site.store.current(), site.there) == (None, ["1.2.3"])
    assert site.store.remove() == [f"removed {built.prefix}"]
    assert (site.there, (site.folder / "engine-1.2.3.tgz").exists()) == ([], True)


def test_a_version_is_fetched_and_unpacked_and_its_archive_not_kept(site, server):
    data = archive_of(entry("lib/noise", os.urandom(3_000_000)))
    route = server.add("/a.tgz", data)
    source = Source(url=f"{server.url}/a.tgz", name="origin")
    wanted = Wanted(name="a.tgz", sources=(source,), sha256=sha256(data), size=len(data))
    built = site.build("1.0", ArchivePart(wanted=wanted), expected_disk=4_000_000)
    assert built.archives[0].sources == ["origin"]
    assert (built.prefix / "lib" / "noise").stat().st_size == 3_000_000
    assert not site.store.downloads("1.0").exists()
    with site.store.lock() as held:
        spec = site.spec("1.0", ArchivePart(wanted=wanted), expected_disk=4_000_000)
        again = site.store.repair(built, spec, step=QUIET, policy=POLICY, keep_archives=True, hold=held)
    assert again.id == "1.0-2"
    assert [path.name for path in site.store.downloads("1.0").iterdir()] == ["a.tgz"]
    given = route.requests()
    third = site.build("1.0", ArchivePart(wanted=wanted), expected_disk=4_000_000)
    assert (third.id, third.problems, route.requests()) == ("1.0-3", (), given)


def test_a_download_that_ends_early_leaves_its_bytes_and_no_version(site, server):
    data = archive_of(entry("lib/noise", os.urandom(4_000_000)))
    route = server.add("/a.tgz", data, Faults(dies_after=2_500_000))
    source = Source(url=f"{server.url}/a.tgz", name="origin")
    part = ArchivePart(wanted=Wanted(name="a.tgz", sources=(source,), sha256=sha256(data), size=len(data)))
    site.store.folder.mkdir(parents=True)
    policy = msgspec.structs.replace(POLICY, attempts=2)
    with pytest.raises(FirstlightError) as caught, site.store.lock() as held:
        site.store.build(site.spec("1.0", part, expected_disk=4_000_000), step=QUIET, policy=policy, hold=held)
    assert caught.value.code == 4
    assert site.there == []
    server.heal(route)
    runs, before = kept_runs(site.home.root), len(route.seen)
    built = site.build("1.0", part, expected_disk=4_000_000)
    assert (built.problems, site.there) == ((), ["1.0"])
    assert runs
    assert not asked_again(runs, [seen.headers.get("range") for seen in route.seen[before:]])


def test_several_archives_make_one_version(site):
    """The main archive and the one for another GPU share folders; a file that both have must be the same."""
    both = entry("lib/engine/LICENSE", b"words")
    main = site.part("main.tgz", archive_of(entry("lib/engine/base.so", b"base"), both))
    more = gzip.compress(tar_of(entry("lib/engine/rocm/hip.so", b"hip"), both))
    link = entry("lib/engine/rocm/base.so", flag=b"2", target="../base.so")
    built = site.build("1.0", main, site.part("rocm.tgz", gzip.compress(tar_of(link)[:512]) + more))
    assert (built.prefix / "lib/engine/rocm/base.so").read_bytes() == b"base"
    assert [record.name for record in built.archives] == ["main.tgz", "rocm.tgz"]
    assert not list(built.prefix.glob(".*"))
    other = site.part("other.tgz", gzip.compress(tar_of(entry("lib/engine/base.so", b"another"))))
    with pytest.raises(VerificationFailed, match=r"other\.tgz holds base\.so, and another archive"):
        site.build("2.0", main, other)
    assert site.there == ["1.0"]


def test_only_the_chosen_libraries_are_unpacked(site):
    data = archive_of(entry("lib/cuda_v12/a.so", b"12"), entry("lib/cuda_v13/a.so", b"13"))
    chosen = site.part("a.tgz", data, selection=Selection(exclude=("lib/cuda_v13/*",)))
    built = site.build("1.0", chosen)
    assert [file.name for file in built.files] == ["bin/engine", "lib/cuda_v12/a.so"]
    assert site.store.find(site.spec("1.0", site.part("a.tgz", data)).key) is None
    assert site.store.find(site.spec("1.0", chosen).key) == built


BAD = {
    "an attack": (archive_of(entry("../evil", b"x")), {}, "was refused"),
    "a page": (b"<html>sign in", {}, "is no archive"),
    "an archive without the program": (gzip.compress(tar_of(entry("bin/other", b"x"))), {}, "no program bin/engine"),
    "a program that cannot be run": (gzip.compress(tar_of(entry("bin/engine", b"x"))), {}, "no program bin/engine"),
    "another file": (archive_of(), {"sha256": "0" * 64}, "is not the file that was expected"),
    "far more than was expected": (archive_of(entry("big", bytes(500_000))), {}, "more than the 400000 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_wrong_changes_nothing(site, what):
    data, changes, reason = BAD[what]
    current = site.build("1.0")
    site.store.switch(current)
    part = site.part("bad.tgz", data)
    part = msgspec.structs.replace(part, wanted=msgspec.structs.replace(part.wanted, **changes))
    with pytest.raises(VerificationFailed, match=reason) as caught:
        site.build("2.0", part)
    assert caught.value.fix
    assert (site.store.current(), site.there) == (current, ["1.0", "current"])
    assert (site.folder / "bad.tgz").exists()


def test_switching_back_and_forth(site):
    one, two = site.build("1.0"), site.build("2.0")
    site.store.switch(one)
    site.store.switch(two)
    assert {name: str((site.store.folder / name).readlink()) for name in ("current", "previous")} == {
        "current": "2.0", "previous": "1.0",
    }  # fmt: skip
    proven = site.store.mark_proven(two)
    assert (site.store.current(), site.store.previous()) == (proven, one)
    assert site.store.rollback() == one
    with pytest.raises(UsageError, match=f"1.0 is the current version of {ENGINE}"):
        site.store.remove("1.0")
    with pytest.raises(UsageError, match=r'has no version 2\.1 \(did you mean "2.0"\?\)'):
        site.store.remove("2.1")
    assert site.store.remove("2.0") == [f"removed {two.prefix}"]
    with pytest.raises(FirstlightError, match="has no previous version"):
        site.store.rollback()
    assert site.there == ["1.0", "current"]


def test_the_link_always_leads_to_a_version_that_works(site):
    """While versions come, are switched to and go, another process reads through `current` all the time."""
    site.store.switch(site.build("1.0"))
    link = site.store.folder / "current" / "bin" / "engine"
    watch = (
        "import pathlib, sys, time\n"
        f"link = pathlib.Path({str(link)!r})\n"
        "print('watching', flush=True)\n"
        "looks = 0\n"
        "while not pathlib.Path(sys.argv[1]).exists():\n"
        "    link.read_bytes()\n"
        "    looks += 1\n"
        "    time.sleep(0.001)\n"
        "print(looks)\n"
    )
    done = site.folder / "done"
    with subprocess.Popen([sys.executable, "-c", watch, str(done)], stdout=subprocess.PIPE, text=True) as watcher:
        watcher.stdout.readline()
        for number in range(2, 8):
            site.store.switch(site.build(f"{number}.0"))
            if number > 2:  # the last but one: who looked it up a moment ago has read it by now
                site.store.remove(f"{number - 2}.0")
        with pytest.raises(VerificationFailed):
            site.build("9.0", site.part("bad.tgz", b"<html>"))
        done.touch()
        assert int(watcher.stdout.read()) > 0
    assert watcher.returncode == 0


KILLED = """
import sys
from pathlib import Path
from firstlight.environments.archives import ArchivePart, ArchiveSpec, ArchiveStore
from firstlight.events import Step, silent
from firstlight.fetching.types import Source, Wanted
from firstlight.home import Home
home, engine, url, sha256, size = sys.argv[1:]
wanted = Wanted(name="a.tgz", sources=(Source(url=url, name="origin"),), sha256=sha256, size=int(size))
spec = ArchiveSpec(build="b", release="2.0", program="bin/engine", parts=(ArchivePart(wanted=wanted),), expected_disk=0)
store = ArchiveStore(Home(Path(home)), engine)
with store.lock() as held:
    print("locked", flush=True)
    store.build(spec, step=Step(silent, "x", "x"), hold=held)
"""


def test_a_killed_build_leaves_the_current_version_and_its_bytes(site, server):
    current = site.build("1.0")
    site.store.switch(current)
    data = archive_of(entry("lib/noise", os.urandom(6_000_000)))
    route = server.add("/a.tgz", data, Faults(hang_after=4_000_000))
    words = [sys.executable, "-c", KILLED, str(site.home.root), ENGINE, route.url, sha256(data), str(len(data))]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as builder:
        builder.stdout.readline()
        deadline = time.monotonic() + 60
        while not list(site.store.folder.glob("2.0/.unpacking-.part-0/lib/noise")):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        while sum(end - start for start, end in kept_runs(site.home.root)) < 1_000_000:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.kill(builder.pid, signal.SIGKILL)
    assert site.store.current() == current
    broken = next(item for item in site.store.list() if item.id == "2.0")
    assert broken.problems == ("it was never finished; the next setup removes it",)
    server.heal(route)
    runs, before = kept_runs(site.home.root), len(route.seen)
    part = ArchivePart(
        wanted=Wanted(
            name="a.tgz", sources=(Source(url=route.url, name="origin"),), sha256=sha256(data), size=len(data)
        )
    )
    with site.store.lock(wait=60) as held:
        built = site.store.build(site.spec("2.0", part, expected_disk=6_000_000), step=QUIET, policy=POLICY, hold=held)
    assert (built.problems, site.there) == ((), ["1.0", "2.0", "current"])
    assert not asked_again(runs, [seen.headers.get("range") for seen in route.seen[before:]])


def test_damage_is_seen_and_not_gone_back_to(site):
    one, two = site.build("1.0"), site.build("2.0")
    site.store.switch(one)
    site.store.switch(two)
    (one.prefix / "lib" / "a").write_bytes(b"")
    damaged = site.store.previous()
    assert damaged.problems == (f"{one.prefix / 'lib' / 'a'} has 0 bytes instead of 3",)
    with pytest.raises(FirstlightError, match="cannot be used") as caught:
        site.store.rollback()
    assert caught.value.why == damaged.problems[0]
    assert site.store.find(one.key) is None
    two.program_path.unlink()
    assert site.store.current().problems == (f"{two.program_path} is gone",)


def test_a_home_that_was_moved_keeps_its_versions(site):
    built = site.build("1.0")
    site.store.switch(built)
    site.home.root.rename(site.home.root.with_name("elsewhere"))
    moved = ArchiveStore(Home(site.home.root.with_name("elsewhere")), ENGINE).current()
    assert moved.problems == ()
    assert moved.program_path.exists()


def test_a_copy_from_elsewhere_is_adopted_and_never_touched(site, tmp_path):
    prefix = tmp_path / "usr"
    (prefix / "bin").mkdir(parents=True)
    with pytest.raises(UsageError, match="holds no bin/engine"):
        site.store.adopt(prefix, "bin/engine", "0.9")
    (prefix / "bin" / "engine").write_text("#!/bin/sh\n")
    (prefix / "bin" / "engine").chmod(0o755)
    adopted = site.store.adopt(prefix, "bin/engine", "0.9")
    assert (adopted.kind, adopted.release, adopted.problems) == ("adopted", "0.9", ())
    assert adopted.program_path == prefix / "bin" / "engine"
    site.store.switch(adopted)
    assert site.store.current() == adopted
    with pytest.raises(UsageError, match="was not unpacked by firstlight"):
        site.store.repair(adopted, site.spec("1.0"), step=QUIET)
    assert site.store.remove() == [f"removed {site.store.folder / adopted.id}; {prefix} itself stays as it is"]
    assert (prefix / "bin" / "engine").exists()
    with pytest.raises(UsageError, match="firstlight's own copy"):
        site.store.adopt(site.build("1.0").prefix, "bin/engine", "1.0")


def test_there_must_be_room_for_the_archive_and_its_content(site):
    wanted = Wanted(name="a.tgz", sources=(), size=1 << 59)
    with pytest.raises(FirstlightError, match=f"no room for {ENGINE} 1.0"):
        site.build("1.0", ArchivePart(wanted=wanted), expected_disk=1 << 59)
    assert site.there == []


def test_each_kind_of_engine_has_its_store(site):
    pages = load_catalogue().engines
    kinds = {name: type(store_for(site.home, page)) for name, page in pages.items()}
    assert kinds == {name: ArchiveStore if page.kind == "archive" else Store for name, page in pages.items()}
    with pytest.raises(UsageError):
        store_named(site.home, "no-such-engine")


def test_versions_are_listed_gone_back_to_and_removed_like_environments(site):
    home = site.home.root
    site.home.prepare()
    for release in ("1.0", "2.0"):
        site.store.switch(site.build(release))
    (site.store.folder / "3.0").mkdir()
    (site.store.folder / "3.0" / MANIFEST).write_text("{")
    assert [(item.engine, item.id, item.current) for item in all_generations(site.home) if item.build] == [
        (ENGINE, "1.0", False), (ENGINE, "2.0", True),
    ]  # fmt: skip
    listed = firstlight("setup.list", "--json", home=home).document
    assert {item["id"]: item["kind"] for item in listed["generations"] if item["build"]} == {
        "1.0": "archive", "2.0": "archive",
    }  # fmt: skip
    assert f"{ENGINE}: 1.0 is current again" in firstlight("setup.rollback", ENGINE, home=home).out
    assert firstlight("setup.remove", ENGINE, "--yes", home=home).code == 0
    assert not (site.store.folder / "1.0").exists()
    assert site.store.current() is None


def test_the_doctor_sees_a_damaged_version_and_what_a_killed_build_has_left(site):
    home = site.home.root
    site.home.prepare()
    built = site.build("1.0")
    site.store.switch(built)
    (built.prefix / "lib" / "a").unlink()
    broken = site.store.folder / "2.0"
    broken.mkdir()
    (broken / MANIFEST).write_bytes((built.prefix / MANIFEST).read_bytes().replace(b'"built"', b'"building"'))
    told = firstlight("doctor", "--json", home=home).document
    said = {finding["summary"]: finding for finding in told["findings"]}
    unusable = said[f"{ENGINE}: 1.0 cannot be used"]
    assert (unusable["status"], unusable["detail"]) == ("fail", f"{built.prefix / 'lib' / 'a'} is gone")
    assert unusable["remedy"]["commands"] == [f"firstlight setup.repair {ENGINE}"]
    assert any("2.0" in json.dumps(finding) for finding in told["findings"] if finding["status"] == "warn")
