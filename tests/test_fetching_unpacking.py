"""Unpacking: what comes out of each kind of archive, while it grows, when it changes, and when somebody is killed."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import signal
import subprocess
import sys
import tarfile
import time
from io import BytesIO
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as some
from support.archives import LINKS, SHARES, block, entry, packed, records, tar_of, write_layout

from firstlight.errors import FirstlightError, VerificationFailed
from firstlight.events import Note, Step, StepProgress, silent
from firstlight.fetching import decompressing
from firstlight.fetching.decompressing import Packed
from firstlight.fetching.recognising import recognise, require_archive
from firstlight.fetching.tar_headers import Damaged
from firstlight.fetching.unpacking import Selection, Unpacker, unpack

QUIET = Step(silent, "x", "x")
PATIENCE = 60.0


def wait_for(what, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.01)


def tree(folder: Path) -> dict[str, object]:
    """Return what lies in a folder: content and mode of files, targets of links."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = (path.read_bytes(), oct(path.stat().st_mode & 0o7777))
    return found


NOISE = random.Random(5).randbytes(900_000)
MEMBERS = [
    entry("./", flag=b"5", mode=0o777),
    entry("./bin/", flag=b"5", mode=0o2700),
    entry("./bin/program", b"#!/bin/sh\nexit 0\n", mode=0o700),
    entry("./lib/", flag=b"5"),
    entry("./lib/noise.bin", NOISE, mode=0o600),
    entry("./lib/v12/libblas.so.12.8.4", b"blas", mode=0o555),
    entry("./lib/v12/libblas.so.12", flag=b"2", target="libblas.so.12.8.4"),
    entry("./lib/v13/libblas.so.12", flag=b"2", target="../v12/libblas.so.12"),
    entry("./lib/v13/same.so", flag=b"1", target="./lib/v12/libblas.so.12.8.4"),
    entry("./empty", b""),
]
EXPECTED = {
    "bin/program": (b"#!/bin/sh\nexit 0\n", "0o755"),
    "empty": (b"", "0o644"),
    "lib/noise.bin": (NOISE, "0o644"),
    "lib/v12/libblas.so.12": "libblas.so.12.8.4",
    "lib/v12/libblas.so.12.8.4": (b"blas", "0o755"),
    "lib/v13/libblas.so.12": "../v12/libblas.so.12",
    "lib/v13/same.so": (b"blas", "0o755"),
}
TAR = tar_of(*MEMBERS)
HALF = len(TAR) // 2 + 77
SKIPPED = b"\x50\x2a\x4d\x18\x04\0\0\0note"
FORMS = {
    "gzip": gzip.compress(TAR),
    "gzip in members": gzip.compress(TAR[:HALF]) + gzip.compress(b"") + gzip.compress(TAR[HALF:]),
    "gzip with padding": gzip.compress(TAR) + bytes(4096),
    "gzip with a name": b"\x1f\x8b\x08\x08" + gzip.compress(TAR)[4:10] + b"a.tar\0" + gzip.compress(TAR)[10:],
    "zstd": zstd.compress(TAR),
    "zstd in frames": zstd.compress(TAR[:HALF]) + SKIPPED + zstd.compress(TAR[HALF:]),
    "plain": TAR,
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_an_archive_unpacks_alike(tmp_path, form):
    """What it is called plays no part; owners and odd modes are not taken over."""
    archive = tmp_path / "release.tgz"
    archive.write_bytes(FORMS[form])
    told = []
    unpacked = unpack(archive, tmp_path / "in" / "1.0", step=Step(told.append, "x", "x"), compute_hash=True)
    assert tree(tmp_path / "in" / "1.0") == EXPECTED
    assert (unpacked.files, unpacked.bytes) == (5, len(NOISE) + 21)
    assert unpacked.sha256 == hashlib.sha256(FORMS[form]).hexdigest()
    assert unpacked.size == len(FORMS[form])
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["1.0"]
    assert {path.stat().st_mode & 0o7777 for path in (tmp_path / "in").rglob("*/") if path.is_dir()} == {0o755}
    notes = [event.text for event in told if isinstance(event, Note)]
    assert notes == ([] if "gzip" in form else [f"release.tgz is {recognise(archive).detail}, whatever its name says"])


def test_paths_that_are_relative_are_those_of_whoever_asks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.tgz").write_bytes(FORMS["gzip"])
    assert unpack(Path("a.tgz"), Path("in/1"), step=QUIET).folder == Path("in/1")
    assert tree(tmp_path / "in" / "1") == EXPECTED


def test_what_other_programs_write_is_read(tmp_path):
    """GNU tar's and Python's own writers: long names, long targets, big numbers, in all formats."""
    (tmp_path / "src" / ("d" * 120) / ("e" * 120)).mkdir(parents=True)
    (tmp_path / "src" / ("d" * 120) / ("e" * 120) / ("f" * 90)).write_text("deep")
    (tmp_path / "src" / "short").symlink_to("/".join(["d" * 120, "e" * 120, "f" * 90]))
    (tmp_path / "src" / "Ümläut 字").write_text("é")
    expected = tree(tmp_path / "src")
    for style in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        with tarfile.open(tmp_path / f"{style}.tgz", "w:gz", format=style) as tar:
            tar.add(tmp_path / "src", arcname=".")
    for style in ("gnu", "posix", "oldgnu"):
        words = ["tar", "-C", tmp_path / "src", f"--format={style}", "-czf", tmp_path / f"{style}.tgz", "."]
        subprocess.run(words, check=True)
    for archive in sorted(tmp_path.glob("*.tgz")):
        unpack(archive, tmp_path / archive.stem, step=QUIET)
        assert tree(tmp_path / archive.stem) == expected
    assert len(list(tmp_path.glob("*.tgz"))) == 5


def test_a_size_by_pax_and_in_base_256_is_the_size(tmp_path):
    content = b"0123456789"
    by_pax = records(path="a/" + "n" * 200, size="10") + block("short", 0) + content + bytes(502)
    in_binary = block("b", stated=b"\x80" + (10).to_bytes(11, "big")) + content + bytes(502)
    (tmp_path / "a.tgz").write_bytes(gzip.compress(tar_of(by_pax, in_binary)))
    unpack(tmp_path / "a.tgz", tmp_path / "1", step=QUIET)
    assert tree(tmp_path / "1") == {"a/" + "n" * 200: (content, "0o644"), "b": (content, "0o644")}


def test_a_program_that_is_no_archive_is_put_where_it_belongs(tmp_path):
    elf = Path(sys.executable).resolve().read_bytes()[:300_000]
    assert elf.startswith(b"\x7fELF")
    (tmp_path / "engine-linux-amd64").write_bytes(elf)
    unpacked = unpack(tmp_path / "engine-linux-amd64", tmp_path / "1", step=QUIET, program="bin/engine")
    assert (unpacked.kind, unpacked.bytes) == ("elf", len(elf))
    assert tree(tmp_path / "1") == {"bin/engine": (elf, "0o755")}
    assert require_archive(tmp_path / "engine-linux-amd64", program=True).kind == "elf"
    with pytest.raises(VerificationFailed, match="is no archive"):
        require_archive(tmp_path / "engine-linux-amd64")


def test_only_what_is_selected_is_written(tmp_path):
    archive = write_layout(tmp_path / "release.tgz", 200_000)
    chosen = Selection(exclude=("lib/ollama/cuda_v13/*", "lib/ollama/mlx_*"))
    unpacked = unpack(archive, tmp_path / "1", step=QUIET, selection=chosen)
    kept = [name for name in [*SHARES, *LINKS] if "v13" not in name]
    assert sorted(tree(tmp_path / "1")) == sorted(kept)
    assert unpacked.left_out == len(SHARES) + len(LINKS) - len(kept)
    only = unpack(archive, tmp_path / "2", step=QUIET, selection=Selection(include=("bin/*",)))
    assert (sorted(tree(tmp_path / "2")), only.files) == (["bin/ollama"], 1)
    assert not (tmp_path / "2" / "lib").exists()


def test_a_folder_that_is_there_is_never_unpacked_over(tmp_path):
    (tmp_path / "a.tgz").write_bytes(FORMS["gzip"])
    (tmp_path / "1").mkdir()
    with pytest.raises(FirstlightError, match="is there already"):
        unpack(tmp_path / "a.tgz", tmp_path / "1", step=QUIET)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "a.tgz"]


def test_bytes_that_are_unpacked_from_a_local_file_do_not_count_as_fetched(tmp_path):
    (tmp_path / "a.tgz").write_bytes(FORMS["gzip"])
    told = []
    step = Step(told.append, "x", "x")
    unpack(tmp_path / "a.tgz", tmp_path / "1", step=step, compute_hash=True)
    assert step.bytes == 0
    size = len(FORMS["gzip"])
    seen = [(event.done, event.total) for event in told if isinstance(event, StepProgress)]
    assert (seen[-1], sorted(seen)) == ((size, size), seen)


# While it grows


class Growing:
    """A partial file that grows by hand, and the unpacker behind it."""

    def __init__(self, folder: Path, data: bytes, name: str = "1.0") -> None:
        self.data = data
        self.partial = folder / "release.partial"
        self.partial.write_bytes(b"\xee" * len(data))  # room is reserved: what is not there yet is anything
        self.unpacker = Unpacker(folder / name, name="release.tgz", step=QUIET)
        self.staging = self.unpacker.staging

    def fill(self, start: int, end: int, data: bytes | None = None) -> None:
        with self.partial.open("r+b") as file:
            file.seek(start)
            file.write((data or self.data)[start:end])

    def grow(self, end: int, data: bytes | None = None) -> None:
        self.fill(0, end, data)
        self.unpacker.advance(self.partial, end)


@pytest.fixture
def growing(tmp_path):
    made = []

    def make(data: bytes) -> Growing:
        made.append(Growing(tmp_path, data))
        return made[-1]

    yield make
    for one in made:
        one.unpacker.abort()


def test_members_appear_while_the_rest_is_still_to_come(growing):
    site = growing(FORMS["gzip"])
    site.grow(len(site.data) * 2 // 3)
    wait_for((site.staging / "lib" / "noise.bin").exists)
    wait_for(lambda: (site.staging / "lib" / "noise.bin").stat().st_size > len(NOISE) // 3)
    assert not (site.staging / "empty").exists()
    site.grow(len(site.data))
    site.unpacker.finish()
    unpacked = site.unpacker.publish()
    assert tree(unpacked.folder) == EXPECTED
    assert not site.staging.exists()


def test_any_steps_of_growth_lead_to_the_same(growing):
    for form in ("gzip in members", "zstd in frames", "plain"):
        site = growing(FORMS[form])
        site.unpacker.folder = site.unpacker.folder.with_name(form)
        steps = random.Random(7).sample(range(1, len(site.data)), 40)
        for end in sorted({1, 2, 3, 511, 512, *steps, len(site.data)}):
            site.grow(end)
        site.unpacker.finish()
        assert tree(site.unpacker.publish().folder) == EXPECTED


def test_telling_it_a_hundred_thousand_times_never_waits_for_it(growing):
    """The pipe fills while the worker stands still; what is told is dropped, and the end still comes through."""
    site = growing(FORMS["gzip"])
    pid = site.unpacker._child.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        for _ in range(100_000):
            site.unpacker.advance(site.partial, 1)
    finally:
        os.kill(pid, signal.SIGCONT)
    site.grow(len(site.data))
    site.unpacker.finish()
    assert tree(site.unpacker.publish().folder) == EXPECTED


def test_a_restart_forgets_what_was_handed_over(growing):
    """Another object, or a mirror that lied: wrong bytes that unpacked, or did not, leave no trace."""
    other = gzip.compress(tar_of(entry("bin/older", NOISE[:500_000])))
    site = growing(FORMS["gzip"])
    site.grow(400_000, other)
    wait_for((site.staging / "bin" / "older").exists)
    site.unpacker.restart()
    site.grow(300_000, b"\x1f\x8b\x08" + bytes(300_000))
    wait_for(lambda: site.unpacker._heard is not None)
    assert list(site.staging.iterdir()) == []
    site.unpacker.restart()
    site.partial = site.partial.with_name("another.partial")
    site.partial.write_bytes(b"")
    site.grow(len(site.data))
    site.unpacker.finish()
    assert tree(site.unpacker.publish().folder) == EXPECTED


def test_a_failure_in_the_middle_is_told_at_the_end(growing):
    data = gzip.compress(tar_of(entry("ok", NOISE[:300_000]), entry("../evil", NOISE)))
    site = growing(data)
    site.grow(len(data))
    wait_for(lambda: site.unpacker._heard is not None)
    site.unpacker.advance(site.partial, len(data))
    with pytest.raises(VerificationFailed, match=r"release\.tgz was refused: \.\./evil leads out"):
        site.unpacker.finish()
    assert not site.staging.exists()
    with pytest.raises(FirstlightError, match="is not unpacked"):
        site.unpacker.publish()


def test_giving_up_leaves_nothing(growing):
    site = growing(FORMS["gzip"])
    site.grow(len(site.data) // 2)
    wait_for((site.staging / "lib").exists)
    pid = site.unpacker._child.pid
    site.unpacker.abort()
    site.unpacker.abort()
    assert not site.staging.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_two_do_not_unpack_into_one_place(growing, tmp_path, monkeypatch):
    monkeypatch.setattr("firstlight.fetching.staging._PATIENCE", 0.1)
    site = growing(FORMS["gzip"])
    site.grow(len(site.data))
    with pytest.raises(FirstlightError, match="another firstlight is unpacking into"):
        Unpacker(tmp_path / "1.0", name="release.tgz", step=QUIET)
    site.unpacker.finish()
    assert tree(site.unpacker.publish().folder) == EXPECTED


# Somebody is killed


def test_a_killed_worker_is_begun_anew_from_the_bytes_that_are_there(growing):
    site = growing(FORMS["gzip"])
    site.grow(len(site.data) // 2)
    wait_for((site.staging / "lib").exists)
    os.kill(site.unpacker._child.pid, signal.SIGKILL)
    site.grow(len(site.data))
    site.unpacker.finish()
    assert tree(site.unpacker.publish().folder) == EXPECTED


def test_a_worker_that_is_killed_again_and_again_is_an_error(growing, monkeypatch):
    site = growing(FORMS["gzip"])
    site.grow(len(site.data) // 2)
    monkeypatch.setattr("firstlight.fetching.unpacker.sys.executable", "/bin/false")
    os.kill(site.unpacker._child.pid, signal.SIGKILL)
    with pytest.raises(FirstlightError, match=r"the process that unpacks release\.tgz was ended twice \(status 1\)"):
        site.unpacker.finish()
    assert not site.staging.exists()


def test_a_worker_that_is_told_to_stop_is_not_begun_anew(growing):
    """Ctrl-C ends all programs of ours by TERM: it clears what it wrote, and nobody goes on."""
    site = growing(FORMS["gzip"])
    site.grow(len(site.data) // 2)
    wait_for((site.staging / "lib").exists)
    os.kill(site.unpacker._child.pid, signal.SIGTERM)
    with pytest.raises(FirstlightError, match=r"the unpacking of release\.tgz was stopped"):
        site.unpacker.finish()
    assert not site.staging.exists()


KILLED = """
import sys, time
from pathlib import Path
from firstlight.events import Step, silent
from firstlight.fetching.unpacking import Unpacker
partial, folder, size = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
unpacker = Unpacker(folder, name="x", step=Step(silent, "x", "x"))
unpacker.advance(partial, size)
while not (unpacker.staging / "lib" / "noise.bin").exists():
    time.sleep(0.01)
print(unpacker._child.pid, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("who", ["the program alone", "both at once"])
def test_what_a_killed_run_has_left_is_cleared(tmp_path, who):
    partial = tmp_path / "release.partial"
    partial.write_bytes(FORMS["gzip"])
    words = [sys.executable, "-c", KILLED, str(partial), str(tmp_path / "1.0"), str(len(FORMS["gzip"]) // 2)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as program:
        worker = int(program.stdout.readline())
        if who == "both at once":
            os.kill(worker, signal.SIGSTOP)  # it does not notice
            program.kill()
            os.kill(worker, signal.SIGKILL)
        else:
            program.kill()
    staging = tmp_path / ".unpacking-1.0"
    if who == "the program alone":
        wait_for(lambda: not list(staging.iterdir()))
    else:
        assert (staging / "lib" / "noise.bin").exists()
    unpack(partial, tmp_path / "1.0", step=QUIET)
    assert tree(tmp_path / "1.0") == EXPECTED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.0", "release.partial"]


# Decompression alone


@pytest.mark.parametrize("without_isal", [False, True])
@settings(deadline=None, max_examples=150)
@given(
    contents=some.lists(some.binary(max_size=300), min_size=1, max_size=4),
    cuts=some.lists(some.integers(0, 1500), max_size=6),
    padding=some.integers(0, 40),
    compression=some.sampled_from(["gzip", "zstd"]),
)
def test_any_cut_of_any_members_decompresses(without_isal, contents, cuts, padding, compression):
    compress = gzip.compress if compression == "gzip" else zstd.compress
    data = b"".join(map(compress, contents)) + bytes(padding)
    with pytest.MonkeyPatch.context() as patch:
        if without_isal:
            patch.setitem(sys.modules, "isal", None)
        stream = Packed(compression)
        plain, before = b"", 0
        for cut in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
            plain += b"".join(stream.feed(data[before:cut]))
            before = cut
        stream.close()
    assert plain == b"".join(contents)


def test_zlib_hands_on_a_lot_in_small_pieces(monkeypatch):
    monkeypatch.setitem(sys.modules, "isal", None)
    pieces = list(Packed("gzip").feed(gzip.compress(bytes(5_000_000))))
    assert sum(map(len, pieces)) == 5_000_000
    assert max(map(len, pieces)) <= decompressing.PIECE


def test_thousands_of_members_are_refused_before_they_cost_time():
    with pytest.raises(Damaged, match="far too many for their size"):
        for _piece in Packed("gzip").feed(gzip.compress(b"") * 6000):
            pass


def test_a_window_that_is_too_large_is_told(tmp_path):
    options = {zstd.CompressionParameter.window_log: 30, zstd.CompressionParameter.enable_long_distance_matching: 1}
    writer = zstd.ZstdCompressor(options=options)
    (tmp_path / "a.tar.zst").write_bytes(writer.compress(TAR) + writer.flush())
    with pytest.raises(VerificationFailed) as caught:
        unpack(tmp_path / "a.tar.zst", tmp_path / "1", step=QUIET)
    assert "a window that is too large" in caught.value.why


def test_a_big_file_passes_through_in_little_memory(tmp_path):
    """Half a gigabyte of content: the process that unpacks it never holds more than a small part of it."""
    archive = tmp_path / "big.tgz"
    with packed(archive) as stream:
        stream.write(block("big", 200 << 20))
        for _ in range(200):
            stream.write(NOISE[: 1 << 19] + bytes(1 << 19))
        stream.write(bytes(1024))
    unpacker = Unpacker(tmp_path / "1", name="big", step=QUIET)
    pid = unpacker._child.pid
    unpacker.advance(archive, archive.stat().st_size - 8)
    wait_for(lambda: unpacker._progress.get("written", 0) > 150 << 20)
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    unpacker.abort()
    assert peak < 64 << 10  # KiB


def test_it_reads_from_a_file_object_that_python_wrote(tmp_path):
    """Python's tarfile is the judge of the reader: both see the same members."""
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(50):
            member = tarfile.TarInfo(f"folder-{number % 7}/file-{number}")
            member.size = number * 37
            tar.addfile(member, BytesIO(bytes([number]) * member.size))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    unpack(tmp_path / "a.tar", tmp_path / "ours", step=QUIET)
    with tarfile.open(tmp_path / "a.tar") as tar:
        tar.extraction_filter = lambda member, _folder: member  # Python 3.12 warns where none is chosen
        tar.extractall(tmp_path / "theirs")
    assert tree(tmp_path / "ours") == tree(tmp_path / "theirs")
